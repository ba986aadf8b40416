//! What samples amount to: percentiles, strays, ratios to an earlier run.

use std::collections::BTreeMap;

mod compare;
mod strays;
mod summary;

pub use compare::{Change, changes};
pub use strays::strays;
pub use summary::Summary;

/// End of the name of a series of bytes; a series without an end of these is microseconds.
pub const BYTES_SUFFIX: &str = "_bytes";

/// End of the name of a series of bytes in a second.
pub const RATE_SUFFIX: &str = "_bytes_per_s";

/// End of the name of a series of numbers of things.
pub const COUNT_SUFFIX: &str = "_count";

/// What stands between a series and one of its stages in the stage's name.
pub const STAGE_SEPARATOR: char = '/';

/// Summaries by scenario and series.
pub type Results = BTreeMap<String, BTreeMap<String, Summary>>;

/// The summary of `series` in `scenario`, if it was measured.
pub fn find<'a>(results: &'a Results, scenario: &str, series: &str) -> Option<&'a Summary> {
    results.get(scenario)?.get(series)
}
