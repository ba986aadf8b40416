//! Command-line arguments, and their validated form.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Parser;
use clap::builder::PossibleValuesParser;
use emberd_api::Address;

use crate::export::Document;
use crate::measure::{Daemons, Plan, SCENARIOS, Scenario, beside};

/// The argument that selects every scenario.
const ALL: &str = "all";

const AFTER_HELP: &str = "\
Exit codes: 0 on success; 1 if a scenario failed or left something behind; 2 for wrong usage.
A missed target is shown, but does not change the exit code.";

/// Measures emberd, over daemons that it starts or a running one.
#[derive(Debug, Parser)]
#[command(name = "emberd-bench", version, after_help = AFTER_HELP)]
pub struct Args {
    /// Scenarios to run: `all`, or names.
    #[arg(required = true, value_name = "SCENARIO",
          value_parser = PossibleValuesParser::new(scenario_words()))]
    pub scenarios: Vec<String>,
    /// Write the results to FILE as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Print ratios to the results in OLD, written by an earlier run.
    #[arg(long, value_name = "OLD")]
    pub compare: Option<PathBuf>,
    /// Number of iterations [default: each scenario's own].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub iterations: Option<u32>,
    /// Language packs to measure.
    #[arg(long, value_name = "PACKS", value_delimiter = ',', default_value = "python,shell")]
    pub packs: Vec<String>,
    /// Print the time of each stage.
    #[arg(long)]
    pub breakdown: bool,
    /// Path of the daemon [default: emberd beside this program].
    #[arg(long, value_name = "PATH")]
    pub daemon: Option<PathBuf>,
    /// Address of a running daemon: HOST:PORT or unix:PATH. Scenarios that need their own flags
    /// fail.
    #[arg(long, value_name = "ADDR", conflicts_with_all = ["daemon", "data_dir", "double", "daemon_flags"])]
    pub addr: Option<Address>,
    /// Directory of the guests' images [default: the daemon's].
    #[arg(long, value_name = "DIR", conflicts_with = "double")]
    pub data_dir: Option<PathBuf>,
    /// Run every scenario over the test double, which measures emberd alone.
    #[arg(long)]
    pub double: bool,
    /// In `overhead`, also measure a request with an access key beside one without.
    #[arg(long, conflicts_with = "addr")]
    pub key: bool,
    /// Flags for every daemon.
    #[arg(last = true, value_name = "DAEMON FLAGS")]
    pub daemon_flags: Vec<OsString>,
}

/// A validated run.
#[derive(Debug)]
pub struct Task {
    /// The scenarios and how to run them.
    pub plan: Plan,
    /// The earlier results to compare with.
    pub old: Option<Document>,
    /// The file for the results.
    pub json: Option<PathBuf>,
    /// Whether to print stages.
    pub breakdown: bool,
}

fn scenario_words() -> Vec<&'static str> {
    std::iter::once(ALL).chain(SCENARIOS.iter().map(|scenario| scenario.name)).collect()
}

impl Args {
    /// Validates the arguments. Refuses what cannot work before anything is measured.
    ///
    /// # Errors
    /// If a program is not built, a document is invalid, or a directory is missing.
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
        let plan = Plan { scenarios, iterations, packs: self.packs, daemons, key: self.key };
        Ok(Task { plan, old, json: self.json, breakdown: self.breakdown })
    }
}

fn daemon_binary(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let Some(path) = given else { return Ok(beside("emberd")?) };
    anyhow::ensure!(path.is_file(), "the program {} does not exist", path.display());
    Ok(std::path::absolute(path)?)
}

/// Returns the scenarios of these names, each once, in the order of `all`.
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
