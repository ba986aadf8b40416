//! `workloads`: programs with long code, much input and output, failures and time-outs.

use crate::measure::error::MeasureError;
use crate::measure::programs::Language;
use crate::measure::rig::Rig;

pub fn run(rig: &mut Rig) -> Result<(), MeasureError> {
    let packs = rig.packs;
    for pack in packs {
        let workloads = Language::of(pack)?.workloads();
        let (id, _) = rig.create(pack)?;
        for (_, program) in &workloads {
            rig.exec(&id, program)?;
        }
        for _ in 0..rig.iterations {
            for (name, program) in &workloads {
                rig.settle()?;
                let (_, ran) = rig.exec(&id, program)?;
                rig.record.call(&format!("{pack}_{name}"), &ran);
            }
        }
        rig.delete(&id)?;
    }
    Ok(())
}
