//! The QEMU driver: microVMs on its `microvm` board, on KVM or in software emulation.
//!
//! ```text
//! boot:     spawn ─▶ channel ─────────────────────────────────────────▶ guest boots
//! stand_by: spawn ─▶ channel ─▶ control ─▶ state given ── load ─▶ cont ─▶ guest runs
//!
//! qemu-system-x86_64 in the VM's directory
//!   │ agent.sock ◀── one connection, many streams (mux)
//!   │ qmp.sock   ◀── control, out of the guest's reach
//!   └ stdout, stderr ──▶ vm.log (guest console, VMM)
//! ```

use std::path::PathBuf;
use std::sync::Arc;

use crate::host::{self, Identity, KvmVerdict};
use crate::{
    BootError, BootSpec, ImageHashes, MachineShape, RestoreError, RestoreSpec, SnapshotVmm,
    Template, TemplateKey, Vmm, VmmDescription,
};

mod arguments;
mod find;
mod launch;
mod microvm;
mod migration;
mod mux;
mod qmp;
mod standby;

pub use find::{AccelChoice, FindQemuError, QemuConfig};
pub use microvm::QemuMicroVm;
pub use mux::MuxStream as QemuStream;
pub use standby::QemuStandby;

use arguments::{Accel, Arguments, Hardware};

/// Makes [`QemuMicroVm`]s.
#[derive(Debug)]
pub struct Qemu {
    binary: PathBuf,
    hardware: Hardware,
    description: VmmDescription,
    facts: Arc<Facts>,
}

/// What driver and microVMs know.
#[derive(Debug)]
struct Facts {
    version: String,
    /// What guests find, in words.
    hardware: String,
    host: Identity,
}

impl Facts {
    fn template_key(&self, images: ImageHashes, machine: MachineShape) -> TemplateKey {
        TemplateKey {
            vmm: format!("qemu {}", self.version),
            snapshot_format: self.hardware.clone(),
            cpu: self.host.cpu.clone(),
            host_kernel: self.host.kernel.clone(),
            images,
            machine,
        }
    }
}

impl Qemu {
    /// Finds QEMU, asks it for its version and decides on the accelerator. Blocks for some
    /// tens of milliseconds.
    ///
    /// # Errors
    /// [`FindQemuError`].
    pub fn find(config: QemuConfig) -> Result<Self, FindQemuError> {
        let binary = find::binary(config.binary)?;
        let version = find::version(&binary)?;
        let (accelerator, why) = find::accelerator(config.accel, KvmVerdict::of_this_host())?;
        let accel = match accelerator {
            find::Accelerator::Kvm => Accel::Kvm,
            find::Accelerator::Tcg => Accel::Tcg { tsc_khz: host::tsc_khz() },
        };
        let reasons = [config.reason, why];
        let reasons: Vec<_> = reasons.into_iter().filter(|reason| !reason.is_empty()).collect();
        let hardware = Hardware { accel, console: config.console };
        let host = Identity::read()
            .map_err(|source| FindQemuError::Host { path: host::CPUINFO.into(), source })?;
        let facts = Facts { version: version.clone(), hardware: hardware.to_string(), host };
        let description = VmmDescription {
            driver: "qemu",
            version,
            accelerator: accelerator.name(),
            reason: reasons.join("; "),
        };
        Ok(Self { binary, hardware, description, facts: Arc::new(facts) })
    }
}

impl Vmm for Qemu {
    type MicroVm = QemuMicroVm;

    fn description(&self) -> &VmmDescription {
        &self.description
    }

    async fn boot(&self, spec: BootSpec) -> Result<QemuMicroVm, BootError> {
        let arguments = Arguments::boot(self.hardware, &spec);
        let launched = self.launch(&spec.dir, &arguments).await?;
        let shape = spec.for_template.then_some(MachineShape {
            vcpu_count: spec.vcpu_count,
            mem_size_mib: spec.mem_size_mib,
            kernel_args: spec.kernel_args,
        });
        Ok(launched.into_microvm(None, shape))
    }
}

impl SnapshotVmm for Qemu {
    type Standby = QemuStandby;

    fn template_key(
        &self,
        images: ImageHashes,
        machine: MachineShape,
    ) -> Result<TemplateKey, RestoreError> {
        Ok(self.facts.template_key(images, machine))
    }

    async fn stand_by(
        &self,
        template: &Template,
        spec: RestoreSpec,
    ) -> Result<QemuStandby, RestoreError> {
        template.check(&self.facts.template_key(spec.images.clone(), spec.machine.clone()))?;
        let memory = template.memory();
        let arguments = Arguments::load(self.hardware, &spec, &memory);
        let launched = self.launch(&spec.dir, &arguments).await?;
        Ok(QemuStandby::prepare(launched, &template.state()).await?)
    }
}
