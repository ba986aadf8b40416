//! `emberctl metrics ID`: what a sandbox uses of its machine.

use std::process::ExitCode;

use emberd_api::Metrics;
use emberd_client::Client;

use crate::output::{self, Output, bytes};

/// Arguments of `metrics`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The sandbox.
    id: String,
}

/// Prints the resource usage that the guest of the sandbox reports.
///
/// # Errors
/// The sandbox is unknown or does not answer, or no daemon answers.
pub async fn run(client: &Client, args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let metrics = client.metrics(&args.id).await?;
    output.print(&metrics, || text(&metrics))?;
    Ok(ExitCode::SUCCESS)
}

fn text(metrics: &Metrics) -> String {
    let of = |used, total| format!("{} of {}", bytes(used), bytes(total));
    let processes = match metrics.program_count {
        Some(programs) => format!("{}, {programs} of callers", metrics.process_count),
        None => metrics.process_count.to_string(),
    };
    output::facts(&[
        ("processors", format!("{:.1} % of {}", metrics.cpu_used_percent, metrics.cpu_count)),
        ("memory", of(metrics.memory_used_bytes, metrics.memory_total_bytes)),
        ("cached files", bytes(metrics.memory_cached_bytes)),
        ("disk", of(metrics.disk_used_bytes, metrics.disk_total_bytes)),
        ("processes", processes),
        ("up for", format!("{}.{} s", metrics.uptime_ms / 1000, metrics.uptime_ms % 1000 / 100)),
    ])
}
