//! The description of the host, the programs and the time in every result.

use std::fs;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use emberd_api::Info;
use serde::{Deserialize, Serialize};

use super::noise::{self, Noise};
use super::proc;

/// Text for values that the system does not report.
const UNKNOWN: &str = "unknown";

/// The origin of figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Host {
    /// The processor's name.
    pub cpu: String,
    /// Processors this process may use.
    pub cores: usize,
    /// Memory of the host, in bytes.
    pub memory_bytes: u64,
    /// Available memory before the run, in bytes.
    pub memory_available_bytes: u64,
    /// Kernel release.
    pub kernel: String,
    /// The virtualisation of the host itself, or `none`.
    pub virtualisation: String,
    /// The driver: `firecracker`, `qemu`, or `double` if there was no real guest.
    pub driver: String,
    /// Version of the VMM.
    pub vmm_version: String,
    /// `kvm`, `tcg` (software emulation), or `none` if there was no real guest.
    pub accelerator: String,
    /// Memory of each guest, in MiB.
    pub guest_ram_mib: u32,
    /// Version of the daemon.
    pub emberd_version: String,
    /// Commit of the working directory, with `-dirty` if files differ from it.
    pub commit: String,
    /// `release` or `debug`.
    pub build: String,
    /// When the run started (UTC).
    pub date: String,
    /// Load averages of 1, 5 and 15 minutes before the run.
    pub load_before: [f64; 3],
    /// Load averages after the run.
    pub load_after: [f64; 3],
    /// Time of the calibration loop before the run, in nanoseconds: the current speed of this
    /// machine.
    pub calibration_ns: u64,
}

impl Host {
    /// Describes the host before a run; daemons are added later.
    pub fn before() -> Self {
        let (memory_bytes, memory_available_bytes) = proc::memory().unwrap_or_default();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let load = proc::load().unwrap_or_default();
        Self {
            cpu: cpu_field(&cpuinfo, "model name").unwrap_or(UNKNOWN).to_owned(),
            cores: noise::cores(),
            memory_bytes,
            memory_available_bytes,
            kernel: line_of("/proc/sys/kernel/osrelease"),
            virtualisation: virtualisation(&cpuinfo),
            driver: UNKNOWN.to_owned(),
            vmm_version: UNKNOWN.to_owned(),
            accelerator: UNKNOWN.to_owned(),
            guest_ram_mib: 0,
            emberd_version: UNKNOWN.to_owned(),
            commit: commit(),
            build: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
            date: utc(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()),
            load_before: load,
            load_after: load,
            calibration_ns: Noise::sample().calibration_ns,
        }
    }

    /// Adds the daemon's description. One over the double does not replace a real one.
    pub fn describe(&mut self, info: &Info, is_double: bool) {
        if is_double && self.driver != UNKNOWN {
            return;
        }
        let (driver, accelerator) = if is_double {
            ("double", "none")
        } else {
            (info.vmm.driver.as_str(), info.vmm.accelerator.as_str())
        };
        driver.clone_into(&mut self.driver);
        accelerator.clone_into(&mut self.accelerator);
        info.vmm.version.clone_into(&mut self.vmm_version);
        info.version.clone_into(&mut self.emberd_version);
        self.guest_ram_mib = info.guest_ram_mib;
    }

    /// Returns the differences between `self` and `other` that make their figures incomparable.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let numbers = [self, other].map(|host| (host.cores.to_string(), host.guest_ram_mib));
        let ram = numbers.each_ref().map(|(_, mib)| format!("{mib} MiB"));
        let pairs = [
            ("cpu", &self.cpu, &other.cpu),
            ("cores", &numbers[0].0, &numbers[1].0),
            ("kernel", &self.kernel, &other.kernel),
            ("virtualisation", &self.virtualisation, &other.virtualisation),
            ("driver", &self.driver, &other.driver),
            ("vmm version", &self.vmm_version, &other.vmm_version),
            ("accelerator", &self.accelerator, &other.accelerator),
            ("guest memory", &ram[0], &ram[1]),
            ("build", &self.build, &other.build),
        ];
        let differing = pairs.into_iter().filter(|(_, one, another)| one != another);
        differing.map(|(fact, one, another)| format!("{fact}: {one}, now {another}")).collect()
    }
}

fn line_of(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().next().map(str::trim).filter(|line| !line.is_empty());
    line.unwrap_or(UNKNOWN).to_owned()
}

fn cpu_field<'a>(cpuinfo: &'a str, name: &str) -> Option<&'a str> {
    let value = |line: &'a str| line.split_once(':').filter(|(key, _)| key.trim() == name);
    cpuinfo.lines().find_map(value).map(|(_, value)| value.trim())
}

fn virtualisation(cpuinfo: &str) -> String {
    let flags = cpu_field(cpuinfo, "flags").unwrap_or_default();
    if !flags.split(' ').any(|flag| flag == "hypervisor") {
        return "none".to_owned();
    }
    let facts =
        ["sys_vendor", "product_name"].map(|fact| line_of(&format!("/sys/class/dmi/id/{fact}")));
    let known: Vec<_> = facts.into_iter().filter(|fact| fact != UNKNOWN).collect();
    if known.is_empty() { "virtual machine".to_owned() } else { known.join(" ") }
}

fn commit() -> String {
    let output =
        Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12"]).output();
    let output = output.ok().filter(|output| output.status.success());
    output.map_or(UNKNOWN.to_owned(), |output| {
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    })
}

/// Formats a time since the Unix epoch as `2026-11-23T22:47:48Z`.
fn utc(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    let (mut days, second) = (seconds / 86_400, seconds % 86_400);
    let mut year = 1970;
    while days >= days_of_year(year) {
        days -= days_of_year(year);
        year += 1;
    }
    let february = days_of_year(year) - 337;
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (day, hour, minute) = (days + 1, second / 3600, second / 60 % 60);
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}Z", second % 60)
}

fn days_of_year(year: u64) -> u64 {
    let leap = year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    if leap { 366 } else { 365 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_the_calendars() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_000_000_000, "2001-09-09T01:46:40Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn host_stamp_survives_json_and_tells_differences() {
        let host = Host::before();
        let json = serde_json::to_string(&host).unwrap();
        let mut other: Host = serde_json::from_str(&json).unwrap();
        assert_eq!(other, host);
        assert_eq!(host.differences(&other), Vec::<String>::new());
        other.accelerator = "kvm".into();
        assert_eq!(host.differences(&other), ["accelerator: unknown, now kvm"]);
    }

    #[test]
    fn fields_of_cpuinfo_are_found_by_their_whole_name() {
        let cpuinfo = "model\t\t: 85\nmodel name\t: Some CPU\nflags\t\t: fpu hypervisor\n";
        assert_eq!(cpu_field(cpuinfo, "model name"), Some("Some CPU"));
        assert_eq!(virtualisation("flags : fpu"), "none");
        assert_ne!(virtualisation(cpuinfo), "none");
    }
}
