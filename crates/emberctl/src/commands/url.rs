//! `emberctl url`: the address of a port, for a browser.

use std::process::ExitCode;
use std::time::Duration;

use emberd_api::CreateUrl;
use emberd_client::Client;
use emberd_config::duration;
use serde_json::json;

use crate::output::Output;

/// Arguments of `url`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The sandbox.
    id: String,
    /// The port inside the sandbox.
    #[arg(required_unless_present = "revoke", conflicts_with = "revoke")]
    port: Option<u16>,
    /// Time for which the URL is valid, up to 7d [default: 1h].
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    expires: Option<Duration>,
    /// Scheme, host and port of the URL, where browsers reach the daemon by another name than
    /// emberctl, such as that of a reverse proxy.
    #[arg(long, value_name = "URL")]
    base: Option<String>,
    /// Revoke every URL of the sandbox instead.
    #[arg(long, conflicts_with_all = ["expires", "base"])]
    revoke: bool,
}

/// Prints a URL of a port, or revokes those of a sandbox.
///
/// # Errors
/// The daemon's refusal, or no daemon.
pub async fn run(client: &Client, args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let Args { id, port, expires, base, revoke: _ } = args;
    let Some(port) = port else {
        client.revoke_urls(&id).await?;
        output.print(&json!({ "revoked": id }), String::new)?;
        return Ok(ExitCode::SUCCESS);
    };
    let expires_ms = expires.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    let created = client.create_url(&id, &CreateUrl { port, expires_ms, base }).await?;
    output.print(&created, || format!("{}\n", created.url))?;
    Ok(ExitCode::SUCCESS)
}
