//! `emberctl logs ID`: what the guest's kernel prints, and its VMM.

use std::io::{self, Write as _};
use std::process::ExitCode;

use emberd_client::{Client, Lines, Logs};
use serde::Serialize;

use crate::output::{Output, printable};

/// Longest line that is held until its end comes, in bytes (64 KiB); a longer one is printed in
/// pieces. A guest prints what it likes.
const LINE_BYTES_MAX: usize = 64 << 10;

/// Arguments of `logs`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The sandbox.
    id: String,
    /// Follow the log until the sandbox ends.
    #[arg(short, long)]
    follow: bool,
    /// Start this many lines before the end.
    #[arg(long, value_name = "LINES")]
    tail: Option<usize>,
}

/// The JSON output of `logs` without `--follow`.
#[derive(Serialize)]
struct Document {
    log: String,
}

/// The JSON output of `logs --follow`, for each line.
#[derive(Serialize)]
struct Line<'a> {
    line: &'a str,
}

/// Prints the log. With `--json` and `--follow` each line is a JSON document of its own.
///
/// # Errors
/// The sandbox is unknown, or no daemon answers.
pub async fn run(client: &Client, args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let logs = client.logs(&args.id, args.tail, args.follow).await?;
    let mut log_lines = LogLines { logs, lines: Lines::default() };
    let mut log = String::new();
    while let Some(line) = log_lines.next().await? {
        let mut stdout = io::stdout();
        match (output.json, args.follow) {
            (false, _) => write!(stdout, "{}", printable(&line))?,
            (true, false) => log.push_str(&line),
            (true, true) => {
                let line = Line { line: line.trim_end_matches('\n') };
                writeln!(stdout, "{}", serde_json::to_string(&line)?)?;
            }
        }
        stdout.flush()?;
    }
    if output.json && !args.follow {
        output.print(&Document { log }, String::new)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A log, cut into lines.
struct LogLines {
    logs: Logs,
    lines: Lines,
}

impl LogLines {
    /// The next line with its end; the last may have none, nor has a piece of one that is
    /// longer than [`LINE_BYTES_MAX`]. `None` behind the last.
    async fn next(&mut self) -> anyhow::Result<Option<String>> {
        loop {
            if let Some(line) = self.lines.whole() {
                return Ok(Some(format!("{}\n", String::from_utf8_lossy(&line))));
            }
            if self.lines.pending() > LINE_BYTES_MAX {
                break;
            }
            match self.logs.next().await? {
                Some(bytes) => self.lines.push(&bytes),
                None => break,
            }
        }
        let rest = String::from_utf8_lossy(&self.lines.rest()).into_owned();
        Ok(Some(rest).filter(|rest| !rest.is_empty()))
    }
}
