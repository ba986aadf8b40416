//! `emberctl`: the command line of emberd, one file per command under `commands/`.
//!
//! Exit codes: a program's own for `run`, `exec`, `shell` and `attach`; else 0, 1 when a check
//! says no, 124 to 126 as [`exit`] names them.

use std::process::ExitCode;

use clap::Parser as _;

use args::Cli;
use output::Output;

mod args;
mod check;
mod commands;
mod daemon_options;
mod exit;
mod interact;
mod interrupt;
mod output;
mod place;
mod policy;
mod program;
mod report;
mod resources;
mod terminal;
mod trace;

fn main() -> ExitCode {
    if let Err(error) = emberd_vmm::close_on_exec() {
        let error = anyhow::Error::from(error)
            .context("cannot mark inherited file descriptors close-on-exec");
        return report::error(&error, Output { json: false });
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return report::usage(&error),
    };
    let output = Output { json: cli.json };
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(commands::run(cli, output)));
    result.unwrap_or_else(|error| report::error(&error, output))
}
