//! `restore`: create from a template with no pool, until the guest has answered; and on to
//! the result of a first program.

use super::SNAPSHOT_RESTORE;
use crate::measure::MeasureError;
use crate::measure::programs::Language;
use crate::measure::rig::Rig;

pub fn run(rig: &mut Rig) -> Result<(), MeasureError> {
    let packs = rig.packs;
    // The first restore of a template may find its file out of the page cache.
    for iteration in 0..=rig.iterations {
        for pack in packs {
            rig.settle()?;
            let hello = Language::of(pack)?.hello();
            let (id, created) = rig.create(pack)?;
            let (_, ran) = rig.exec(&id, &hello)?;
            rig.inspect(&id, SNAPSHOT_RESTORE)?;
            if iteration > 0 {
                rig.record.call(&format!("create_{pack}"), &created);
                rig.record.call(&format!("first_exec_{pack}"), &ran);
                let whole = created.latency + ran.latency;
                rig.record.time(&format!("first_result_{pack}"), whole);
            }
            rig.delete(&id)?;
        }
    }
    Ok(())
}
