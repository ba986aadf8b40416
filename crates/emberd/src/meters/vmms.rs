//! Memory and processor time of the VMMs of sandboxes, by language pack.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read as _;
use std::time::Duration;

use emberd_sandbox::{SandboxState, SandboxView};
use parking_lot::Mutex;
use rustix::param;

/// Longest line of `/proc/PID/stat`, in bytes: 52 numbers and a name. The kernel gives it whole.
const LINE_BYTES_MAX: usize = 2048;

/// See the module.
#[derive(Debug, Default)]
pub struct Vmms(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// Ticks that each process had taken when it was last looked at.
    ticks: HashMap<u32, u64>,
    /// Ticks of all processes so far, by language pack: those that have ended count.
    by_pack: BTreeMap<String, u64>,
}

/// What the VMMs of one language pack use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Pages in RAM, in bytes, shared ones included.
    pub resident_bytes: u64,
    /// Processor time of all processes so far, those that have ended included.
    pub processor: Duration,
}

/// A process as `/proc/PID/stat` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    ticks: u64,
    resident_pages: u64,
}

impl Vmms {
    /// Looks at the VMMs of all sandboxes.
    pub fn usage(&self, views: &[SandboxView]) -> BTreeMap<String, Usage> {
        let found = views.iter().filter_map(|view| {
            let (SandboxState::Ready { vmm_pid } | SandboxState::Frozen { vmm_pid }) = view.state
            else {
                return None;
            };
            Some((view.shape.pack.to_string(), vmm_pid, Stat::of(vmm_pid)?))
        });
        self.add(found)
    }

    fn add(&self, found: impl Iterator<Item = (String, u32, Stat)>) -> BTreeMap<String, Usage> {
        let mut seen = self.0.lock();
        let mut resident: BTreeMap<String, u64> = BTreeMap::new();
        let mut ticks = HashMap::new();
        for (pack, pid, stat) in found {
            *resident.entry(pack.clone()).or_default() += stat.resident_pages;
            // A process with fewer ticks than before is another one of that id.
            let before = seen.ticks.get(&pid).copied().unwrap_or(0);
            let since = if stat.ticks < before { stat.ticks } else { stat.ticks - before };
            *seen.by_pack.entry(pack).or_default() += since;
            ticks.insert(pid, stat.ticks);
        }
        seen.ticks = ticks;
        let per_second = param::clock_ticks_per_second();
        let page_bytes = param::page_size() as u64;
        let usage = |(pack, ticks): (&String, &u64)| {
            let usage = Usage {
                resident_bytes: resident.get(pack).unwrap_or(&0) * page_bytes,
                processor: Duration::from_millis(ticks * 1000 / per_second),
            };
            (pack.clone(), usage)
        };
        seen.by_pack.iter().map(usage).collect()
    }
}

impl Stat {
    /// Looks at a process, by as few calls as can be: there may be thousands.
    fn of(pid: u32) -> Option<Self> {
        let mut line = [0; LINE_BYTES_MAX];
        let mut file = File::open(format!("/proc/{pid}/stat")).ok()?;
        let length = file.read(&mut line).ok()?;
        Self::parse(str::from_utf8(&line[..length]).ok()?)
    }

    fn parse(stat: &str) -> Option<Self> {
        // The name, in parentheses, may contain anything. The state is field 3, the times in user
        // and kernel mode are 14 and 15, the pages in RAM 24 (proc_pid_stat(5)).
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        let user: u64 = fields.nth(11)?.parse().ok()?;
        let kernel: u64 = fields.next()?.parse().ok()?;
        let resident_pages = fields.nth(8)?.parse().ok()?;
        Some(Self { ticks: user + kernel, resident_pages })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let fields = (4..=13).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        let more = (16..=23).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        let stat = format!("7 (a) b ) S {fields} 100 50 {more} 2400 25");
        let expect = Stat { ticks: 150, resident_pages: 2400 };
        assert_eq!(Stat::parse(&stat), Some(expect));
        assert_eq!(Stat::parse("7 (a) S 1 2"), None);
        assert!(Stat::of(std::process::id()).unwrap().resident_pages > 0);
    }

    #[test]
    fn time_of_processes_that_ended_still_counts() {
        let vmms = Vmms::default();
        let per_second = param::clock_ticks_per_second();
        let look = |found: &[(u32, u64)]| {
            let stat = |(pid, seconds): &(u32, u64)| {
                let stat = Stat { ticks: seconds * per_second, resident_pages: 1 };
                ("shell".to_owned(), *pid, stat)
            };
            let usage = vmms.add(found.iter().map(stat))["shell"];
            (usage.processor.as_secs(), usage.resident_bytes / param::page_size() as u64)
        };
        assert_eq!(look(&[(1, 5), (2, 1)]), (6, 2));
        assert_eq!(look(&[(1, 7)]), (8, 1));
        // Another process of that id.
        assert_eq!(look(&[(1, 2)]), (10, 1));
        assert_eq!(look(&[]), (10, 0));
    }
}
