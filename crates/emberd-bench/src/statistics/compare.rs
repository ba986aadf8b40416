//! Compares a run with an earlier one, series by series.

use super::{Results, find};

/// A series of both runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Scenario.
    pub scenario: String,
    /// Name of the series.
    pub series: String,
    /// Median of the earlier run.
    pub old: u64,
    /// Median of this run.
    pub new: u64,
}

impl Change {
    /// Returns new over old, in thousandths; `None` if the old median is zero.
    pub fn ratio_permille(&self) -> Option<u64> {
        self.new.saturating_mul(1000).checked_div(self.old)
    }
}

/// Returns every series of both runs, sorted by name.
pub fn changes(old: &Results, new: &Results) -> Vec<Change> {
    let series = new.iter().flat_map(|(scenario, series)| {
        series.iter().map(move |(name, summary)| (scenario, name, summary.p50))
    });
    let change = |(scenario, series, new): (&String, &String, u64)| {
        let old = find(old, scenario, series)?.p50;
        Some(Change { scenario: scenario.clone(), series: series.clone(), old, new })
    };
    series.filter_map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::results;

    #[test]
    fn only_what_both_have_is_compared() {
        let old = results(&[("exec", "python", 200), ("exec", "gone", 1), ("ttfr", "x", 0)]);
        let new = results(&[("exec", "python", 150), ("exec", "new", 1), ("ttfr", "x", 5)]);
        let changes = changes(&old, &new);
        let told: Vec<_> = changes
            .iter()
            .map(|change| (change.series.as_str(), change.ratio_permille()))
            .collect();
        assert_eq!(told, [("python", Some(750)), ("x", None)]);
    }
}
