//! `emberctl doctor`: can this host run emberd, and what to do if not.
//!
//! Each check is a function from what was read to a row; reading is apart from it. What needs
//! another user to read, or a file this kernel does not have, is `unknown`, never guessed.

use std::path::Path;
use std::process::ExitCode;

use emberd_api::chain;
use emberd_client::{Client, ClientError};
use emberd_config::{AccelChoice, Config, Flags, Problem};
use emberd_vmm::{Driver, HostFacts, KvmVerdict, SelectError, Selection, select};
use serde::Serialize;

use super::setup;
use crate::check::Verdict;
use crate::daemon_options::{DoctorKeys, FileArg, Globals};
use crate::exit;
use crate::output::{Output, printable};

mod access;
mod choices;
mod firecracker;
mod host;
mod images;
mod jail;
mod qemu;
mod templates;

/// Width of the column that says what was looked at.
const WHAT_COLUMNS: usize = 16;

/// Arguments of `doctor`: the daemon's, so that it judges what the daemon would run.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    file: FileArg,
    #[command(flatten)]
    flags: Flags<DoctorKeys>,
}

/// One thing looked at.
#[derive(Debug, Serialize)]
struct Row {
    what: &'static str,
    verdict: Verdict,
    seen: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

/// The JSON output of `doctor`.
#[derive(Debug, Serialize)]
struct Diagnosis {
    healthy: bool,
    checks: Vec<Row>,
}

/// A file's text, or in one line why it could not be read.
type Reading = Result<String, String>;

/// Looks at everything and prints what was seen.
///
/// # Errors
/// Standard output is closed or full.
pub async fn run(globals: &Globals, args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let globals = globals.with(args.file);
    let checks = match globals.load(args.flags.given) {
        Ok(config) => checks(&globals.client_of(&config)?, &config).await?,
        // Of a daemon that does not start nothing else can be judged.
        Err(problems) => problems.0.iter().map(problem).collect(),
    };
    let healthy = checks.iter().all(|row| row.verdict != Verdict::Fail);
    let diagnosis = Diagnosis { healthy, checks };
    output.print(&diagnosis, || diagnosis.checks.iter().map(text).collect())?;
    Ok(if healthy { ExitCode::SUCCESS } else { exit::CHECK_FAILED.into() })
}

/// Every row for a daemon with `config`.
async fn checks(client: &Client, config: &Config) -> anyhow::Result<Vec<Row>> {
    let data_dir = &config.data_dir;
    let kvm_forced = config.accel == AccelChoice::Kvm;
    let dirs = [setup::firecracker_dir(data_dir)];
    let facts = HostFacts::of_this_host(config.firecracker.as_deref(), &dirs, kvm_forced);
    let selection = select(choices::vmm(config), &facts);
    let wants_firecracker = match &selection {
        Ok(selection) => selection.driver != Driver::Qemu,
        Err(SelectError::NoFirecracker | SelectError::NoKvm(_)) => true,
    };
    let mut checks = vec![configuration(config), vmm(&selection, facts.kvm)];
    let mut is_jailed = false;
    if wants_firecracker {
        let (rows, jailed) = firecracker::rows(facts.firecracker.as_deref(), config, client).await;
        checks.push(host::kvm_for_firecracker(facts.kvm, host::try_kvm(facts.kvm)));
        checks.extend(rows);
        is_jailed = jailed;
    } else {
        checks.push(qemu::binary(config.qemu.as_deref()));
        checks.push(qemu::kvm(facts.kvm, config.accel));
        checks.push(qemu::jail(config));
    }
    checks.push(jail::cgroups(config));
    checks.extend(host::rows(config, is_jailed));
    checks.extend(images::rows(config));
    checks.push(images::disk(data_dir.path()));
    if config.templates {
        checks.extend(templates::rows(config));
    }
    let access::Finding { verdict, text, advice } = access::look(config);
    checks.push(Row::new("access", verdict, text).hint(advice));
    checks.push(daemon(client).await);
    Ok(checks)
}

/// Which configuration is judged.
fn configuration(config: &Config) -> Row {
    const WHAT: &str = "configuration";
    let given = config.shown().iter().filter(|option| option.origin != "default").count();
    let file = config.file.as_ref();
    let file = file.map_or_else(|| "no file".to_owned(), |file| file.display().to_string());
    Row::ok(WHAT, format!("{file}; options given: {given}, all others have their defaults"))
}

fn problem(problem: &Problem) -> Row {
    Row::fail("configuration", &problem.error).advise(&problem.hint)
}

fn text(row: &Row) -> String {
    let indent = 6 + WHAT_COLUMNS;
    let advice = row.advice.as_ref();
    let advice = advice.map(|advice| format!("{:indent$}{}\n", "", printable(advice)));
    let (word, seen) = (row.verdict.word(), printable(&row.seen));
    format!("{word} {:<WHAT_COLUMNS$}{seen}\n{}", row.what, advice.unwrap_or_default())
}

impl Row {
    fn new(what: &'static str, verdict: Verdict, seen: impl Into<String>) -> Self {
        Self { what, verdict, seen: seen.into(), advice: None }
    }

    fn ok(what: &'static str, seen: impl Into<String>) -> Self {
        Self::new(what, Verdict::Ok, seen)
    }

    fn info(what: &'static str, seen: impl Into<String>) -> Self {
        Self::new(what, Verdict::Info, seen)
    }

    fn warn(what: &'static str, seen: impl Into<String>) -> Self {
        Self::new(what, Verdict::Warn, seen)
    }

    fn fail(what: &'static str, seen: impl Into<String>) -> Self {
        Self::new(what, Verdict::Fail, seen)
    }

    /// A row for a check that could not be made, with the reason.
    fn unknown(what: &'static str, why: &str) -> Self {
        Self::info(what, format!("unknown: {why}"))
    }

    fn advise(self, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..self }
    }

    fn hint(self, hint: Option<&str>) -> Self {
        Self { advice: hint.map(str::to_owned), ..self }
    }
}

/// The text of the file at `path`, without the line break at its end.
fn read(path: impl AsRef<Path>) -> Reading {
    let path = path.as_ref();
    let text = std::fs::read_to_string(path);
    text.map(|text| text.trim_end().to_owned())
        .map_err(|error| format!("{}: {error}", path.display()))
}

/// Which driver the daemon would take, and why.
fn vmm(selection: &Result<Selection, SelectError>, kvm: KvmVerdict) -> Row {
    const WHAT: &str = "vmm";
    match selection {
        Err(error) => Row::fail(WHAT, error.to_string()).hint(error.hint()),
        Ok(Selection { driver: Driver::Firecracker { .. }, reason }) => {
            Row::ok(WHAT, format!("firecracker: {reason}"))
        }
        Ok(Selection { driver: Driver::Qemu, reason }) => {
            let row = Row::ok(WHAT, format!("qemu: {reason}"));
            // Firecracker is of no use without KVM, and the better choice with it.
            let could_have_it = kvm == KvmVerdict::Usable;
            row.hint(could_have_it.then_some("install the faster VMM: emberctl setup firecracker"))
        }
    }
}

async fn daemon(client: &Client) -> Row {
    const WHAT: &str = "daemon";
    match client.info().await {
        Ok(info) => {
            let (vmm, reason) = (&info.vmm, &info.vmm.reason);
            let (version, driver, accelerator) = (&info.version, &vmm.driver, &vmm.accelerator);
            let at = client.address();
            Row::ok(WHAT, format!("emberd {version} at {at}, {driver} on {accelerator}: {reason}"))
        }
        // It runs, and says what to do.
        Err(ClientError::Api { body, .. }) => {
            Row::warn(WHAT, body.error).hint(body.hint.as_deref())
        }
        Err(error) => Row::warn(WHAT, chain(&error)).advise("start the daemon: scripts/serve.sh"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use emberd_vmm::VmmChoice;

    use super::*;

    #[test]
    fn the_choice_comes_with_its_reason_and_with_what_would_be_better() {
        let facts = |firecracker: Option<&str>, kvm| HostFacts {
            firecracker: firecracker.map(PathBuf::from),
            kvm,
            kvm_forced: false,
        };
        let row = |choice, facts: &HostFacts| vmm(&select(choice, facts), facts.kvm);
        let none = facts(None, KvmVerdict::Usable);
        let auto = row(VmmChoice::Auto, &none);
        assert_eq!((auto.verdict, auto.advice.is_some()), (Verdict::Ok, true));
        assert_eq!(row(VmmChoice::Firecracker, &none).verdict, Verdict::Fail);
        let interpreted = facts(Some("/fc"), KvmVerdict::NoHardwareVirtualisation);
        let auto = row(VmmChoice::Auto, &interpreted);
        assert_eq!((auto.verdict, auto.advice), (Verdict::Ok, None));
        assert!(auto.seen.starts_with("qemu: firecracker needs KVM, but"), "{}", auto.seen);
        let absent = row(VmmChoice::Firecracker, &facts(Some("/fc"), KvmVerdict::Absent));
        assert_eq!((absent.verdict, absent.advice.is_some()), (Verdict::Fail, true));
    }

    #[test]
    fn advice_stands_under_what_was_seen() {
        let row = Row::warn("swap", "on").advise("swapoff -a");
        let plain = anstream::adapter::strip_str(&text(&row)).to_string();
        assert_eq!(plain, "warn  swap            on\n                      swapoff -a\n");
    }
}
