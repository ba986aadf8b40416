//! `emberctl ping`: is the daemon up?

use std::process::ExitCode;

use emberd_client::Client;

use crate::output::Output;

/// Asks the daemon and prints its answer.
///
/// # Errors
/// No daemon answers, or the daemon does not report that it is healthy.
pub async fn run(client: &Client, output: Output) -> anyhow::Result<ExitCode> {
    let health = client.healthz().await?;
    output.print(&health, || format!("{}\n", health.status))?;
    Ok(ExitCode::SUCCESS)
}
