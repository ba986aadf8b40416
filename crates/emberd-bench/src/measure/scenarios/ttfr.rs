//! `ttfr`: create, first exec and delete, from the pool, as for a caller with one program to run.
//! For comparison, the same program in an existing sandbox.

use crate::measure::error::MeasureError;
use crate::measure::programs::Language;
use crate::measure::rig::{Rig, WARM_POOL, WARM_UPS};

pub fn run(rig: &mut Rig) -> Result<(), MeasureError> {
    let packs = rig.packs;
    for pack in packs {
        let hello = Language::of(pack)?.hello();
        let (lasting, _) = rig.create(pack)?;
        for _ in 0..WARM_UPS {
            rig.exec(&lasting, &hello)?;
        }
        for _ in 0..rig.iterations {
            rig.settle()?;
            let (id, created) = rig.create(pack)?;
            let (_, ran) = rig.exec(&id, &hello)?;
            let deleted = rig.delete(&id)?;

            let whole = created.latency + ran.latency + deleted.latency;
            rig.record.time(&format!("total_{pack}"), whole);
            rig.record.time(&format!("total_{pack}/create"), created.latency);
            rig.record.time(&format!("total_{pack}/exec"), ran.latency);
            rig.record.time(&format!("total_{pack}/delete"), deleted.latency);
            rig.record.call(&format!("create_{pack}"), &created);
            rig.record.call(&format!("exec_first_{pack}"), &ran);
            rig.record.call(&format!("delete_{pack}"), &deleted);

            rig.settle()?;
            let (_, ran) = rig.exec(&lasting, &hello)?;
            rig.record.call(&format!("exec_steady_{pack}"), &ran);
        }
        rig.inspect(&lasting, WARM_POOL)?;
        rig.delete(&lasting)?;
    }
    Ok(())
}
