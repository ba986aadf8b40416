//! `held`: how many processes one sandbox holds, each with a client that follows it, and what
//! each costs. Starts as many as the daemon allows. Each is sent a line and answers. Then all are
//! killed, and must leave nothing on the host or in the guest.

use std::thread;
use std::time::{Duration, Instant};

use emberd_api::{ErrorCode, ProcessSpec};
use emberd_proto::chain;

use crate::measure::connection::CallError;
use crate::measure::error::MeasureError;
use crate::measure::events::{Events, Listener};
use crate::measure::proc::{self, Weight};
use crate::measure::rig::{Rig, WARM_UPS};
use crate::statistics::{BYTES_SUFFIX, COUNT_SUFFIX};

/// Number of processes after which no more are started: each has a connection to the daemon,
/// which accepts 1,024.
const HELD_MAX: usize = 512;

/// The line that each process echoes.
const LINE: &str = "hello\n";

/// Lines to a process without others beside it.
const LINES_ALONE: usize = 50;

/// Time limit for killed processes to end and the daemon to release their resources.
const GONE_MAX: Duration = Duration::from_secs(60);

/// Maximum number of connections to a guest that the daemon keeps for reuse. Over the double and
/// under Firecracker, each is a descriptor.
const CONNECTIONS_KEPT: usize = 8;

/// Pause between two checks.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A `cat` and its client.
struct Held {
    pid: u32,
    events: Events,
}

pub fn run(rig: &mut Rig) -> Result<(), MeasureError> {
    // A `cat` is the same in every pack.
    let Some(pack) = rig.packs.first() else { return Ok(()) };
    for _ in 0..rig.iterations {
        let (id, _) = rig.create(pack)?;
        alone(rig, &id, pack)?;
        rig.settle()?;
        let before = Holding::of(rig, &id)?;
        let mut all = start_all(rig, &id, pack)?;
        let unanswered = answer_all(rig, &id, pack, &mut all)?;
        let seen = format!("{unanswered} of {} do not", all.len());
        rig.record.check("every process answers", unanswered == 0, seen);
        rig.settle()?;
        let held = Holding::of(rig, &id)?;
        before.record_growth(rig, pack, held, all.len());
        kill_all(rig, &id, pack, all)?;
        rig.settle()?;
        before.check_released(rig, &id)?;
        rig.delete(&id)?;
    }
    Ok(())
}

/// Sends lines to one process without others beside it.
fn alone(rig: &mut Rig, id: &str, pack: &str) -> Result<(), MeasureError> {
    let mut held = start(rig, id)?.0;
    for line in 0..WARM_UPS + LINES_ALONE {
        rig.interrupt.check()?;
        let (_, took) = answer(rig, id, &mut held)?;
        if line >= WARM_UPS {
            rig.record.time(&format!("echo_alone_{pack}"), took);
        }
    }
    rig.connection.kill(id, held.pid)?;
    Ok(())
}

/// Starts as many as allowed.
fn start_all(rig: &mut Rig, id: &str, pack: &str) -> Result<Vec<Held>, MeasureError> {
    let mut all = Vec::new();
    let asked = Instant::now();
    while all.len() < HELD_MAX {
        rig.interrupt.check()?;
        match start(rig, id) {
            Ok((held, took)) => {
                rig.record.time(&format!("start_{pack}"), took);
                all.push(held);
            }
            Err(CallError::Refused { body, .. }) if body.code == ErrorCode::TooMany => break,
            Err(error) => return Err(error.into()),
        }
    }
    rig.record.time(&format!("start_all_{pack}"), asked.elapsed());
    rig.record.sample(&format!("held_{pack}{COUNT_SUFFIX}"), all.len() as u64);
    Ok(all)
}

/// Starts one and follows it; returns after its first event.
fn start(rig: &mut Rig, id: &str) -> Result<(Held, Duration), CallError> {
    let listener = Listener::connect(&rig.address)?;
    let asked = Instant::now();
    let (pid, _) = rig.connection.start(id, &ProcessSpec::of_argv(["cat"]))?;
    let mut events = listener.follow(id, pid)?;
    events.next()?;
    Ok((Held { pid, events }, asked.elapsed()))
}

/// Sends a line to each in turn, and returns how many do not answer correctly.
fn answer_all(
    rig: &mut Rig,
    id: &str,
    pack: &str,
    all: &mut [Held],
) -> Result<usize, MeasureError> {
    let mut unanswered = 0;
    for held in all {
        rig.interrupt.check()?;
        let (is_right, took) = answer(rig, id, held)?;
        rig.record.time(&format!("echo_held_{pack}"), took);
        unanswered += usize::from(!is_right);
    }
    Ok(unanswered)
}

/// Sends a line to one; returns whether it answers correctly, and the time.
fn answer(rig: &mut Rig, id: &str, held: &mut Held) -> Result<(bool, Duration), CallError> {
    let sent = Instant::now();
    rig.connection.stdin(id, held.pid, LINE.as_bytes())?;
    let text = held.events.output()?;
    Ok((text.as_deref() == Some(LINE), sent.elapsed()))
}

/// Kills all of them, and checks in the guest until none is left.
fn kill_all(rig: &mut Rig, id: &str, pack: &str, all: Vec<Held>) -> Result<(), MeasureError> {
    let pids: Vec<_> = all.iter().map(|held| held.pid.to_string()).collect();
    let asked = Instant::now();
    for held in all {
        rig.connection.kill(id, held.pid)?;
    }
    rig.record.time(&format!("kill_all_{pack}"), asked.elapsed());
    let listed = rig.connection.processes(id)?.len();
    rig.record.check("no process is listed", listed == 0, format!("{listed} are"));
    let look = format!("for pid in {}; do ! kill -0 $pid || exit 1; done", pids.join(" "));
    let left = loop {
        // While they end, there may be no room for another process.
        let Err(left) = rig.in_guest(id, ["/bin/sh", "-c", &look]) else { break None };
        if asked.elapsed() > GONE_MAX {
            break Some(left);
        }
        rig.interrupt.check()?;
        thread::sleep(LOOK_AGAIN);
    };
    rig.record.time(&format!("gone_all_{pack}"), asked.elapsed());
    let seen = left.as_ref().map_or_else(|| "none is".to_owned(), |error| chain(error));
    rig.record.check("no process is left in the guest", left.is_none(), seen);
    Ok(())
}

/// Resources of the daemon and of a sandbox's VMM.
#[derive(Debug, Clone, Copy)]
struct Holding {
    daemon_bytes: Option<u64>,
    vmm_bytes: Option<u64>,
    descriptors: Option<usize>,
}

impl Holding {
    fn of(rig: &mut Rig, id: &str) -> Result<Self, MeasureError> {
        let vmm_pid = rig.connection.sandbox(id)?.vmm_pid;
        let daemon_pid = rig.home.as_ref().map(|home| home.pid());
        let pss_bytes = |pid: Option<u32>| pid.and_then(Weight::of).map(|weight| weight.pss_bytes);
        Ok(Self {
            daemon_bytes: pss_bytes(daemon_pid),
            vmm_bytes: pss_bytes(vmm_pid.filter(|_| rig.home.is_some())),
            descriptors: daemon_pid.map(proc::descriptors),
        })
    }

    /// Returns the difference to `self` for each of `count` processes.
    fn record_growth(self, rig: &mut Rig, pack: &str, held: Self, count: usize) {
        for (whose, before, after) in [
            ("daemon", self.daemon_bytes, held.daemon_bytes),
            ("vmm", self.vmm_bytes, held.vmm_bytes),
        ] {
            let (Some(before), Some(after)) = (before, after) else { continue };
            if let Some(each) = after.saturating_sub(before).checked_div(count as u64) {
                rig.record.sample(&format!("{whose}_pss_each_{pack}{BYTES_SUFFIX}"), each);
            }
        }
    }

    /// Checks that the daemon has as many descriptors as `self`, after all clients have
    /// disconnected.
    fn check_released(self, rig: &mut Rig, id: &str) -> Result<(), MeasureError> {
        let Some(before) = self.descriptors else { return Ok(()) };
        let since = Instant::now();
        loop {
            let now = Self::of(rig, id)?.descriptors.unwrap_or_default();
            let are_released = now <= before + CONNECTIONS_KEPT;
            if are_released || since.elapsed() > GONE_MAX {
                let seen = format!("{before} before, {now} after");
                rig.record.check("the daemon closed its descriptors", are_released, seen);
                return Ok(());
            }
            rig.interrupt.check()?;
            thread::sleep(LOOK_AGAIN);
        }
    }
}
