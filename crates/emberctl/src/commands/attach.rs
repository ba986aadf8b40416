//! `emberctl attach ID PID`: connects to a running process.

use std::process::ExitCode;

use emberd_client::Client;

use crate::exit;
use crate::interact::{self, Parting, Wiring};

/// Arguments of `attach`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The sandbox.
    id: String,
    /// The process, as `ps` lists it.
    pid: u32,
    /// Show output only; do not forward standard input.
    #[arg(long)]
    no_stdin: bool,
}

/// Shows what is kept of the process's output, and connects to it; leaving lets it run on.
///
/// # Errors
/// The daemon refuses the request, or no daemon answers.
pub async fn run(client: &Client, args: Args) -> anyhow::Result<ExitCode> {
    let Args { id, pid, no_stdin } = args;
    let process = client.process(&id, pid).await?;
    let input = !no_stdin && process.exit.is_none();
    let wiring = Wiring { tty: process.tty, input, from: 0 };
    match interact::interact(client, &id, pid, wiring).await? {
        Parting::Exited(exit) => Ok(interact::exit_code(&exit)?),
        Parting::Left => {
            interact::say_left(&id, pid)?;
            Ok(ExitCode::SUCCESS)
        }
        Parting::Interrupted(interrupted) => {
            interact::say_left(&id, pid)?;
            Ok(exit::of_program(interrupted.exit_code()))
        }
    }
}
