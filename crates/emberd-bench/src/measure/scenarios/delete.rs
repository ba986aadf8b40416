//! `delete`: until the answer, and until the VMM's process is gone.

use std::thread;
use std::time::{Duration, Instant};

use crate::measure::error::MeasureError;
use crate::measure::proc;
use crate::measure::rig::Rig;

/// Pause between two checks of an ending process, which is the error of `gone`.
const LOOK_AGAIN: Duration = Duration::from_micros(200);

/// Time limit for a deleted sandbox's process to end.
const GONE_MAX: Duration = Duration::from_secs(30);

pub fn run(rig: &mut Rig) -> Result<(), MeasureError> {
    let packs = rig.packs;
    for _ in 0..rig.iterations {
        for pack in packs {
            rig.settle()?;
            let (id, _) = rig.create(pack)?;
            let vmm_pid = rig.connection.sandbox(&id)?.vmm_pid;
            // A pool that refills meanwhile must not be measured.
            rig.settle()?;
            let asked = Instant::now();
            let answered = rig.delete(&id)?;
            rig.record.call(&format!("answer_{pack}"), &answered);
            let Some(pid) = vmm_pid.filter(|_| rig.home.is_some()) else { continue };
            while proc::is_running(pid) {
                if asked.elapsed() > GONE_MAX {
                    return Err(MeasureError::Busy { seen: format!("process {pid} still exists") });
                }
                thread::sleep(LOOK_AGAIN);
            }
            rig.record.time(&format!("gone_{pack}"), asked.elapsed());
        }
    }
    Ok(())
}
