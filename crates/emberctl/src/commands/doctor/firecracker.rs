//! What the Firecracker driver needs, and what makes it fast. After Firecracker's document
//! `prod-host-setup`.

use std::path::Path;
use std::process::{Command, Stdio};

use emberd_api::chain;
use emberd_client::Client;
use emberd_config::Config;
use emberd_vmm::firecracker::{Features, FindError, SnapshotFormat, Version, needs_interpreter};

use super::jail::{self, JailFacts};
use super::{Reading, Row, read};

/// Host kernels Firecracker is tested on by its makers.
const KERNELS: [(u32, u32); 3] = [(5, 10), (6, 1), (6, 18)];

/// `Seccomp:` of a process under a filter, in `/proc/PID/status` (proc(5)).
const SECCOMP_FILTER: &str = "2";

/// Every row, and whether microVMs would be jailed.
pub async fn rows(binary: Option<&Path>, config: &Config, client: &Client) -> (Vec<Row>, bool) {
    let Some(binary) = binary else {
        let row = Row::fail("firecracker", "no firecracker binary found")
            .advise("install Firecracker: emberctl setup firecracker");
        return (vec![row], false);
    };
    let version = ask_version(binary);
    let facts = JailFacts::read(config, binary, version.clone().ok());
    let features = version.as_ref().ok().map(Features::from);
    let kvm = |name: &str| read(format!("/sys/module/kvm/parameters/{name}"));
    let rows = vec![
        release(binary, &version),
        seccomp(needs_interpreter(binary), !config.seccomp, &running(client).await),
        snapshots(features, SnapshotFormat::of_binary(binary)),
        jail::jail(&facts),
        host_kernel(&rustix::system::uname().release().to_string_lossy()),
        vm_creation(
            &kvm("nx_huge_pages"),
            &read("/sys/devices/system/cpu/vulnerabilities/itlb_multihit"),
            &read("/proc/self/mounts"),
        ),
        timer(kvm("min_timer_period_us")),
        huge_pages(read("/sys/kernel/mm/transparent_hugepage/enabled")),
        host_console(read("/proc/cmdline")),
    ];
    (rows, facts.is_jailed())
}

/// The version that `binary --version` prints, in an empty environment.
pub fn ask_version(binary: &Path) -> Result<Version, String> {
    let shown = binary.display();
    let output = Command::new(binary).arg("--version").env_clear().stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{shown}: {error}"))?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let first = printed.lines().next().unwrap_or_default();
    Version::parse(&printed).ok_or_else(|| format!("{shown} --version prints {first:?}"))
}

/// Status texts of the VMMs the daemon runs, by process id; none if it runs no Firecracker.
async fn running(client: &Client) -> Vec<(u32, Reading)> {
    let is_firecracker = client.info().await.is_ok_and(|info| info.vmm.driver == "firecracker");
    if !is_firecracker {
        return Vec::new();
    }
    let sandboxes = client.list().await.map_or_else(|_| Vec::new(), |list| list.sandboxes);
    let pids = sandboxes.iter().filter_map(|sandbox| sandbox.vmm_pid);
    pids.map(|pid| (pid, read(format!("/proc/{pid}/status")))).collect()
}

fn release(binary: &Path, version: &Result<Version, String>) -> Row {
    const WHAT: &str = "firecracker";
    match version {
        Err(error) => {
            Row::fail(WHAT, error).advise("name the Firecracker binary with --firecracker")
        }
        Ok(version) => match version.check() {
            Ok(()) => Row::ok(WHAT, format!("{version}, {}", binary.display())),
            Err(refusal) => {
                let error = FindError::from(refusal);
                Row::fail(WHAT, chain(&error))
                    .advise("install a supported release: emberctl setup firecracker")
            }
        },
    }
}

/// Whether system calls are filtered. The filter is made for the static release: with another
/// C library the VMM makes calls it does not know, and dies of them.
fn seccomp(is_dynamic: bool, is_off: bool, running: &[(u32, Reading)]) -> Row {
    const WHAT: &str = "seccomp";
    let bare = running.iter().find(|(_, status)| {
        status.as_ref().is_ok_and(|status| filter_mode(status) != Some(SECCOMP_FILTER))
    });
    match bare {
        _ if is_off => {
            Row::fail(WHAT, "switched off by --no-seccomp, which is for experiments only")
                .advise("start the daemon without --no-seccomp")
        }
        Some((pid, _)) => {
            Row::fail(WHAT, format!("VMM process {pid} runs without a system call filter"))
                .advise("start the daemon without --no-seccomp")
        }
        None if is_dynamic => {
            Row::fail(WHAT, "the filter does not fit a dynamically linked Firecracker binary")
                .advise("install the static release: emberctl setup firecracker")
        }
        None => Row::ok(WHAT, "on: the static release filters system calls by default"),
    }
}

fn filter_mode(status: &str) -> Option<&str> {
    status.lines().find_map(|line| line.strip_prefix("Seccomp:")).map(str::trim)
}

fn snapshots(features: Option<Features>, format: Result<SnapshotFormat, FindError>) -> Row {
    const WHAT: &str = "snapshots";
    match (features, format) {
        (Some(Features { snapshots: false, .. }), _) => Row::warn(
            WHAT,
            "not used: this release drops guest connections when it pauses a microVM",
        )
        .advise("install a newer release: emberctl setup firecracker"),
        (_, Ok(format)) => {
            Row::ok(WHAT, format!("format {format}; snapshots of other formats are not loaded"))
        }
        (_, Err(error)) => Row::warn(WHAT, chain(&error)),
    }
}

fn host_kernel(release: &str) -> Row {
    const WHAT: &str = "host kernel";
    let mut numbers = release.split(['.', '-']).map(str::parse::<u32>);
    let line = match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Some((major, minor)),
        _ => None,
    };
    if line.is_some_and(|line| KERNELS.contains(&line)) {
        return Row::ok(WHAT, format!("Linux {release}"));
    }
    let tested = KERNELS.map(|(major, minor)| format!("{major}.{minor}")).join(", ");
    Row::warn(WHAT, format!("Linux {release}; Firecracker is tested on Linux {tested}"))
}

/// Reports the settings that make `KVM_CREATE_VM` slow since Linux 6.1: the call starts a thread
/// that splits huge pages, and waits for all processors to see the thread change its cgroup.
fn vm_creation(nx_huge_pages: &Reading, itlb_multihit: &Reading, mounts: &Reading) -> Row {
    const WHAT: &str = "vm creation";
    let Ok(nx_huge_pages) = nx_huge_pages else {
        return Row::unknown(WHAT, nx_huge_pages.as_ref().expect_err("it is none"));
    };
    let favours = mounts.as_ref().is_ok_and(|mounts| mounts.contains("favordynmods"));
    let is_fast = nx_huge_pages == "never" || favours;
    let favoured = if favours { "with" } else { "without" };
    let row = Row::info(
        WHAT,
        format!("kvm.nx_huge_pages={nx_huge_pages}, cgroups {favoured} favordynmods"),
    );
    if is_fast {
        return row;
    }
    let needs_splitting = itlb_multihit.as_deref() != Ok("Not affected");
    row.advise(if needs_splitting {
        "to create VMs faster: mount -o remount,favordynmods /sys/fs/cgroup"
    } else {
        "to create VMs faster, set kvm.nx_huge_pages=never; this processor does not need the setting"
    })
}

fn timer(period_us: Reading) -> Row {
    const WHAT: &str = "kvm timer";
    match period_us {
        Ok(period) => {
            let seen = format!(
                "shortest period {period} µs; the timer thread of a guest (kvm-pit) is outside its cgroup"
            );
            Row::info(WHAT, seen)
        }
        Err(error) => Row::unknown(WHAT, &error),
    }
}

fn huge_pages(enabled: Reading) -> Row {
    const WHAT: &str = "huge pages";
    let chosen = enabled.map(|text| {
        let chosen = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
        chosen.map(|(word, _)| word.to_owned())
    });
    match chosen {
        Ok(Some(chosen)) => Row::info(WHAT, format!("transparent huge pages: {chosen}")),
        Ok(None) => Row::unknown(WHAT, "the kernel does not report a mode"),
        Err(error) => Row::unknown(WHAT, &error),
    }
}

/// Each line the kernel writes to a serial console costs milliseconds, also when a VM starts.
fn host_console(cmdline: Reading) -> Row {
    const WHAT: &str = "host console";
    let cmdline = match cmdline {
        Ok(cmdline) => cmdline,
        Err(error) => return Row::unknown(WHAT, &error),
    };
    let words = || cmdline.split_whitespace();
    if words().any(|word| word == "quiet" || word == "loglevel=1") {
        return Row::info(WHAT, "quiet");
    }
    Row::info(WHAT, "kernel messages may go to the console")
        .advise("if the console is a serial port, boot the host with quiet loglevel=1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Verdict::{self, Fail, Info, Ok as Good, Warn};

    #[expect(clippy::unnecessary_wraps, reason = "a reading that succeeded")]
    fn text(text: &str) -> Reading {
        Ok(text.to_owned())
    }

    fn unreadable() -> Reading {
        Err("/sys/x: Permission denied".to_owned())
    }

    fn version(text: &str) -> Version {
        Version::parse(&format!("Firecracker v{text}")).unwrap()
    }

    #[track_caller]
    fn check(row: &Row, verdict: Verdict, advised: bool) {
        assert_eq!((row.verdict, row.advice.is_some()), (verdict, advised), "{row:?}");
    }

    #[test]
    fn releases_that_are_not_used_fail() {
        let release = |version| release(Path::new("/fc"), &version);
        let good = release(Ok(version("1.16.2")));
        assert_eq!((good.verdict, good.seen.as_str()), (Good, "1.16.2, /fc"));
        check(&release(Ok(version("1.15.0"))), Fail, true);
        check(&release(Ok(version("1.10.1"))), Fail, true);
        check(&release(Err("/fc: Permission denied".to_owned())), Fail, true);
    }

    #[test]
    fn a_program_that_is_no_firecracker_is_named() {
        let error = ask_version(Path::new("/bin/echo")).unwrap_err();
        assert!(error.starts_with("/bin/echo --version prints"), "{error}");
        let error = ask_version(Path::new("/nonexistent/fc")).unwrap_err();
        assert!(error.starts_with("/nonexistent/fc: "), "{error}");
    }

    #[test]
    fn a_vmm_without_a_filter_fails_whatever_the_reason() {
        let filtered = (1, text("Name:\tfirecracker\nSeccomp:\t2\nSeccomp_filters:\t1"));
        let bare = (2, text("Seccomp:\t0"));
        let gone = (3, unreadable());
        check(&seccomp(false, false, &[]), Good, false);
        check(&seccomp(false, false, &[filtered.clone(), gone]), Good, false);
        let row = seccomp(false, false, &[filtered, bare]);
        check(&row, Fail, true);
        assert!(row.seen.contains("VMM process 2 "), "{}", row.seen);
        check(&seccomp(true, false, &[]), Fail, true);
        check(&seccomp(false, true, &[]), Fail, true);
    }

    #[test]
    fn snapshots_depend_on_the_release() {
        let row = |text: &str, format| snapshots(Some(Features::from(&version(text))), format);
        let format = || Ok(SnapshotFormat("v10.0.0".to_owned()));
        check(&row("1.16.2", format()), Good, false);
        check(&row("1.16.1", format()), Warn, true);
        check(&row("1.16.2", Err(FindError::Missing)), Warn, false);
    }

    #[test]
    fn host_kernels_by_their_line() {
        for (release, verdict) in [
            ("6.1.0-48-cloud-amd64", Good),
            ("5.10.0", Good),
            ("6.18.44-fc", Good),
            ("6.12.1", Warn),
            ("6.180.1", Warn),
            ("unknown", Warn),
        ] {
            assert_eq!(host_kernel(release).verdict, verdict, "{release}");
        }
    }

    #[test]
    fn what_slows_vm_creation_is_told_with_what_the_processor_allows() {
        let row =
            |nx: &str, itlb: &str, mounts: &str| vm_creation(&text(nx), &text(itlb), &text(mounts));
        let plain = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0";
        check(&row("never", "Not affected", plain), Info, false);
        let favoured = "cgroup2 /sys/fs/cgroup cgroup2 rw,favordynmods 0 0";
        check(&row("Y", "KVM: Mitigation: Split huge pages", favoured), Info, false);
        let safe = row("N", "Not affected", plain);
        assert!(safe.advice.unwrap().contains("kvm.nx_huge_pages=never"));
        let affected = row("Y", "KVM: Mitigation: Split huge pages", plain);
        assert!(affected.advice.unwrap().contains("favordynmods"));
        check(&vm_creation(&unreadable(), &unreadable(), &unreadable()), Info, false);
    }

    #[test]
    fn what_is_only_worth_knowing() {
        assert!(timer(text("200")).seen.contains("200 µs"));
        assert_eq!(
            huge_pages(text("always [madvise] never")).seen,
            "transparent huge pages: madvise"
        );
        check(&host_console(text("root=/dev/sda quiet")), Info, false);
        check(&host_console(text("root=/dev/sda quietly")), Info, true);
        for row in [timer(unreadable()), huge_pages(unreadable()), host_console(unreadable())] {
            assert_eq!(row.seen, "unknown: /sys/x: Permission denied");
        }
    }
}
