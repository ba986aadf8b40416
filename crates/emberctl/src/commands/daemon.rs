//! `emberctl daemon`: what operators do with a daemon.

use std::process::ExitCode;

use emberd_client::Client;
use serde::Serialize;

use crate::output::Output;

/// A command of `daemon`.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Have the daemon create no more sandboxes, before it is stopped. Those that exist go on.
    Drain,
}

/// The JSON output of `daemon drain`.
#[derive(Serialize)]
struct Drained {
    draining: bool,
}

/// Carries out `command`.
///
/// # Errors
/// No daemon, or its refusal.
pub async fn run(client: &Client, command: Command, output: Output) -> anyhow::Result<ExitCode> {
    match command {
        Command::Drain => {
            client.drain().await?;
            output.print(&Drained { draining: true }, || {
                "the daemon creates no sandboxes until it is restarted\n".to_owned()
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
