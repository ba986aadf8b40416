//! `emberctl test`: the whole life of a sandbox, asserted step by step against a live daemon.

use std::process::ExitCode;
use std::time::Instant;

use emberd_client::Client;
use serde::Serialize;

use crate::check::Verdict;
use crate::exit;
use crate::interrupt::Interrupt;
use crate::output::{Output, printable};

mod host;
mod language;
mod steps;

use language::Language;

/// Arguments of `test`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Language pack to test: python or shell.
    #[arg(long, value_enum, default_value_t = Language::Python)]
    pack: Language,
}

/// One thing tried.
#[derive(Debug, Serialize)]
pub struct Step {
    name: &'static str,
    verdict: Verdict,
    seen: String,
    duration_us: u64,
}

/// The JSON output of `test`.
#[derive(Debug, Serialize)]
struct Report {
    passed: usize,
    failed: usize,
    skipped: usize,
    steps: Vec<Step>,
}

/// The outcome of a step.
pub enum Seen {
    /// As expected.
    Expected(String),
    /// Something else.
    Unexpected(String),
    /// Nothing, because this host cannot see it.
    Nothing(String),
}

/// Collects steps and, for people, prints each as soon as it is done.
pub struct Record {
    output: Output,
    steps: Vec<Step>,
}

impl Record {
    /// Tries one step and notes what it saw.
    async fn step(&mut self, name: &'static str, look: impl Future<Output = Seen>) {
        let started = Instant::now();
        let seen = look.await;
        let took = started.elapsed();
        let (verdict, seen) = match seen {
            Seen::Expected(seen) => (Verdict::Ok, seen),
            Seen::Unexpected(seen) => (Verdict::Fail, seen),
            Seen::Nothing(reason) => (Verdict::Skipped, reason),
        };
        if !self.output.json {
            let seen = printable(&seen).replace('\n', " ");
            let milliseconds = took.as_secs_f64() * 1000.0;
            anstream::println!("{} {name:<38}{milliseconds:>10.1} ms  {seen}", verdict.word());
        }
        let duration_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.steps.push(Step { name, verdict, seen, duration_us });
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.steps.iter().filter(|step| step.verdict == verdict).count()
    }
}

/// Tries every step; the sandbox is deleted even when one fails or the user interrupts.
///
/// # Errors
/// No daemon answers, or the user interrupts.
pub async fn run(client: &Client, args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let info = client.info().await?;
    let mut record = Record { output, steps: Vec::new() };
    let mut interrupt = Interrupt::listen()?;
    let mut id = None;
    tokio::select! {
        () = steps::all(client, &info, args.pack, &mut record, &mut id) => {}
        interrupted = interrupt.next() => {
            if let Some(id) = id {
                client.delete(&id).await?;
            }
            return Err(interrupted.into());
        }
    }
    let report = Report {
        passed: record.count(Verdict::Ok),
        failed: record.count(Verdict::Fail),
        skipped: record.count(Verdict::Skipped),
        steps: record.steps,
    };
    output.print(&report, || {
        format!("{} ok, {} FAIL, {} SKIP\n", report.passed, report.failed, report.skipped)
    })?;
    Ok(if report.failed == 0 { ExitCode::SUCCESS } else { exit::CHECK_FAILED.into() })
}
