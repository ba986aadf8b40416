//! Meaning of Firecracker's exit codes.

use std::path::Path;

use crate::ExitReason;

/// Lines at the log's end among which the system call is looked for.
const LINES: usize = 16;

/// Exit code of a VMM whose system call its own filter refused.
const BAD_SYSCALL: i32 = 148;

/// Reads an exit code of Firecracker; `log` says more about some.
pub(super) fn reason(code: i32, log: &Path) -> ExitReason {
    let Some(cause) = cause(code) else { return ExitReason::Code(code) };
    let log_has_number = code == BAD_SYSCALL;
    let syscall = log_has_number.then(|| syscall(&crate::log::tail(log, LINES))).flatten();
    ExitReason::Named { code, cause, syscall }
}

/// After Firecracker's `FcExitCode`.
fn cause(code: i32) -> Option<&'static str> {
    Some(match code {
        0 => "the guest rebooted or panicked",
        1 => "a failure, or a triple fault of the guest",
        2 => "an unexpected failure",
        BAD_SYSCALL => "seccomp violation",
        149 => "SIGBUS: a memory file was cut, or huge pages ran out",
        150 => "SIGSEGV",
        151 => "SIGXFSZ: a file grew over its limit",
        152 => "invalid configuration",
        153 => "invalid arguments",
        154 => "SIGXCPU: processor time used up",
        155 => "SIGPIPE",
        156 => "SIGHUP",
        157 => "SIGILL",
        _ => return None,
    })
}

/// The number in `... intercepting a bad syscall (42).`
fn syscall(log: &str) -> Option<u32> {
    let (_, after) = log.rsplit_once("bad syscall (")?;
    after.split(')').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("vm.log");
        std::fs::write(
            &log,
            "2026 [vm:main] Shutting down VM after intercepting a bad syscall (425).\nexiting\n",
        )
        .unwrap();
        let cases = [
            (148, "exited with code 148 (seccomp violation: system call 425)"),
            (149, "exited with code 149 (SIGBUS: a memory file was cut, or huge pages ran out)"),
            (0, "exited with code 0 (the guest rebooted or panicked)"),
            (77, "exited with code 77"),
        ];
        for (code, expect) in cases {
            assert_eq!(reason(code, &log).to_string(), expect);
        }
        let no_log = reason(148, Path::new("/nonexistent/vm.log")).to_string();
        assert_eq!(no_log, "exited with code 148 (seccomp violation)");
    }
}
