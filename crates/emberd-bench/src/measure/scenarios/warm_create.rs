//! `warm-create`: create from the pool. For comparison, the smallest request to an idle daemon,
//! which shows the cost of waking up the machine.

use crate::measure::error::MeasureError;
use crate::measure::rig::{Rig, WARM_POOL};

pub fn run(rig: &mut Rig) -> Result<(), MeasureError> {
    let packs = rig.packs;
    for _ in 0..rig.iterations {
        for pack in packs {
            rig.settle()?;
            let (id, timing) = rig.create(pack)?;
            rig.record.call(&format!("create_{pack}"), &timing);
            rig.inspect(&id, WARM_POOL)?;
            rig.delete(&id)?;
            rig.settle()?;
            let health = rig.connection.healthz()?;
            rig.record.time("http_floor_at_rest", health);
        }
    }
    Ok(())
}
