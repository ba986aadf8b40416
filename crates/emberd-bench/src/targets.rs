//! What emberd promises, as data: the only place that knows a target.
//!
//! A target holds on the kind of host it was set for; on another it is not judged.

use crate::statistics::{BYTES_SUFFIX, Results, find};
use crate::units;

/// What runs the guests, as far as promises differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostKind {
    /// Hardware virtualisation.
    Kvm,
    /// Software emulation.
    Emulated,
    /// The test double: no guest at all.
    Double,
}

/// A bound for the median of a series.
#[derive(Debug, Clone, Copy)]
pub enum Bound {
    /// At most so many microseconds or bytes.
    AtMost(u64),
    /// At most so many percent of another series' median in the same run.
    Percent(u64, &'static str, &'static str),
    /// At most so many microseconds above another series' median in the same run.
    Above(u64, &'static str, &'static str),
}

/// One promise.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The scenario that shows it.
    pub scenario: &'static str,
    series: &'static str,
    bound: Bound,
    hosts: &'static [HostKind],
}

/// A target and whether this run met it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The target in words.
    pub target: String,
    /// Whether the median keeps it.
    pub met: bool,
}

use Bound::{Above, AtMost, Percent};
use HostKind::{Double, Emulated, Kvm};

const MIB: u64 = 1 << 20;

const fn target(
    scenario: &'static str,
    series: &'static str,
    bound: Bound,
    hosts: &'static [HostKind],
) -> Target {
    Target { scenario, series, bound, hosts }
}

/// Every promise. Times in microseconds.
pub const TARGETS: [Target; 17] = [
    target("cold-boot", "create_python", AtMost(100_000), &[Kvm]),
    target("cold-boot", "create_shell", AtMost(100_000), &[Kvm]),
    target("restore", "first_answer_python", AtMost(10_000), &[Kvm]),
    target("restore", "first_answer_shell", AtMost(10_000), &[Kvm]),
    target("restore", "first_answer_python", AtMost(100_000), &[Emulated]),
    target("restore", "first_answer_shell", AtMost(100_000), &[Emulated]),
    target("restore", "first_result_python", AtMost(200_000), &[Emulated]),
    target("warm-create", "create_python", AtMost(200), &[Kvm, Emulated]),
    target("warm-create", "create_shell", AtMost(200), &[Kvm, Emulated]),
    target("ttfr", "total_python", AtMost(3000), &[Kvm]),
    target("ttfr", "total_python", Above(3000, "ttfr", "exec_steady_python"), &[Emulated]),
    target("exec", "python_zygote", AtMost(2000), &[Kvm]),
    target("bare-fork", "zygote_exec", Percent(70, "bare-fork", "fork_exit_wait"), &[Emulated]),
    target("delete", "answer_python", AtMost(500), &[Kvm, Emulated]),
    target("delete", "answer_shell", AtMost(500), &[Kvm, Emulated]),
    target("memory", "idle_pss_python_bytes", AtMost(5 * MIB), &[Kvm]),
    target("overhead", "exec", AtMost(100), &[Double]),
];

/// How `series` fared on such a host, if something is promised of it and what the promise
/// refers to was measured.
pub fn judge(host: HostKind, results: &Results, scenario: &str, series: &str) -> Option<Verdict> {
    let target = TARGETS.iter().find(|target| {
        target.scenario == scenario && target.series == series && target.hosts.contains(&host)
    })?;
    let median = find(results, scenario, series)?.p50;
    let amount = |value| units::amount(value, series.ends_with(BYTES_SUFFIX));
    let (met, target) = match target.bound {
        AtMost(most) => (median <= most, format!("≤ {}", amount(most))),
        Percent(percent, of_scenario, of) => {
            let other = find(results, of_scenario, of)?.p50;
            let met = median.saturating_mul(100) <= other.saturating_mul(percent);
            (met, format!("≤ {} × {of}", units::fixed(percent, 100, 1)))
        }
        Above(by, over_scenario, over) => {
            let other = find(results, over_scenario, over)?.p50;
            let met = median <= other.saturating_add(by);
            (met, format!("≤ {over} + {}", amount(by)))
        }
    };
    Some(Verdict { target, met })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::Summary;

    fn results(entries: &[(&str, &str, u64)]) -> Results {
        let mut results = Results::new();
        for (scenario, series, p50) in entries {
            let summary = Summary::of(&[*p50]).unwrap();
            results.entry((*scenario).into()).or_default().insert((*series).into(), summary);
        }
        results
    }

    #[test]
    fn targets_are_judged_on_their_hosts_only() {
        let results = results(&[("restore", "first_answer_python", 55_000)]);
        let met = |host| judge(host, &results, "restore", "first_answer_python").map(|v| v.met);
        assert_eq!(met(Kvm), Some(false));
        assert_eq!(met(Emulated), Some(true));
        assert_eq!(met(Double), None);
    }

    #[test]
    fn targets_that_refer_to_a_series_need_it() {
        let entries = [
            ("bare-fork", "zygote_exec", 7000),
            ("bare-fork", "fork_exit_wait", 10_000),
            ("ttfr", "total_python", 12_001),
            ("ttfr", "exec_steady_python", 9000),
        ];
        let all = results(&entries);
        let verdict = judge(Emulated, &all, "bare-fork", "zygote_exec").unwrap();
        assert_eq!(verdict, Verdict { target: "≤ 0.7 × fork_exit_wait".into(), met: true });
        let verdict = judge(Emulated, &all, "ttfr", "total_python").unwrap();
        let target = "≤ exec_steady_python + 3 ms".into();
        assert_eq!(verdict, Verdict { target, met: false });
        let alone = results(&entries[..1]);
        assert_eq!(judge(Emulated, &alone, "bare-fork", "zygote_exec"), None);
    }

    #[test]
    fn no_series_has_two_targets_on_one_host() {
        for (index, one) in TARGETS.iter().enumerate() {
            for other in &TARGETS[index + 1..] {
                let same = (one.scenario, one.series) == (other.scenario, other.series);
                let shared = one.hosts.iter().any(|host| other.hosts.contains(host));
                assert!(!(same && shared), "{one:?} and {other:?}");
            }
        }
    }
}
