//! Reads `/proc`: processes, their resources and memory, and the load of the host.

use std::fs;
use std::path::Path;
use std::time::Duration;

/// Returns the descendants of `root`, including zombies.
pub fn descendants(root: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let parents: Vec<(u32, u32)> = entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            Some((pid, parent_of(&entry.path())?))
        })
        .collect();
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| pid));
        next += 1;
    }
    found.split_off(1)
}

fn parent_of(process: &Path) -> Option<u32> {
    let stat = fs::read_to_string(process.join("stat")).ok()?;
    // The name, in parentheses, may contain anything; state and parent follow the last
    // parenthesis.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Returns whether the process exists. A zombie does not count, because it holds only its pid.
pub fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z'))
}

/// Returns the processor time that the threads of a process have taken so far.
pub fn processor_time(pid: u32) -> Option<Duration> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    // A thread that ends meanwhile is left out.
    let times = threads.flatten().filter_map(|thread| {
        let schedstat = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        schedstat.split_whitespace().next()?.parse::<u64>().ok()
    });
    Some(Duration::from_nanos(times.sum()))
}

/// Returns the number of open file descriptors of a process.
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Returns the number of entries of a directory.
pub fn entries(dir: &Path) -> usize {
    fs::read_dir(dir).map_or(0, Iterator::count)
}

/// Memory of one process, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weight {
    /// Proportional set size: pages shared by n processes count 1/n.
    pub pss_bytes: u64,
    /// Pages that are not shared, which the end of the process frees.
    pub private_bytes: u64,
}

impl Weight {
    /// Returns the memory of process `pid`; `None` if it cannot be read.
    pub fn of(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?)
    }

    fn parse(rollup: &str) -> Option<Self> {
        let private = kib(rollup, "Private_Clean:")? + kib(rollup, "Private_Dirty:")?;
        Some(Self { pss_bytes: kib(rollup, "Pss:")? << 10, private_bytes: private << 10 })
    }
}

/// Returns the host's memory in bytes: total, and available to programs.
pub fn memory() -> Option<(u64, u64)> {
    let meminfo = fs::read_to_string("/proc/meminfo").ok()?;
    Some((kib(&meminfo, "MemTotal:")? << 10, kib(&meminfo, "MemAvailable:")? << 10))
}

/// Returns the number on the line that starts with `name`.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Returns the load averages of 1, 5 and 15 minutes.
pub fn load() -> Option<[f64; 3]> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    let mut words = text.split_whitespace().map(|word| word.parse().ok());
    Some([words.next()??, words.next()??, words.next()??])
}

/// Time of all processors since the host started, in clock ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticks {
    /// Total time.
    pub total: u64,
    /// Time in which the hypervisor ran other machines.
    pub stolen: u64,
}

impl Ticks {
    /// Returns the time until now.
    pub fn now() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/stat").ok()?)
    }

    fn parse(stat: &str) -> Option<Self> {
        // user nice system idle iowait irq softirq steal; later fields are included in these.
        let words = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace();
        let ticks = words.take(8).map(|word| word.parse().ok()).collect::<Option<Vec<u64>>>()?;
        Some(Self { total: ticks.iter().sum(), stolen: *ticks.get(7)? })
    }

    /// Returns the stolen time since `earlier`, in thousandths.
    pub fn stolen_permille(self, earlier: Self) -> u64 {
        let stolen = self.stolen.saturating_sub(earlier.stolen);
        let total = self.total.saturating_sub(earlier.total);
        (stolen * 1000).checked_div(total).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_seen() {
        let own = std::process::id();
        assert!(is_running(own) && descriptors(own) > 2);
        assert!(processor_time(own).unwrap() > Duration::ZERO);
        assert_eq!(processor_time(u32::MAX), None);
        assert!(Weight::of(own).unwrap().pss_bytes > 0);
        let mut child = std::process::Command::new("/bin/cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        assert!(descendants(own).contains(&child.id()));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(!is_running(child.id()));
    }

    #[test]
    fn host_is_seen() {
        let (total, available) = memory().unwrap();
        assert!(0 < available && available <= total);
        assert!(load().is_some() && Ticks::now().unwrap().total > 0);
    }

    #[test]
    fn rollups_are_added_up() {
        let rollup = "55d0-7ffd ---p [rollup]\nRss:  9 kB\nPss:   8 kB\nPss_Dirty:  1 kB\n\
                      Private_Clean:  2 kB\nPrivate_Dirty:  3 kB\n";
        let weight = Weight { pss_bytes: 8 << 10, private_bytes: 5 << 10 };
        assert_eq!(Weight::parse(rollup), Some(weight));
        assert_eq!(Weight::parse("Rss: 9 kB"), None);
    }

    #[test]
    fn guest_time_is_not_counted_twice() {
        let ticks = Ticks::parse("cpu  10 0 10 60 0 0 0 20 5 0\ncpu0 1\n").unwrap();
        assert_eq!(ticks, Ticks { total: 100, stolen: 20 });
        assert_eq!(ticks.stolen_permille(Ticks { total: 0, stolen: 0 }), 200);
        assert_eq!(ticks.stolen_permille(ticks), 0);
    }
}
