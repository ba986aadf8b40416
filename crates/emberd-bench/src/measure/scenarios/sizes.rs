//! `sizes`: create from the pool of another size. For comparison, of the default size.

use emberd_api::{BuildTemplate, CreateSandbox, Resources};

use crate::measure::error::MeasureError;
use crate::measure::rig::{Rig, WARM_POOL};

/// Memory of the other size, in MiB: twice the default.
const MEMORY_MIB: u64 = 512;

pub fn run(rig: &mut Rig) -> Result<(), MeasureError> {
    let packs = rig.packs;
    let memory_mib = Some(MEMORY_MIB);
    for pack in packs {
        let pinned = BuildTemplate { memory_mib, pool_size: Some(1), ..BuildTemplate::default() };
        rig.connection.template_of(pack, &pinned)?;
        let of = |memory_mib| CreateSandbox {
            language_pack: Some(pack.clone()),
            resources: Resources { memory_mib, ..Resources::default() },
            ..CreateSandbox::default()
        };
        for _ in 0..rig.iterations {
            for (series, memory_mib) in [("create", None), ("create_512_mib", memory_mib)] {
                rig.settle()?;
                let (id, timing) = rig.connection.create_as(&of(memory_mib))?;
                rig.record.call(&format!("{series}_{pack}"), &timing);
                rig.inspect(&id, WARM_POOL)?;
                rig.delete(&id)?;
            }
        }
    }
    Ok(())
}
