//! Sandboxes that are frozen as soon as nobody uses them.

use std::thread;
use std::time::{Duration, Instant};

use emberd_api::{CreateSandbox, IdleOptions, SandboxPhase};

use super::error::MeasureError;
use super::rig::Rig;

/// Time without use until a sandbox is frozen: the shortest that the daemon takes.
const FREEZE_MS: u64 = 1_000;

/// Pause between two looks at the sandboxes. A look does not count as use.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Time limit for all to be frozen.
const FROZEN_MAX: Duration = Duration::from_secs(120);

/// Wish for a sandbox with a language pack that is frozen soon.
pub fn freezing(language_pack: &str) -> CreateSandbox {
    let idle = IdleOptions { freeze_ms: Some(Some(FREEZE_MS)), ..IdleOptions::default() };
    let language_pack = Some(language_pack.to_owned());
    CreateSandbox { language_pack, idle: Some(idle), ..CreateSandbox::default() }
}

/// Waits until `count` of the daemon's sandboxes are frozen; returns their VMMs' process ids.
pub fn frozen(rig: &mut Rig, count: usize) -> Result<Vec<u32>, MeasureError> {
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
