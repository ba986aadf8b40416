//! `emberctl rm ID…`: throws sandboxes away.

use std::process::ExitCode;

use emberd_client::Client;
use serde::Serialize;

use crate::output::Output;

/// Arguments of `rm`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The sandboxes.
    #[arg(required = true)]
    ids: Vec<String>,
}

/// The JSON output of `rm`.
#[derive(Serialize)]
struct Deleted {
    deleted: Vec<String>,
}

/// Deletes each sandbox and prints the ids of those that are gone now.
///
/// # Errors
/// The first refusal, after every id was tried; or no daemon.
pub async fn run(client: &Client, args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let mut deleted = Vec::new();
    let mut failed = None;
    for id in args.ids {
        match client.delete(&id).await {
            Ok(()) => deleted.push(id),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    let document = Deleted { deleted };
    output.print(&document, || document.deleted.iter().flat_map(|id| [id, "\n"]).collect())?;
    failed.map_or(Ok(ExitCode::SUCCESS), |error| Err(error.into()))
}
