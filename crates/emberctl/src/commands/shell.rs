//! `emberctl shell ID`: a shell in a sandbox, at this terminal.

use std::process::ExitCode;

use emberd_api::ProcessSpec;
use emberd_client::Client;

use super::exec;
use crate::terminal;

/// Starts bash if the sandbox has it, else sh.
const BEST_SHELL: &str = "command -v bash >/dev/null && exec bash -l; exec sh -l";

/// Arguments of `shell`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The sandbox.
    id: String,
    /// User that the shell runs as [default: root].
    #[arg(short, long, value_name = "NAME")]
    user: Option<String>,
}

/// Runs the shell; the exit code is its own.
///
/// # Errors
/// The daemon refuses the request, or no daemon answers.
pub async fn run(client: &Client, args: Args) -> anyhow::Result<ExitCode> {
    let spec = ProcessSpec {
        tty: Some(terminal::size()),
        user: args.user,
        ..ProcessSpec::of_argv(["/bin/sh", "-c", BEST_SHELL])
    };
    exec::at_terminal(client, &args.id, &spec, true).await
}
