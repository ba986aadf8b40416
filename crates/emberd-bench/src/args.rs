//! The command line as typed, and what it means.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Parser;
use clap::builder::PossibleValuesParser;
use emberd_api::Address;

use crate::export::Document;
use crate::measure::{Daemons, Plan, SCENARIOS, Scenario, beside};

/// The word for every scenario.
const ALL: &str = "all";

const AFTER_HELP: &str = "\
Exit codes: 0; 1 when a scenario failed or something was left behind; 2 for wrong usage.
Targets that are missed are shown and change no exit code.";

/// Measures emberd: starts daemons of its own, or uses one that runs.
#[derive(Debug, Parser)]
#[command(name = "emberd-bench", version, after_help = AFTER_HELP)]
pub struct Args {
    /// What to measure: `all`, or some of the scenarios.
    #[arg(required = true, value_name = "SCENARIO",
          value_parser = PossibleValuesParser::new(scenario_words()))]
    pub scenarios: Vec<String>,
    /// Write the results to FILE as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Print ratios to the results in OLD, which an earlier run wrote.
    #[arg(long, value_name = "OLD")]
    pub compare: Option<PathBuf>,
    /// Iterations of each scenario [default: each scenario's own].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub iterations: Option<u32>,
    /// Language packs to measure.
    #[arg(long, value_name = "PACKS", value_delimiter = ',', default_value = "python,shell")]
    pub packs: Vec<String>,
    /// Print where the time went, stage by stage.
    #[arg(long)]
    pub breakdown: bool,
    /// The daemon's program [default: emberd beside this one].
    #[arg(long, value_name = "PATH")]
    pub daemon: Option<PathBuf>,
    /// A daemon that runs: HOST:PORT or unix:PATH. Scenarios that need flags of their own fail.
    #[arg(long, value_name = "ADDR", conflicts_with_all = ["daemon", "data_dir", "double", "daemon_flags"])]
    pub addr: Option<Address>,
    /// Where the images guests boot from are [default: the daemon's own].
    #[arg(long, value_name = "DIR", conflicts_with = "double")]
    pub data_dir: Option<PathBuf>,
    /// Run every scenario over the test double: nothing but emberd is measured.
    #[arg(long)]
    pub double: bool,
    /// Flags of every daemon.
    #[arg(last = true, value_name = "DAEMON FLAGS")]
    pub daemon_flags: Vec<OsString>,
}

/// What a run is asked to do.
#[derive(Debug)]
pub struct Task {
    /// What to measure.
    pub plan: Plan,
    /// What to compare it with.
    pub old: Option<Document>,
    /// Where to write results.
    pub json: Option<PathBuf>,
    /// Whether stages are printed.
    pub breakdown: bool,
}

fn scenario_words() -> Vec<&'static str> {
    std::iter::once(ALL).chain(SCENARIOS.iter().map(|scenario| scenario.name)).collect()
}

impl Args {
    /// What these arguments mean. What cannot work is refused before anything is measured.
    ///
    /// # Errors
    /// A program that is not built, a document that is none, a directory that is missing.
    pub fn into_task(self) -> anyhow::Result<Task> {
        let old = self.compare.as_deref().map(Document::read).transpose()?;
        if let Some(json) = &self.json {
            let dir = json.parent().filter(|dir| !dir.as_os_str().is_empty());
            let dir = dir.unwrap_or(Path::new("."));
            anyhow::ensure!(dir.is_dir(), "the directory {} does not exist", dir.display());
        }
        let scenarios = chosen(&self.scenarios);
        let daemons = match self.addr {
            Some(address) => Daemons::Running(address),
            None => Daemons::Own {
                binary: daemon_binary(self.daemon)?,
                flags: flags(self.data_dir, self.daemon_flags),
                double: self.double,
            },
        };
        let iterations = self.iterations.map(|n| n as usize);
        let plan = Plan { scenarios, iterations, packs: self.packs, daemons };
        Ok(Task { plan, old, json: self.json, breakdown: self.breakdown })
    }
}

fn daemon_binary(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let Some(path) = given else { return Ok(beside("emberd")?) };
    anyhow::ensure!(path.is_file(), "the program {} does not exist", path.display());
    Ok(std::path::absolute(path)?)
}

/// The scenarios of these names, each once, in the order of `all`.
fn chosen(names: &[String]) -> Vec<&'static Scenario> {
    static TABLE: [Scenario; SCENARIOS.len()] = SCENARIOS;
    let is_chosen =
        |scenario: &&Scenario| names.iter().any(|name| name == ALL || name == scenario.name);
    TABLE.iter().filter(is_chosen).collect()
}

fn flags(data_dir: Option<PathBuf>, daemon_flags: Vec<OsString>) -> Vec<OsString> {
    let mut flags = daemon_flags;
    if let Some(dir) = data_dir {
        flags.extend(["--data-dir".into(), dir.into()]);
    }
    flags
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn scenarios_come_in_their_order_and_once() {
        let names = |line: &str| {
            let args = parse(line).unwrap();
            chosen(&args.scenarios).iter().map(|scenario| scenario.name).collect::<Vec<_>>()
        };
        assert_eq!(names("b exec overhead exec"), ["overhead", "exec"]);
        assert_eq!(names("b all churn").len(), SCENARIOS.len());
    }

    #[test]
    fn flags_after_two_dashes_are_the_daemons() {
        let args = parse("b exec --data-dir /x -- --vmm qemu --json").unwrap();
        assert_eq!(args.json, None);
        let flags = flags(args.data_dir, args.daemon_flags);
        assert_eq!(flags, ["--vmm", "qemu", "--json", "--data-dir", "/x"]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for line in [
            "b",
            "b nonsense",
            "b exec --iterations 0",
            "b exec --addr nowhere",
            "b exec --addr 127.0.0.1:1 --double",
            "b exec --addr 127.0.0.1:1 -- --vmm qemu",
            "b exec --double --data-dir /x",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        for line in ["b exec --compare /nonexistent.json", "b exec --json /nonexistent/x.json"] {
            assert!(parse(line).unwrap().into_task().is_err(), "{line}");
        }
    }
}
