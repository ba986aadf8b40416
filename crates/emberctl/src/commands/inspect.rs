//! `emberctl inspect ID`: one sandbox in full.

use std::process::ExitCode;
use std::time::Duration;

use emberd_api::{Resources, Sandbox};
use emberd_client::Client;

use super::ls;
use super::timeout::left;
use crate::output::{self, Clock, Output, milliseconds, printable};
use crate::resources;

/// Arguments of `inspect`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The sandbox.
    id: String,
}

/// Prints what the daemon knows of the sandbox.
///
/// # Errors
/// The sandbox is unknown, or no daemon answers.
pub async fn run(client: &Client, args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let sandbox = client.get(&args.id).await?;
    output.print(&sandbox, || text(&sandbox))?;
    Ok(ExitCode::SUCCESS)
}

fn text(sandbox: &Sandbox) -> String {
    let mut facts = vec![
        ("id", sandbox.id.clone()),
        ("language pack", sandbox.language_pack.clone()),
        ("state", ls::state(sandbox).to_owned()),
        ("directory", sandbox.dir.clone()),
    ];
    facts.extend(sandbox.boot_path.clone().map(|path| ("boot path", path)));
    let Resources { vcpus, memory_mib, cpu_percent, cpu_weight, disk_mib, pids } =
        sandbox.resources;
    if let (Some(vcpus), Some(memory)) = (vcpus, memory_mib) {
        facts.push(("size", resources::text(vcpus, memory)));
    }
    facts.extend(cpu_percent.map(|percent| ("processor time", format!("at most {percent}%"))));
    facts.extend(cpu_weight.map(|weight| ("processor share", weight.to_string())));
    facts.extend(disk_mib.map(|mib| ("disk", format!("{mib} MiB"))));
    facts.extend(pids.map(|pids| ("processes", format!("at most {pids}"))));
    facts.push(("time left", left(sandbox, Clock::now())));
    facts.push(("frozen", frozen(sandbox)));
    let pairs = sandbox.metadata.iter().map(|(name, value)| format!("{name}={value}"));
    facts.extend(pairs.map(|pair| ("metadata", printable(&pair))));
    if !sandbox.env.is_empty() {
        facts.push(("variables", printable(&sandbox.env.join(", "))));
    }
    facts.extend(sandbox.reason.clone().map(|reason| ("reason", reason)));
    facts.extend(sandbox.vmm_pid.map(|pid| ("VMM process", pid.to_string())));
    if let Some(boot) = &sandbox.boot {
        facts.push(("VMM started in", milliseconds(boot.vmm_us)));
        facts.extend(boot.load_us.map(|us| ("template loaded in", milliseconds(us))));
        facts.push(("guest answered in", milliseconds(boot.guest_us)));
        facts.extend(boot.kernel_us.map(|us| ("  of which kernel", milliseconds(us))));
        facts.extend(boot.init_us.map(|us| ("  of which init", milliseconds(us))));
        facts.extend(boot.renew_us.map(|us| ("renewed in", milliseconds(us))));
        facts.extend(boot.warm_up_us.map(|us| ("warmed up in", milliseconds(us))));
    }
    output::facts(&facts)
}

/// When the sandbox is frozen, and what thaws it.
fn frozen(sandbox: &Sandbox) -> String {
    let Some(ms) = sandbox.idle.freeze_ms else { return "never".to_owned() };
    let idle = emberd_config::duration::text(Duration::from_millis(ms));
    let programs = if sandbox.idle.ignore_programs { ", with its programs" } else { "" };
    let thaw = if sandbox.auto_resume { "" } else { ", until it is touched" };
    format!("after {idle} without use{programs}{thaw}")
}
