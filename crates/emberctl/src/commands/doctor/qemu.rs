//! What the QEMU driver needs.

use std::path::Path;
use std::process::Command;

use emberd_config::{AccelChoice, Config};
use emberd_vmm::{JailChoice, KvmVerdict, QEMU_BINARY, Qemu};

use super::{Row, choices};

/// Whether `given`, or else the binary that the driver looks for, runs.
pub fn binary(given: Option<&Path>) -> Row {
    const WHAT: &str = "qemu";
    let binary = given.unwrap_or(Path::new(QEMU_BINARY));
    let shown = binary.display();
    match Command::new(binary).arg("--version").env_clear().output() {
        Ok(output) if output.status.success() => {
            let version = String::from_utf8_lossy(&output.stdout);
            Row::ok(WHAT, version.lines().next().unwrap_or_default())
        }
        Ok(output) => Row::fail(WHAT, format!("{shown} --version: {}", output.status)),
        Err(error) => Row::fail(WHAT, format!("{shown}: {error}")).advise(
            "install QEMU: apt-get install qemu-system-x86, or name the binary with --qemu",
        ),
    }
}

/// Whether each QEMU would be jailed: it is tried, as the daemon does when it starts.
pub fn jail(config: &Config) -> Row {
    let found = Qemu::find(choices::qemu(config));
    let found = found.as_ref().map_err(ToString::to_string);
    let confinement = found.and_then(|qemu| qemu.confinement().map_err(str::to_owned));
    jail_row(choices::jail(config), confinement)
}

fn jail_row(choice: JailChoice, confinement: Result<&str, String>) -> Row {
    const WHAT: &str = "jail";
    match (choice, confinement) {
        (JailChoice::Off, _) => {
            Row::warn(WHAT, "switched off: VMMs share the user and the file system of the daemon")
        }
        (_, Ok(seen)) => Row::ok(WHAT, seen),
        (JailChoice::On, Err(reason)) => {
            Row::fail(WHAT, format!("required by --jail on, but {reason}"))
                .advise("run the daemon as root, or with --jail off")
        }
        (JailChoice::Auto, Err(reason)) => {
            Row::warn(WHAT, format!("none ({reason}): VMMs run as the user of the daemon"))
                .advise("run the daemon as root")
        }
    }
}

/// Whether guests run on KVM; QEMU does without.
pub fn kvm(verdict: KvmVerdict, accel: AccelChoice) -> Row {
    const WHAT: &str = "kvm";
    let opens = matches!(verdict, KvmVerdict::Usable | KvmVerdict::NoHardwareVirtualisation);
    match (accel, verdict) {
        (AccelChoice::Tcg, _) => Row::info(WHAT, format!("not used, by --accel tcg; {verdict}")),
        (_, KvmVerdict::Usable) => Row::ok(WHAT, verdict.to_string()),
        (AccelChoice::Kvm, _) if opens => {
            Row::warn(WHAT, format!("required by --accel kvm, although {verdict}"))
                .hint(verdict.hint())
        }
        (AccelChoice::Kvm, _) => {
            Row::fail(WHAT, format!("required by --accel kvm, but {verdict}")).hint(verdict.hint())
        }
        _ => {
            let seen = format!("{verdict}; guests run under software emulation, which is slow");
            Row::warn(WHAT, seen).hint(verdict.hint())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Verdict::{self, Fail, Info, Ok, Warn};
    use KvmVerdict::{Absent, NoHardwareVirtualisation, NotPermitted, Usable};

    #[track_caller]
    fn check(verdict: KvmVerdict, accel: AccelChoice, expect: Verdict) {
        let row = kvm(verdict, accel);
        assert_eq!(row.verdict, expect, "{row:?}");
        assert_eq!(row.advice.is_some(), matches!(expect, Warn | Fail), "{row:?}");
    }

    #[test]
    fn kvm_that_is_not_usable_fails_only_who_demands_it() {
        check(Usable, AccelChoice::Auto, Ok);
        for verdict in [Absent, NotPermitted, NoHardwareVirtualisation] {
            check(verdict, AccelChoice::Auto, Warn);
            assert!(kvm(verdict, AccelChoice::Auto).seen.contains("software emulation"));
            check(verdict, AccelChoice::Tcg, Info);
        }
        check(NoHardwareVirtualisation, AccelChoice::Kvm, Warn);
        check(Absent, AccelChoice::Kvm, Fail);
    }

    #[test]
    fn a_jail_that_cannot_be_fails_only_who_demands_it() {
        let whole = || std::result::Result::Ok("jailed: own user and root");
        let none = || Err("the daemon is not root".to_owned());
        for (choice, without) in [(JailChoice::Auto, Warn), (JailChoice::On, Fail)] {
            assert_eq!(jail_row(choice, whole()).verdict, Ok);
            let row = jail_row(choice, none());
            assert_eq!((row.verdict, row.advice.is_some()), (without, true), "{row:?}");
        }
        assert_eq!(jail_row(JailChoice::Off, whole()).verdict, Warn);
    }

    #[test]
    fn a_binary_that_does_not_run_is_named() {
        let row = binary(Some(Path::new("/nonexistent/qemu")));
        assert_eq!(row.verdict, Fail);
        assert!(row.seen.starts_with("/nonexistent/qemu: "), "{}", row.seen);
        assert_eq!(binary(Some(Path::new("/bin/false"))).verdict, Fail);
    }
}
