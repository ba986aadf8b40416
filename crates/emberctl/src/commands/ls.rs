//! `emberctl ls`: every sandbox, oldest first.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use emberd_api::{BootTimes, Sandbox, SandboxState};
use emberd_client::Client;

use crate::output::{self, Output};

/// Prints the table.
///
/// # Errors
/// No daemon, or its refusal.
pub async fn run(client: &Client, output: Output) -> anyhow::Result<ExitCode> {
    let list = client.list().await?;
    output.print(&list, || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let rows: Vec<_> = list.sandboxes.iter().map(|sandbox| row(sandbox, now)).collect();
        output::table(["ID", "PACK", "STATE", "AGE", "BOOT", "VMM PID"], &rows)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn row(sandbox: &Sandbox, now: Duration) -> [String; 6] {
    let age = now.saturating_sub(Duration::from_millis(sandbox.created_at_ms));
    let boot = sandbox.boot_path.as_ref().zip(sandbox.boot.as_ref());
    let boot = boot.map(|(path, boot)| format!("{path}, {} ms", whole(boot).as_millis()));
    [
        sandbox.id.clone(),
        sandbox.language_pack.clone(),
        state(sandbox.state).to_owned(),
        age_text(age),
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

/// The word for a state.
pub fn state(state: SandboxState) -> &'static str {
    match state {
        SandboxState::Creating => "creating",
        SandboxState::Ready => "ready",
        SandboxState::Gone => "gone",
    }
}

/// An age in one unit.
pub fn age_text(age: Duration) -> String {
    match age.as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m", seconds / 60),
        seconds @ 3600..86_400 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_use_one_unit() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (60, "1m"), (7200, "2h"), (172_800, "2d")] {
            assert_eq!(age_text(Duration::from_secs(seconds)), text);
        }
    }
}
