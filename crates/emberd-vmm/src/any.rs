//! Either driver as one type, so that no type parameter leaves this crate.

use std::path::Path;

use tokio::net::UnixStream;
use tokio_util::either::Either;

use crate::firecracker::{Firecracker, FirecrackerStandby, FirecrackerVm};
use crate::qemu::{Qemu, QemuMicroVm, QemuStandby, QemuStream};
use crate::{
    BootError, BootSpec, ConnectError, CpuLimits, ExitWatch, GrowError, ImageHashes, KillError,
    LimitError, MachineShape, MicroVm, NotAdopted, Orphan, PauseError, RestoreError, RestoreSpec,
    SnapshotError, Standby, Template, TemplateKey, Vmm, VmmDescription,
};

/// A byte stream to a guest port: Firecracker's vsock, or one stream of QEMU's mux.
pub type Stream = Either<UnixStream, QemuStream>;

/// Either driver.
#[derive(Debug)]
pub enum AnyVmm {
    /// Runs microVMs in Firecracker.
    Firecracker(Firecracker),
    /// Runs microVMs in QEMU.
    Qemu(Qemu),
}

/// A VMM of either driver that is ready to load its template.
#[derive(Debug)]
pub enum AnyStandby {
    /// A Firecracker process.
    Firecracker(FirecrackerStandby),
    /// A QEMU process.
    Qemu(QemuStandby),
}

/// A microVM of either driver.
#[derive(Debug)]
pub enum AnyMicroVm {
    /// A microVM that Firecracker runs.
    Firecracker(FirecrackerVm),
    /// A microVM that QEMU runs.
    Qemu(QemuMicroVm),
}

impl From<Firecracker> for AnyVmm {
    fn from(driver: Firecracker) -> Self {
        Self::Firecracker(driver)
    }
}

impl From<Qemu> for AnyVmm {
    fn from(driver: Qemu) -> Self {
        Self::Qemu(driver)
    }
}

impl Vmm for AnyVmm {
    type MicroVm = AnyMicroVm;
    type Standby = AnyStandby;

    fn description(&self) -> &VmmDescription {
        match self {
            Self::Firecracker(driver) => driver.description(),
            Self::Qemu(driver) => driver.description(),
        }
    }

    async fn boot(&self, spec: BootSpec) -> Result<AnyMicroVm, BootError> {
        match self {
            Self::Firecracker(driver) => driver.boot(spec).await.map(AnyMicroVm::Firecracker),
            Self::Qemu(driver) => driver.boot(spec).await.map(AnyMicroVm::Qemu),
        }
    }

    fn limit_cpu(&self, id: &str, cpu: CpuLimits) -> Result<(), LimitError> {
        match self {
            Self::Firecracker(driver) => driver.limit_cpu(id, cpu),
            Self::Qemu(driver) => driver.limit_cpu(id, cpu),
        }
    }

    fn template_key(
        &self,
        images: ImageHashes,
        machine: MachineShape,
    ) -> Result<TemplateKey, RestoreError> {
        match self {
            Self::Firecracker(driver) => driver.template_key(images, machine),
            Self::Qemu(driver) => driver.template_key(images, machine),
        }
    }

    async fn stand_by(
        &self,
        template: &Template,
        spec: RestoreSpec,
    ) -> Result<AnyStandby, RestoreError> {
        match self {
            Self::Firecracker(driver) => {
                driver.stand_by(template, spec).await.map(AnyStandby::Firecracker)
            }
            Self::Qemu(driver) => driver.stand_by(template, spec).await.map(AnyStandby::Qemu),
        }
    }

    fn reserve(&self, orphan: &mut Orphan) {
        match self {
            Self::Firecracker(driver) => driver.reserve(orphan),
            Self::Qemu(driver) => driver.reserve(orphan),
        }
    }

    fn adopt(&self, orphan: Orphan) -> Result<AnyMicroVm, Box<NotAdopted>> {
        match self {
            Self::Firecracker(driver) => driver.adopt(orphan).map(AnyMicroVm::Firecracker),
            Self::Qemu(driver) => driver.adopt(orphan).map(AnyMicroVm::Qemu),
        }
    }
}

impl Standby for AnyStandby {
    type MicroVm = AnyMicroVm;

    async fn load(self) -> Result<AnyMicroVm, RestoreError> {
        match self {
            Self::Firecracker(standby) => standby.load().await.map(AnyMicroVm::Firecracker),
            Self::Qemu(standby) => standby.load().await.map(AnyMicroVm::Qemu),
        }
    }

    fn exited(&self) -> ExitWatch {
        match self {
            Self::Firecracker(standby) => standby.exited(),
            Self::Qemu(standby) => standby.exited(),
        }
    }

    fn process_id(&self) -> u32 {
        match self {
            Self::Firecracker(standby) => standby.process_id(),
            Self::Qemu(standby) => standby.process_id(),
        }
    }
}

impl MicroVm for AnyMicroVm {
    type Stream = Stream;

    async fn connect(&self, port: u32) -> Result<Stream, ConnectError> {
        match self {
            Self::Firecracker(vm) => vm.connect(port).await.map(Either::Left),
            Self::Qemu(vm) => vm.connect(port).await.map(Either::Right),
        }
    }

    async fn pause(&self) -> Result<(), PauseError> {
        match self {
            Self::Firecracker(vm) => vm.pause().await,
            Self::Qemu(vm) => vm.pause().await,
        }
    }

    async fn resume(&self) -> Result<(), PauseError> {
        match self {
            Self::Firecracker(vm) => vm.resume().await,
            Self::Qemu(vm) => vm.resume().await,
        }
    }

    async fn grow_disk(&self, bytes: u64) -> Result<(), GrowError> {
        match self {
            Self::Firecracker(vm) => vm.grow_disk(bytes).await,
            Self::Qemu(vm) => vm.grow_disk(bytes).await,
        }
    }

    async fn snapshot(&self, into: &Path, images: ImageHashes) -> Result<Template, SnapshotError> {
        match self {
            Self::Firecracker(vm) => vm.snapshot(into, images).await,
            Self::Qemu(vm) => vm.snapshot(into, images).await,
        }
    }

    fn exited(&self) -> ExitWatch {
        match self {
            Self::Firecracker(vm) => vm.exited(),
            Self::Qemu(vm) => vm.exited(),
        }
    }

    fn process_id(&self) -> u32 {
        match self {
            Self::Firecracker(vm) => vm.process_id(),
            Self::Qemu(vm) => vm.process_id(),
        }
    }

    fn console_log(&self) -> &Path {
        match self {
            Self::Firecracker(vm) => vm.console_log(),
            Self::Qemu(vm) => vm.console_log(),
        }
    }

    async fn kill(self) -> Result<(), KillError> {
        match self {
            Self::Firecracker(vm) => vm.kill().await,
            Self::Qemu(vm) => vm.kill().await,
        }
    }

    fn detach(self) {
        match self {
            Self::Firecracker(vm) => vm.detach(),
            Self::Qemu(vm) => vm.detach(),
        }
    }
}
