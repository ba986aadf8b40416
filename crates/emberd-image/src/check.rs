//! Checks whether a kernel has the build options that guests need.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::artifact::{BlobError, Digest, KernelManifest, read_manifest};
use crate::data_dir::DataDir;
use crate::kernel::{self, KernelConfig, KernelError};
use crate::pack::Compression;

/// How a kernel provides an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provision {
    /// Built into the kernel.
    BuiltIn,
    /// A module, which must be in the initramfs.
    Module,
    /// Not available.
    Missing,
    /// Unknown: the kernel contains no config and none was given.
    Unknown,
}

impl fmt::Display for Provision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::BuiltIn => "built in",
            Self::Module => "module",
            Self::Missing => "missing",
            Self::Unknown => "unknown",
        })
    }
}

/// The guests that need an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Every guest.
    Required,
    /// Guests under QEMU.
    Qemu,
    /// Guests under Firecracker.
    Firecracker,
    /// No guest requires it, but something works better with it.
    Optional,
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Required => "required",
            Self::Qemu => "required under QEMU",
            Self::Firecracker => "required under Firecracker",
            Self::Optional => "optional",
        })
    }
}

/// One option of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OptionReport {
    /// Name, without `CONFIG_`.
    pub option: &'static str,
    /// The guests that need it.
    pub need: Need,
    /// Its purpose.
    pub purpose: &'static str,
    /// How this kernel provides it.
    pub provision: Provision,
}

/// Source of the options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfigSource {
    /// The given config file.
    File,
    /// The kernel itself (`CONFIG_IKCONFIG`).
    Kernel,
    /// The data directory, which has the config of the installed kernel.
    Installed,
    /// None: the kernel contains no config and none was given.
    Nowhere,
}

/// Which of the needed options a kernel provides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Output of `uname -r`.
    pub release: String,
    /// Source of the options.
    pub config: ConfigSource,
    /// Ticks per second, if known.
    pub hz: Option<u32>,
    /// All options that guests need, the most important first.
    pub options: Vec<OptionReport>,
}

impl Report {
    /// Returns the missing options that every guest needs.
    pub fn missing(&self) -> impl Iterator<Item = &OptionReport> {
        self.options.iter().filter(|report| {
            report.need == Need::Required && report.provision == Provision::Missing
        })
    }

    /// Returns the missing options without which guests reach no other host.
    pub fn missing_for_egress(&self) -> impl Iterator<Item = &OptionReport> {
        self.options.iter().filter(|report| {
            EGRESS.contains(&report.option) && report.provision == Provision::Missing
        })
    }
}

/// Options that capture the connections of a guest's programs.
const EGRESS: [&str; 3] = ["INET", "BPF_SYSCALL", "NET_NS"];

const OPTIONS: [(&str, Need, &str); 26] = [
    ("BLK_DEV_INITRD", Need::Required, "the initramfs"),
    ("PROC_FS", Need::Required, "/proc"),
    ("SYSFS", Need::Required, "/sys"),
    ("DEVTMPFS", Need::Required, "/dev"),
    ("TMPFS", Need::Required, "the writable layer"),
    ("SQUASHFS", Need::Required, "the read-only layer"),
    // A placeholder for the compressor of the pack, which `compressor` below replaces.
    ("SQUASHFS_ZSTD", Need::Required, "the compressor of the packs"),
    ("OVERLAY_FS", Need::Required, "joining both layers"),
    ("VIRTIO", Need::Required, "virtual devices"),
    ("VIRTIO_MMIO", Need::Required, "finding virtual devices"),
    ("VIRTIO_BLK", Need::Required, "the root image's disk"),
    ("UNIX", Need::Required, "Unix sockets, including the agent's own"),
    ("BINFMT_ELF", Need::Required, "running programs"),
    ("VIRTIO_CONSOLE", Need::Qemu, "the channel to the agent"),
    ("VSOCKETS", Need::Firecracker, "the channel to the agent"),
    ("VIRTIO_VSOCKETS", Need::Firecracker, "the channel to the agent"),
    ("SERIAL_8250_CONSOLE", Need::Optional, "the guest's messages in the console log"),
    ("BINFMT_SCRIPT", Need::Optional, "programs that start with #!"),
    ("CGROUPS", Need::Optional, "killing a whole process tree at once"),
    ("UNIX98_PTYS", Need::Optional, "terminals"),
    ("INET", Need::Optional, "ports, and connections to the outside"),
    ("BPF_SYSCALL", Need::Optional, "connections to the outside"),
    ("NET_NS", Need::Optional, "connections to the outside"),
    ("IPV6", Need::Optional, "connections to IPv6 addresses"),
    ("HW_RANDOM_VIRTIO", Need::Optional, "entropy from the host"),
    ("MODULES", Need::Optional, "loading features that are not built in"),
];

/// Returns the option for reading root images of this compression; even uncompressed ones record
/// a compressor.
fn compressor(compression: Compression) -> &'static str {
    match compression {
        Compression::Zstd | Compression::None => "SQUASHFS_ZSTD",
        Compression::Lz4 => "SQUASHFS_LZ4",
    }
}

/// Returns the kernel that is installed in a data directory.
///
/// # Errors
/// [`BlobError`] if its manifest cannot be read.
pub fn installed(data_dir: &DataDir) -> Result<Option<PathBuf>, BlobError> {
    let manifest: Option<KernelManifest> = read_manifest(&data_dir.kernel_manifest())?;
    Ok(manifest.map(|manifest| manifest.vmlinux.path(data_dir)))
}

/// Checks the kernel in a file, a vmlinux or a bzImage, for packs of this compression. The
/// options come from the file at `config`, from the kernel itself, or from the data directory if
/// this is the installed kernel.
///
/// # Errors
/// [`KernelError`] if `path` is not a kernel or a file cannot be read.
pub fn kernel(
    path: &Path,
    config: Option<&Path>,
    compression: Compression,
    data_dir: &DataDir,
) -> Result<Report, KernelError> {
    let image = kernel::read_image(path)?;
    let config = config.map(kernel::read_config).transpose()?;
    let report = kernel_bytes(&image, config.as_deref(), compression)?;
    if report.config != ConfigSource::Nowhere {
        return Ok(report);
    }
    match kept_config(&image, data_dir)? {
        Some(config) => {
            let report = kernel_bytes(&image, Some(&config), compression)?;
            Ok(Report { config: ConfigSource::Installed, ..report })
        }
        None => Ok(report),
    }
}

/// Returns the config in `data_dir` if this is the installed kernel.
fn kept_config(image: &[u8], data_dir: &DataDir) -> Result<Option<String>, KernelError> {
    let manifest = read_manifest::<KernelManifest>(&data_dir.kernel_manifest());
    // Damage in the data directory is reported when it is loaded; this kernel may be another one.
    let Ok(Some(manifest)) = manifest else { return Ok(None) };
    let Some(config) = &manifest.config else { return Ok(None) };
    if Digest::of(&kernel::vmlinux(image)?) != manifest.vmlinux.sha256 {
        return Ok(None);
    }
    kernel::read_config(&config.path(data_dir)).map(Some)
}

/// As [`kernel`], for a kernel and a config in memory.
///
/// # Errors
/// [`KernelError`] if `image` is not a kernel.
pub fn kernel_bytes(
    image: &[u8],
    config: Option<&str>,
    compression: Compression,
) -> Result<Report, KernelError> {
    let vmlinux = kernel::vmlinux(image)?;
    let release = kernel::release(&vmlinux).ok_or(KernelError::NoRelease)?;
    let (config, source) = match config {
        Some(text) => (Some(KernelConfig::parse(text)), ConfigSource::File),
        None => match KernelConfig::text_in(&vmlinux) {
            Some(text) => (Some(KernelConfig::parse(&text)), ConfigSource::Kernel),
            None => (None, ConfigSource::Nowhere),
        },
    };
    let options = OPTIONS.into_iter().map(|(option, need, purpose)| {
        let option = match option {
            "SQUASHFS_ZSTD" => compressor(compression),
            _ => option,
        };
        let provision = provision(config.as_ref(), option);
        OptionReport { option, need, purpose, provision }
    });
    let hz = config.as_ref().and_then(KernelConfig::hz);
    Ok(Report { release, config: source, hz, options: options.collect() })
}

fn provision(config: Option<&KernelConfig>, option: &str) -> Provision {
    match config.map(|config| config.get(option)) {
        None => Provision::Unknown,
        Some(Some("y")) => Provision::BuiltIn,
        Some(Some("m")) => Provision::Module,
        Some(_) => Provision::Missing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decompress::synthetic::gzip;
    use crate::elf::synthetic;

    const CONFIG: &str = "CONFIG_HZ=1000\nCONFIG_SQUASHFS=m\nCONFIG_SQUASHFS_LZ4=y\n\
        CONFIG_VSOCKETS=y\n# CONFIG_OVERLAY_FS is not set\n";

    fn kernel_with(config: Option<&str>) -> Vec<u8> {
        let mut content = b"Linux version 6.1.0-test (a@b)\0".to_vec();
        if let Some(text) = config {
            content.extend(b"IKCFG_ST");
            content.extend(gzip(text.as_bytes()));
            content.extend(b"IKCFG_ED");
        }
        synthetic::with_section(".rodata", &content)
    }

    fn check(report: &Report, expect: &[(&str, Provision)]) {
        for (option, provision) in expect {
            let found = report.options.iter().find(|found| found.option == *option);
            assert_eq!(found.map(|found| found.provision), Some(*provision), "{option}");
        }
    }

    #[test]
    fn config_in_the_kernel_decides() {
        let report = kernel_bytes(&kernel_with(Some(CONFIG)), None, Compression::Lz4).unwrap();
        assert_eq!((report.config, report.hz), (ConfigSource::Kernel, Some(1000)));
        assert_eq!(report.release, "6.1.0-test");
        let expect = [
            ("SQUASHFS", Provision::Module),
            ("SQUASHFS_LZ4", Provision::BuiltIn),
            ("VSOCKETS", Provision::BuiltIn),
            ("OVERLAY_FS", Provision::Missing),
            ("TMPFS", Provision::Missing),
        ];
        check(&report, &expect);
        assert!(report.missing().any(|missing| missing.option == "OVERLAY_FS"));
        assert!(report.missing().all(|missing| missing.option != "SQUASHFS"));
    }

    #[test]
    fn config_file_overrides_the_kernels_own() {
        let image = kernel_with(Some(CONFIG));
        let report = kernel_bytes(&image, Some("CONFIG_OVERLAY_FS=y"), Compression::Zstd).unwrap();
        assert_eq!((report.config, report.hz), (ConfigSource::File, None));
        check(&report, &[("OVERLAY_FS", Provision::BuiltIn), ("SQUASHFS", Provision::Missing)]);
    }

    #[test]
    fn without_a_config_nothing_is_called_missing() {
        let report = kernel_bytes(&kernel_with(None), None, Compression::None).unwrap();
        assert_eq!(report.config, ConfigSource::Nowhere);
        assert!(report.options.iter().all(|option| option.provision == Provision::Unknown));
        assert_eq!(report.missing().count(), 0);
    }

    #[test]
    fn the_compressor_follows_the_packs() {
        for (compression, expect) in [
            (Compression::Zstd, "SQUASHFS_ZSTD"),
            (Compression::Lz4, "SQUASHFS_LZ4"),
            (Compression::None, "SQUASHFS_ZSTD"),
        ] {
            let report = kernel_bytes(&kernel_with(None), None, compression).unwrap();
            let options = report.options.iter().map(|report| report.option);
            let found: Vec<_> = options.filter(|name| name.starts_with("SQUASHFS_")).collect();
            assert_eq!(found, [expect]);
        }
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        let elf = synthetic::with_section(".text", b"a program");
        let report = kernel_bytes(&elf, None, Compression::Zstd);
        assert!(matches!(report, Err(KernelError::NoRelease)));
        let text = kernel_bytes(b"text", None, Compression::Zstd);
        assert!(matches!(text, Err(KernelError::Unrecognised)));
    }
}
