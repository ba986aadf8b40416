//! `emberctl create [PACK]`: a sandbox to keep.

use std::process::ExitCode;

use emberd_client::Client;

use crate::output::Output;

/// Arguments of `create`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Language pack.
    #[arg(default_value = emberd_api::LANGUAGE_PACK_DEFAULT)]
    pack: String,
}

/// Creates the sandbox and prints its id.
///
/// # Errors
/// The daemon's refusal, or no daemon.
pub async fn run(client: &Client, args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let created = client.create(Some(&args.pack)).await?;
    output.print(&created, || format!("{}\n", created.id))?;
    Ok(ExitCode::SUCCESS)
}
