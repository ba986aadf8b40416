//! `density`: many sandboxes that nobody uses. What each holds of the host's memory, what all of
//! them take of its processors, and how long the first exec takes in each.

use std::thread;
use std::time::{Duration, Instant};

use emberd_api::{CreateSandbox, IdleOptions, SandboxPhase};

use crate::measure::error::MeasureError;
use crate::measure::proc::{self, Weight};
use crate::measure::programs::Language;
use crate::measure::rig::Rig;

/// Time without use until a sandbox is frozen: the shortest that the daemon takes.
const FREEZE_MS: u64 = 1_000;

/// Time over which processor time is measured.
const SPAN: Duration = Duration::from_secs(1);

/// Pause between two looks at the sandboxes. A look does not count as use.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Time limit for all to be frozen.
const FROZEN_MAX: Duration = Duration::from_secs(120);

pub fn run(rig: &mut Rig) -> Result<(), MeasureError> {
    let packs = rig.packs;
    for pack in packs {
        let hello = Language::of(pack)?.hello();
        let idle = IdleOptions { freeze_ms: Some(Some(FREEZE_MS)), ..IdleOptions::default() };
        let language_pack = Some(pack.clone());
        let wanted = CreateSandbox { language_pack, idle: Some(idle), ..CreateSandbox::default() };
        rig.settle()?;
        let mut ids = Vec::new();
        for _ in 0..rig.iterations {
            ids.push(rig.connection.create_as(&wanted)?.0);
        }
        let pids = frozen(rig, ids.len())?;
        let weights: Vec<_> = pids.iter().filter_map(|pid| Weight::of(*pid)).collect();
        if weights.len() < ids.len() {
            rig.record.doubt("the memory of a VMM cannot be read");
        }
        for weight in weights {
            rig.record.sample(&format!("frozen_pss_{pack}_bytes"), weight.pss_bytes);
            rig.record.sample(&format!("frozen_private_{pack}_bytes"), weight.private_bytes);
        }
        let taken =
            || -> Duration { pids.iter().filter_map(|pid| proc::processor_time(*pid)).sum() };
        let before = taken();
        thread::sleep(SPAN);
        rig.record.time(&format!("busy_all_frozen_{pack}"), taken().saturating_sub(before));
        for id in &ids {
            let (_, thawing) = rig.exec(id, &hello)?;
            rig.record.call(&format!("exec_frozen_{pack}"), &thawing);
        }
        for id in &ids {
            rig.delete(id)?;
        }
    }
    Ok(())
}

/// Waits until `count` sandboxes are frozen; returns the process ids of their VMMs.
fn frozen(rig: &mut Rig, count: usize) -> Result<Vec<u32>, MeasureError> {
    let since = Instant::now();
    loop {
        rig.interrupt.check()?;
        let sandboxes = rig.connection.sandboxes()?;
        let frozen = sandboxes.iter().filter(|sandbox| sandbox.phase == SandboxPhase::Frozen);
        let pids: Vec<_> = frozen.filter_map(|sandbox| sandbox.vmm_pid).collect();
        if pids.len() == count {
            return Ok(pids);
        }
        if since.elapsed() > FROZEN_MAX {
            let seen =
                format!("{} of {count} sandboxes are frozen after {FROZEN_MAX:?}", pids.len());
            return Err(MeasureError::Busy { seen });
        }
        thread::sleep(LOOK_AGAIN);
    }
}
