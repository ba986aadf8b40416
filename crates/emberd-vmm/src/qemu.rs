//! The QEMU driver: microVMs on its `microvm` board, on KVM or in software emulation.
//!
//! ```text
//! boot:     spawn ─▶ channel ─────────────────────────────────────────▶ guest boots
//! stand_by: spawn ─▶ channel ─▶ control ─▶ devices loaded ── load ─▶ cont ─▶ guest runs
//!
//! qemu-system-x86_64 in the VM's directory, or in a jail there
//!   │ agent.sock ◀── one connection, many streams (mux)
//!   │ sync.sock  ◀── a fresh session, after an earlier daemon (adopt)
//!   │ qmp.sock   ◀── control, out of the guest's reach
//!   └ stdout, stderr ──▶ vm.log (guest console, VMM)
//! ```

use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::sync::Arc;

use crate::cgroup::{Cgroups, Overhead};
use crate::disk::Disk;
use crate::host::{self, Identity, KvmVerdict};
use crate::{
    BootError, BootSpec, CpuLimits, ImageHashes, LimitError, MachineShape, NotAdopted, Orphan,
    RestoreError, RestoreSpec, Template, TemplateKey, Vmm, VmmDescription,
};

mod arguments;
mod block;
mod find;
mod jail;
mod known;
mod launch;
mod microvm;
mod migration;
mod mux;
mod qmp;
mod standby;
mod sync;

pub use find::{AccelChoice, BINARY as QEMU_BINARY, FindQemuError, QemuConfig};
pub use microvm::QemuMicroVm;
pub use mux::MuxStream as QemuStream;
pub use standby::QemuStandby;

use arguments::{Accel, Arguments, Hardware};
use jail::Jail;
use known::{Findings, Known};
use microvm::Origin;
use mux::Stand;

/// Name of the driver.
const DRIVER: &str = "qemu";

/// QEMU's own resources: its memory with translated code (64 MiB), page tables and the page cache
/// of files that it alone reads; its threads, with a pool of up to 64 for the disk.
const OVERHEAD: Overhead = Overhead { mem_mib: 256, tasks: 128 };

/// Names of the images in a jail.
const KERNEL_INSIDE: &str = "/images/kernel";
const INITRAMFS_INSIDE: &str = "/images/initramfs";
const ROOTFS_INSIDE: &str = "/images/rootfs";

/// The jail, in words.
const JAILED: &str = "jailed: own user, root and network";

/// Makes [`QemuMicroVm`]s.
#[derive(Debug)]
pub struct Qemu {
    binary: PathBuf,
    hardware: Hardware,
    jail: Result<Jail, String>,
    cgroups: Cgroups,
    description: VmmDescription,
    facts: Arc<Facts>,
}

/// State shared by the driver and its microVMs.
#[derive(Debug)]
struct Facts {
    version: String,
    /// The hardware of guests, in words.
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
    /// Finds QEMU, reads its version, chooses the accelerator and tries the jail if the
    /// configuration has one. Blocks for some tens of milliseconds, twice that with a jail, and for
    /// one where the configuration has a record of an earlier start that still holds.
    ///
    /// # Errors
    /// [`FindQemuError`].
    pub fn find(config: QemuConfig) -> Result<Self, FindQemuError> {
        let choices = config.choices();
        let binary = find::binary(config.binary)?;
        // A jail contains the target of the link, and not every link.
        let binary = binary
            .canonicalize()
            .map_err(|source| FindQemuError::Run { binary: binary.clone(), source })?;
        let known = Known::read(config.record.as_deref(), &binary, choices);
        let found = known.findings().cloned();
        let version = match &found {
            Some(found) => found.version.clone(),
            None => find::version(&binary)?,
        };
        let (accelerator, why) = find::accelerator(config.accel, KvmVerdict::of_this_host())?;
        let tsc_khz =
            || found.as_ref().and_then(|found| found.tsc_khz).unwrap_or_else(host::tsc_khz);
        let (accel, tsc_khz) = match accelerator {
            find::Accelerator::Kvm => (Accel::Kvm, None),
            find::Accelerator::Tcg => {
                let tsc_khz = tsc_khz();
                (Accel::Tcg { tsc_khz }, Some(tsc_khz))
            }
        };
        let hardware = Hardware { accel, console: config.console };
        let is_tried = found.is_some_and(|found| found.is_jailed);
        let jail = Jail::find(&config.jail, &binary, hardware, is_tried)?;
        known.keep(Findings { version: version.clone(), tsc_khz, is_jailed: jail.is_ok() });
        let cgroups = Cgroups::find(&config.cgroups);
        let cgroups = cgroups.map_err(|reason| FindQemuError::Cgroups { reason })?;
        let confinement = match &jail {
            Ok(_) => JAILED.to_owned(),
            Err(reason) => format!("not jailed ({reason}): no user or root of its own"),
        };
        let reasons = [config.reason, why, confinement, cgroups.describe()];
        let reasons: Vec<_> = reasons.into_iter().filter(|reason| !reason.is_empty()).collect();
        let host = Identity::read()
            .map_err(|source| FindQemuError::Host { path: host::CPUINFO.into(), source })?;
        let facts = Facts { version: version.clone(), hardware: hardware.to_string(), host };
        let description = VmmDescription {
            driver: DRIVER,
            version,
            accelerator: accelerator.name(),
            limits: cgroups.limited(),
            reason: reasons.join("; "),
        };
        Ok(Self { binary, hardware, jail, cgroups, description, facts: Arc::new(facts) })
    }

    /// Describes the jail of each VMM.
    ///
    /// # Errors
    /// Returns why microVMs are not jailed.
    pub fn confinement(&self) -> Result<&'static str, &str> {
        self.jail.as_ref().map(|_| JAILED).map_err(String::as_str)
    }
}

impl Vmm for Qemu {
    type MicroVm = QemuMicroVm;
    type Standby = QemuStandby;

    fn description(&self) -> &VmmDescription {
        &self.description
    }

    fn limit_cpu(&self, id: &str, cpu: CpuLimits) -> Result<(), LimitError> {
        self.cgroups.limit_cpu(id, cpu)
    }

    async fn boot(&self, spec: BootSpec) -> Result<QemuMicroVm, BootError> {
        let shape = spec.shape();
        let images = [
            (&*spec.kernel, KERNEL_INSIDE),
            (&*spec.initramfs, INITRAMFS_INSIDE),
            (&*spec.rootfs, ROOTFS_INSIDE),
        ];
        let site = self.site(&spec.dir, &images, &shape)?;
        let [kernel, initramfs, rootfs] = images.map(|(file, inside)| site.name(file, inside));
        let for_template = spec.for_template;
        let spec = BootSpec { kernel, initramfs, rootfs, ..spec };
        let disk = match &spec.disk {
            Some(disk) => Some(site.disk(disk.source()).await?),
            None => None,
        };
        let name = disk.as_ref().map(Disk::name);
        let arguments = Arguments::boot(self.hardware, &spec, name.as_deref());
        let (disk, inherits) = disk.map(|disk| (disk.file, disk.descriptor)).unzip();
        let launched = self.launch(site, &arguments, inherits.into_iter().collect()).await?;
        let origin = for_template.then_some(Origin { shape, disk });
        Ok(launched.into_microvm(Stand::Beginning, None, origin))
    }

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
        let sealed = template.sealed().await;
        let [state, memory] =
            sealed.map_err(|source| BootError::Prepare { path: template.dir().into(), source })?;
        let images = [(&*spec.rootfs, ROOTFS_INSIDE)];
        let site = self.site(&spec.dir, &images, &spec.machine)?;
        let rootfs = site.name(&spec.rootfs, ROOTFS_INSIDE);
        let spec = RestoreSpec { rootfs, ..spec };
        let disk = match template.disk(spec.disk_dir.as_deref()) {
            Some(source) => Some(site.disk(source).await?),
            None => None,
        };
        // The VMM inherits the descriptor under the number it has here.
        let name = PathBuf::from(format!("/proc/self/fd/{}", memory.as_raw_fd()));
        let disk_name = disk.as_ref().map(Disk::name);
        let arguments = Arguments::load(self.hardware, &spec, &name, disk_name.as_deref());
        let disk = disk.map(|disk| disk.descriptor);
        let launched = self.launch(site, &arguments, [memory].into_iter().chain(disk).collect());
        let launched = launched.await?;
        Ok(QemuStandby::load_devices(launched, &state).await?)
    }

    fn reserve(&self, orphan: &mut Orphan) {
        if let Ok(jail) = &self.jail {
            jail.reserve(orphan);
        }
    }

    fn adopt(&self, orphan: Orphan) -> Result<QemuMicroVm, Box<NotAdopted>> {
        QemuMicroVm::adopt(&self.facts, &orphan).map_err(|why| NotAdopted::new(orphan, why))
    }
}
