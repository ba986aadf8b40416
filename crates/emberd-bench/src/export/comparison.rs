//! The table of ratios to an earlier run, and reasons to doubt them.

use super::document::Document;
use super::text::{Align, columns, good, warning};
use crate::statistics::{Change, STAGE_SEPARATOR, changes};
use crate::units::{Quantity, Unit, fixed};

/// Change of a median, in thousandths, below which it counts as neither better nor worse. Two
/// runs of one program on a shared machine differ by that much.
const NO_CHANGE_PERMILLE: u64 = 100;

/// Change of the calibration loop's time, in percent, above which ratios are doubtful.
const CALIBRATION_PERCENT_MAX: u64 = 10;

/// Formats the medians of `new` over those of `old`, with remarks on how comparable they are.
pub fn comparison(old: &Document, new: &Document) -> (String, Vec<String>) {
    use Align::{Left, Right};
    let titles = [
        ("SCENARIO", Left),
        ("SERIES", Left),
        ("", Left),
        ("OLD P50", Right),
        ("NEW P50", Right),
        ("RATIO", Left),
    ];
    let changes = changes(&old.scenarios, &new.scenarios);
    let shown = changes.iter().filter(|change| !change.series.contains(STAGE_SEPARATOR));
    let rows: Vec<_> = shown.map(cells).collect();
    (columns(titles, &rows), doubts(old, new, rows.is_empty()))
}

fn cells(change: &Change) -> [String; 6] {
    let unit = Unit::fitting(change.old, Quantity::of(&change.series));
    [
        change.scenario.clone(),
        change.series.clone(),
        unit.name.into(),
        unit.number(change.old),
        unit.number(change.new),
        ratio(change),
    ]
}

fn ratio(change: &Change) -> String {
    let Some(permille) = change.ratio_permille() else { return "-".into() };
    let text = fixed(permille, 1000, 2);
    if permille.abs_diff(1000) <= NO_CHANGE_PERMILLE {
        return text;
    }
    let is_better = (permille > 1000) == Quantity::of(&change.series).is_better_if_more();
    if is_better { good(&text) } else { warning(&text) }
}

fn doubts(old: &Document, new: &Document, nothing_shared: bool) -> Vec<String> {
    let mut doubts = old.host.differences(&new.host);
    for difference in &mut doubts {
        difference.insert_str(0, "another host: ");
    }
    let (before, now) = (old.host.calibration_ns.max(1), new.host.calibration_ns);
    if before.abs_diff(now).saturating_mul(100) / before > CALIBRATION_PERCENT_MAX {
        let ratio = fixed(now, before, 2);
        doubts.push(format!(
            "the calibration loop took {ratio} × as long as in the old run: compare ratios with that"
        ));
    }
    if nothing_shared {
        doubts.push("the two runs have no series in common".into());
    }
    doubts
}

#[cfg(test)]
mod tests {
    use super::super::text::plain;
    use super::*;
    use crate::measure::Host;
    use crate::statistics::Summary;
    use std::collections::BTreeMap;

    fn document(p50: u64) -> Document {
        let series = BTreeMap::from([
            ("python_zygote".to_owned(), Summary::of(&[p50]).unwrap()),
            ("python_zygote/run".to_owned(), Summary::of(&[p50]).unwrap()),
        ]);
        Document {
            host: Host { calibration_ns: 1000, ..Host::before() },
            scenarios: BTreeMap::from([("exec".to_owned(), series)]),
            checks: BTreeMap::new(),
            warnings: BTreeMap::new(),
        }
    }

    #[test]
    fn ratios_are_new_over_old() {
        let (table, doubts) = comparison(&document(10_000), &document(7000));
        let expect = "\
SCENARIO  SERIES             OLD P50  NEW P50  RATIO
exec      python_zygote  ms    10.00     7.00  0.70
";
        assert_eq!((plain(&table).as_str(), doubts), (expect, Vec::new()));
    }

    #[test]
    fn only_what_changed_much_is_coloured() {
        for (new, colour) in [(905, ""), (1095, ""), (899, "\u{1b}[32m"), (1101, "\u{1b}[33m")] {
            let change = Change { scenario: String::new(), series: String::new(), old: 1000, new };
            assert!(ratio(&change).starts_with(colour), "{new}");
            assert_eq!(ratio(&change).contains('\u{1b}'), !colour.is_empty(), "{new}");
        }
        let series = "push_bytes_per_s".to_owned();
        let faster = Change { scenario: String::new(), series, old: 1000, new: 1101 };
        assert!(ratio(&faster).starts_with("\u{1b}[32m"), "more of a rate is better");
    }

    #[test]
    fn other_hosts_and_other_hours_are_told() {
        let (old, mut new) = (document(1), document(1));
        new.host.accelerator = "kvm".into();
        new.host.calibration_ns = 1500;
        new.scenarios.clear();
        let (_, doubts) = comparison(&old, &new);
        assert_eq!(doubts.len(), 3, "{doubts:?}");
        assert!(doubts[0].contains("kvm") && doubts[1].contains("1.50 ×"), "{doubts:?}");
    }
}
