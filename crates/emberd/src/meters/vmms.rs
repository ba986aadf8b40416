//! Memory and processor time of the VMMs of sandboxes, by language pack.
//!
//! ```text
//! look, every 5 s ──reads each VMM──▶ readings ──summed──▶ scrape
//!                                        ▲ VMMs that have none, at most 64
//!                                        └──────────────────┘
//! ```
//! Reading a process takes some 12 µs: a scrape that read all of a thousand would take 12 ms.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read as _;
use std::time::Duration;

use emberd_sandbox::{SandboxId, SandboxState, SandboxView, Sandboxes};
use parking_lot::Mutex;
use rustix::param;

/// Longest line of `/proc/PID/stat`, in bytes: 52 numbers and a name. The kernel gives it whole.
const LINE_BYTES_MAX: usize = 2048;

/// Time from the end of a look at all VMMs to the next one: with the time that a look takes, the
/// greatest age of what a scrape shows.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Most VMMs that a scrape reads itself, because they have started since the last look. More of
/// them appear with the next look.
const READ_BY_SCRAPE_MAX: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub struct Vmms(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    readings: HashMap<SandboxId, Reading>,
    /// Ticks of all processes so far, by language pack: those that have ended count.
    by_pack: BTreeMap<String, u64>,
    /// Number of looks so far.
    looks: u64,
}

/// A process when it was last read.
#[derive(Debug, Clone, Copy)]
struct Reading {
    stat: Stat,
    /// Number of the look that was under way or done then.
    look: u64,
}

/// What the VMMs of one language pack use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Pages in RAM, in bytes, shared ones included.
    pub resident_bytes: u64,
    /// Processor time of all processes so far, those that have ended included.
    pub processor: Duration,
}

/// The VMM of a sandbox.
#[derive(Debug, Clone)]
struct OfSandbox {
    id: SandboxId,
    pack: String,
    pid: u32,
}

/// A process as `/proc/PID/stat` shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    ticks: u64,
    resident_pages: u64,
}

impl Vmms {
    /// Reads the VMMs of all sandboxes. Blocks.
    pub fn look(&self, sandboxes: &Sandboxes) {
        self.look_by(&running(&sandboxes.list()), Stat::of);
    }

    /// Sums up what was read of the VMMs of the sandboxes in `views`. Reads some that were not.
    pub fn usage(&self, views: &[SandboxView]) -> BTreeMap<String, Usage> {
        self.usage_by(&running(views), Stat::of)
    }

    fn look_by(&self, vmms: &[OfSandbox], read: impl Fn(u32) -> Option<Stat>) {
        let look = {
            let mut seen = self.0.lock();
            seen.looks += 1;
            seen.looks
        };
        for vmm in vmms {
            // Not under the lock, which scrapes wait for.
            let Some(stat) = read(vmm.pid) else { continue };
            self.0.lock().note(vmm, stat);
        }
        // Those that have ended; a scrape may have read others since this look began.
        self.0.lock().readings.retain(|_, reading| reading.look >= look);
    }

    fn usage_by(
        &self,
        vmms: &[OfSandbox],
        read: impl Fn(u32) -> Option<Stat>,
    ) -> BTreeMap<String, Usage> {
        let mut seen = self.0.lock();
        let mut resident = BTreeMap::<&str, u64>::new();
        let mut reads_left = READ_BY_SCRAPE_MAX;
        for vmm in vmms {
            let known = seen.readings.get(&vmm.id).map(|reading| reading.stat);
            let stat = known.or_else(|| {
                reads_left = reads_left.checked_sub(1)?;
                let stat = read(vmm.pid)?;
                seen.note(vmm, stat);
                Some(stat)
            });
            *resident.entry(&vmm.pack).or_default() += stat.map_or(0, |stat| stat.resident_pages);
        }
        let per_second = param::clock_ticks_per_second();
        let page_bytes = param::page_size() as u64;
        let usage = |(pack, ticks): (&String, &u64)| {
            let usage = Usage {
                resident_bytes: resident.get(pack.as_str()).unwrap_or(&0) * page_bytes,
                processor: Duration::from_millis(ticks * 1000 / per_second),
            };
            (pack.clone(), usage)
        };
        seen.by_pack.iter().map(usage).collect()
    }
}

impl Seen {
    /// Notes a reading, and counts the ticks since the one before.
    fn note(&mut self, vmm: &OfSandbox, stat: Stat) {
        // Two may read at once and note in the other order: no time is counted twice.
        let before = self.readings.get(&vmm.id).map_or(0, |reading| reading.stat.ticks);
        let ticks = stat.ticks.max(before);
        let reading = Reading { stat: Stat { ticks, ..stat }, look: self.looks };
        self.readings.insert(vmm.id, reading);
        let since = ticks - before;
        match self.by_pack.get_mut(&vmm.pack) {
            Some(ticks) => *ticks += since,
            None => _ = self.by_pack.insert(vmm.pack.clone(), since),
        }
    }
}

/// The VMMs of those sandboxes that have one.
fn running(views: &[SandboxView]) -> Vec<OfSandbox> {
    let running = views.iter().filter_map(|view| match view.state {
        SandboxState::Ready { vmm_pid: pid } | SandboxState::Frozen { vmm_pid: pid } => {
            Some(OfSandbox { id: view.id, pack: view.shape.pack.to_string(), pid })
        }
        _ => None,
    });
    running.collect()
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
    use std::cell::Cell;

    use super::*;

    /// VMM of sandbox and process `number`.
    fn vmm(number: u32) -> OfSandbox {
        let id = format!("sb_{number:012x}").parse().expect("an id");
        OfSandbox { id, pack: "shell".to_owned(), pid: number }
    }

    fn seconds(seconds: u64) -> Stat {
        Stat { ticks: seconds * param::clock_ticks_per_second(), resident_pages: 1 }
    }

    /// Seconds of processor time so far, and VMMs in RAM, each of which has a page.
    fn shown(usage: &BTreeMap<String, Usage>) -> (u64, u64) {
        let usage = usage["shell"];
        (usage.processor.as_secs(), usage.resident_bytes / param::page_size() as u64)
    }

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
    fn a_scrape_reads_a_few_new_vmms_and_no_others() {
        let vmms = Vmms::default();
        let reads = Cell::new(0);
        let read = |_| {
            reads.set(reads.get() + 1);
            Some(seconds(1))
        };
        let all: Vec<_> = (0..1000).map(vmm).collect();
        vmms.look_by(&all[..900], read);
        assert_eq!(reads.take(), 900);
        let most = 900 + READ_BY_SCRAPE_MAX as u64;
        assert_eq!(shown(&vmms.usage_by(&all, read)), (most, most));
        assert_eq!(reads.take(), READ_BY_SCRAPE_MAX);
        vmms.look_by(&all, read);
        assert_eq!(reads.take(), 1000);
        assert_eq!(shown(&vmms.usage_by(&all, read)), (1000, 1000));
        assert_eq!(reads.take(), 0);
    }

    #[test]
    fn time_of_vmms_that_ended_still_counts_and_their_memory_does_not() {
        let vmms = Vmms::default();
        let (one, two) = (vmm(1), vmm(2));
        let both = [one.clone(), two];
        let slow = |pid| Some(seconds(if pid == 1 { 5 } else { 1 }));
        assert_eq!(shown(&vmms.usage_by(&both, slow)), (6, 2));
        vmms.look_by(&both, |_| Some(seconds(7)));
        // What is known is not read again, and one that has ended leaves at once.
        assert_eq!(shown(&vmms.usage_by(&both[..1], |_| None)), (14, 1));
        vmms.look_by(&[one], |_| Some(seconds(8)));
        assert_eq!(vmms.0.lock().readings.len(), 1);
        // A reading that comes late takes nothing back, and is not counted again.
        vmms.look_by(&both[..1], |_| Some(seconds(7)));
        vmms.look_by(&both[..1], |_| Some(seconds(8)));
        assert_eq!(shown(&vmms.usage_by(&[], |_| None)), (15, 0));
    }

    #[test]
    fn what_a_scrape_reads_during_a_look_is_kept() {
        let vmms = Vmms::default();
        let (old, new) = (vmm(1), vmm(2));
        let both = [old.clone(), new];
        vmms.look_by(&[old], |_| {
            vmms.usage_by(&both, |_| Some(seconds(3)));
            Some(seconds(3))
        });
        assert_eq!(shown(&vmms.usage_by(&both, |_| panic!("it is known"))), (6, 2));
    }
}
