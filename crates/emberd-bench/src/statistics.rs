//! Statistics of samples: percentiles, strays, ratios to an earlier run.

use std::collections::BTreeMap;

mod compare;
mod summary;

pub use compare::{Change, changes};
pub use summary::Summary;

/// Suffix of the name of a series of bytes; a series without a suffix is microseconds.
pub const BYTES_SUFFIX: &str = "_bytes";

/// Suffix of the name of a series of bytes per second.
pub const RATE_SUFFIX: &str = "_bytes_per_s";

/// Suffix of the name of a series of numbers.
pub const COUNT_SUFFIX: &str = "_count";

/// Separator between a series and a stage in the stage's name.
pub const STAGE_SEPARATOR: char = '/';

/// Number of median distances from the median beyond which a sample is a stray. Of normally
/// distributed samples, one in a hundred thousand million is.
const DISTANCES_MAX: u64 = 10;

/// Minimum of the median distance, as a fraction of the median (a divisor). If most samples agree
/// to the microsecond, the next microsecond is not a stray.
const DISTANCE_MIN_DIVISOR: u64 = 50;

/// Summaries by scenario and series.
pub type Results = BTreeMap<String, BTreeMap<String, Summary>>;

/// Returns the summary of `series` in `scenario`, if it was measured.
pub fn find<'a>(results: &'a Results, scenario: &str, series: &str) -> Option<&'a Summary> {
    results.get(scenario)?.get(series)
}

/// Returns how many of `samples` are far above their median: affected by something other than the
/// measured operation.
pub fn strays(samples: &[u64]) -> usize {
    let Some(median) = median(samples.to_vec()) else { return 0 };
    let distances = samples.iter().map(|sample| sample.abs_diff(median)).collect();
    let distance = self::median(distances).unwrap_or_default();
    let distance = distance.max(median / DISTANCE_MIN_DIVISOR).max(1);
    let bound = median.saturating_add(distance.saturating_mul(DISTANCES_MAX));
    samples.iter().filter(|&&sample| sample > bound).count()
}

fn median(mut values: Vec<u64>) -> Option<u64> {
    values.sort_unstable();
    values.get(values.len().checked_sub(1)? / 2).copied()
}

/// Results for tests: scenario, series and the only sample.
#[cfg(test)]
pub fn results(entries: &[(&str, &str, u64)]) -> Results {
    let mut results = Results::new();
    for (scenario, series, sample) in entries {
        let summary = Summary::of(&[*sample]).expect("there is a sample");
        results.entry((*scenario).into()).or_default().insert((*series).into(), summary);
    }
    results
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_far_above_strays() {
        assert_eq!(strays(&[]), 0);
        assert_eq!(strays(&[5]), 0);
        assert_eq!(strays(&[100, 101, 99, 100, 102, 1]), 0);
        assert_eq!(strays(&[100, 101, 99, 100, 102, 400]), 1);
        assert_eq!(strays(&[10, 10, 10, 10, 11, 19]), 0);
    }

    #[test]
    fn huge_samples_do_not_overflow() {
        assert_eq!(strays(&[u64::MAX, u64::MAX, u64::MAX]), 0);
        assert_eq!(strays(&[0, 0, u64::MAX]), 1);
    }
}
