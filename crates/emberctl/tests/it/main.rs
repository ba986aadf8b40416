//! `emberctl` as its users meet it: arguments, output, exit codes, over a daemon made here.

#[cfg(test)]
mod arguments;
#[cfg(test)]
mod audit;
#[cfg(test)]
mod contexts;
#[cfg(test)]
mod egress;
#[cfg(test)]
mod fake_contexts;
#[cfg(test)]
mod fake_daemon;
#[cfg(test)]
mod fake_egress;
#[cfg(test)]
mod fake_files;
#[cfg(test)]
mod file_server;
#[cfg(test)]
mod files;
#[cfg(test)]
mod host;
#[cfg(test)]
mod inside;
#[cfg(test)]
mod key;
#[cfg(test)]
mod life;
#[cfg(test)]
mod listing;
#[cfg(test)]
mod program;
#[cfg(test)]
mod secured;
#[cfg(test)]
mod setup;
#[cfg(test)]
mod vmconfig;

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

/// An address nobody listens on.
#[cfg(test)]
const ADDR_DEAD: &str = "unix:/nonexistent/emberd.sock";

/// `emberctl` with `args`, not started, in an environment without our variables.
#[cfg(test)]
fn emberctl(addr: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_emberctl"));
    command
        .args(args)
        .env("EMBERD_ADDR", addr)
        .env_remove("EMBERD_DATA_DIR")
        .env_remove("EMBERD_API_KEY");
    command
}

/// What `emberctl` did.
#[cfg(test)]
fn run(addr: &str, args: &[&str]) -> Output {
    run_with_stdin(addr, args, b"")
}

#[cfg(test)]
fn run_with_stdin(addr: &str, args: &[&str], stdin: &[u8]) -> Output {
    let mut command = emberctl(addr, args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // A command that does not read it may have ended by now.
    drop(child.stdin.take().unwrap().write_all(stdin));
    child.wait_with_output().unwrap()
}

/// Standard output of a success.
#[cfg(test)]
#[track_caller]
fn printed(output: &Output) -> &str {
    assert!(output.status.success(), "{}: {}", output.status, complaint(output));
    std::str::from_utf8(&output.stdout).unwrap()
}

/// Standard error.
#[cfg(test)]
fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
