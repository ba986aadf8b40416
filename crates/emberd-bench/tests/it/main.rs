//! `emberd-bench` as its users meet it: real runs over the test double, and what is refused.
//!
//! Shapes and counts are asserted, never times. The daemon, the agent and the double are those
//! built beside the bench: `cargo build -p emberd -p emberd-init -p fake-firecracker`.

#[cfg(test)]
mod refusals;
#[cfg(test)]
mod runs;

use std::path::Path;
use std::process::{Command, Output};

/// The bench with `args`, not started; what it makes for itself goes below `temp`.
#[cfg(test)]
fn bench(temp: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_emberd-bench"));
    command.args(args).env("TMPDIR", temp);
    command
}

/// A short path, as sockets need.
#[cfg(test)]
fn temp_dir() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("b").tempdir_in("/tmp").unwrap()
}

#[cfg(test)]
fn text(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{}\n{out}\n{err}", output.status)
}
