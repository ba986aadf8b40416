//! Tells the host and the guest what a sandbox may take.

use emberd_guest::{GuestError, LimitsError};
use emberd_proto::GuestLimits;
use emberd_vmm::{AnyVmm, LimitError, Vmm as _};

use super::base::Base;
use crate::cpu::{Cpu, CpuError};
use crate::error::CreateError;
use crate::lifecycle::sandbox::Sandbox;

/// Refuses limits that the host does not hold, before anything is made.
pub(crate) fn check(vmm: &AnyVmm, cpu: Cpu, vcpus: u8) -> Result<(), CpuError> {
    cpu.limits(vcpus)?;
    let description = vmm.description();
    if cpu.is_asked_for() && !description.limits.contains(&"cpu") {
        return Err(LimitError::Unavailable(description.reason.clone()).into());
    }
    Ok(())
}

/// Tells the host that `sandbox`, which has a VMM, gets the processor time of `cpu`.
pub(crate) fn apply(vmm: &AnyVmm, sandbox: &Sandbox, cpu: Cpu) -> Result<(), CpuError> {
    let limits = cpu.limits(sandbox.shape.size.vcpus)?;
    // Held for both: the one told last is the one that is shown.
    let mut shown = sandbox.cpu.lock();
    vmm.limit_cpu(&sandbox.id.to_string(), limits)?;
    *shown = cpu;
    Ok(())
}

/// Has the guest of `sandbox` hold `limits`. It holds those that creations get unasked anyway, so
/// nothing is said of them.
pub(crate) async fn tell(
    base: &Base,
    sandbox: &Sandbox,
    limits: GuestLimits,
) -> Result<(), CreateError> {
    let id = sandbox.id;
    let usual_mib = u64::from(base.disks.usual_mib());
    let asked = GuestLimits { disk_mib: limits.disk_mib.filter(|mib| *mib != usual_mib), ..limits };
    // A smaller one has its size from the start, and only its file system grows.
    if let Some(mib) = asked.disk_mib.filter(|mib| *mib > usual_mib) {
        let machine = sandbox.machine().map_err(|_| CreateError::Deleted(id))?;
        let grown = machine.grow_disk(mib << 20).await.ok_or(CreateError::Deleted(id))?;
        grown.map_err(|source| CreateError::Disk { id, source })?;
    }
    if asked != GuestLimits::default() {
        let guest = sandbox.guest().map_err(|_| CreateError::Deleted(id))?;
        guest.limit(asked).await.map_err(|error| match error {
            LimitsError::Unavailable(refusal) => CreateError::Limits(refusal),
            LimitsError::Guest(GuestError::Deleted { .. }) => CreateError::Deleted(id),
            LimitsError::Guest(source) => CreateError::Lost { id, source },
        })?;
    }
    sandbox.limits.set(limits).expect("a sandbox is created once");
    Ok(())
}
