//! Resource usage of the machine, from its kernel: `/proc` (proc(5)) and statvfs(3).

use std::fs;

use emberd_proto::Metrics;
use nix::sys::statvfs::statvfs;
use parking_lot::Mutex;

use crate::machine;

/// Bit of a process's flags that marks a kernel thread (`PF_KTHREAD`, include/linux/sched.h).
const KERNEL_THREAD: u64 = 0x0020_0000;

/// Processor times at the last request for metrics.
#[derive(Debug, Default)]
pub struct Usage(Mutex<CpuTime>);

/// Time of all processors since the machine started, in ticks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct CpuTime {
    busy: u64,
    all: u64,
}

impl Usage {
    /// Returns the current usage. Values that the kernel does not report are 0.
    pub fn metrics(&self) -> Metrics {
        let stat = read("stat");
        let memory = Memory::of(&read("meminfo"));
        let (disk_total_bytes, disk_used_bytes) = disk();
        Metrics {
            time_ms: machine::wall_clock_us() / 1000,
            cpu_count: cpu_count(&stat),
            cpu_used_percent: self.cpu_used_percent(CpuTime::of(&stat)),
            memory_total_bytes: memory.total,
            memory_used_bytes: memory.total.saturating_sub(memory.available),
            memory_cached_bytes: memory.cached,
            disk_total_bytes,
            disk_used_bytes,
            process_count: process_count(),
            program_count: None,
            uptime_ms: machine::boot_time_us() / 1000,
        }
    }

    /// No code that could panic runs under this lock.
    fn cpu_used_percent(&self, now: CpuTime) -> f64 {
        let mut last = self.0.lock();
        let share = now.share_since(*last);
        *last = now;
        share
    }
}

impl CpuTime {
    /// Parses `/proc/stat`. The first line has user, nice, system, idle, iowait, irq, softirq and
    /// steal; later fields are included in user.
    fn of(stat: &str) -> Self {
        let mut ticks = [0; 8];
        let words = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
        for (tick, word) in ticks.iter_mut().zip(words) {
            *tick = word.parse().unwrap_or(0);
        }
        let all: u64 = ticks.iter().sum();
        Self { busy: all - ticks[3] - ticks[4], all }
    }

    fn share_since(self, last: Self) -> f64 {
        let all = self.all.saturating_sub(last.all);
        // The kernel may correct the I/O wait time downwards by a tick.
        let busy = self.busy.saturating_sub(last.busy).min(all);
        // In ten-thousandths, so that the numbers stay exact.
        let share = (busy * 10_000).checked_div(all).unwrap_or(0);
        f64::from(u32::try_from(share).unwrap_or(10_000)) / 100.0
    }
}

fn cpu_count(stat: &str) -> u32 {
    let is_one = |line: &&str| {
        line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    u32::try_from(stat.lines().filter(is_one).count()).unwrap_or(u32::MAX)
}

/// Sizes in bytes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Memory {
    total: u64,
    available: u64,
    cached: u64,
}

impl Memory {
    /// Parses `/proc/meminfo`.
    fn of(meminfo: &str) -> Self {
        let mut memory = Self::default();
        for line in meminfo.lines() {
            let mut words = line.split_whitespace();
            let (Some(name), Some(kib)) = (words.next(), words.next()) else { continue };
            let bytes = kib.parse::<u64>().unwrap_or(0).saturating_mul(1024);
            match name {
                "MemTotal:" => memory.total = bytes,
                "MemAvailable:" => memory.available = bytes,
                "Buffers:" | "Cached:" => memory.cached += bytes,
                _ => {}
            }
        }
        memory
    }
}

/// Returns total and used bytes of the file system at `/`.
fn disk() -> (u64, u64) {
    let Ok(all) = statvfs("/") else { return (0, 0) };
    let used = all.blocks().saturating_sub(all.blocks_free());
    (all.blocks() * all.fragment_size(), used * all.fragment_size())
}

/// Returns the number of processes, without kernel threads.
fn process_count() -> u32 {
    let Ok(entries) = fs::read_dir("/proc") else { return 0 };
    let is_process = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        let is_pid = name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
        is_pid && fs::read(entry.path().join("stat")).is_ok_and(|stat| !is_kernel_thread(&stat))
    };
    let count = entries.flatten().filter(is_process).count();
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Parses `/proc/PID/stat`. The flags are the seventh word after the name, which is in
/// parentheses and may contain anything.
fn is_kernel_thread(stat: &[u8]) -> bool {
    let stat = String::from_utf8_lossy(stat);
    let behind = stat.rsplit_once(')').map_or("", |(_, behind)| behind);
    let flags = behind.split_whitespace().nth(6).and_then(|word| word.parse::<u64>().ok());
    flags.is_some_and(|flags| flags & KERNEL_THREAD != 0)
}

fn read(name: &str) -> String {
    fs::read_to_string(format!("/proc/{name}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  10 1 4 80 5 0 0 0 3 0\ncpu0 5 1 2 40 5 0 0 0 0 0\n\
        cpu1 5 0 2 40 0 0 0 0 0 0\nintr 1\ncpufreq 1\n";

    #[test]
    fn processors_are_counted_and_their_share_is_of_the_time_between() {
        let first = CpuTime::of(STAT);
        assert_eq!((first, cpu_count(STAT)), (CpuTime { busy: 15, all: 100 }, 2));
        let usage = Usage::default();
        let share = |now| usage.cpu_used_percent(now).to_string();
        assert_eq!(share(first), "15");
        assert_eq!(share(first), "0");
        assert_eq!(share(CpuTime { busy: 16, all: 103 }), "33.33");
        assert_eq!(share(CpuTime { busy: 10, all: 90 }), "0");
    }

    #[test]
    fn memory_is_in_bytes() {
        let meminfo = "MemTotal:  100 kB\nMemFree: 1 kB\nMemAvailable: 60 kB\nBuffers: 2 kB\n\
            Cached: 3 kB\nSwapCached: 9 kB\n";
        let expect = Memory { total: 100 << 10, available: 60 << 10, cached: 5 << 10 };
        assert_eq!(Memory::of(meminfo), expect);
        assert_eq!(Memory::of(""), Memory::default());
    }

    #[test]
    fn kernel_threads_are_told_by_their_flags() {
        assert!(is_kernel_thread(b"2 (kthreadd) S 0 0 0 0 -1 2129984 0 0"));
        assert!(!is_kernel_thread(b"3 (a) b) S 1 3 3 0 -1 4194560 0 0"));
        assert!(!is_kernel_thread(b""));
    }
}
