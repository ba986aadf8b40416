//! Finds QEMU, checks its version and chooses its accelerator.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use crate::CgroupConfig;
use crate::host::KvmVerdict;
use crate::jail::JailConfig;
use crate::process;

/// Name of the program in the search path.
pub const BINARY: &str = "qemu-system-x86_64";

/// Oldest major version whose `microvm` board describes its devices in ACPI.
const VERSION_MAJOR_MIN: u32 = 6;

/// Choice of the accelerator.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AccelChoice {
    /// KVM where the host's processor virtualises, else software emulation.
    #[default]
    Auto,
    /// KVM, even without hardware virtualisation.
    Kvm,
    /// Software emulation.
    Tcg,
}

/// How to run QEMU.
#[derive(Debug, Clone, Default)]
pub struct QemuConfig {
    /// The binary; searched in `PATH` when not given.
    pub binary: Option<PathBuf>,
    /// The accelerator of guests.
    pub accel: AccelChoice,
    /// Whether the guest has a console, which goes to the log.
    pub console: bool,
    /// Why this driver was chosen, as the beginning of a sentence; the driver adds why this
    /// accelerator and how it confines. May be empty.
    pub reason: String,
    /// Whether microVMs are jailed, and how.
    pub jail: JailConfig,
    /// Place of the cgroups of microVMs.
    pub cgroups: CgroupConfig,
    /// File in which the findings of a start are kept for the next one; none to find out again.
    pub record: Option<PathBuf>,
}

impl QemuConfig {
    /// Everything in it that the findings of a start depend on.
    pub(super) fn choices(&self) -> String {
        let Self { accel, console, jail, .. } = self;
        format!("{accel:?} {console} {jail:?}")
    }
}

/// Why QEMU cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FindQemuError {
    /// The program does not exist.
    #[error("{} does not exist", .0.display())]
    Missing(PathBuf),
    /// The program does not run.
    #[error("cannot run {}", binary.display())]
    Run {
        /// The binary.
        binary: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program does not report a QEMU version.
    #[error("{} did not print a QEMU version, but `{printed}`", binary.display())]
    NotQemu {
        /// The binary.
        binary: PathBuf,
        /// The first line of what it printed.
        printed: String,
    },
    /// The version is too old.
    #[error("QEMU {version} is older than {VERSION_MAJOR_MIN}.0")]
    TooOld {
        /// Its version.
        version: String,
    },
    /// KVM is required and not available.
    #[error("KVM is required, but {0}")]
    NoKvm(KvmVerdict),
    /// The cgroup given for VMMs cannot be used.
    #[error("cannot use the cgroup for VMMs: {reason}")]
    Cgroups {
        /// Why not.
        reason: String,
    },
    /// A jail is required and not possible.
    #[error("cannot jail microVMs: {reason}")]
    Jail {
        /// Why not.
        reason: String,
    },
    /// A property of this host that templates depend on cannot be read.
    #[error("cannot read {}", path.display())]
    Host {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl FindQemuError {
    /// Returns a hint how to fix the problem.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Missing(_) => Some("install it: apt install qemu-system-x86"),
            Self::NoKvm(verdict) => verdict.hint(),
            Self::TooOld { .. } => Some("install a newer QEMU"),
            Self::Jail { .. } => Some("run the daemon as root, or with --jail off"),
            Self::Cgroups { .. } => Some(crate::cgroup::HINT),
            Self::Run { .. } | Self::NotQemu { .. } | Self::Host { .. } => None,
        }
    }
}

/// The configured binary, or the first in `PATH`.
pub(super) fn binary(configured: Option<PathBuf>) -> Result<PathBuf, FindQemuError> {
    let found = match configured {
        // Absolute, because QEMU is started in another directory.
        Some(path) => std::path::absolute(&path).ok().filter(|path| path.is_file()).ok_or(path),
        None => in_path(&std::env::var_os("PATH").unwrap_or_default()).ok_or(BINARY.into()),
    };
    found.map_err(FindQemuError::Missing)
}

fn in_path(path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(BINARY))
        .find(|binary| binary.is_file())
}

/// Asks the binary for its version.
pub(super) fn version(binary: &Path) -> Result<String, FindQemuError> {
    let output = process::command(binary)
        .arg("--version")
        .output()
        .map_err(|source| FindQemuError::Run { binary: binary.into(), source })?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let printed = printed.lines().next().unwrap_or_default();
    let Some((version, major)) = parse_version(printed) else {
        return Err(FindQemuError::NotQemu { binary: binary.into(), printed: printed.into() });
    };
    if major < VERSION_MAJOR_MIN {
        return Err(FindQemuError::TooOld { version: version.into() });
    }
    Ok(version.into())
}

/// Version and its first number in a line such as `QEMU emulator version 7.2.22 (Debian …)`.
fn parse_version(line: &str) -> Option<(&str, u32)> {
    let version = line.strip_prefix("QEMU emulator version ")?.split_whitespace().next()?;
    Some((version, version.split('.').next()?.parse().ok()?))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Accelerator {
    Kvm,
    Tcg,
}

impl Accelerator {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// Chooses the accelerator, and returns the reason.
pub(super) fn accelerator(
    choice: AccelChoice,
    kvm: KvmVerdict,
) -> Result<(Accelerator, String), FindQemuError> {
    let opens = matches!(kvm, KvmVerdict::Usable | KvmVerdict::NoHardwareVirtualisation);
    match choice {
        AccelChoice::Auto if kvm == KvmVerdict::Usable => Ok((Accelerator::Kvm, kvm.to_string())),
        AccelChoice::Auto => Ok((Accelerator::Tcg, format!("software emulation, because {kvm}"))),
        AccelChoice::Kvm if opens => Ok((Accelerator::Kvm, format!("KVM was requested; {kvm}"))),
        AccelChoice::Kvm => Err(FindQemuError::NoKvm(kvm)),
        AccelChoice::Tcg => Ok((Accelerator::Tcg, "software emulation was requested".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_distributions_print_them() {
        let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)";
        assert_eq!(parse_version(debian), Some(("7.2.22", 7)));
        assert_eq!(parse_version("QEMU emulator version 10.1.0"), Some(("10.1.0", 10)));
        assert_eq!(parse_version("QEMU emulator version "), None);
        assert_eq!(parse_version("GNU coreutils 9.1"), None);
    }

    #[test]
    fn accelerator_follows_the_verdict_unless_told() {
        use AccelChoice::{Auto, Kvm, Tcg};
        use KvmVerdict::{Absent, NoHardwareVirtualisation, NotPermitted, Usable};
        let check = |choice, verdict, expect: Option<Accelerator>| {
            let decided = accelerator(choice, verdict).ok().map(|(accelerator, _)| accelerator);
            assert_eq!(decided, expect, "{choice:?} {verdict:?}");
        };
        check(Auto, Usable, Some(Accelerator::Kvm));
        check(Auto, NoHardwareVirtualisation, Some(Accelerator::Tcg));
        check(Auto, Absent, Some(Accelerator::Tcg));
        check(Kvm, NoHardwareVirtualisation, Some(Accelerator::Kvm));
        check(Kvm, NotPermitted, None);
        check(Kvm, Absent, None);
        check(Tcg, Usable, Some(Accelerator::Tcg));
    }

    #[test]
    fn reason_is_a_sentence_for_people() {
        let (_, reason) =
            accelerator(AccelChoice::Auto, KvmVerdict::NoHardwareVirtualisation).unwrap();
        let expect = "software emulation, because /dev/kvm opens, but the processor shows neither \
                      vmx nor svm";
        assert_eq!(reason, expect);
    }

    #[test]
    fn program_that_is_not_qemu_is_named() {
        let error = version(Path::new("/bin/echo")).unwrap_err();
        assert!(matches!(error, FindQemuError::NotQemu { .. }), "{error}");
        assert!(error.to_string().starts_with("/bin/echo did not print a QEMU version"), "{error}");
    }

    #[test]
    fn relative_path_entries_are_not_searched() {
        assert_eq!(in_path(OsStr::new(".:bin")), None);
    }
}
