//! Tells the host and the guest what a sandbox may take.

use emberd_guest::{GuestError, LimitsError};
use emberd_proto::GuestLimits;
use emberd_vmm::{AnyVmm, LimitError, Vmm as _};

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

/// Has the guest of `sandbox` hold `limits`. Those of a guest that was asked for none are its own
/// defaults, so nothing is said.
pub(crate) async fn tell(sandbox: &Sandbox, limits: GuestLimits) -> Result<(), CreateError> {
    if limits == GuestLimits::default() {
        return Ok(());
    }
    let id = sandbox.id;
    let guest = sandbox.guest().map_err(|_| CreateError::Deleted(id))?;
    guest.limit(limits).await.map_err(|error| match error {
        LimitsError::Unavailable(refusal) => CreateError::Limits(refusal),
        LimitsError::Guest(GuestError::Deleted { .. }) => CreateError::Deleted(id),
        LimitsError::Guest(source) => CreateError::Lost { id, source },
    })?;
    sandbox.limits.set(limits).expect("a sandbox is created once");
    Ok(())
}
