//! `density`: many sandboxes that nobody uses. What each holds of the host's memory, what all of
//! them take of its processors, and how long the first exec takes in each.

use std::thread;
use std::time::Duration;

use crate::measure::error::MeasureError;
use crate::measure::idle::{freezing, frozen};
use crate::measure::proc::{self, Weight};
use crate::measure::programs::Language;
use crate::measure::rig::Rig;

/// Time over which processor time is measured.
const SPAN: Duration = Duration::from_secs(1);

pub fn run(rig: &mut Rig) -> Result<(), MeasureError> {
    let packs = rig.packs;
    for pack in packs {
        let hello = Language::of(pack)?.hello();
        let wanted = freezing(pack);
        rig.settle()?;
        let mut ids = Vec::new();
        for _ in 0..rig.iterations {
            ids.push(rig.connection.create_as(&wanted)?.0);
        }
        let pids = frozen(rig, ids.len())?;
        let weights: Vec<_> = pids.iter().filter_map(|pid| Weight::of(*pid)).collect();
        if weights.len() < ids.len() {
            rig.record.doubt("the memory of a VMM cannot be read");
        }
        for weight in weights {
            rig.record.sample(&format!("frozen_pss_{pack}_bytes"), weight.pss_bytes);
            rig.record.sample(&format!("frozen_private_{pack}_bytes"), weight.private_bytes);
        }
        let taken =
            || -> Duration { pids.iter().filter_map(|pid| proc::processor_time(*pid)).sum() };
        let before = taken();
        thread::sleep(SPAN);
        rig.record.time(&format!("busy_all_frozen_{pack}"), taken().saturating_sub(before));
        for id in &ids {
            let (_, thawing) = rig.exec(id, &hello)?;
            rig.record.call(&format!("exec_frozen_{pack}"), &thawing);
        }
        for id in &ids {
            rig.delete(id)?;
        }
    }
    Ok(())
}
