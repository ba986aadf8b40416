//! `warm-create`: create from the pool.

use super::WARM_POOL;
use crate::measure::MeasureError;
use crate::measure::rig::Rig;

pub fn run(rig: &mut Rig) -> Result<(), MeasureError> {
    let packs = rig.packs;
    for _ in 0..rig.iterations {
        for pack in packs {
            rig.settle()?;
            let (id, timing) = rig.create(pack)?;
            rig.record.call(&format!("create_{pack}"), &timing);
            rig.inspect(&id, WARM_POOL)?;
            rig.delete(&id)?;
        }
    }
    Ok(())
}
