//! `emberctl events`: what became of the sandboxes, and what becomes of them.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use emberd_api::{DaemonEvent, SandboxEvent, SandboxEventGap};
use emberd_client::Client;

use crate::output::{Output, printable};

/// Arguments of `events`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Wait for more until the daemon stops.
    #[arg(short, long)]
    follow: bool,
    /// Print only the events of this sandbox. Repeat the option for more.
    #[arg(long, value_name = "ID")]
    sandbox: Vec<String>,
    /// Print only the events after this number.
    #[arg(long, value_name = "SEQ")]
    after: Option<u64>,
}

/// Prints the events that the daemon has kept, one a line. With `--json`, each is a JSON document.
///
/// # Errors
/// The daemon's refusal, or no daemon.
pub async fn run(client: &Client, args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let mut events = client.events(&args.sandbox, args.after, args.follow).await?;
    while let Some(event) = events.next().await? {
        let mut stdout = anstream::stdout();
        match &event {
            event if output.json => writeln!(stdout, "{}", serde_json::to_string(event)?)?,
            DaemonEvent::Sandbox(event) => writeln!(stdout, "{}", text(event))?,
            DaemonEvent::Gap(gap) => writeln!(stdout, "{}", gap_text(*gap))?,
        }
        stdout.flush()?;
    }
    Ok(ExitCode::SUCCESS)
}

/// One event on one line: its number, when, which sandbox, what, and why or with which metadata.
fn text(event: &SandboxEvent) -> String {
    let SandboxEvent { seq, at_ms, sandbox, .. } = event;
    let at = UNIX_EPOCH.checked_add(Duration::from_millis(*at_ms)).unwrap_or(UNIX_EPOCH);
    let at = humantime::format_rfc3339_millis(at);
    let mut parts = vec![format!("{seq}  {at}  {sandbox}  {:<7}", event.event.name())];
    parts.extend(event.reason.clone());
    parts.extend(event.metadata.iter().map(|(name, value)| format!("{name}={value}")));
    printable(&parts.join("  ")).trim_end().replace('\n', " ")
}

fn gap_text(SandboxEventGap { after, before }: SandboxEventGap) -> String {
    format!("(events after {after} and before {before} are no longer kept)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line() {
        let json = r#"{"seq":7,"at_ms":1500,"event":"gone","sandbox":"sb_1","phase":"gone",
            "reason":"its VMM was\nkilled","metadata":{"a":"\u001b[2J"}}"#;
        let event: SandboxEvent = serde_json::from_str(json).unwrap();
        let expect =
            "7  1970-01-01T00:00:01.500Z  sb_1  gone     its VMM was killed  a=\u{fffd}[2J";
        assert_eq!(text(&event), expect);
        let plain = r#"{"seq":8,"at_ms":0,"event":"created","sandbox":"sb_1","phase":"creating"}"#;
        let event: SandboxEvent = serde_json::from_str(plain).unwrap();
        assert_eq!(text(&event), "8  1970-01-01T00:00:00.000Z  sb_1  created");
    }
}
