//! Configuration, images and driver shared by every microVM of one daemon.

use std::sync::Arc;

use emberd_egress::Policy;
use emberd_image::{Digest, Images, PackImage};
use emberd_proto::message::DISK_ARGUMENT;
use emberd_vmm::{AnyVmm, BootSpec, ImageHashes, MachineShape, RestoreSpec};
use tokio_util::sync::CancellationToken;

use super::disks::Disks;
use super::run_dir::RunDir;
use crate::config::SandboxesConfig;
use crate::id::SandboxId;
use crate::lifecycle::activity::Activity;
use crate::lifecycle::host::GuestHost;
use crate::lifecycle::machine::Machine;
use crate::lifecycle::sandbox::Sandbox;
use crate::lifecycle::signals::Signals;
use crate::shape::{Shape, Size};

/// Version of the way that templates are made. A template of another version is rebuilt.
const RECIPE_GENERATION: u32 = 1;

/// Purpose of a boot.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Boot {
    /// Whether a template is made of the microVM.
    pub for_template: bool,
    /// Size of its disk, in MiB, if it is smaller than what is made ahead.
    pub smaller_disk_mib: Option<u32>,
}

/// See the module.
pub(crate) struct Base {
    pub vmm: AnyVmm,
    pub images: Images,
    pub config: SandboxesConfig,
    /// The disks of guests.
    pub disks: Disks,
    pub activity: Arc<Activity>,
    pub signals: Arc<Signals>,
    /// The policy of sandboxes until they get another.
    pub no_egress: Arc<Policy>,
    /// Cancelled when the daemon stops making microVMs.
    pub closing: CancellationToken,
    // Last: the run directory is unlocked when everything in it is gone.
    pub run_dir: RunDir,
}

impl Base {
    /// Returns a new sandbox that has only an id and the path of its directory.
    pub fn sandbox(&self, shape: &Shape) -> Arc<Sandbox> {
        let id = SandboxId::with_key(self.config.node_key);
        let dir = self.run_dir.path().join(id.to_string());
        let egress = self.config.egress.as_ref().map(|egress| egress.sandbox(&self.no_egress));
        let signals = Arc::clone(&self.signals);
        Arc::new(Sandbox::new(id, shape.clone(), dir, egress, signals))
    }

    /// Returns this daemon as the host of the guest of `sandbox` in `machine`.
    pub fn host(&self, sandbox: &Arc<Sandbox>, machine: &Arc<Machine>) -> GuestHost {
        GuestHost {
            machine: Arc::clone(machine),
            sandbox: Arc::downgrade(sandbox),
            activity: Arc::clone(&self.activity),
            closing: self.closing.clone(),
            egress: sandbox.egress.clone(),
            env: Arc::clone(&sandbox.env),
        }
    }

    /// Returns the boot specification of `sandbox`.
    pub fn boot_spec(&self, sandbox: &Sandbox, image: &PackImage, boot: Boot) -> BootSpec {
        BootSpec {
            dir: sandbox.dir.clone(),
            kernel: self.images.kernel.path.clone(),
            kernel_hz: self.images.kernel.hz,
            initramfs: self.images.initramfs.path.clone(),
            rootfs: image.rootfs.clone(),
            disk: self.disks.at_boot(boot.smaller_disk_mib),
            kernel_args: self.kernel_args(),
            vcpu_count: sandbox.shape.size.vcpus,
            mem_size_mib: sandbox.shape.size.memory_mib,
            for_template: boot.for_template,
        }
    }

    /// Returns the restore specification of `sandbox`, without its template.
    pub fn restore_spec(&self, sandbox: &Sandbox, image: &PackImage) -> RestoreSpec {
        RestoreSpec {
            dir: sandbox.dir.clone(),
            rootfs: image.rootfs.clone(),
            disk_dir: self.disks.usual.as_ref().map(|disk| disk.dir.clone()),
            images: self.hashes(image),
            machine: self.machine(sandbox.shape.size),
        }
    }

    /// Hashes of everything a template of the pack is made from.
    pub fn hashes(&self, image: &PackImage) -> ImageHashes {
        let warm_up = image.warm_up.as_deref().unwrap_or_default();
        ImageHashes {
            kernel: self.images.kernel.sha256.to_string(),
            initramfs: self.images.initramfs.sha256.to_string(),
            rootfs: image.sha256.to_string(),
            warm_up: Digest::of(format!("{RECIPE_GENERATION}\n{warm_up}").as_bytes()).to_string(),
        }
    }

    /// Returns the machine that guests of `size` see.
    pub fn machine(&self, size: Size) -> MachineShape {
        MachineShape {
            vcpu_count: size.vcpus,
            mem_size_mib: size.memory_mib,
            disk_size_mib: self.disks.usual_mib(),
            kernel_args: self.kernel_args(),
        }
    }

    /// The words added to the driver's own kernel arguments.
    fn kernel_args(&self) -> Vec<String> {
        let disk = self.disks.usual.iter().map(|_| DISK_ARGUMENT.to_owned());
        self.config.kernel_args.iter().cloned().chain(disk).collect()
    }
}
