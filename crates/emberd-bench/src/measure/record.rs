//! The record of a scenario: samples by series, reasons to doubt them, and checks.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::calls::Timing;
use crate::statistics::{RATE_SUFFIX, STAGE_SEPARATOR, strays};

/// Fraction of strays in a series above which it is doubtful, as a divisor.
const STRAYS_DIVISOR: usize = 20;

/// Minimum number of samples for detecting strays.
const STRAYS_SAMPLES_MIN: usize = 20;

/// Samples and remarks.
#[derive(Debug, Default)]
pub struct Record {
    /// Samples by series, in the order in which the series began; the name implies the unit.
    pub series: Vec<(String, Vec<u64>)>,
    /// Reasons to doubt the samples.
    pub doubts: Vec<String>,
    /// Conditions that must hold after the scenario, with their results.
    pub checks: Vec<Check>,
}

/// A condition that must hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Description.
    pub what: String,
    /// Whether the condition holds.
    pub holds: bool,
    /// The observed state.
    pub seen: String,
}

impl Record {
    /// Adds a sample to `series`.
    pub fn sample(&mut self, series: &str, value: u64) {
        match self.series.iter_mut().find(|(name, _)| name == series) {
            Some((_, samples)) => samples.push(value),
            None => self.series.push((series.to_owned(), vec![value])),
        }
    }

    /// Adds a duration to `series`.
    pub fn time(&mut self, series: &str, duration: Duration) {
        self.sample(series, microseconds(duration));
    }

    /// Adds the time for `bytes` to `series`, and the rate in bytes per second.
    pub fn transfer(&mut self, series: &str, bytes: usize, duration: Duration) {
        self.time(series, duration);
        let us = u128::from(microseconds(duration).max(1));
        let rate = u64::try_from(bytes as u128 * 1_000_000 / us).unwrap_or(u64::MAX);
        self.sample(&format!("{series}{RATE_SUFFIX}"), rate);
    }

    /// Adds a call's latency to `series`, and its stages.
    pub fn call(&mut self, series: &str, timing: &Timing) {
        self.time_with_stages(series, timing.latency, &timing.stages());
    }

    /// Adds a duration to `series`, and its stages. The rest, which for a call is the way to the
    /// daemon and back, becomes the stage `rest`.
    pub fn time_with_stages(&mut self, series: &str, whole: Duration, stages: &[(String, u64)]) {
        self.time(series, whole);
        if stages.is_empty() {
            return;
        }
        for (stage, value) in stages {
            self.sample(&stage_name(series, stage), *value);
        }
        let explained = stages.iter().map(|(_, value)| value).sum();
        let rest = microseconds(whole).saturating_sub(explained);
        self.sample(&stage_name(series, "rest"), rest);
    }

    /// Adds a remark, once.
    pub fn doubt(&mut self, remark: impl Into<String>) {
        let remark = remark.into();
        if !self.doubts.contains(&remark) {
            self.doubts.push(remark);
        }
    }

    /// Adds the result of a check.
    pub fn check(&mut self, what: &str, holds: bool, seen: impl Into<String>) {
        self.checks.push(Check { what: what.to_owned(), holds, seen: seen.into() });
    }

    /// Marks every series with too many strays as doubtful.
    pub fn doubt_strays(&mut self) {
        for (name, samples) in &self.series {
            let (n, strays) = (samples.len(), strays(samples));
            let is_stage = name.contains(STAGE_SEPARATOR);
            if !is_stage && n >= STRAYS_SAMPLES_MIN && strays > n / STRAYS_DIVISOR {
                self.doubts.push(format!("{name}: {strays} of {n} samples are far off the median"));
            }
        }
    }
}

/// Rounds to the nearest.
fn microseconds(duration: Duration) -> u64 {
    u64::try_from((duration.as_nanos() + 500) / 1000).unwrap_or(u64::MAX)
}

fn stage_name(series: &str, stage: &str) -> String {
    format!("{series}{STAGE_SEPARATOR}{stage}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_stage_explains_is_a_stage_of_its_own() {
        let mut record = Record::default();
        let whole = Duration::from_micros(100);
        let stages = |load| [("load".to_owned(), load), ("guest".to_owned(), 30)];
        record.time_with_stages("create", whole, &stages(60));
        record.time_with_stages("create", whole, &stages(80));
        record.time_with_stages("bare", whole, &[]);
        let expect = [
            ("create", vec![100, 100]),
            ("create/load", vec![60, 80]),
            ("create/guest", vec![30, 30]),
            ("create/rest", vec![10, 0]),
            ("bare", vec![100]),
        ];
        assert_eq!(record.series, expect.map(|(name, samples)| (name.to_owned(), samples)));
    }

    #[test]
    fn one_stray_is_luck_and_more_are_a_doubt() {
        let mut record = Record::default();
        for sample in 0..20 {
            record.sample("one", if sample < 19 { 10 } else { 900 });
            record.sample("two", if sample < 18 { 10 } else { 900 });
            record.sample("two/stage", if sample < 18 { 10 } else { 900 });
        }
        for value in [10, 10, 10, 900, 900] {
            record.sample("few", value);
        }
        record.doubt_strays();
        assert_eq!(record.doubts, ["two: 2 of 20 samples are far off the median"]);
    }

    #[test]
    fn transfers_are_times_and_rates() {
        let mut record = Record::default();
        record.transfer("push", 3 << 20, Duration::from_millis(1500));
        let expect = [("push", vec![1_500_000]), ("push_bytes_per_s", vec![2 << 20])];
        assert_eq!(record.series, expect.map(|(name, samples)| (name.to_owned(), samples)));
    }

    #[test]
    fn durations_are_rounded() {
        assert_eq!(microseconds(Duration::from_nanos(1499)), 1);
        assert_eq!(microseconds(Duration::from_nanos(1500)), 2);
    }
}
