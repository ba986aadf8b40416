//! `emberctl doctor`: can this host run emberd, and what to do if not.

use std::io;
use std::path::Path;
use std::process::{Command, ExitCode};

use emberd_client::Client;
use emberd_image::{DataDir, Images};
use emberd_vmm::KvmVerdict;
use serde::Serialize;

use crate::check::Verdict;
use crate::output::{self, Output, printable};
use crate::{exit, report};

/// The VMM, unless `EMBERD_QEMU` names another.
const QEMU: &str = "qemu-system-x86_64";
/// Memory of one guest and its VMM, in bytes (320 MiB): the daemon's default for a guest, and
/// what the VMM needs beside it.
const GUEST_BYTES: u64 = 320 << 20;
/// Fewer guests than this in free memory is worth a word.
const GUESTS_FEW: u64 = 4;
/// Free space for building images, in bytes (3 GiB): three packs, and the trees they come from.
const BUILD_BYTES: u64 = 3 << 30;

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

/// Looks at everything and prints what was seen.
///
/// # Errors
/// Standard output is closed or full.
pub async fn run(client: &Client, data_dir: &DataDir, output: Output) -> anyhow::Result<ExitCode> {
    let checks = vec![
        qemu(),
        kvm(KvmVerdict::of_this_host()),
        images(data_dir),
        memory(std::fs::read_to_string("/proc/meminfo")),
        disk(data_dir.path()),
        daemon(client).await,
    ];
    let healthy = checks.iter().all(|row| row.verdict != Verdict::Fail);
    let diagnosis = Diagnosis { healthy, checks };
    output.print(&diagnosis, || diagnosis.checks.iter().map(text).collect())?;
    Ok(if healthy { ExitCode::SUCCESS } else { exit::CHECK_FAILED.into() })
}

fn text(row: &Row) -> String {
    let advice = row.advice.as_ref().map(|advice| format!("{:16}{}\n", "", printable(advice)));
    let (word, seen) = (row.verdict.word(), printable(&row.seen));
    format!("{word} {:<10}{seen}\n{}", row.what, advice.unwrap_or_default())
}

fn row(what: &'static str, verdict: Verdict, seen: impl Into<String>) -> Row {
    Row { what, verdict, seen: seen.into(), advice: None }
}

impl Row {
    fn advise(self, advice: impl Into<String>) -> Self {
        Self { advice: Some(advice.into()), ..self }
    }
}

fn qemu() -> Row {
    let binary = std::env::var_os("EMBERD_QEMU").unwrap_or_else(|| QEMU.into());
    let shown = binary.display();
    match Command::new(&binary).arg("--version").output() {
        Ok(output) if output.status.success() => {
            let version = String::from_utf8_lossy(&output.stdout);
            row("qemu", Verdict::Ok, version.lines().next().unwrap_or_default())
        }
        Ok(output) => row("qemu", Verdict::Fail, format!("{shown} --version: {}", output.status)),
        Err(error) => row("qemu", Verdict::Fail, format!("{shown}: {error}"))
            .advise("apt-get install qemu-system-x86, or name the binary in EMBERD_QEMU"),
    }
}

fn kvm(verdict: KvmVerdict) -> Row {
    if verdict == KvmVerdict::Usable {
        return row("kvm", Verdict::Ok, verdict.to_string());
    }
    let seen = format!("{verdict}: guests run under software emulation, which is slow");
    let row = row("kvm", Verdict::Warn, seen);
    match verdict.hint() {
        Some(hint) => row.advise(hint),
        None => row,
    }
}

fn images(data_dir: &DataDir) -> Row {
    match Images::load(data_dir) {
        Ok(images) => {
            let packs: Vec<_> = images.packs.keys().map(ToString::to_string).collect();
            let seen = format!("Linux {}, packs {}", images.kernel.release, packs.join(", "));
            row("images", Verdict::Ok, seen)
        }
        Err(error) => row("images", Verdict::Fail, report::chain(&error))
            .advise("scripts/serve.sh builds everything that is missing"),
    }
}

fn memory(meminfo: io::Result<String>) -> Row {
    let available = match meminfo.map(|text| available_bytes(&text)) {
        Ok(Some(available)) => available,
        Ok(None) => return row("memory", Verdict::Warn, "/proc/meminfo says nothing"),
        Err(error) => return row("memory", Verdict::Warn, format!("/proc/meminfo: {error}")),
    };
    let guests = available / GUEST_BYTES;
    let seen = format!("{} free, enough for {guests} guests", output::bytes(available));
    match guests {
        0 => row("memory", Verdict::Fail, seen).advise("give guests less with --guest-ram-mib"),
        few if few < GUESTS_FEW => row("memory", Verdict::Warn, seen),
        _ => row("memory", Verdict::Ok, seen),
    }
}

fn available_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1 << 10)
}

/// Free space where `dir` is, or will be.
fn disk(dir: &Path) -> Row {
    let Some(existing) = dir.ancestors().find(|ancestor| ancestor.exists()) else {
        return row("disk", Verdict::Warn, format!("no part of {} exists", dir.display()));
    };
    match rustix::fs::statvfs(existing) {
        Err(error) => row("disk", Verdict::Warn, format!("{}: {error}", existing.display())),
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let seen = format!("{} free in {}", output::bytes(free), dir.display());
            if free < BUILD_BYTES {
                row("disk", Verdict::Warn, seen).advise(format!(
                    "building images takes up to {}; `emberctl image prune` frees some",
                    output::bytes(BUILD_BYTES)
                ))
            } else {
                row("disk", Verdict::Ok, seen)
            }
        }
    }
}

async fn daemon(client: &Client) -> Row {
    match client.info().await {
        Ok(info) => {
            let (vmm, reason) = (&info.vmm, &info.vmm.reason);
            let seen =
                format!("emberd {}, {} on {}: {reason}", info.version, vmm.driver, vmm.accelerator);
            row("daemon", Verdict::Ok, seen)
        }
        Err(error) => row("daemon", Verdict::Warn, report::chain(&error))
            .advise("start it with scripts/serve.sh"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_judged_by_the_guests_it_holds() {
        let judge = |kib: u64| memory(Ok(format!("MemTotal: 9 kB\nMemAvailable: {kib} kB\n")));
        assert_eq!(judge(300 << 10).verdict, Verdict::Fail);
        assert_eq!(judge(700 << 10).verdict, Verdict::Warn);
        let rich = judge(8 << 20);
        assert_eq!(
            (rich.verdict, rich.seen.as_str()),
            (Verdict::Ok, "8.0 GiB free, enough for 25 guests")
        );
        assert_eq!(memory(Ok("MemAvailable: lots".into())).verdict, Verdict::Warn);
    }

    #[test]
    fn kvm_that_is_not_usable_is_no_failure() {
        use KvmVerdict::{Absent, NoHardwareVirtualisation, NotPermitted, Usable};
        assert_eq!(kvm(Usable).verdict, Verdict::Ok);
        for verdict in [Absent, NotPermitted, NoHardwareVirtualisation] {
            let row = kvm(verdict);
            assert_eq!(row.verdict, Verdict::Warn);
            assert!(row.seen.contains("software emulation") && row.advice.is_some(), "{row:?}");
        }
    }

    #[test]
    fn disk_is_judged_where_the_directory_will_be() {
        let dir = tempfile::tempdir().unwrap();
        let row = disk(&dir.path().join("not/yet"));
        assert!(row.seen.contains("free in") && row.seen.ends_with("not/yet"), "{row:?}");
    }
}
