//! The Firecracker driver: production's, wherever the host's KVM is usable.
//!
//! ```text
//! boot:    spawn ─▶ API socket ─▶ configure ─▶ InstanceStart ─▶ guest dials out ─▶ connect
//! restore: spawn ─▶ API socket ─▶ snapshot/load, which resumes ──────────────────▶ connect
//! ```
//!
//! Each VMM runs in a directory of its own, or in a jail there, where files and sockets have
//! the same relative names for every microVM; that makes snapshots portable between them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::cgroup::Cgroups;
use crate::host::{CPUINFO, Identity};
use crate::jail::JailConfig;
use crate::{
    BootError, BootSpec, CgroupConfig, CpuLimits, DiskSpec, ExitWatch, ImageHashes, LimitError,
    MachineShape, NotAdopted, Orphan, RestoreError, RestoreSpec, Standby, Template, TemplateKey,
    Vmm, VmmDescription,
};

mod api;
mod dial;
mod exit;
mod find;
mod jail;
mod launch;
mod machine;
mod microvm;
mod ready;
mod stage;
mod version;

pub use api::ApiError;
pub use find::{FindError, find_binary, needs_interpreter};
pub use machine::{KernelArgsTooLong, vmconfig};
pub use microvm::FirecrackerVm;
pub use version::{Features, SnapshotFormat, Version, VersionRefusal};

use jail::Jail;
use launch::Launched;
use machine::{Files, Machine};

/// Name of the driver.
const DRIVER: &str = "firecracker";

/// How Firecracker is run.
#[derive(Debug, Clone)]
pub struct FirecrackerConfig {
    /// The binary; looked for in `PATH` when absent.
    pub binary: Option<PathBuf>,
    /// Why this driver was chosen, in one sentence; the driver adds how it confines.
    pub reason: String,
    /// Whether the guest has a console, which goes to the microVM's log. It slows the boot.
    pub console: bool,
    /// Host port the guest dials when it is ready; without one it is dialled until it answers.
    pub ready_port: Option<u32>,
    /// Whether microVMs are jailed, and how.
    pub jail: JailConfig,
    /// Place of the cgroups of microVMs.
    pub cgroups: CgroupConfig,
    /// Whether Firecracker runs without its system call filter. For tests only: a guest that
    /// breaks out of such a VMM can attack the whole kernel.
    pub no_seccomp: bool,
    /// How long one API call may take.
    pub call_timeout: Duration,
    /// How long writing or loading a snapshot may take.
    pub snapshot_timeout: Duration,
}

impl Default for FirecrackerConfig {
    fn default() -> Self {
        Self {
            binary: None,
            reason: "chosen by name".to_owned(),
            console: false,
            ready_port: None,
            jail: JailConfig::default(),
            cgroups: CgroupConfig::default(),
            no_seccomp: false,
            call_timeout: Duration::from_secs(10),
            snapshot_timeout: Duration::from_secs(120),
        }
    }
}

/// Makes [`FirecrackerVm`]s.
#[derive(Debug)]
pub struct Firecracker {
    description: VmmDescription,
    /// Or why microVMs are not jailed.
    jail: Result<Arc<Jail>, String>,
    cgroups: Cgroups,
    facts: Arc<Facts>,
}

/// State shared by the driver and its microVMs.
#[derive(Debug)]
struct Facts {
    binary: PathBuf,
    version: Version,
    features: Features,
    snapshot_format: SnapshotFormat,
    host: Identity,
    config: FirecrackerConfig,
}

impl Facts {
    fn vmm(&self) -> String {
        format!("Firecracker {}", self.version)
    }
}

impl Firecracker {
    /// Finds Firecracker, and the jailer if the configuration needs it, and checks their versions.
    ///
    /// # Errors
    /// [`FindError`].
    pub fn find(config: FirecrackerConfig) -> Result<Self, FindError> {
        let binary = find_binary("firecracker", config.binary.as_deref(), &[]);
        let binary = binary.ok_or(FindError::Missing)?;
        // The jailer names the jail after the file a link leads to.
        let binary = binary
            .canonicalize()
            .map_err(|source| FindError::Run { binary: binary.clone(), source })?;
        let version = version::of_binary(&binary)?;
        version.check()?;
        let jail = Jail::find(&config.jail, &binary, &version)?;
        let cgroups = Cgroups::find(&config.cgroups);
        let cgroups = cgroups.map_err(|reason| FindError::Cgroups { reason })?;
        let confinement = match &jail {
            Ok(_) => "jailed: own user and root".to_owned(),
            Err(reason) => format!("not jailed ({reason}): no user or root of its own"),
        };
        if config.no_seccomp {
            tracing::warn!("Firecracker runs WITHOUT its system call filter: laboratory use only");
        }
        let description = VmmDescription {
            driver: DRIVER,
            version: version.to_string(),
            accelerator: "kvm",
            limits: cgroups.limited(),
            reason: format!("{}; {confinement}; {}", config.reason, cgroups.describe()),
        };
        let facts = Facts {
            features: Features::from(&version),
            snapshot_format: SnapshotFormat::of_binary(&binary)?,
            host: Identity::read()
                .map_err(|source| FindError::Host { path: CPUINFO.into(), source })?,
            binary,
            version,
            config,
        };
        Ok(Self { description, jail: jail.map(Arc::new), cgroups, facts: Arc::new(facts) })
    }

    /// Whether pausing, templates and restores work with this release.
    pub fn features(&self) -> Features {
        self.facts.features
    }

    /// The format of `template`'s state file, as this Firecracker reads it.
    ///
    /// # Errors
    /// [`FindError::Unreadable`] if Firecracker does not know the format.
    pub fn describe_snapshot(&self, template: &Template) -> Result<SnapshotFormat, FindError> {
        SnapshotFormat::of_state(&self.facts.binary, &template.state())
    }

    async fn configure(&self, vm: &Launched, machine: &Machine) -> Result<(), BootError> {
        vm.put("/machine-config", &machine.machine_config).await?;
        vm.put("/boot-source", &machine.boot_source).await?;
        for drive in &machine.drives {
            vm.put(&format!("/drives/{}", drive.drive_id), drive).await?;
        }
        vm.put("/vsock", &machine.vsock).await?;
        vm.put("/entropy", &machine.entropy).await
    }

    /// Limits the console if Firecracker supports it. A snapshot does not contain this setting.
    async fn limit_serial(&self, vm: &Launched) -> Result<(), BootError> {
        if self.facts.features.serial_rate_limiter {
            vm.put("/serial", &machine::serial()).await?;
        }
        Ok(())
    }
}

impl Vmm for Firecracker {
    type MicroVm = FirecrackerVm;
    type Standby = FirecrackerStandby;

    fn description(&self) -> &VmmDescription {
        &self.description
    }

    fn limit_cpu(&self, id: &str, cpu: CpuLimits) -> Result<(), LimitError> {
        self.cgroups.limit_cpu(id, cpu)
    }

    async fn boot(&self, spec: BootSpec) -> Result<FirecrackerVm, BootError> {
        let staged = Files::staged(spec.disk.is_some());
        let machine = Machine::new(&spec, staged.clone(), self.facts.config.console)
            .map_err(|source| launch::step_failed("the kernel arguments", source))?;
        let shape = spec.shape();
        let files = vec![
            (spec.kernel, staged.kernel),
            (spec.initramfs, staged.initramfs),
            (spec.rootfs, staged.rootfs),
        ];
        let disk = spec.disk.as_ref().map(DiskSpec::source);
        let mut vm = self.launch(spec.dir, files, disk, shape).await?;
        vm.listen_for_readiness(self.facts.config.ready_port)?;
        self.limit_serial(&vm).await?;
        self.configure(&vm, &machine).await?;
        vm.put("/actions", &api::types::Action::InstanceStart).await?;
        Ok(vm.into_microvm())
    }

    fn template_key(
        &self,
        images: ImageHashes,
        machine: MachineShape,
    ) -> Result<TemplateKey, RestoreError> {
        if self.facts.features.snapshots {
            Ok(self.facts.template_key(images, machine))
        } else {
            Err(RestoreError::Unsupported { vmm: self.facts.vmm() })
        }
    }

    async fn stand_by(
        &self,
        template: &Template,
        spec: RestoreSpec,
    ) -> Result<FirecrackerStandby, RestoreError> {
        template.check(&self.template_key(spec.images, spec.machine.clone())?)?;
        let files = vec![
            (template.state(), microvm::STATE_STAGED.into()),
            (template.memory(), microvm::MEMORY_STAGED.into()),
            (spec.rootfs, Files::staged(false).rootfs),
        ];
        let disk = template.disk(spec.disk_dir.as_deref());
        let vm = self.launch(spec.dir, files, disk, spec.machine).await?;
        self.limit_serial(&vm).await?;
        Ok(FirecrackerStandby(vm))
    }

    fn reserve(&self, orphan: &mut Orphan) {
        if let Ok(jail) = &self.jail {
            jail.reserve(orphan);
        }
    }

    fn adopt(&self, orphan: Orphan) -> Result<FirecrackerVm, Box<NotAdopted>> {
        FirecrackerVm::adopt(&self.facts, &orphan).map_err(|why| NotAdopted::new(orphan, why))
    }
}

/// A Firecracker process that is ready to load its template.
#[derive(Debug)]
pub struct FirecrackerStandby(Launched);

impl Standby for FirecrackerStandby {
    type MicroVm = FirecrackerVm;

    async fn load(self) -> Result<FirecrackerVm, RestoreError> {
        self.0.load().await?;
        Ok(self.0.into_microvm())
    }

    fn exited(&self) -> ExitWatch {
        self.0.exited()
    }

    fn process_id(&self) -> u32 {
        self.0.process_id()
    }
}
