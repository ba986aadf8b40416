//! The table of a run: a row for each series, in a unit chosen by its median.

use super::text::{Align, columns, good, warning};
use crate::measure::Host;
use crate::statistics::{STAGE_SEPARATOR, Summary};
use crate::targets::Verdict;
use crate::units::{Quantity, Unit, fixed};

/// A row of the table.
#[derive(Debug, Clone)]
pub struct Row {
    /// Scenario.
    pub scenario: &'static str,
    /// Name of the series.
    pub series: String,
    /// Summary of the samples.
    pub summary: Summary,
    /// Result for its target, if it has one on this host.
    pub verdict: Option<Verdict>,
}

impl Row {
    /// Returns whether the row is a stage, which only the breakdown shows.
    pub fn is_stage(&self) -> bool {
        self.series.contains(STAGE_SEPARATOR)
    }
}

/// Formats the table of every series that is not a stage.
pub fn table(rows: &[Row]) -> String {
    use Align::{Left, Right};
    let titles = [
        ("SCENARIO", Left),
        ("SERIES", Left),
        ("N", Right),
        ("", Left),
        ("MIN", Right),
        ("P50", Right),
        ("P90", Right),
        ("P95", Right),
        ("P99", Right),
        ("MAX", Right),
        ("TARGET", Left),
    ];
    let rows: Vec<_> = rows.iter().filter(|row| !row.is_stage()).map(cells).collect();
    columns(titles, &rows)
}

fn cells(row: &Row) -> [String; 11] {
    let summary = &row.summary;
    let unit = Unit::fitting(summary.p50, Quantity::of(&row.series));
    let number = |value| unit.number(value);
    let gated = |value: Option<u64>| value.map_or_else(|| "-".into(), number);
    [
        row.scenario.into(),
        row.series.clone(),
        summary.n.to_string(),
        unit.name.into(),
        number(summary.min),
        number(summary.p50),
        number(summary.p90),
        gated(summary.p95),
        gated(summary.p99),
        number(summary.max),
        row.verdict.as_ref().map(verdict).unwrap_or_default(),
    ]
}

fn verdict(verdict: &Verdict) -> String {
    let word = if verdict.met { good("met") } else { warning("missed") };
    let ratio = verdict.ratio.as_ref().map(|ratio| format!("  {ratio} ×"));
    format!("{}  {word}{}", verdict.target, ratio.unwrap_or_default())
}

/// Formats the host in one line.
pub fn host_line(host: &Host) -> String {
    let gib = fixed(host.memory_bytes, 1 << 30, 1);
    let [before, after] = [host.load_before[0], host.load_after[0]];
    format!(
        "{} × {}, {gib} GiB, Linux {} on {}; {} {} ({}), guests of {} MiB; emberd {} {} {}; \
         load {before:.2} → {after:.2}; {}\n",
        host.cores,
        host.cpu,
        host.kernel,
        host.virtualisation,
        host.driver,
        host.vmm_version,
        host.accelerator,
        host.guest_ram_mib,
        host.emberd_version,
        host.commit,
        host.build,
        host.date
    )
}

#[cfg(test)]
mod tests {
    use super::super::text::plain;
    use super::*;

    #[test]
    fn table_is_aligned_and_each_row_has_its_unit() {
        let row = |scenario, series: &str, samples: &[u64], verdict| Row {
            scenario,
            series: series.into(),
            summary: Summary::of(samples).unwrap(),
            verdict,
        };
        let thirty: Vec<u64> = (1..=30).map(|n| 150 + n).collect();
        let met = Verdict { target: "≤ 200 µs".into(), met: true, ratio: None };
        let missed = Verdict { target: "≤ 100 ms".into(), met: false, ratio: None };
        let ratio = Some("0.61".to_owned());
        let over = Verdict { target: "≥ y".into(), met: true, ratio };
        let rows = [
            row("warm-create", "create_python", &thirty, Some(met)),
            row("restore", "create_python", &[120_000, 300_000], Some(missed)),
            row("restore", "create_python/load", &[1], None),
            row("memory", "idle_pss_bytes", &[60 << 20], None),
            row("files", "x_bytes_per_s", &[70 << 20], Some(over)),
        ];
        let expect = "\
SCENARIO     SERIES           N            MIN     P50     P90  P95  P99     MAX  TARGET
warm-create  create_python   30  µs        151     165     177  179    -     180  ≤ 200 µs  met
restore      create_python    2  ms     120.00  120.00  300.00    -    -  300.00  ≤ 100 ms  missed
memory       idle_pss_bytes   1  MiB     60.00   60.00   60.00    -    -   60.00
files        x_bytes_per_s    1  MiB/s    70.0    70.0    70.0    -    -    70.0  ≥ y  met  0.61 ×
";
        assert_eq!(plain(&table(&rows)), expect);
    }
}
