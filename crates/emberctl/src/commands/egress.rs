//! `emberctl egress`: what a sandbox may reach, and what it reached.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use emberd_api::{
    CheckEgress, EgressCheck, EgressDecision, EgressEvent, EgressLists, EgressLog, EgressPatch,
    EgressProfile, EgressRecord, EgressState, EntrySpec, SandboxEgress,
};
use emberd_client::Client;

use crate::output::{self, Output, printable};
use crate::policy;

/// Port that `check` asks for unless it is given one.
const PORT_DEFAULT: u16 = 443;

/// Commands on network access.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Show what a sandbox may reach, and how much it has.
    Show(Sandbox),
    /// Print what a sandbox has reached, and what it was denied.
    Log(LogArgs),
    /// Show whether a sandbox could reach a host. No connection is made.
    Check(CheckArgs),
    /// Let a sandbox reach more.
    Allow(ChangeArgs),
    /// Keep a sandbox from reaching hosts. Open connections to them are reset.
    Deny(ChangeArgs),
    /// Remove entries and profiles from a sandbox's policy.
    Remove(ChangeArgs),
    /// List the profiles.
    Profiles,
}

/// Arguments of `egress show`.
#[derive(Debug, clap::Args)]
pub struct Sandbox {
    /// The sandbox.
    id: String,
}

/// Arguments of `egress log`.
#[derive(Debug, clap::Args)]
pub struct LogArgs {
    /// The sandbox.
    id: String,
    /// Follow the log until the sandbox ends.
    #[arg(short, long)]
    follow: bool,
    /// Print only what was denied.
    #[arg(long)]
    denied: bool,
}

/// Arguments of `egress check`.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// The sandbox.
    id: String,
    /// The name or the address, with the port unless it is 443.
    #[arg(value_name = "HOST[:PORT]", value_parser = destination)]
    destination: CheckEgress,
}

/// Arguments of `egress allow`, `deny` and `remove`.
#[derive(Debug, clap::Args)]
pub struct ChangeArgs {
    /// The sandbox.
    id: String,
    /// Entries, or names of profiles.
    #[arg(required = true, value_name = "ENTRY")]
    entries: Vec<String>,
}

/// Carries out `command`.
///
/// # Errors
/// The daemon's refusal, or no daemon.
pub async fn run(client: &Client, command: Command, output: Output) -> anyhow::Result<ExitCode> {
    let egress = match command {
        Command::Show(Sandbox { id }) => client.egress(&id).await?,
        Command::Log(args) => return log(client, &args, output).await,
        Command::Check(args) => return check(client, &args, output).await,
        Command::Allow(ChangeArgs { id, entries }) => {
            let (profiles, allow) = policy::split(entries);
            let add = EgressLists { profiles, allow, ..EgressLists::default() };
            let patch = EgressPatch { add, ..EgressPatch::default() };
            client.patch_egress(&id, &patch).await?
        }
        Command::Deny(ChangeArgs { id, entries }) => {
            let deny = entries.into_iter().map(EntrySpec::Text).collect();
            let add = EgressLists { deny, ..EgressLists::default() };
            let patch = EgressPatch { add, ..EgressPatch::default() };
            client.patch_egress(&id, &patch).await?
        }
        Command::Remove(ChangeArgs { id, entries }) => {
            let (profiles, entries) = policy::split(entries);
            let remove = EgressLists { profiles, allow: entries.clone(), deny: entries };
            let patch = EgressPatch { remove, ..EgressPatch::default() };
            client.patch_egress(&id, &patch).await?
        }
        Command::Profiles => {
            let list = client.egress_profiles().await?;
            output.print(&list, || profiles_text(&list.profiles))?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    output.print(&egress, || text(&egress))?;
    Ok(ExitCode::SUCCESS)
}

/// Reads `HOST[:PORT]`. An IPv6 address with a port is in brackets.
fn destination(text: &str) -> Result<CheckEgress, String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or("`[` without `]`")?;
            (host, rest.strip_prefix(':'))
        }
        None if text.matches(':').count() > 1 => (text, None),
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map_or(Ok(PORT_DEFAULT), str::parse);
    let port = port.map_err(|_| "the port is not a number from 1 to 65535")?;
    Ok(CheckEgress { host: host.to_owned(), port })
}

async fn check(client: &Client, args: &CheckArgs, output: Output) -> anyhow::Result<ExitCode> {
    let check = client.check_egress(&args.id, &args.destination).await?;
    output.print(&check, || check_text(&args.destination, &check))?;
    let is_allowed = check.decision == EgressDecision::Allowed;
    Ok(if is_allowed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn check_text(CheckEgress { host, port }: &CheckEgress, check: &EgressCheck) -> String {
    let mut text = format!("{}: {host}:{port}", check.decision.name());
    if let Some(reason) = check.reason {
        write!(text, ", {reason}").expect("strings take everything");
    }
    if let Some((entry, from)) = check.entry.as_ref().zip(check.from.as_ref()) {
        write!(text, ", by {entry} ({from})").expect("strings take everything");
    }
    if !check.addresses.is_empty() {
        write!(text, ", at {}", check.addresses.join(", ")).expect("strings take everything");
    }
    text.push('\n');
    if let Some(hint) = &check.hint {
        writeln!(text, "hint: {hint}").expect("strings take everything");
    }
    printable(&text)
}

/// Prints the log. With `--json` and `--follow`, each record is a JSON document on one line.
async fn log(client: &Client, args: &LogArgs, output: Output) -> anyhow::Result<ExitCode> {
    let decision = args.denied.then_some(EgressDecision::Denied);
    if !args.follow {
        let log = whole_log(client, &args.id, decision).await?;
        output.print(&log, || log_text(&log))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut events = client.follow_egress_log(&args.id, 0, decision).await?;
    while let Some(event) = events.next().await? {
        let mut stdout = anstream::stdout();
        match &event {
            event if output.json => writeln!(stdout, "{}", serde_json::to_string(event)?)?,
            EgressEvent::Record(record) => writeln!(stdout, "{}", record_text(record))?,
            EgressEvent::Gap { gap } => writeln!(stdout, "{}", gap_text(*gap))?,
        }
        stdout.flush()?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Every record that is kept.
async fn whole_log(
    client: &Client,
    id: &str,
    decision: Option<EgressDecision>,
) -> anyhow::Result<EgressLog> {
    let mut log = EgressLog { records: Vec::new(), next: 0, gap: 0 };
    loop {
        let page = client.egress_log(id, log.next, decision, None).await?;
        let is_last = page.records.is_empty();
        log.records.extend(page.records);
        log.gap += page.gap;
        log.next = page.next;
        if is_last {
            return Ok(log);
        }
    }
}

fn log_text(log: &EgressLog) -> String {
    let gap = (log.gap > 0).then(|| gap_text(log.gap));
    let lines: Vec<_> = gap.into_iter().chain(log.records.iter().map(record_text)).collect();
    if lines.is_empty() { String::new() } else { format!("{}\n", lines.join("\n")) }
}

fn gap_text(gap: u64) -> String {
    format!("({gap} records are no longer kept)")
}

/// One record on one line: when, what, where to, and why or how much.
fn record_text(record: &EgressRecord) -> String {
    let host = record.host.as_deref().or(record.address.as_deref()).unwrap_or("-");
    let place = match record.port {
        Some(port) if host.contains(':') => format!("[{host}]:{port}"),
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    let mut text = format!("{}  {:<7}  {place}", record.time, record.decision.name());
    let mut add = |part: String| write!(text, "  {part}").expect("strings take everything");
    if record.kind != "connection" {
        add(record.kind.clone());
    }
    if let Some((method, path)) = record.method.as_ref().zip(record.path.as_ref()) {
        add(format!("{method} {path}"));
    }
    if let Some(reason) = record.reason {
        add(reason.to_string());
    }
    if let Some((entry, from)) = record.entry.as_ref().zip(record.from.as_ref()) {
        add(format!("by {entry} ({from})"));
    }
    if record.sent_bytes + record.received_bytes > 0 {
        let [sent, received] = [record.sent_bytes, record.received_bytes].map(output::bytes);
        add(format!("{sent} sent, {received} received"));
    }
    if record.count > 1 {
        add(format!("{} times", record.count));
    }
    printable(&text)
}

fn text(egress: &SandboxEgress) -> String {
    let state = match egress.state {
        EgressState::Ready => "ready".to_owned(),
        EgressState::Connecting => "connecting".to_owned(),
        EgressState::Unavailable => {
            format!("unavailable: {}", egress.why.as_deref().unwrap_or("no reason given"))
        }
    };
    let totals = &egress.totals;
    let [sent, received] = [totals.sent_bytes, totals.received_bytes].map(output::bytes);
    let mut facts = vec![
        ("state", state),
        (
            "connections",
            format!(
                "{} open, {} made, {} denied, {} failed",
                egress.connections, totals.opened, totals.denied, totals.failed
            ),
        ),
        ("data", format!("{sent} sent, {received} received")),
    ];
    if let Some(reset) = egress.reset.filter(|reset| *reset > 0) {
        facts.push(("reset", format!("{reset} connections")));
    }
    if !egress.policy.profiles.is_empty() {
        facts.push(("profiles", egress.policy.profiles.join(", ")));
    }
    if !egress.policy.deny.is_empty() {
        let denied: Vec<_> = egress.policy.deny.iter().map(EntrySpec::text).collect();
        facts.push(("denied", denied.join(", ")));
    }
    let rows: Vec<_> =
        egress.in_force.iter().map(|rule| [rule.entry.clone(), rule.from.clone()]).collect();
    let rules = if rows.is_empty() {
        "nothing is allowed\n".to_owned()
    } else {
        output::table(["ALLOWED", "FROM"], &rows)
    };
    format!("{}{rules}", output::facts(&facts))
}

fn profiles_text(profiles: &[EgressProfile]) -> String {
    let row = |profile: &EgressProfile| {
        [profile.name.clone(), profile.from.clone(), profile.allow.join(", ")]
    };
    let rows: Vec<_> = profiles.iter().map(row).collect();
    output::table(["PROFILE", "FROM", "ALLOWS"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_is_a_host_and_a_port() {
        for (text, host, port) in [
            ("a.example", "a.example", 443),
            ("a.example:22", "a.example", 22),
            ("192.0.2.1:80", "192.0.2.1", 80),
            ("2001:db8::1", "2001:db8::1", 443),
            ("[2001:db8::1]:80", "2001:db8::1", 80),
            ("[2001:db8::1]", "2001:db8::1", 443),
        ] {
            let expected = CheckEgress { host: host.to_owned(), port };
            assert_eq!(destination(text), Ok(expected), "{text}");
        }
        for text in ["a.example:", "a.example:x", "[2001:db8::1", "a.example:65536"] {
            assert!(destination(text).is_err(), "{text}");
        }
    }
}
