//! `memory`: memory of a sandbox before its first program and after some work, by its VMM's
//! process and by the host's available memory.

use crate::measure::error::MeasureError;
use crate::measure::proc::{self, Weight};
use crate::measure::programs::Language;
use crate::measure::rig::Rig;

pub fn run(rig: &mut Rig) -> Result<(), MeasureError> {
    let packs = rig.packs;
    for pack in packs {
        let language = Language::of(pack)?;
        rig.settle()?;
        let before = available_bytes();
        let mut ids = Vec::new();
        for _ in 0..rig.iterations {
            ids.push(rig.create(pack)?.0);
            // The next sandbox must come from the pool too, after its warm-up.
            rig.settle()?;
        }
        // The pool is full as before, so the difference is the memory of the sandboxes.
        weigh(rig, pack, "idle", &ids)?;
        record_delta(rig, &format!("idle_available_delta_{pack}_bytes"), before, ids.len());
        for id in &ids {
            rig.exec(id, &language.hello())?;
            if let Some(imports) = language.imports() {
                rig.exec(id, &imports)?;
            }
        }
        rig.settle()?;
        weigh(rig, pack, "worked", &ids)?;
        record_delta(rig, &format!("worked_available_delta_{pack}_bytes"), before, ids.len());
        for id in &ids {
            rig.delete(id)?;
        }
    }
    Ok(())
}

fn weigh(rig: &mut Rig, pack: &str, when: &str, ids: &[String]) -> Result<(), MeasureError> {
    for id in ids {
        let pid = rig.connection.sandbox(id)?.vmm_pid;
        let Some(weight) = pid.and_then(Weight::of) else {
            rig.record.doubt("the memory of a VMM cannot be read");
            continue;
        };
        rig.record.sample(&format!("{when}_pss_{pack}_bytes"), weight.pss_bytes);
        rig.record.sample(&format!("{when}_private_{pack}_bytes"), weight.private_bytes);
    }
    Ok(())
}

/// Returns how much each of `count` sandboxes took of the memory available `before`.
fn record_delta(rig: &mut Rig, series: &str, before: u64, count: usize) {
    let taken = before.saturating_sub(available_bytes());
    if let Some(each) = taken.checked_div(count as u64) {
        rig.record.sample(series, each);
    }
}

fn available_bytes() -> u64 {
    proc::memory().map_or(0, |(_, available)| available)
}
