//! `emberctl audit`: who asked the daemon for what, and whether the journal is whole.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use emberd_api::{AuditEgress, AuditEvent, AuditRecord, ReadAudit};
use emberd_audit::{Misfit, Verified, VerifyError, verify};
use emberd_client::Client;
use emberd_config::{Given, duration};
use serde_json::json;

use crate::daemon_options::{Globals, hinted};
use crate::output::{Output, printable};

/// Arguments of `audit`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Wait for more until the daemon stops.
    #[arg(short, long)]
    follow: bool,
    /// Print only what was recorded since then: 2026-11-29T12:00:00Z, a day, or a time ago such as
    /// 2h.
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Print only this action: the name of an operation, such as `exec_code`.
    #[arg(long, value_name = "NAME")]
    action: Option<String>,
    /// Print only what concerns this sandbox.
    #[arg(long, value_name = "ID")]
    sandbox: Option<String>,
    /// Print only the records after this number.
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    after: u64,
}

/// Commands on the journal.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Check that no line of the journal was changed, removed, inserted or moved.
    ///
    /// Needs no daemon, and may be run beside one. Exits with 1 where a line does not fit.
    Verify(VerifyArgs),
}

/// Arguments of `audit verify`.
#[derive(Debug, clap::Args)]
pub struct VerifyArgs {
    /// Directory of the journal [default: that of a daemon started from this shell].
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Carries out `audit`.
///
/// # Errors
/// The daemon's refusal, or no daemon. A journal that is not whole is an exit code.
pub async fn run(globals: &Globals, args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let Args { command, follow, since, action, sandbox, after } = args;
    if let Some(Command::Verify(args)) = command {
        return check(globals, args, output);
    }
    let since = since.as_deref().map(time);
    let read = ReadAudit { after, since, action, sandbox, limit: None };
    let client = globals.client()?;
    if follow { follow_on(&client, &read, output).await } else { all(&client, read, output).await }
}

/// Prints everything that the journal has, one record a line. With `--json`, each is a JSON
/// document.
async fn all(client: &Client, mut read: ReadAudit, output: Output) -> anyhow::Result<ExitCode> {
    loop {
        let page = client.audit(&read).await?;
        let gap = (page.gap > 0).then_some(AuditEvent::Gap { gap: page.gap });
        let records = page.records.into_iter().map(|record| AuditEvent::Record(Box::new(record)));
        for event in gap.into_iter().chain(records) {
            print(&event, output)?;
        }
        read.after = page.next;
        if page.is_end {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

async fn follow_on(client: &Client, read: &ReadAudit, output: Output) -> anyhow::Result<ExitCode> {
    let mut events = client.follow_audit(read).await?;
    while let Some(event) = events.next().await? {
        print(&event, output)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print(event: &AuditEvent, output: Output) -> anyhow::Result<()> {
    let mut stdout = anstream::stdout();
    match event {
        event if output.json => writeln!(stdout, "{}", serde_json::to_string(event)?)?,
        AuditEvent::Record(record) => writeln!(stdout, "{}", text(record))?,
        AuditEvent::Gap { gap } => writeln!(stdout, "({gap} records are no longer kept)")?,
    }
    stdout.flush()?;
    Ok(())
}

/// One record on one line: its number, when, what, who, where, and how it went.
fn text(record: &AuditRecord) -> String {
    let AuditRecord { seq, time, action, .. } = record;
    let mut text = format!("{seq}  {time}  {action}");
    let mut add = |part: &str| write!(text, "  {part}").expect("strings take everything");
    for part in [&record.principal, &record.sandbox].into_iter().flatten() {
        add(part);
    }
    if let Some(egress) = &record.egress {
        add(&egress_text(egress));
    }
    match (record.status, &record.code) {
        (Some(status), Some(code)) => add(&format!("{status} {code}")),
        (Some(status), None) => add(&status.to_string()),
        (None, _) if record.request.is_some() => add("the caller hung up"),
        (None, _) => {}
    }
    if !record.limits.is_empty() {
        add(&format!("limits: {}", record.limits.join(", ")));
    }
    let numbers = [
        (record.left_out, "not recorded"),
        (record.cut_bytes, "bytes of a torn line cut off"),
        (record.removed_to, "is the last of the removed ones"),
    ];
    for (number, what) in numbers {
        if let Some(number) = number {
            add(&format!("{number} {what}"));
        }
    }
    printable(&text).replace('\n', " ")
}

fn egress_text(egress: &AuditEgress) -> String {
    let host = egress.host.as_deref().or(egress.address.as_deref()).unwrap_or("-");
    let port = egress.port.map(|port| format!(" port {port}")).unwrap_or_default();
    let reason = egress.reason.as_ref().map(|reason| format!(", {reason}")).unwrap_or_default();
    let count = if egress.count > 1 { format!(", {} times", egress.count) } else { String::new() };
    format!("{} {}: {host}{port}{reason}{count}", egress.decision, egress.kind)
}

/// A time for the daemon: as it is given, or so long ago.
fn time(text: &str) -> String {
    let Ok(ago) = duration::parse(text) else { return text.to_owned() };
    let at = SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH);
    humantime::format_rfc3339_micros(at).to_string()
}

fn check(globals: &Globals, args: VerifyArgs, output: Output) -> anyhow::Result<ExitCode> {
    let dir = match args.dir {
        Some(dir) => dir,
        None => globals.load(Given::default()).map_err(|found| hinted(&found))?.audit.dir,
    };
    match verify(&dir) {
        Ok(verified) => {
            let Verified { files, lines, first, last, is_torn, .. } = &verified;
            let document = json!({
                "dir": dir, "is_whole": true, "files": files, "lines": lines, "first": first,
                "last": last.seq, "sha256": last.sha256, "is_torn": is_torn,
            });
            output.print(&document, || whole_text(&verified))?;
            Ok(ExitCode::SUCCESS)
        }
        Err(VerifyError::Misfit(misfit)) => {
            let Misfit { file, line, why } = &misfit;
            let document = json!({
                "dir": dir, "is_whole": false, "file": file, "line": line, "why": why.to_string(),
            });
            output.print(&document, || format!("{}:{line}: {why}\n", file.display()))?;
            Ok(ExitCode::FAILURE)
        }
        Err(error) => Err(error.into()),
    }
}

fn whole_text(verified: &Verified) -> String {
    let Verified { files, lines, first, last, is_torn, has_head } = verified;
    let mut text = format!("{lines} lines in {files} files fit");
    if *lines > 0 {
        let (seq, sha256) = (last.seq, &last.sha256);
        write!(text, ": numbers {first} to {seq}, the last with SHA-256 {sha256}")
            .expect("strings take everything");
    }
    text.push('\n');
    if *is_torn {
        text.push_str(
            "the last line has not ended: it is being written, or the daemon was killed\n",
        );
    }
    if *lines > 0 && !has_head {
        text.push_str("the file `head` is missing: lines removed from the end are not noticed\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_a_line() {
        let check = |json: &str, expect: &str| {
            let record: AuditRecord = serde_json::from_str(json).unwrap();
            assert_eq!(text(&record), expect);
        };
        check(
            r#"{"seq":7,"prev":"ab","time":"T","action":"exec_code","request":"1","principal":"uid:0",
                "sandbox":"sb_1","status":409,"code":"sandbox_frozen","limits":["a","b"]}"#,
            "7  T  exec_code  uid:0  sb_1  409 sandbox_frozen  limits: a, b",
        );
        check(
            r#"{"seq":8,"prev":"","time":"T","action":"exec_code","request":"1"}"#,
            "8  T  exec_code  the caller hung up",
        );
        check(
            r#"{"seq":9,"prev":"","time":"T","action":"egress","sandbox":"sb_1","egress":{"kind":
                "lookup","decision":"denied","reason":"no_rule","host":"a\u001b[2J","port":53,
                "sent_bytes":0,"received_bytes":0,"count":3}}"#,
            "9  T  egress  sb_1  denied lookup: a\u{fffd}[2J port 53, no_rule, 3 times",
        );
        check(
            r#"{"seq":1,"prev":"","time":"T","action":"lose_records","left_out":5}"#,
            "1  T  lose_records  5 not recorded",
        );
    }

    #[test]
    fn a_time_ago_is_a_time() {
        assert_eq!(time("2026-11-29"), "2026-11-29");
        let ago = time("2h");
        let ago = SystemTime::now().duration_since(humantime::parse_rfc3339(&ago).unwrap());
        assert!((7200..7300).contains(&ago.unwrap().as_secs()));
    }
}
