//! `emberd-bench`: measure → statistics → export.
//!
//! Scenarios in `measure/` record samples, `statistics/` summarises them, and `export/` formats
//! the results. `targets.rs` has the performance targets.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use emberd_proto::chain;

use args::{Args, Task};
use export::{Document, Row};
use measure::{Host, Interrupt, Outcome, StartError};
use statistics::{Results, Summary};
use targets::HostKind;

mod args;
mod export;
mod measure;
mod statistics;
mod targets;
mod units;

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            let text = format!("{} {error:#}\n", export::warning("error:"));
            let hint = match error.downcast_ref() {
                Some(StartError::Missing { hint, .. }) => format!("hint: {hint}\n"),
                _ => String::new(),
            };
            // If standard error is closed, the message is lost.
            drop(anstream::stderr().write_all(format!("{text}{hint}").as_bytes()));
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<ExitCode> {
    let task = args.into_task()?;
    let interrupt = Interrupt::listen().context("cannot listen for signals")?;
    let mut progress = |line: &dyn std::fmt::Display| {
        drop(writeln!(io::stderr(), "{line}"));
    };
    let (host, outcomes) = measure::run(&task.plan, &interrupt, &mut progress)?;
    let document = document(host, &outcomes);
    print(&task, &document, &outcomes)?;
    if let Some(path) = &task.json {
        let written = fs::write(path, document.to_json());
        written.with_context(|| format!("cannot write {}", path.display()))?;
    }
    let complete = outcomes.len() == task.plan.scenarios.len();
    let sound = outcomes.iter().all(|outcome| {
        outcome.failure.is_none() && outcome.record.checks.iter().all(|check| check.holds)
    });
    Ok(if complete && sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn document(host: Host, outcomes: &[Outcome]) -> Document {
    let mut scenarios = Results::new();
    let (mut checks, mut warnings) = (BTreeMap::new(), BTreeMap::new());
    let run_doubts = measure::doubts(&host);
    if !run_doubts.is_empty() {
        warnings.insert("run".to_owned(), run_doubts);
    }
    for Outcome { scenario, record, failure, .. } in outcomes {
        let name = scenario.name.to_owned();
        let summaries = record
            .series
            .iter()
            .filter_map(|(series, samples)| Some((series.clone(), Summary::of(samples)?)));
        scenarios.insert(name.clone(), summaries.collect());
        if !record.checks.is_empty() {
            checks.insert(name.clone(), record.checks.clone());
        }
        let mut doubts = record.doubts.clone();
        doubts.extend(failure.iter().map(|failure| format!("failed: {}", chain(failure))));
        if !doubts.is_empty() {
            warnings.insert(name, doubts);
        }
    }
    Document { host, scenarios, checks, warnings }
}

fn print(task: &Task, document: &Document, outcomes: &[Outcome]) -> io::Result<()> {
    let rows = rows(document, outcomes);
    let mut out = anstream::stdout();
    write!(out, "{}\n{}", export::host_line(&document.host), export::table(&rows))?;
    if task.breakdown {
        write!(out, "\n{}", export::breakdown(&rows))?;
    }
    let mut warnings = Vec::new();
    for (scenario, remarks) in &document.warnings {
        warnings.extend(remarks.iter().map(|remark| format!("{scenario}: {remark}")));
    }
    for (scenario, checks) in &document.checks {
        let broken = checks.iter().filter(|check| !check.holds);
        warnings.extend(broken.map(|check| format!("{scenario}: {}: {}", check.what, check.seen)));
    }
    if let Some(old) = &task.old {
        let (table, doubts) = export::comparison(old, document);
        write!(out, "\n{table}")?;
        warnings.extend(doubts);
    }
    for warning in warnings {
        write!(out, "\n{} {warning}", export::warning("warning:"))?;
    }
    writeln!(out)
}

/// Returns the rows of the table, in the order of measurement.
fn rows(document: &Document, outcomes: &[Outcome]) -> Vec<Row> {
    let mut rows = Vec::new();
    for Outcome { scenario, is_double, record, .. } in outcomes {
        let kind = match document.host.accelerator.as_str() {
            _ if *is_double => HostKind::Double,
            "kvm" => HostKind::Kvm,
            _ => HostKind::Emulated,
        };
        for (series, samples) in &record.series {
            let Some(summary) = Summary::of(samples) else { continue };
            let verdict = targets::judge(kind, &document.scenarios, scenario.name, series);
            rows.push(Row { scenario: scenario.name, series: series.clone(), summary, verdict });
        }
    }
    rows
}
