//! `freeze`: a sandbox that nobody uses is frozen, and the next exec thaws it. For comparison, the
//! same exec in the sandbox awake, and the processor time of its VMM awake and frozen.

use std::thread;
use std::time::Duration;

use crate::measure::error::MeasureError;
use crate::measure::idle::{freezing, frozen};
use crate::measure::proc;
use crate::measure::programs::Language;
use crate::measure::rig::{Rig, WARM_UPS};

/// Time over which the processor time of a VMM is measured; less than until it is frozen.
const SPAN: Duration = Duration::from_millis(500);

pub fn run(rig: &mut Rig) -> Result<(), MeasureError> {
    let packs = rig.packs;
    for pack in packs {
        let hello = Language::of(pack)?.hello();
        let (id, _) = rig.connection.create_as(&freezing(pack))?;
        for _ in 0..WARM_UPS {
            rig.exec(&id, &hello)?;
        }
        let pid = rig.connection.sandbox(&id)?.vmm_pid;
        for _ in 0..rig.iterations {
            rig.settle()?;
            let (_, awake) = rig.exec(&id, &hello)?;
            rig.record.call(&format!("exec_awake_{pack}"), &awake);
            rig.settle()?;
            busy(rig, &format!("busy_awake_{pack}"), pid);
            frozen(rig, 1)?;
            busy(rig, &format!("busy_frozen_{pack}"), pid);
            let (_, thawing) = rig.exec(&id, &hello)?;
            let thaw = thawing.stages().into_iter().find(|(stage, _)| stage == "thaw");
            match thaw {
                Some((_, us)) => rig.record.sample(&format!("thaw_{pack}"), us),
                None => rig.record.doubt("an exec in a frozen sandbox names no thaw"),
            }
            rig.record.call(&format!("exec_frozen_{pack}"), &thawing);
        }
        rig.delete(&id)?;
    }
    Ok(())
}

/// Records the processor time that the VMM takes in a while.
fn busy(rig: &mut Rig, series: &str, pid: Option<u32>) {
    let Some(before) = pid.and_then(proc::processor_time) else {
        rig.record.doubt("the processor time of a VMM cannot be read");
        return;
    };
    thread::sleep(SPAN);
    if let Some(after) = pid.and_then(proc::processor_time) {
        rig.record.time(series, after.saturating_sub(before));
    }
}
