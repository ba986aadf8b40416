//! The stages of a series, with their share of the whole's median.
//!
//! Each stage has its own median, so the stages may not add up to the whole's median.

use super::table::Row;
use super::text::{Align, columns, heading};
use crate::statistics::{STAGE_SEPARATOR, Summary};
use crate::units::{Quantity, Unit};

/// Scenarios whose stages are shown.
const SHOWN: [&str; 6] = ["overhead", "cold-boot", "restore", "ttfr", "exec", "stream"];

/// Returns a table of stages for every series with stages; empty if there are none.
pub fn breakdown(rows: &[Row]) -> String {
    let wholes = rows.iter().filter(|row| SHOWN.contains(&row.scenario) && !row.is_stage());
    wholes.filter_map(|whole| stages(rows, whole)).collect::<Vec<_>>().join("\n")
}

fn stages(rows: &[Row], whole: &Row) -> Option<String> {
    use Align::{Left, Right};
    let is_stage = |row: &&Row| {
        let series = row.series.split_once(STAGE_SEPARATOR).map(|(series, _)| series);
        row.scenario == whole.scenario && series == Some(&*whole.series)
    };
    let mut lines: Vec<_> =
        rows.iter().filter(is_stage).map(|row| line(row, whole.summary.p50)).collect();
    if lines.is_empty() {
        return None;
    }
    lines.push(line(whole, whole.summary.p50));
    let title = heading(&format!("{} {}, n = {}", whole.scenario, whole.series, whole.summary.n));
    let titles = [
        ("  STAGE", Left),
        ("", Left),
        ("MIN", Right),
        ("P50", Right),
        ("P90", Right),
        ("PART", Right),
    ];
    Some(format!("{title}\n{}", columns(titles, &lines)))
}

/// Formats a stage in a suitable unit, with its share of `whole`.
fn line(row: &Row, whole: u64) -> [String; 6] {
    let Summary { min, p50, p90, .. } = row.summary;
    let unit = Unit::fitting(p50, Quantity::Time);
    let stage = row.series.split_once(STAGE_SEPARATOR).map_or("all", |(_, stage)| stage);
    let percent = p50.saturating_mul(100).checked_div(whole);
    let [min, p50, p90] = [min, p50, p90].map(|value| unit.number(value));
    let part = percent.map_or_else(String::new, |percent| format!("{percent} %"));
    [format!("  {stage}"), unit.name.into(), min, p50, p90, part]
}

#[cfg(test)]
mod tests {
    use super::super::text::plain;
    use super::*;

    #[test]
    fn stages_stand_above_the_whole() {
        let row = |scenario, series: &str, p50| Row {
            scenario,
            series: series.into(),
            summary: Summary::of(&[p50]).unwrap(),
            verdict: None,
        };
        let rows = [
            row("restore", "create_python", 60_000),
            row("restore", "create_python/load", 120),
            row("restore", "create_python/rest", 48_000),
            row("restore", "first_result_python", 90_000),
            row("churn", "life_python", 1),
            row("churn", "life_python/exec", 1),
        ];
        let expect = "\
restore create_python, n = 1
  STAGE        MIN    P50    P90   PART
  load   µs    120    120    120    0 %
  rest   ms  48.00  48.00  48.00   80 %
  all    ms  60.00  60.00  60.00  100 %
";
        assert_eq!(plain(&breakdown(&rows)), expect);
    }
}
