//! The host's support for VMMs: whether KVM is usable, and the frequency of its clock.

use std::time::{Duration, Instant};
use std::{fmt, fs, io};

use rustix::time::{ClockId, clock_gettime};

use crate::sys;

const KVM_DEVICE: &str = "/dev/kvm";

/// File that describes the processors.
pub(crate) const CPUINFO: &str = "/proc/cpuinfo";

/// Time over which the cycle counter is compared with the clock. Reading either takes well below
/// a microsecond, so the frequency is right to some 50 ppm.
const TSC_SPAN: Duration = Duration::from_millis(20);

/// Whether guests should run on KVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KvmVerdict {
    /// The device opens and the processor virtualises.
    Usable,
    /// The device does not exist.
    Absent,
    /// The device does not open for this user.
    NotPermitted,
    /// The device opens, but the processor shows neither VMX nor SVM: KVM, if it runs at all,
    /// would interpret the guest instruction by instruction. Nested clouds do this.
    NoHardwareVirtualisation,
}

impl KvmVerdict {
    /// Checks this host.
    pub fn of_this_host() -> Self {
        let opened = fs::File::options().read(true).write(true).open(KVM_DEVICE);
        let cpuinfo = fs::read_to_string(CPUINFO).unwrap_or_default();
        Self::judge(opened.map(drop).map_err(|error| error.kind()), &cpuinfo)
    }

    fn judge(opened: Result<(), io::ErrorKind>, cpuinfo: &str) -> Self {
        match opened {
            Err(io::ErrorKind::PermissionDenied) => Self::NotPermitted,
            Err(_) => Self::Absent,
            Ok(()) if virtualises(cpuinfo) => Self::Usable,
            Ok(()) => Self::NoHardwareVirtualisation,
        }
    }

    /// Returns a hint how to fix the problem.
    pub fn hint(self) -> Option<&'static str> {
        match self {
            Self::Usable => None,
            Self::Absent => Some(
                "load the kvm_intel or kvm_amd module, or enable virtualisation \
                                  in the firmware or, on a virtual machine, its host",
            ),
            Self::NotPermitted => Some("add yourself to the kvm group, then log in again"),
            Self::NoHardwareVirtualisation => {
                Some("use a machine with nested virtualisation or bare metal")
            }
        }
    }
}

/// States the fact, in a form that follows "because" or a colon.
impl fmt::Display for KvmVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Usable => "/dev/kvm opens and the processor virtualises",
            Self::Absent => "/dev/kvm does not exist",
            Self::NotPermitted => "/dev/kvm does not open for this user",
            Self::NoHardwareVirtualisation => {
                "/dev/kvm opens, but the processor shows neither vmx nor svm"
            }
        })
    }
}

/// Result of a KVM trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvmTrial {
    /// Version of its API; 12 since Linux 2.6.22.
    pub api_version: i32,
    /// How long it took to create an empty machine.
    pub create_vm: Duration,
}

impl KvmTrial {
    /// Creates an empty machine and closes it.
    ///
    /// # Errors
    /// The device does not open, or KVM refuses.
    pub fn run() -> io::Result<Self> {
        let kvm = fs::File::options().read(true).write(true).open(KVM_DEVICE)?;
        let api_version = sys::kvm_api_version(&kvm)?;
        let start = Instant::now();
        let vm = sys::kvm_create_vm(&kvm)?;
        let create_vm = start.elapsed();
        drop(vm);
        Ok(Self { api_version, create_vm })
    }
}

/// Whether the first processor of a `/proc/cpuinfo` text has VMX (Intel) or SVM (AMD).
fn virtualises(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == "flags").then_some(value)
    });
    flags.unwrap_or_default().split_whitespace().any(|flag| matches!(flag, "vmx" | "svm"))
}

/// Frequency of the host's cycle counter, in kHz. Takes some 20 ms.
pub(crate) fn tsc_khz() -> u64 {
    let (start, start_cycles) = clock_and_cycles();
    std::thread::sleep(TSC_SPAN);
    let (end, end_cycles) = clock_and_cycles();
    let khz =
        u128::from(end_cycles - start_cycles) * 1_000_000 / end.saturating_sub(start).as_nanos();
    u64::try_from(khz).expect("a counter of 64 bits over 20 ms")
}

/// Reads the clock and the cycle counter together: the fastest of some readings.
fn clock_and_cycles() -> (Duration, u64) {
    let reading = || {
        let before = clock();
        let cycles = sys::cycles();
        (clock().saturating_sub(before), before, cycles)
    };
    let (_, clock, cycles) = (0..8).map(|_| reading()).min().expect("there were eight readings");
    (clock, cycles)
}

fn clock() -> Duration {
    // Not adjusted by NTP, as the counter is not.
    let now = clock_gettime(ClockId::MonotonicRaw);
    Duration::try_from(now).expect("time since boot is positive")
}

/// The host as a template's key names it: what a snapshot depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) cpu: String,
    pub(crate) kernel: String,
}

impl Identity {
    /// Reads [`CPUINFO`] and asks the kernel.
    pub(crate) fn read() -> io::Result<Self> {
        let cpuinfo = fs::read_to_string(CPUINFO)?;
        let uname = rustix::system::uname();
        let [release, build] =
            [uname.release(), uname.version()].map(|text| text.to_string_lossy());
        Ok(Self { cpu: processor(&cpuinfo), kernel: format!("{release} {build}") })
    }
}

/// Returns the parts of a processor that decide its saved state: its model, and its microcode,
/// which may remove features. The name includes the clock rate, which guests can read.
fn processor(cpuinfo: &str) -> String {
    let first = cpuinfo.split("\n\n").next().unwrap_or_default();
    let field = |wanted: &str| {
        let mut fields = first.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(name, _)| name.trim() == wanted).map_or("?", |(_, value)| value.trim())
    };
    let names = ["vendor_id", "cpu family", "model", "model name", "stepping", "microcode"];
    names.map(field).join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpuinfo(flags: &str) -> String {
        format!("processor\t: 0\nvmx flags\t: vnmi\nflags\t\t: {flags}\nbugs\t\t: svm\n\n")
    }

    #[test]
    fn verdicts() {
        use std::io::ErrorKind::{NotFound, PermissionDenied};
        let intel = cpuinfo("fpu vmx sse");
        for (opened, cpuinfo, expect) in [
            (Ok(()), intel.as_str(), KvmVerdict::Usable),
            (Ok(()), &cpuinfo("fpu svm"), KvmVerdict::Usable),
            (Ok(()), &cpuinfo("fpu hypervisor vmx_not"), KvmVerdict::NoHardwareVirtualisation),
            (Ok(()), "", KvmVerdict::NoHardwareVirtualisation),
            (Err(NotFound), &intel, KvmVerdict::Absent),
            (Err(PermissionDenied), &intel, KvmVerdict::NotPermitted),
        ] {
            assert_eq!(KvmVerdict::judge(opened, cpuinfo), expect, "{opened:?} {cpuinfo:?}");
        }
    }

    #[test]
    fn all_but_usable_have_a_hint() {
        assert_eq!(KvmVerdict::Usable.hint(), None);
        for verdict in
            [KvmVerdict::Absent, KvmVerdict::NotPermitted, KvmVerdict::NoHardwareVirtualisation]
        {
            assert!(verdict.hint().is_some(), "{verdict}");
        }
    }

    #[test]
    fn cycle_counter_frequency_is_plausible() {
        let khz = tsc_khz();
        assert!((100_000..20_000_000).contains(&khz), "{khz} kHz");
    }

    #[test]
    fn the_first_processor_is_named_by_what_its_state_depends_on() {
        let cpuinfo = "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 85\n\
            model name\t: Xeon: 2.5GHz\nstepping\t: 7\nmicrocode\t: 0x5003\ncpu MHz\t\t: 2500.1\n\n\
            processor\t: 1\nvendor_id\t: Other\n";
        assert_eq!(processor(cpuinfo), "GenuineIntel 6 85 Xeon: 2.5GHz 7 0x5003");
        assert_eq!(processor(""), "? ? ? ? ? ?");
    }

    #[test]
    fn this_host_is_read_the_same_twice() {
        assert_eq!(Identity::read().unwrap(), Identity::read().unwrap());
    }
}
