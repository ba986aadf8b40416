//! What the configuration chooses, in the words of the drivers.

use emberd_config::Config;
use emberd_vmm::{
    AccelChoice, CgroupChoice, CgroupConfig, IdRange, JailChoice, JailConfig, QemuConfig, VmmChoice,
};

pub fn vmm(config: &Config) -> VmmChoice {
    match config.vmm {
        emberd_config::VmmChoice::Auto => VmmChoice::Auto,
        emberd_config::VmmChoice::Firecracker => VmmChoice::Firecracker,
        emberd_config::VmmChoice::Qemu => VmmChoice::Qemu,
    }
}

pub fn jail(config: &Config) -> JailChoice {
    match config.jail.choice {
        emberd_config::JailChoice::Auto => JailChoice::Auto,
        emberd_config::JailChoice::On => JailChoice::On,
        emberd_config::JailChoice::Off => JailChoice::Off,
    }
}

/// The QEMU driver as the daemon would start it.
pub fn qemu(config: &Config) -> QemuConfig {
    let accel = match config.accel {
        emberd_config::AccelChoice::Auto => AccelChoice::Auto,
        emberd_config::AccelChoice::Kvm => AccelChoice::Kvm,
        emberd_config::AccelChoice::Tcg => AccelChoice::Tcg,
    };
    let ids = config.jail.uids.as_ref().map(IdRange::from);
    let jail = JailConfig {
        choice: jail(config),
        ids: ids.unwrap_or_default(),
        netns: config.jail.netns.clone(),
        run_dir: Some(config.run_dir.clone()),
        ..JailConfig::default()
    };
    // The daemon's cgroups are not this process's to change.
    let cgroups = CgroupConfig { choice: CgroupChoice::Off, ..CgroupConfig::default() };
    QemuConfig { binary: config.qemu.clone(), accel, jail, cgroups, ..QemuConfig::default() }
}
