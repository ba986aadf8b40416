//! `restore`: create from a template without a pool: until the guest has answered, until it has
//! its identity, and until the result of a first program.

use std::time::Duration;

use crate::measure::calls::Timing;
use crate::measure::error::MeasureError;
use crate::measure::programs::Language;
use crate::measure::rig::{Rig, SNAPSHOT_RESTORE};

pub fn run(rig: &mut Rig) -> Result<(), MeasureError> {
    let packs = rig.packs;
    // For the first restore of a template, its file may not be in the page cache.
    for iteration in 0..=rig.iterations {
        for pack in packs {
            rig.settle()?;
            let hello = Language::of(pack)?.hello();
            let (id, created) = rig.create(pack)?;
            let (_, ran) = rig.exec(&id, &hello)?;
            rig.inspect(&id, SNAPSHOT_RESTORE)?;
            if iteration > 0 {
                rig.record.call(&format!("create_{pack}"), &created);
                let answered = created.latency.saturating_sub(renewal(&created));
                rig.record.time(&format!("first_answer_{pack}"), answered);
                rig.record.call(&format!("first_exec_{pack}"), &ran);
                let whole = created.latency + ran.latency;
                rig.record.time(&format!("first_result_{pack}"), whole);
            }
            rig.delete(&id)?;
        }
    }
    Ok(())
}

/// The part of a creation after the guest's first answer: the renewal.
fn renewal(created: &Timing) -> Duration {
    let stages = created.stages();
    let renewal = stages.iter().find(|(name, _)| name == "renew");
    renewal.map_or(Duration::ZERO, |(_, us)| Duration::from_micros(*us))
}
