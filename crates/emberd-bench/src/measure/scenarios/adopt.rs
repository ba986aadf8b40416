//! `adopt`: the daemon is killed, and the next one goes on with its sandboxes.

use std::thread;
use std::time::{Duration, Instant};

use crate::measure::connection::Connection;
use crate::measure::error::MeasureError;
use crate::measure::programs::Language;
use crate::measure::rig::Rig;

/// Sandboxes that are adopted.
const SANDBOXES: usize = 64;

/// Time limit for the guests to answer the next daemon.
const MEET_MAX: Duration = Duration::from_secs(60);

/// Pause between two looks at the sandboxes.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

pub fn run(rig: &mut Rig) -> Result<(), MeasureError> {
    let packs = rig.packs;
    for pack in packs {
        let hello = Language::of(pack)?.hello();
        let mut ids = Vec::new();
        for _ in 0..SANDBOXES {
            rig.interrupt.check()?;
            ids.push(rig.create(pack)?.0);
        }
        for _ in 0..rig.iterations {
            rig.settle()?;
            let Some(home) = &mut rig.home else {
                return Err(MeasureError::NotHere("the scenario kills its own daemon"));
            };
            let serving = home.replace()?;
            let began = Instant::now();
            rig.address = home.address.clone();
            rig.connection = Connection::open(&rig.address)?;
            rig.record.time(&format!("serving_{pack}"), serving);
            met(rig, began)?;
            rig.record.time(&format!("adopted_{SANDBOXES}_{pack}"), serving + began.elapsed());
            for id in &ids {
                rig.exec(id, &hello)?;
            }
        }
        for id in &ids {
            rig.delete(id)?;
        }
    }
    Ok(())
}

/// Waits until the guest of each sandbox has answered.
fn met(rig: &mut Rig, since: Instant) -> Result<(), MeasureError> {
    loop {
        rig.interrupt.check()?;
        let sandboxes = rig.connection.sandboxes()?;
        // The view of one that has not answered gives that as a reason.
        let met = sandboxes.iter().filter(|sandbox| sandbox.reason.is_none()).count();
        if met == SANDBOXES {
            return Ok(());
        }
        if since.elapsed() > MEET_MAX {
            let seen = format!("{met} of {SANDBOXES} sandboxes have answered after {MEET_MAX:?}");
            return Err(MeasureError::Busy { seen });
        }
        thread::sleep(LOOK_AGAIN);
    }
}
