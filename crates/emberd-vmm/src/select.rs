//! Selects the driver of a host, with the reason.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::KvmVerdict;
use crate::firecracker::find_binary;

/// Driver requested by the caller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum VmmChoice {
    /// Firecracker where it can run well, else QEMU.
    #[default]
    Auto,
    /// Firecracker.
    Firecracker,
    /// QEMU.
    Qemu,
}

impl FromStr for VmmChoice {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "auto" => Ok(Self::Auto),
            "firecracker" => Ok(Self::Firecracker),
            "qemu" => Ok(Self::Qemu),
            _ => Err(format!("`{word}` is not auto, firecracker or qemu")),
        }
    }
}

/// Facts about the host that decide the choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// Firecracker's binary, if there is one.
    pub firecracker: Option<PathBuf>,
    /// Whether KVM is usable.
    pub kvm: KvmVerdict,
    /// Whether the caller wants KVM whatever the verdict (`--accel kvm`).
    pub kvm_forced: bool,
}

impl HostFacts {
    /// The facts of this host; Firecracker is `given`, or looked for in `dirs`, then `PATH`.
    pub fn of_this_host(given: Option<&Path>, dirs: &[PathBuf], kvm_forced: bool) -> Self {
        let firecracker = find_binary("firecracker", given, dirs);
        Self { firecracker, kvm: KvmVerdict::of_this_host(), kvm_forced }
    }
}

/// A driver of this crate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Driver {
    /// The Firecracker driver, with this binary.
    Firecracker {
        /// The binary.
        binary: PathBuf,
    },
    /// The QEMU driver.
    Qemu,
}

/// The driver chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// The driver.
    pub driver: Driver,
    /// Why, as the beginning of a sentence.
    pub reason: String,
}

/// Why the requested driver cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// Firecracker is requested and not installed.
    #[error("no firecracker binary found")]
    NoFirecracker,
    /// Firecracker is requested and cannot run without KVM.
    #[error("Firecracker needs KVM: {0}")]
    NoKvm(KvmVerdict),
}

impl SelectError {
    /// Returns a hint how to fix the problem.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoFirecracker => {
                Some("install Firecracker, name it by --firecracker, or --vmm qemu")
            }
            Self::NoKvm(verdict) => verdict.hint(),
        }
    }
}

/// Chooses a driver.
///
/// A KVM device without hardware virtualisation does not count: it interprets guest kernels, and
/// stops at instructions that it does not know. An explicit request selects Firecracker on such a
/// device anyway; the automatic choice does so only with KVM forced. With both, the device is not
/// checked: Firecracker reports what is missing.
///
/// # Errors
/// [`SelectError`] when Firecracker is requested and cannot run.
pub fn select(choice: VmmChoice, facts: &HostFacts) -> Result<Selection, SelectError> {
    let qemu = |reason: String| Ok(Selection { driver: Driver::Qemu, reason });
    let firecracker = |binary: PathBuf, reason: String| {
        Ok(Selection { driver: Driver::Firecracker { binary }, reason })
    };
    let opens = matches!(facts.kvm, KvmVerdict::Usable | KvmVerdict::NoHardwareVirtualisation);
    let usable = facts.kvm == KvmVerdict::Usable || (facts.kvm_forced && opens);
    match (choice, facts.firecracker.clone()) {
        (VmmChoice::Qemu, _) => qemu("qemu was requested".to_owned()),
        (VmmChoice::Firecracker, None) => Err(SelectError::NoFirecracker),
        (VmmChoice::Firecracker, Some(_)) if !opens && !facts.kvm_forced => {
            Err(SelectError::NoKvm(facts.kvm))
        }
        (VmmChoice::Firecracker, Some(binary)) => {
            firecracker(binary, format!("firecracker was requested; {}", facts.kvm))
        }
        (VmmChoice::Auto, None) => qemu("no firecracker binary found".to_owned()),
        (VmmChoice::Auto, Some(_)) if !usable => {
            qemu(format!("firecracker needs KVM, but {}", facts.kvm))
        }
        (VmmChoice::Auto, Some(binary)) => {
            let forced = if facts.kvm == KvmVerdict::Usable { "" } else { " (KVM was forced)" };
            firecracker(binary, format!("firecracker is installed and {}{forced}", facts.kvm))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use KvmVerdict::{Absent, NoHardwareVirtualisation, NotPermitted, Usable};

    /// `F`, `Q` or the error.
    fn chosen(choice: VmmChoice, found: bool, kvm: KvmVerdict, kvm_forced: bool) -> String {
        let firecracker = found.then(|| PathBuf::from("/opt/firecracker"));
        match select(choice, &HostFacts { firecracker, kvm, kvm_forced }) {
            Ok(Selection { driver: Driver::Firecracker { .. }, reason }) => format!("F: {reason}"),
            Ok(Selection { driver: Driver::Qemu, reason }) => format!("Q: {reason}"),
            Err(error) => format!("{error}; {}", error.hint().is_some()),
        }
    }

    #[test]
    fn auto_takes_firecracker_only_where_it_runs_well() {
        let auto = |found, kvm, forced| chosen(VmmChoice::Auto, found, kvm, forced);
        let cases = [
            (auto(true, Usable, false), "F: firecracker is installed and /dev/kvm opens and"),
            (auto(false, Usable, false), "Q: no firecracker binary found"),
            (auto(true, Absent, false), "Q: firecracker needs KVM, but /dev/kvm does not exist"),
            (auto(true, NotPermitted, true), "Q: firecracker needs KVM, but /dev/kvm does not"),
            (auto(true, NoHardwareVirtualisation, false), "Q: firecracker needs KVM, but /dev/kvm"),
            (auto(true, NoHardwareVirtualisation, true), "F: firecracker is installed and"),
        ];
        for (found, expect) in cases {
            assert!(found.starts_with(expect), "{found}");
        }
    }

    #[test]
    fn a_name_is_obeyed_or_refused() {
        let named = |found, kvm| chosen(VmmChoice::Firecracker, found, kvm, false);
        let forced = chosen(VmmChoice::Firecracker, true, Absent, true);
        assert_eq!(forced, "F: firecracker was requested; /dev/kvm does not exist");
        assert!(named(true, Usable).starts_with("F: firecracker was requested"));
        assert!(named(true, NoHardwareVirtualisation).starts_with("F: firecracker was requested"));
        assert_eq!(named(true, Absent), "Firecracker needs KVM: /dev/kvm does not exist; true");
        assert_eq!(named(false, Usable), "no firecracker binary found; true");
        let qemu = chosen(VmmChoice::Qemu, true, Usable, true);
        assert_eq!(qemu, "Q: qemu was requested");
    }

    #[test]
    fn choices_are_words() {
        assert_eq!("auto".parse(), Ok(VmmChoice::Auto));
        assert_eq!("qemu".parse(), Ok(VmmChoice::Qemu));
        assert!("xen".parse::<VmmChoice>().is_err());
    }
}
