//! `emberctl usage`: what a key uses, and what it may.

use std::process::ExitCode;
use std::time::Duration;

use emberd_api::{Usage, UsageLimits, Used};
use emberd_client::Client;
use emberd_config::duration;

use crate::output::{self, Output};

/// Arguments of `usage`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show every key and every other owner of sandboxes, for administrators.
    #[arg(long)]
    all: bool,
}

/// Shows what the caller, or everybody, uses.
///
/// # Errors
/// The daemon's refusal, or no daemon.
pub async fn run(client: &Client, args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let usage = client.usage(args.all).await?;
    output.print(&usage, || {
        let texts: Vec<_> = usage.callers.iter().map(text).collect();
        texts.join("\n")
    })?;
    Ok(ExitCode::SUCCESS)
}

fn text(usage: &Usage) -> String {
    let Usage { owner, name, used, limits } = usage;
    let owner = owner.as_deref().unwrap_or("nobody's sandboxes");
    let title = name.as_ref().map_or(owner.to_owned(), |name| format!("{name} ({owner})"));
    let amount = |amount: Option<u64>| amount.map_or("-".to_owned(), |amount| amount.to_string());
    let list = |words: &Option<Vec<String>>| match words.as_deref() {
        None => "-".to_owned(),
        Some([]) => "none".to_owned(),
        Some(words) => words.join(", "),
    };
    let Used { sandboxes, vcpus, memory_mib, disk_mib, creates_left, requests } = *used;
    let UsageLimits { timeout_ms, creates_per_minute, packs, egress, .. } = limits;
    let timeout = timeout_ms.map(|ms| duration::text(Duration::from_millis(ms)));
    let disk_mib_most = limits.disk_gib.map(|gib| gib.saturating_mul(1024));
    let left = creates_left.map_or("-".to_owned(), |left| format!("{left} left"));
    let rows = [
        ["sandboxes", &sandboxes.to_string(), &amount(limits.sandboxes)],
        ["virtual processors", &vcpus.to_string(), &amount(limits.vcpus)],
        ["memory (MiB)", &memory_mib.to_string(), &amount(limits.memory_mib)],
        ["disk (MiB)", &disk_mib.to_string(), &amount(disk_mib_most)],
        ["creations in a minute", &left, &amount(*creates_per_minute)],
        ["requests under way", &amount(requests), &amount(limits.requests)],
        ["timeout", "-", timeout.as_deref().unwrap_or("-")],
        ["language packs", "-", &list(packs)],
        ["network access", "-", &list(egress)],
    ];
    let rows = rows.map(|row| row.map(str::to_owned));
    format!("{title}\n{}", output::table(["", "USED", "LIMIT"], &rows))
}
