//! Statistics of samples: percentiles, strays, ratios to an earlier run.

use std::collections::BTreeMap;

mod compare;
mod strays;
mod summary;

pub use compare::{Change, changes};
pub use strays::strays;
pub use summary::Summary;

/// Suffix of the name of a series of bytes; a series without a suffix is microseconds.
pub const BYTES_SUFFIX: &str = "_bytes";

/// Suffix of the name of a series of bytes per second.
pub const RATE_SUFFIX: &str = "_bytes_per_s";

/// Suffix of the name of a series of numbers.
pub const COUNT_SUFFIX: &str = "_count";

/// Separator between a series and a stage in the stage's name.
pub const STAGE_SEPARATOR: char = '/';

/// Summaries by scenario and series.
pub type Results = BTreeMap<String, BTreeMap<String, Summary>>;

/// Returns the summary of `series` in `scenario`, if it was measured.
pub fn find<'a>(results: &'a Results, scenario: &str, series: &str) -> Option<&'a Summary> {
    results.get(scenario)?.get(series)
}
