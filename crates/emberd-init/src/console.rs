//! Messages on the guest's console.

use std::error::Error;
use std::io::Write as _;

use emberd_proto::chain;

/// Kernel log level "error" in the syntax of `/dev/kmsg`: shown even with `quiet`.
const LEVEL: &str = "<3>";

/// Prints that the guest is ready, for people who boot one by hand. Without a console, the
/// message is lost.
pub fn tell_ready() {
    writeln!(std::io::stdout(), "emberd-init: ready").ok();
}

/// Prints `error` and its causes.
pub fn report(error: &dyn Error) {
    say(&chain(error));
}

/// Prints a line.
///
/// As PID 1, the line goes through the kernel log, which is written out before a reboot. The
/// buffer of a serial console would be lost.
pub fn say(text: &str) {
    let through_kernel = std::process::id() == 1
        && std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/kmsg")
            .and_then(|mut log| log.write_all(format!("{LEVEL}emberd-init: {text}\n").as_bytes()))
            .is_ok();
    if !through_kernel {
        eprintln!("emberd-init: {text}");
    }
}
