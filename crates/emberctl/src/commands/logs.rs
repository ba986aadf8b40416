//! `emberctl logs ID`: what the guest's kernel prints, and its VMM.

use std::io::{self, Write as _};
use std::process::ExitCode;

use emberd_client::{Client, Logs};
use serde::Serialize;

use crate::output::{Output, printable};

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

/// What `--json` prints of a log that is not followed.
#[derive(Serialize)]
struct Document {
    log: String,
}

/// What `--json` prints of each line of one that is.
#[derive(Serialize)]
struct Line<'a> {
    line: &'a str,
}

/// Prints the log. With `--json` and `--follow` each line is a JSON document of its own.
///
/// # Errors
/// The sandbox is unknown, or there is no daemon.
pub async fn run(client: &Client, args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let mut lines =
        Lines { logs: client.logs(&args.id, args.tail, args.follow).await?, pending: Vec::new() };
    let mut log = String::new();
    while let Some(line) = lines.next().await? {
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
struct Lines {
    logs: Logs,
    pending: Vec<u8>,
}

impl Lines {
    /// The next line with its end; the last may have none. `None` behind it.
    async fn next(&mut self) -> anyhow::Result<Option<String>> {
        let end = loop {
            if let Some(at) = self.pending.iter().position(|byte| *byte == b'\n') {
                break at + 1;
            }
            match self.logs.next().await? {
                Some(bytes) => self.pending.extend_from_slice(&bytes),
                None => break self.pending.len(),
            }
        };
        let line: Vec<u8> = self.pending.drain(..end).collect();
        let line = String::from_utf8_lossy(&line).into_owned();
        Ok(Some(line).filter(|line| !line.is_empty()))
    }
}
