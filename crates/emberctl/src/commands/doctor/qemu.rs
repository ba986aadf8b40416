//! What the QEMU driver needs.

use std::path::Path;
use std::process::Command;

use emberd_vmm::KvmVerdict;

use super::Row;

pub fn binary(binary: &Path) -> Row {
    const WHAT: &str = "qemu";
    let shown = binary.display();
    match Command::new(binary).arg("--version").output() {
        Ok(output) if output.status.success() => {
            let version = String::from_utf8_lossy(&output.stdout);
            Row::ok(WHAT, version.lines().next().unwrap_or_default())
        }
        Ok(output) => Row::fail(WHAT, format!("{shown} --version: {}", output.status)),
        Err(error) => Row::fail(WHAT, format!("{shown}: {error}"))
            .advise("apt-get install qemu-system-x86, or name the binary in EMBERD_QEMU"),
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
    fn a_binary_that_does_not_run_is_named() {
        let row = binary(Path::new("/nonexistent/qemu"));
        assert_eq!(row.verdict, Fail);
        assert!(row.seen.starts_with("/nonexistent/qemu: "), "{}", row.seen);
        assert_eq!(binary(Path::new("/bin/false")).verdict, Fail);
    }
}
