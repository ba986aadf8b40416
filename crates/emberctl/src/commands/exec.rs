//! `emberctl exec ID CODE`: runs code in a sandbox there is.

use std::process::ExitCode;

use emberd_client::Client;

use crate::output::Output;
use crate::program::{self, ProgramArgs};
use crate::trace::Trace;

/// Arguments of `exec`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The sandbox.
    id: String,
    #[command(flatten)]
    program: ProgramArgs,
}

/// Runs the program; the exit code is its own.
///
/// # Errors
/// The program cannot be read, the daemon refuses, or there is no daemon.
pub async fn run(client: &Client, args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let wants_trace = args.program.trace();
    let body = args.program.into_body()?;
    let mut trace = Trace::default();
    let outcome = trace.note_exec(client.exec_traced(&args.id, &body).await?);
    program::finish(&outcome, wants_trace.then_some(&trace), output)
}
