//! `sizes`: create from the pool of another size, and with a larger disk or another limit of
//! processes from the pool of the default size. For comparison, of the default size.

use emberd_api::{BuildTemplate, CreateSandbox, Resources};

use crate::measure::error::MeasureError;
use crate::measure::rig::{Rig, WARM_POOL};

/// Memory of the other size, in MiB: twice the default.
const MEMORY_MIB: u64 = 512;

/// Size of the larger disk, in MiB: twice the default.
const DISK_MIB: u64 = 4096;

/// The other limit of processes.
const PIDS: u64 = 512;

pub fn run(rig: &mut Rig) -> Result<(), MeasureError> {
    let packs = rig.packs;
    let memory_mib = Some(MEMORY_MIB);
    for pack in packs {
        let pinned = BuildTemplate { memory_mib, pool_size: Some(1), ..BuildTemplate::default() };
        rig.connection.template_of(pack, &pinned)?;
        let of = |resources| CreateSandbox {
            language_pack: Some(pack.clone()),
            resources,
            ..CreateSandbox::default()
        };
        let usual = Resources::default();
        for _ in 0..rig.iterations {
            for (series, resources) in [
                ("create", usual),
                ("create_512_mib", Resources { memory_mib, ..usual }),
                ("create_4096_mib_disk", Resources { disk_mib: Some(DISK_MIB), ..usual }),
                ("create_512_pids", Resources { pids: Some(PIDS), ..usual }),
            ] {
                rig.settle()?;
                let (id, timing) = rig.connection.create_as(&of(resources))?;
                rig.record.call(&format!("{series}_{pack}"), &timing);
                rig.inspect(&id, WARM_POOL)?;
                rig.delete(&id)?;
            }
        }
    }
    Ok(())
}
