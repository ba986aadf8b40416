//! The daemon's binary: the only place that names a driver.

use std::process::ExitCode;

use anyhow::Context as _;
use emberd::daemon;
use emberd_config::{AccelChoice, CgroupOption, Config, JailChoice, VmmChoice};
use emberd_proto::message::READY_PORT;
use emberd_vmm::firecracker::{self, Firecracker, FirecrackerConfig};
use emberd_vmm::{
    self as vmm, AnyVmm, CgroupChoice, CgroupConfig, Driver, FindQemuError, HostFacts, IdRange,
    JailConfig, Qemu, QemuConfig, SelectError,
};

/// Where `emberctl setup firecracker` installs, in the data directory.
const FIRECRACKER_DIR: &str = "firecracker/current";

/// Findings about QEMU, in the data directory.
const QEMU_RECORD: &str = "qemu.json";

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => daemon::report(&error, hint(&error)),
    }
}

async fn run() -> anyhow::Result<()> {
    vmm::close_on_exec().context("cannot mark inherited file descriptors close-on-exec")?;
    let Some(config) = daemon::configure()? else { return Ok(()) };
    let selection = vmm::select(vmm_choice(config.vmm), &host_facts(&config))?;
    let vmm = match selection.driver {
        Driver::Firecracker { binary } => {
            let wanted = FirecrackerConfig {
                binary: Some(binary),
                reason: selection.reason,
                ..firecracker_config(&config)
            };
            AnyVmm::Firecracker(Firecracker::find(wanted)?)
        }
        Driver::Qemu => {
            let wanted = QemuConfig { reason: selection.reason, ..qemu_config(&config) };
            AnyVmm::Qemu(Qemu::find(wanted)?)
        }
    };
    let images = config.images()?;
    daemon::run(config, images, vmm).await?;
    Ok(())
}

/// A remedy for a driver that was not found.
fn hint(error: &anyhow::Error) -> Option<&'static str> {
    let select = || error.downcast_ref().and_then(SelectError::hint);
    let firecracker = || error.downcast_ref().and_then(firecracker::FindError::hint);
    let qemu = || error.downcast_ref().and_then(FindQemuError::hint);
    select().or_else(firecracker).or_else(qemu)
}

fn vmm_choice(choice: VmmChoice) -> vmm::VmmChoice {
    match choice {
        VmmChoice::Auto => vmm::VmmChoice::Auto,
        VmmChoice::Firecracker => vmm::VmmChoice::Firecracker,
        VmmChoice::Qemu => vmm::VmmChoice::Qemu,
    }
}

fn host_facts(config: &Config) -> HostFacts {
    let installed = config.data_dir.path().join(FIRECRACKER_DIR);
    let kvm_forced = config.accel == AccelChoice::Kvm;
    HostFacts::of_this_host(config.firecracker.as_deref(), &[installed], kvm_forced)
}

fn jail_config(config: &Config) -> JailConfig {
    let choice = match config.jail.choice {
        JailChoice::Auto => vmm::JailChoice::Auto,
        JailChoice::On => vmm::JailChoice::On,
        JailChoice::Off => vmm::JailChoice::Off,
    };
    let ids = config.jail.uids.as_ref().map(IdRange::from);
    JailConfig {
        choice,
        jailer: config.jail.jailer.clone(),
        ids: ids.unwrap_or_default(),
        netns: config.jail.netns.clone(),
        run_dir: Some(config.run_dir.clone()),
    }
}

fn cgroup_config(config: &Config) -> CgroupConfig {
    let choice = match &config.cgroup {
        CgroupOption::Auto => CgroupChoice::Auto,
        CgroupOption::Off => CgroupChoice::Off,
        CgroupOption::In(dir) => CgroupChoice::In(dir.clone()),
    };
    CgroupConfig { choice, ..CgroupConfig::default() }
}

fn firecracker_config(config: &Config) -> FirecrackerConfig {
    FirecrackerConfig {
        // Each byte of console output is an exit to the VMM.
        console: config.console.unwrap_or(false),
        ready_port: Some(READY_PORT),
        jail: jail_config(config),
        cgroups: cgroup_config(config),
        no_seccomp: !config.seccomp,
        ..FirecrackerConfig::default()
    }
}

fn qemu_config(config: &Config) -> QemuConfig {
    let accel = match config.accel {
        AccelChoice::Auto => vmm::AccelChoice::Auto,
        AccelChoice::Kvm => vmm::AccelChoice::Kvm,
        AccelChoice::Tcg => vmm::AccelChoice::Tcg,
    };
    // The console shows why a guest did not boot.
    let console = config.console.unwrap_or(true);
    let (jail, cgroups) = (jail_config(config), cgroup_config(config));
    let binary = config.qemu.clone();
    let record = Some(config.data_dir.path().join(QEMU_RECORD));
    let reason = String::new();
    QemuConfig { binary, accel, console, reason, jail, cgroups, record }
}
