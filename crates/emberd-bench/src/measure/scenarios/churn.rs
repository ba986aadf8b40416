//! `churn`: many cycles of create, exec and delete without a pause: whether the last are slower
//! than the first, and whether anything is left behind.

use std::thread;
use std::time::{Duration, Instant};

use crate::measure::error::MeasureError;
use crate::measure::programs::{Language, Program};
use crate::measure::rig::{Holdings, Rig};

/// Slowdown of the last third against the first that is doubtful, in percent.
const DRIFT_PERCENT_MAX: u64 = 10;

/// Time limit for the daemon to return to its initial resources. Cycles without a pause make its
/// pools grow, and they shrink one by one, each after 10 s without load.
const BACK_MAX: Duration = Duration::from_secs(180);

/// Pause between two checks of the daemon's resources.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

pub fn run(rig: &mut Rig) -> Result<(), MeasureError> {
    let packs = rig.packs;
    for pack in packs {
        let hello = Language::of(pack)?.hello();
        // Descriptors that are opened once are open after the first cycle.
        life(rig, pack, &hello)?;
        rig.settle()?;
        let before = rig.holdings()?;
        let mut lives = Vec::new();
        for _ in 0..rig.iterations {
            rig.interrupt.check()?;
            lives.push(life(rig, pack, &hello)?);
        }
        rig.settle()?;
        for life in &lives {
            rig.record.time(&format!("life_{pack}"), *life);
        }
        record_drift(rig, pack, &lives);
        if let Some(before) = before {
            let after = back_to(rig, before)?;
            let seen = if after == before {
                format!("{before:?}")
            } else {
                format!("before {before:?}, after {after:?}")
            };
            let what = format!(
                "the daemon holds no more than before after {} sandboxes of {pack}",
                lives.len()
            );
            rig.record.check(&what, after.are_within(&before), seen);
        }
    }
    Ok(())
}

fn life(rig: &mut Rig, pack: &str, program: &Program) -> Result<Duration, MeasureError> {
    let born = Instant::now();
    let (id, _) = rig.create(pack)?;
    rig.exec(&id, program)?;
    rig.delete(&id)?;
    Ok(born.elapsed())
}

/// Adds the first and the last third as separate series.
fn record_drift(rig: &mut Rig, pack: &str, lives: &[Duration]) {
    let third = lives.len() / 3;
    if third == 0 {
        return;
    }
    let (first, last) = (&lives[..third], &lives[lives.len() - third..]);
    for (name, lives) in [("first", first), ("last", last)] {
        for life in lives {
            rig.record.time(&format!("life_{pack}_{name}_third"), *life);
        }
    }
    let (first, last) = (median(first), median(last));
    let slower = last.saturating_sub(first).as_micros() * 100 / first.as_micros().max(1);
    if slower > u128::from(DRIFT_PERCENT_MAX) {
        rig.record.doubt(format!("{pack}: the last third was {slower} % slower than the first"));
    }
}

fn median(lives: &[Duration]) -> Duration {
    let mut lives = lives.to_vec();
    lives.sort_unstable();
    lives[(lives.len() - 1) / 2]
}

/// Returns the daemon's resources once they are within `before` again, or after the time limit.
fn back_to(rig: &mut Rig, before: Holdings) -> Result<Holdings, MeasureError> {
    let since = Instant::now();
    loop {
        rig.interrupt.check()?;
        let held = rig.holdings()?.unwrap_or(before);
        if held.are_within(&before) || since.elapsed() > BACK_MAX {
            return Ok(held);
        }
        thread::sleep(LOOK_AGAIN);
    }
}
