//! Detects noise of the machine: load, stolen time, and a loop that should always take the same
//! time.

use std::hint::black_box;
use std::num::NonZero;
use std::thread;
use std::time::Instant;

use super::proc::Ticks;

/// Rounds of the calibration loop: about 2 ms, well above the clock's resolution and below a
/// scheduler's time slice.
const CALIBRATION_ROUNDS: u64 = 2_000_000;

/// Number of runs of the loop, of which the median counts.
const CALIBRATION_RUNS: usize = 15;

/// Change of the calibration loop's time that causes a warning, in percent.
const DRIFT_PERCENT_MAX: u64 = 10;

/// Stolen time that causes a warning, in thousandths: one percent affects the percentiles of a
/// hundred samples.
const STOLEN_PERMILLE_MAX: u64 = 10;

/// Load before a run that causes a warning, per processor.
const LOAD_PER_CORE_MAX: f64 = 0.5;

/// The state of the machine at one instant.
#[derive(Debug, Clone, Copy)]
pub struct Noise {
    /// Time of the calibration loop, in nanoseconds.
    pub calibration_ns: u64,
    ticks: Option<Ticks>,
}

impl Noise {
    /// Measures; takes about 30 ms.
    pub fn sample() -> Self {
        Self { calibration_ns: calibrate(), ticks: Ticks::now() }
    }

    /// Returns the reasons to doubt figures taken between `self` and `after`.
    pub fn doubts(&self, after: &Self) -> Vec<String> {
        let mut doubts = Vec::new();
        let (before_ns, after_ns) = (self.calibration_ns.max(1), after.calibration_ns);
        let drift = before_ns.abs_diff(after_ns).saturating_mul(100) / before_ns;
        if drift > DRIFT_PERCENT_MAX {
            let direction = if after_ns > before_ns { "slower" } else { "faster" };
            doubts.push(format!("the machine was {drift} % {direction} afterwards than before"));
        }
        if let (Some(before), Some(after)) = (self.ticks, after.ticks) {
            let stolen = after.stolen_permille(before);
            if stolen > STOLEN_PERMILLE_MAX {
                let (whole, tenth) = (stolen / 10, stolen % 10);
                doubts.push(format!(
                    "the hypervisor gave {whole}.{tenth} % of the time to other machines"
                ));
            }
        }
        doubts
    }
}

/// Returns a warning about the machine's load before a run.
pub fn load_doubt(load: [f64; 3], cores: usize) -> Option<String> {
    let cores_bound = f64::from(u32::try_from(cores).unwrap_or(u32::MAX));
    (load[0] > LOAD_PER_CORE_MAX * cores_bound)
        .then(|| format!("the load was {:.2} on {cores} processors before the run", load[0]))
}

/// Returns the number of processors that this process may use.
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

fn calibrate() -> u64 {
    let mut runs: Vec<u64> = (0..CALIBRATION_RUNS).map(|_| calibration_run()).collect();
    runs.sort_unstable();
    runs[CALIBRATION_RUNS / 2]
}

/// Runs multiplications that each depend on the one before.
fn calibration_run() -> u64 {
    let started = Instant::now();
    let mut value = black_box(1_u64);
    for round in 0..CALIBRATION_ROUNDS {
        value = value.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(round);
    }
    black_box(value);
    u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_noisy_machine_is_doubted() {
        let noise = |calibration_ns, total, stolen| Noise {
            calibration_ns,
            ticks: Some(Ticks { total, stolen }),
        };
        let before = noise(1000, 0, 0);
        assert_eq!(before.doubts(&noise(1100, 1000, 10)), Vec::<String>::new());
        let doubts = before.doubts(&noise(1500, 1000, 25));
        assert_eq!(doubts.len(), 2, "{doubts:?}");
        assert!(
            doubts[0].contains("50 % slower") && doubts[1].contains("gave 2.5 %"),
            "{doubts:?}"
        );
        assert!(before.doubts(&noise(500, 1000, 0))[0].contains("faster"));
    }

    #[test]
    fn load_counts_per_processor() {
        assert_eq!(load_doubt([0.9, 3.0, 3.0], 2), None);
        assert!(load_doubt([1.1, 0.0, 0.0], 2).is_some());
    }
}
