//! Percentiles of one series by nearest rank, so each is a measured value.

use serde::{Deserialize, Serialize};

/// Minimum number of samples for a 95th percentile; with fewer, it would equal the maximum.
const P95_SAMPLES_MIN: usize = 20;

/// Minimum number of samples for a 99th percentile; with fewer, it would equal the maximum.
const P99_SAMPLES_MIN: usize = 100;

/// A series as seven numbers, in the unit that its name implies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Number of samples.
    pub n: usize,
    /// The smallest.
    pub min: u64,
    /// The median.
    pub p50: u64,
    /// Nine tenths are at most this.
    pub p90: u64,
    /// 95 of 100 are at most this; absent for fewer than 20 samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p95: Option<u64>,
    /// 99 of 100 are at most this; absent for fewer than 100 samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99: Option<u64>,
    /// The largest.
    pub max: u64,
}

impl Summary {
    /// Returns the summary of `samples`, in any order; `None` if there are none.
    pub fn of(samples: &[u64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_unstable();
        let (&min, &max, n) = (sorted.first()?, sorted.last()?, sorted.len());
        let from =
            |samples_min, percent| (n >= samples_min).then(|| nearest_rank(&sorted, percent));
        Some(Self {
            n,
            min,
            p50: nearest_rank(&sorted, 50),
            p90: nearest_rank(&sorted, 90),
            p95: from(P95_SAMPLES_MIN, 95),
            p99: from(P99_SAMPLES_MIN, 99),
            max,
        })
    }
}

/// Returns the smallest value that at least `percent` of 100 values do not exceed.
fn nearest_rank(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted[rank.max(1) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_rank_is_the_textbooks() {
        let five = [15, 20, 35, 40, 50];
        for (percent, value) in [(5, 15), (30, 20), (40, 20), (50, 35), (90, 50), (100, 50)] {
            assert_eq!(nearest_rank(&five, percent), value, "{percent}");
        }
        let hundred: Vec<u64> = (1..=100).collect();
        for percent in 1..=100 {
            assert_eq!(nearest_rank(&hundred, percent), percent as u64);
        }
    }

    #[test]
    fn order_of_samples_is_nothing() {
        let summary = Summary::of(&[3, 1, 2, 4]).unwrap();
        assert_eq!((summary.n, summary.min, summary.p50, summary.max), (4, 1, 2, 4));
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn percentiles_wait_for_enough_samples() {
        let gates = |n: u64| {
            let summary = Summary::of(&(1..=n).collect::<Vec<_>>()).unwrap();
            (summary.p95, summary.p99)
        };
        assert_eq!(gates(19), (None, None));
        assert_eq!(gates(20), (Some(19), None));
        assert_eq!(gates(99), (Some(95), None));
        assert_eq!(gates(100), (Some(95), Some(99)));
    }

    #[test]
    fn absent_percentiles_are_absent_in_json() {
        let summary = Summary::of(&[7]).unwrap();
        let json = serde_json::to_string(&summary).unwrap();
        assert_eq!(json, r#"{"n":1,"min":7,"p50":7,"p90":7,"max":7}"#);
        assert_eq!(serde_json::from_str::<Summary>(&json).unwrap(), summary);
    }
}
