//! `emberctl doctor`: can this host run emberd, and what to do if not.
//!
//! Each check is a function from what was read to a row; reading is apart from it. What needs
//! another user to read, or a file this kernel does not have, is `unknown`, never guessed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::BoolishValueParser;
use emberd_client::Client;
use emberd_image::DataDir;
use emberd_vmm::{
    Driver, HostFacts, JailChoice, KvmVerdict, SelectError, Selection, VmmChoice, select,
};
use serde::Serialize;

use super::setup;
use crate::check::Verdict;
use crate::output::{Output, printable};
use crate::{exit, report};

mod firecracker;
mod host;
mod images;
mod jail;
mod qemu;
mod templates;

/// Width of the column that says what was looked at.
const WHAT_COLUMNS: usize = 16;

/// Where the daemon keeps templates in the data directory unless told otherwise.
const TEMPLATE_DIR: &str = "templates";

/// Arguments of `doctor`; those of the daemon, so that it looks at what the daemon would run.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The VMM: auto, firecracker or qemu.
    #[arg(long, env = "EMBERD_VMM", value_name = "VMM", default_value = "auto")]
    vmm: VmmChoice,
    /// What runs the guests' instructions; `kvm` forces KVM where it seems of no use.
    #[arg(long, env = "EMBERD_ACCEL", value_name = "ACCEL", default_value = "auto",
          value_parser = ["auto", "kvm", "tcg"])]
    accel: String,
    /// Firecracker's binary.
    #[arg(long, env = "EMBERD_FIRECRACKER", value_name = "FILE")]
    firecracker: Option<PathBuf>,
    /// The jailer's binary; beside Firecracker's if absent.
    #[arg(long, env = "EMBERD_JAILER", value_name = "FILE")]
    jailer: Option<PathBuf>,
    /// Whether microVMs are jailed: auto, on or off.
    #[arg(long, env = "EMBERD_JAIL", value_name = "WHEN", default_value = "auto")]
    jail: JailChoice,
    /// Whether Firecracker runs without its system call filter.
    #[arg(long, env = "EMBERD_NO_SECCOMP", hide = true, num_args = 0..=1,
          default_value = "false", default_missing_value = "true",
          value_parser = BoolishValueParser::new())]
    no_seccomp: bool,
    /// QEMU's binary.
    #[arg(long, env = "EMBERD_QEMU", value_name = "FILE", default_value = qemu::DEFAULT_BINARY)]
    qemu: PathBuf,
    /// The daemon's directory of per-sandbox state.
    #[arg(long, env = "EMBERD_RUN_DIR", value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Whether the daemon makes templates.
    #[arg(long, env = "EMBERD_TEMPLATES", value_name = "WHETHER", default_value = "on",
          value_parser = ["on", "off"])]
    templates: String,
    /// The daemon's directory of templates; in the data directory if absent.
    #[arg(long, env = "EMBERD_TEMPLATE_DIR", value_name = "DIR")]
    template_dir: Option<PathBuf>,
    /// Most memory of the daemon's pools, in MiB; a quarter of the host's if absent.
    #[arg(long, env = "EMBERD_POOL_MEMORY_MIB", value_name = "MIB")]
    pool_memory_mib: Option<u64>,
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

/// What `--json` prints.
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
pub async fn run(
    client: &Client,
    args: &Args,
    data_dir: &DataDir,
    output: Output,
) -> anyhow::Result<ExitCode> {
    let kvm_forced = args.accel == "kvm";
    let dirs = [setup::firecracker_dir(data_dir)];
    let facts = HostFacts::of_this_host(args.firecracker.as_deref(), &dirs, kvm_forced);
    let selection = select(args.vmm, &facts);
    let wants_firecracker = match &selection {
        Ok(selection) => selection.driver != Driver::Qemu,
        Err(SelectError::NoFirecracker | SelectError::NoKvm(_)) => true,
    };
    let mut checks = vec![vmm(&selection, facts.kvm)];
    let mut is_jailed = false;
    if wants_firecracker {
        let (rows, jailed) = firecracker::rows(facts.firecracker.as_deref(), args, client).await;
        checks.push(host::kvm_for_firecracker(facts.kvm, host::try_kvm(facts.kvm)));
        checks.extend(rows);
        is_jailed = jailed;
    } else {
        checks.push(qemu::binary(&args.qemu));
        checks.push(qemu::kvm(facts.kvm, &args.accel));
        checks.push(qemu::jail(args));
    }
    checks.extend(host::rows(args.run_dir.as_deref(), is_jailed));
    checks.extend([images::images(data_dir), images::disk(data_dir.path())]);
    if args.templates == "on" {
        let dir = args.template_dir.clone();
        let dir = dir.unwrap_or_else(|| data_dir.path().join(TEMPLATE_DIR));
        checks.extend(templates::rows(&dir, args.pool_memory_mib));
    }
    checks.push(daemon(client).await);
    let healthy = checks.iter().all(|row| row.verdict != Verdict::Fail);
    let diagnosis = Diagnosis { healthy, checks };
    output.print(&diagnosis, || diagnosis.checks.iter().map(text).collect())?;
    Ok(if healthy { ExitCode::SUCCESS } else { exit::CHECK_FAILED.into() })
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

    /// What could not be looked at from here, and why.
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
            // Without KVM it would be of no use; with it, it is what emberd is made for.
            let could_have_it = kvm == KvmVerdict::Usable;
            row.hint(could_have_it.then_some("emberctl setup firecracker installs the faster VMM"))
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
        Err(error) => {
            Row::warn(WHAT, report::chain(&error)).advise("start it with scripts/serve.sh")
        }
    }
}

#[cfg(test)]
mod tests {
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
