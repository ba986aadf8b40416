//! What the QEMU driver needs.

use std::path::Path;
use std::process::Command;

use emberd_vmm::{AccelChoice, JailChoice, JailConfig, KvmVerdict, Qemu, QemuConfig};

use super::{Args, Row};

/// Looked for in the search path.
pub const DEFAULT_BINARY: &str = "qemu-system-x86_64";

pub fn binary(binary: &Path) -> Row {
    const WHAT: &str = "qemu";
    let shown = binary.display();
    match Command::new(binary).arg("--version").env_clear().output() {
        Ok(output) if output.status.success() => {
            let version = String::from_utf8_lossy(&output.stdout);
            Row::ok(WHAT, version.lines().next().unwrap_or_default())
        }
        Ok(output) => Row::fail(WHAT, format!("{shown} --version: {}", output.status)),
        Err(error) => Row::fail(WHAT, format!("{shown}: {error}"))
            .advise("apt-get install qemu-system-x86, or name the binary in EMBERD_QEMU"),
    }
}

/// Whether each QEMU would be jailed: it is tried, as the daemon does when it starts.
pub fn jail(args: &Args) -> Row {
    let accel = match &*args.accel {
        "kvm" => AccelChoice::Kvm,
        "tcg" => AccelChoice::Tcg,
        _ => AccelChoice::Auto,
    };
    let binary = (args.qemu != Path::new(DEFAULT_BINARY)).then(|| args.qemu.clone());
    let run_dir = args.run_dir.clone();
    let jail = JailConfig { choice: args.jail, run_dir, ..JailConfig::default() };
    let found = Qemu::find(QemuConfig { binary, accel, jail, ..QemuConfig::default() });
    let found = found.as_ref().map_err(ToString::to_string);
    jail_row(args.jail, found.and_then(|qemu| qemu.confinement().map_err(str::to_owned)))
}

fn jail_row(choice: JailChoice, confinement: Result<String, String>) -> Row {
    const WHAT: &str = "jail";
    match (choice, confinement) {
        (JailChoice::Off, _) => {
            Row::warn(WHAT, "switched off: VMMs have no user and no root of their own")
        }
        (_, Ok(seen)) if seen.contains("not limited") => {
            Row::warn(WHAT, seen).advise("boot the host with systemd.unified_cgroup_hierarchy=1")
        }
        (_, Ok(seen)) => Row::ok(WHAT, seen),
        (JailChoice::On, Err(reason)) => Row::fail(WHAT, format!("demanded, but: {reason}"))
            .advise("run the daemon as root, or with --jail off"),
        (JailChoice::Auto, Err(reason)) => {
            Row::warn(WHAT, format!("none ({reason}): VMMs are the daemon's user"))
                .advise("run the daemon as root")
        }
    }
}

/// Whether guests run on KVM; QEMU does without.
pub fn kvm(verdict: KvmVerdict, accel: &str) -> Row {
    const WHAT: &str = "kvm";
    let opens = matches!(verdict, KvmVerdict::Usable | KvmVerdict::NoHardwareVirtualisation);
    match (accel, verdict) {
        ("tcg", _) => Row::info(WHAT, format!("not used, as demanded; {verdict}")),
        (_, KvmVerdict::Usable) => Row::ok(WHAT, verdict.to_string()),
        ("kvm", _) if opens => {
            Row::warn(WHAT, format!("demanded, though {verdict}")).hint(verdict.hint())
        }
        ("kvm", _) => Row::fail(WHAT, format!("demanded, but {verdict}")).hint(verdict.hint()),
        _ => {
            let seen = format!("{verdict}: guests run under software emulation, which is slow");
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
    fn check(verdict: KvmVerdict, accel: &str, expect: Verdict) {
        let row = kvm(verdict, accel);
        assert_eq!(row.verdict, expect, "{row:?}");
        assert_eq!(row.advice.is_some(), matches!(expect, Warn | Fail), "{row:?}");
    }

    #[test]
    fn kvm_that_is_not_usable_fails_only_who_demands_it() {
        check(Usable, "auto", Ok);
        for verdict in [Absent, NotPermitted, NoHardwareVirtualisation] {
            check(verdict, "auto", Warn);
            assert!(kvm(verdict, "auto").seen.contains("software emulation"));
            check(verdict, "tcg", Info);
        }
        check(NoHardwareVirtualisation, "kvm", Warn);
        check(Absent, "kvm", Fail);
    }

    #[test]
    fn a_jail_that_cannot_be_fails_only_who_demands_it() {
        let whole = || std::result::Result::Ok("jailed: own user; limited: memory".to_owned());
        let part = || std::result::Result::Ok("jailed: own user; not limited: memory".to_owned());
        let none = || Err("the daemon is not root".to_owned());
        for (choice, unlimited, without) in
            [(JailChoice::Auto, Warn, Warn), (JailChoice::On, Warn, Fail)]
        {
            assert_eq!(jail_row(choice, whole()).verdict, Ok);
            assert_eq!(jail_row(choice, part()).verdict, unlimited);
            let row = jail_row(choice, none());
            assert_eq!((row.verdict, row.advice.is_some()), (without, true), "{row:?}");
        }
        assert_eq!(jail_row(JailChoice::Off, whole()).verdict, Warn);
    }

    #[test]
    fn a_binary_that_does_not_run_is_named() {
        let row = binary(Path::new("/nonexistent/qemu"));
        assert_eq!(row.verdict, Fail);
        assert!(row.seen.starts_with("/nonexistent/qemu: "), "{}", row.seen);
        assert_eq!(binary(Path::new("/bin/false")).verdict, Fail);
    }
}
