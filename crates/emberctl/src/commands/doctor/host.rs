//! What any VMM wants of a host: KVM, memory, privacy between guests, limits, a run directory.
//! After Firecracker's document `prod-host-setup`.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use emberd_config::Config;
use emberd_vmm::{KvmTrial, KvmVerdict};
use rustix::fs::{StatVfs, StatVfsMountFlags, statvfs};
use rustix::process::{Resource, getrlimit};

use super::{Reading, Row, read};
use crate::output;

/// Memory a VMM needs beside its guest's, in bytes (64 MiB).
const VMM_BYTES: u64 = 64 << 20;

/// Free memory for fewer guests than this is a warning.
const GUESTS_FEW: u64 = 4;

/// Descriptors the daemon holds for one guest: connections, process, log.
const FILES_PER_GUEST: u64 = 24;

/// The version every KVM says (kernel document `kvm/api`).
const KVM_API_VERSION: i32 = 12;

/// Longest time that creating an empty virtual machine takes on a sound host.
const CREATE_VM_MAX: Duration = Duration::from_millis(2);

/// Free space in the run directory, in bytes (256 MiB): logs, and a copy of the VMM per jail.
const RUN_DIR_FREE_BYTES: u64 = 256 << 20;

const VULNERABILITIES: &str = "/sys/devices/system/cpu/vulnerabilities";

/// Every row that does not depend on the driver.
pub fn rows(config: &Config, is_jailed: bool) -> Vec<Row> {
    let guest_bytes = (u64::from(config.guest_ram_mib) << 20) + VMM_BYTES;
    vec![
        memory(read("/proc/meminfo"), guest_bytes),
        swap(read("/proc/swaps")),
        ksm(&read("/sys/kernel/mm/ksm/run")),
        smt(&read("/sys/devices/system/cpu/smt/active")),
        vulnerabilities(read_all(VULNERABILITIES)),
        microcode(read("/proc/cpuinfo")),
        open_files(getrlimit(Resource::Nofile).current, config.max_sandboxes as u64),
        run_dir_place(&config.run_dir, is_jailed),
        run_dir_owners(&config.run_dir, rustix::process::geteuid().as_raw()),
    ]
}

/// Names and texts of the files in `dir`, in the order of their names.
fn read_all(dir: &str) -> Result<Vec<(String, String)>, String> {
    let entries = fs::read_dir(dir).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let entries = entries.map_err(|error| format!("{dir}: {error}"))?;
    let texts = entries.iter().map(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        Ok((name, read(entry.path())?))
    });
    let mut texts: Vec<_> = texts.collect::<Result<_, String>>()?;
    texts.sort();
    Ok(texts)
}

/// Tries KVM where it is worth it.
pub fn try_kvm(verdict: KvmVerdict) -> Option<io::Result<KvmTrial>> {
    (verdict == KvmVerdict::Usable).then(KvmTrial::run)
}

/// Whether Firecracker can run guests; it has nothing but KVM. A device that opens without
/// hardware virtualisation behind it interprets guests, and stops at what it does not know.
pub fn kvm_for_firecracker(verdict: KvmVerdict, trial: Option<io::Result<KvmTrial>>) -> Row {
    const WHAT: &str = "kvm";
    match trial {
        None => {
            let seen = format!("{verdict}; Firecracker needs KVM to run guest kernels");
            Row::fail(WHAT, seen).hint(verdict.hint())
        }
        Some(Err(error)) => {
            Row::fail(WHAT, format!("{verdict}, but KVM cannot create a VM: {error}"))
                .advise("look for messages of KVM in the kernel log: dmesg")
        }
        Some(Ok(KvmTrial { api_version, .. })) if api_version != KVM_API_VERSION => {
            Row::fail(WHAT, format!("KVM has API version {api_version}, not {KVM_API_VERSION}"))
        }
        Some(Ok(KvmTrial { create_vm, .. })) => {
            let milliseconds = create_vm.as_secs_f64() * 1e3;
            let seen = format!("{verdict}; creating an empty VM takes {milliseconds:.1} ms");
            if create_vm > CREATE_VM_MAX {
                Row::warn(WHAT, seen).advise("see `vm creation` below")
            } else {
                Row::ok(WHAT, seen)
            }
        }
    }
}

fn memory(meminfo: Reading, guest_bytes: u64) -> Row {
    const WHAT: &str = "memory";
    let available = match meminfo.map(|text| meminfo_bytes(&text, "MemAvailable:")) {
        Ok(Some(available)) => available,
        Ok(None) => return Row::unknown(WHAT, "/proc/meminfo has no MemAvailable"),
        Err(error) => return Row::unknown(WHAT, &error),
    };
    let guests = available / guest_bytes;
    let seen = format!("{} free, enough for {guests} guests", output::bytes(available));
    match guests {
        0 => Row::fail(WHAT, seen).advise("give guests less memory with --guest-ram-mib"),
        few if few < GUESTS_FEW => Row::warn(WHAT, seen),
        _ => Row::ok(WHAT, seen),
    }
}

/// A line of `/proc/meminfo`, in bytes.
pub fn meminfo_bytes(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1 << 10)
}

/// Guest memory in swap outlives its guest on the disk, and makes everything slow.
fn swap(swaps: Reading) -> Row {
    const WHAT: &str = "swap";
    let swaps = match swaps {
        Ok(swaps) => swaps,
        Err(error) => return Row::unknown(WHAT, &error),
    };
    // Below a heading there is a line for each, its name first (proc(5)).
    let names: Vec<_> =
        swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    if names.is_empty() {
        return Row::ok(WHAT, "off");
    }
    let seen = format!("on ({}): memory of guests may be written to disk", names.join(", "));
    Row::warn(WHAT, seen).advise("turn swap off: swapoff -a, and remove it from /etc/fstab")
}

/// Pages merged between guests tell each what the other holds, by the time a write takes.
fn ksm(run: &Reading) -> Row {
    const WHAT: &str = "ksm";
    match run {
        Ok(state) if state == "0" => Row::ok(WHAT, "off"),
        Ok(_) => Row::warn(WHAT, "on: a guest can find out what is in the memory of another")
            .advise("turn KSM off: echo 0 > /sys/kernel/mm/ksm/run"),
        Err(error) => Row::unknown(WHAT, error),
    }
}

fn smt(active: &Reading) -> Row {
    const WHAT: &str = "smt";
    match active {
        Ok(state) if state == "0" => Row::ok(WHAT, "off"),
        Ok(_) => Row::info(WHAT, "on: guests share processor cores")
            .advise("if guests must not trust each other, boot the host with nosmt"),
        Err(error) => Row::unknown(WHAT, error),
    }
}

fn vulnerabilities(found: Result<Vec<(String, String)>, String>) -> Row {
    const WHAT: &str = "cpu flaws";
    let found = match found {
        Ok(found) => found,
        Err(error) => return Row::unknown(WHAT, &error),
    };
    let open = found.iter().filter(|(_, text)| text.contains("Vulnerable"));
    let names: Vec<_> = open.map(|(name, _)| name.as_str()).collect();
    if names.is_empty() {
        return Row::ok(WHAT, format!("{} known, none open", found.len()));
    }
    Row::warn(WHAT, format!("open: {}", names.join(", ")))
        .advise("update the kernel and the microcode; boot the host without mitigations=off")
}

/// The version of the microcode. Only the processor's maker knows whether it is current.
fn microcode(cpuinfo: Reading) -> Row {
    const WHAT: &str = "microcode";
    let cpuinfo = match cpuinfo {
        Ok(cpuinfo) => cpuinfo,
        Err(error) => return Row::unknown(WHAT, &error),
    };
    let field = |wanted: &str| {
        let mut fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(name, _)| name.trim() == wanted).map(|(_, value)| value.trim())
    };
    match (field("microcode"), field("model name")) {
        (Some(version), Some(model)) => Row::info(WHAT, format!("{version} of {model}")),
        _ => Row::unknown(WHAT, "/proc/cpuinfo names no microcode version"),
    }
}

/// The limit is that of this shell. The daemon has the limit of the process that starts it.
fn open_files(limit: Option<u64>, guests_max: u64) -> Row {
    const WHAT: &str = "open files";
    let Some(limit) = limit else { return Row::ok(WHAT, "not limited") };
    let guests = limit / FILES_PER_GUEST;
    let seen = format!("at most {limit}, enough for {guests} guests");
    if guests < guests_max {
        Row::warn(WHAT, seen)
            .advise(format!("start the daemon after: ulimit -n {}", guests_max * FILES_PER_GUEST))
    } else {
        Row::ok(WHAT, seen)
    }
}

/// Whether what the daemon and a jail need works where `run_dir` is, or will be.
fn run_dir_place(run_dir: &Path, is_jailed: bool) -> Row {
    const WHAT: &str = "run directory";
    let Some(existing) = run_dir.ancestors().find(|ancestor| ancestor.exists()) else {
        return Row::unknown(WHAT, &format!("no part of {} exists", run_dir.display()));
    };
    match statvfs(existing) {
        Ok(stat) => run_dir_mount(run_dir, &stat, is_jailed),
        Err(error) => Row::unknown(WHAT, &format!("{}: {error}", existing.display())),
    }
}

fn run_dir_mount(run_dir: &Path, stat: &StatVfs, is_jailed: bool) -> Row {
    const WHAT: &str = "run directory";
    let shown = run_dir.display();
    let options = [
        (StatVfsMountFlags::RDONLY, "ro", true),
        (StatVfsMountFlags::NOEXEC, "noexec", is_jailed),
        (StatVfsMountFlags::NODEV, "nodev", is_jailed),
    ];
    let in_the_way =
        options.iter().filter(|(flag, _, matters)| *matters && stat.f_flag.contains(*flag));
    let names: Vec<_> = in_the_way.map(|(_, name, _)| *name).collect();
    if !names.is_empty() {
        let why = if is_jailed { "; jails need devices and programs there" } else { "" };
        return Row::fail(WHAT, format!("{shown} is mounted {}{why}", names.join(", "))).advise(
            "choose a directory on another file system, as in: --run-dir /var/lib/emberd/run",
        );
    }
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let seen = format!("{shown}, {} free", output::bytes(free));
    if free < RUN_DIR_FREE_BYTES { Row::warn(WHAT, seen) } else { Row::ok(WHAT, seen) }
}

/// A user who may write to a parent directory can replace the run directory.
fn run_dir_owners(run_dir: &Path, user: u32) -> Row {
    const WHAT: &str = "run dir parents";
    for dir in run_dir.ancestors().skip(1) {
        // What does not exist yet will be the daemon's own.
        let Ok(metadata) = dir.metadata() else { continue };
        if !is_safe(metadata.uid(), metadata.mode(), user) {
            let seen = format!("other users can replace files in {}", dir.display());
            return Row::fail(WHAT, seen).advise("choose another directory with --run-dir");
        }
    }
    Row::ok(WHAT, "no other user can replace the run directory")
}

/// Whether only `user` and root decide what a directory holds. In a sticky one each decides
/// over their own entries.
fn is_safe(owner: u32, mode: u32, user: u32) -> bool {
    let others_write = mode & 0o022 != 0;
    let is_sticky = mode & 0o1000 != 0;
    (owner == 0 || owner == user) && (!others_write || is_sticky)
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
        Err("/proc/x: Permission denied".to_owned())
    }

    #[track_caller]
    fn check(row: &Row, verdict: Verdict, seen: &str) {
        assert_eq!((row.verdict, row.seen.as_str()), (verdict, seen));
    }

    #[test]
    fn memory_is_judged_by_the_guests_it_holds() {
        let judge =
            |kib: u64| memory(Ok(format!("MemTotal: 9 kB\nMemAvailable: {kib} kB\n")), 320 << 20);
        assert_eq!(judge(300 << 10).verdict, Fail);
        assert_eq!(judge(700 << 10).verdict, Warn);
        check(&judge(8 << 20), Good, "8.0 GiB free, enough for 25 guests");
        check(
            &memory(text("MemAvailable: lots"), 1),
            Info,
            "unknown: /proc/meminfo has no MemAvailable",
        );
    }

    #[test]
    fn what_cannot_be_read_is_unknown() {
        for row in [
            memory(unreadable(), 1),
            swap(unreadable()),
            ksm(&unreadable()),
            smt(&unreadable()),
            microcode(unreadable()),
            vulnerabilities(Err("/proc/x: Permission denied".to_owned())),
        ] {
            check(&row, Info, "unknown: /proc/x: Permission denied");
        }
    }

    #[test]
    fn switches_of_the_kernel() {
        check(&swap(text("Filename Type Size Used Priority")), Good, "off");
        let on = swap(text("Filename Type Size\n/dev/sda2 partition 9\n/swapfile file 9"));
        check(&on, Warn, "on (/dev/sda2, /swapfile): memory of guests may be written to disk");
        assert_eq!(ksm(&text("0")).verdict, Good);
        assert_eq!(ksm(&text("1")).verdict, Warn);
        assert_eq!(smt(&text("0")).verdict, Good);
        assert_eq!(smt(&text("1")).verdict, Info);
    }

    #[test]
    fn flaws_that_are_open_are_named() {
        let found = |flaws: &[(&str, &str)]| {
            Ok(flaws.iter().map(|(name, text)| ((*name).into(), (*text).into())).collect())
        };
        let closed = ("spectre_v1", "Mitigation: usercopy/swapgs barriers");
        check(
            &vulnerabilities(found(&[("l1tf", "Not affected"), closed])),
            Good,
            "2 known, none open",
        );
        let open = [("mds", "Vulnerable; SMT vulnerable"), closed, ("itlb", "KVM: Vulnerable")];
        check(&vulnerabilities(found(&open)), Warn, "open: mds, itlb");
    }

    #[test]
    fn microcode_is_named() {
        let cpuinfo = "processor\t: 0\nmodel name\t: AMD EPYC\nmicrocode\t: 0x1000065\n";
        check(&microcode(text(cpuinfo)), Info, "0x1000065 of AMD EPYC");
        assert!(microcode(text("processor: 0")).seen.starts_with("unknown"));
    }

    #[test]
    fn descriptors_are_judged_by_the_guests_they_serve() {
        check(&open_files(None, 64), Good, "not limited");
        check(&open_files(Some(20_000), 64), Good, "at most 20000, enough for 833 guests");
        assert_eq!(
            open_files(Some(1024), 64).advice.unwrap(),
            "start the daemon after: ulimit -n 1536"
        );
    }

    #[test]
    fn firecracker_has_nothing_but_kvm() {
        use KvmVerdict::{Absent, NoHardwareVirtualisation, NotPermitted, Usable};
        for verdict in [Absent, NotPermitted, NoHardwareVirtualisation] {
            assert!(try_kvm(verdict).is_none());
            let row = kvm_for_firecracker(verdict, None);
            assert_eq!((row.verdict, row.advice.is_some()), (Fail, true), "{row:?}");
        }
        let trial = |api_version, milliseconds| {
            let create_vm = Duration::from_millis(milliseconds);
            kvm_for_firecracker(Usable, Some(Ok(KvmTrial { api_version, create_vm })))
        };
        check(
            &trial(12, 1),
            Good,
            "/dev/kvm opens and the processor virtualises; creating an empty VM takes 1.0 ms",
        );
        assert_eq!(trial(12, 30).verdict, Warn);
        check(&trial(11, 1), Fail, "KVM has API version 11, not 12");
        let refused = kvm_for_firecracker(Usable, Some(Err(io::ErrorKind::OutOfMemory.into())));
        assert_eq!(refused.verdict, Fail);
    }

    #[test]
    fn a_jail_needs_devices_and_programs_in_the_run_directory() {
        let mounted = |f_flag, is_jailed| {
            let stat = StatVfs { f_flag, f_bavail: 1 << 20, ..statvfs("/").unwrap() };
            run_dir_mount(Path::new("/run/emberd"), &stat, is_jailed)
        };
        let (noexec, nodev) = (StatVfsMountFlags::NOEXEC, StatVfsMountFlags::NODEV);
        assert_eq!(mounted(noexec | nodev, false).verdict, Good);
        check(
            &mounted(noexec | nodev, true),
            Fail,
            "/run/emberd is mounted noexec, nodev; jails need devices and programs there",
        );
        assert_eq!(mounted(StatVfsMountFlags::empty(), true).verdict, Good);
        assert_eq!(mounted(StatVfsMountFlags::RDONLY, false).verdict, Fail);
    }

    #[test]
    fn directories_others_may_change_are_told_from_safe_ones() {
        let cases = [
            (0, 0o755, true),
            (7, 0o700, true),
            (0, 0o1777, true),
            (0, 0o777, false),
            (7, 0o770, false),
            (8, 0o755, false),
        ];
        for (owner, mode, safe) in cases {
            assert_eq!(is_safe(owner, mode, 7), safe, "{owner} {mode:o}");
        }
        assert_eq!(run_dir_owners(Path::new("/run/emberd"), 7).verdict, Good);
    }
}
