//! `emberctl ls`: every sandbox, oldest first.

use std::process::ExitCode;
use std::time::Duration;

use emberd_api::{BootTimes, ListSandboxes, Sandbox, SandboxPhase};
use emberd_client::Client;

use super::timeout::left;
use crate::output::{self, Clock, Output};
use crate::program::variable;

/// Arguments of `ls`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// List only sandboxes with this name and value. Repeated, a sandbox has all of them.
    #[arg(long, value_parser = variable, value_name = "NAME=VALUE")]
    metadata: Vec<(String, String)>,
    /// List only sandboxes in this phase: creating, running, frozen or gone. Repeated, in one of
    /// them.
    #[arg(long, value_parser = phase, value_name = "PHASE")]
    phase: Vec<SandboxPhase>,
    /// List the first so many only.
    #[arg(long, value_name = "COUNT")]
    limit: Option<usize>,
    /// List those after the page whose `next` this is: `--json` shows it.
    #[arg(long, value_name = "NEXT")]
    after: Option<u64>,
}

fn phase(text: &str) -> Result<SandboxPhase, String> {
    let mut phases = SandboxPhase::ALL.into_iter();
    let names = || SandboxPhase::ALL.map(SandboxPhase::name).join(", ");
    phases.find(|phase| phase.name() == text).ok_or_else(|| format!("not one of {}", names()))
}

/// Prints the table.
///
/// # Errors
/// No daemon, or its refusal.
pub async fn run(client: &Client, args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let Args { metadata, phase: phases, limit, after } = args;
    let list = client.list_with(&ListSandboxes { phases, metadata, limit, after }).await?;
    output.print(&list, || {
        let clock = Clock::now();
        let rows: Vec<_> = list.sandboxes.iter().map(|sandbox| row(sandbox, clock)).collect();
        output::table(["ID", "PACK", "STATE", "AGE", "LEFT", "BOOT", "VMM PID"], &rows)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn row(sandbox: &Sandbox, clock: Clock) -> [String; 7] {
    let boot = sandbox.boot_path.as_ref().zip(sandbox.boot.as_ref());
    let boot = boot.map(|(path, boot)| format!("{path}, {} ms", whole(boot).as_millis()));
    [
        sandbox.id.clone(),
        sandbox.language_pack.clone(),
        state(sandbox).to_owned(),
        clock.age(sandbox.created_at_ms),
        left(sandbox, clock),
        boot.unwrap_or_else(|| "-".into()),
        sandbox.vmm_pid.map_or_else(|| "-".into(), |pid| pid.to_string()),
    ]
}

/// How long a microVM was in the making.
fn whole(boot: &BootTimes) -> Duration {
    let restored = [boot.load_us, boot.renew_us, boot.warm_up_us].into_iter().flatten();
    let stages = [boot.vmm_us, boot.guest_us].into_iter().chain(restored);
    stages.map(Duration::from_micros).sum()
}

/// The word for the state of a sandbox.
pub fn state(sandbox: &Sandbox) -> &'static str {
    match sandbox.phase {
        SandboxPhase::Creating => "creating",
        SandboxPhase::Running => "ready",
        SandboxPhase::Frozen => "frozen",
        SandboxPhase::Gone => "gone",
    }
}
