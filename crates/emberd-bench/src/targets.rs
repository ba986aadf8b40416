//! The performance targets of emberd.
//!
//! A target applies to the kind of host that it was set for.

use crate::statistics::{Results, find};
use crate::units::{self, Quantity};

/// The kind of execution, as far as targets differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostKind {
    /// Hardware virtualisation.
    Kvm,
    /// Software emulation.
    Emulated,
    /// The test double, without a guest.
    Double,
}

/// A bound for the median of a series.
#[derive(Debug, Clone, Copy)]
pub enum Bound {
    /// At most this many microseconds or bytes.
    AtMost(u64),
    /// At least this many things, or bytes per second.
    AtLeast(u64),
    /// At most this many percent of another series' median in the same run.
    Percent(u64, &'static str, &'static str),
    /// At least this many percent of another series' median in the same run.
    PercentAtLeast(u64, &'static str, &'static str),
    /// At most this many microseconds above another series' median in the same run.
    Above(u64, &'static str, &'static str),
}

/// A performance target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Scenario.
    pub scenario: &'static str,
    series: &'static str,
    bound: Bound,
    hosts: &'static [HostKind],
}

/// The result for a target in a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Description of the target.
    pub target: String,
    /// Whether the median meets the target.
    pub met: bool,
    /// Ratio of the median to that of the reference series, if the target is a ratio.
    pub ratio: Option<String>,
}

use Bound::{Above, AtLeast, AtMost, Percent, PercentAtLeast};
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

const ALL: &[HostKind] = &[Kvm, Emulated, Double];

/// Output rate of a process, relative to that of the same program into a pipe inside the guest.
const OUTPUT_PYTHON: Bound = PercentAtLeast(20, "stream", "output_128m_python_floor_bytes_per_s");
const OUTPUT_SHELL: Bound = PercentAtLeast(20, "stream", "output_128m_shell_floor_bytes_per_s");

/// Rate of a connection to the host, relative to that of the tunnel to a port.
const DOWNLOAD: Bound = PercentAtLeast(90, "egress", "download_tunnel_bytes_per_s");
const UPLOAD: Bound = PercentAtLeast(90, "egress", "upload_tunnel_bytes_per_s");
const STREAMS: Bound = PercentAtLeast(90, "egress", "download_streams_tunnel_bytes_per_s");

/// All targets. Times are in microseconds.
pub const TARGETS: [Target; 61] = [
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
    target("stream", "first_byte_python", Percent(110, "stream", "exec_python"), ALL),
    target("stream", "first_byte_shell", Percent(110, "stream", "exec_shell"), ALL),
    target("stream", "echo_python", Percent(120, "stream", "agent_python_floor"), ALL),
    target("stream", "echo_shell", Percent(120, "stream", "agent_shell_floor"), ALL),
    target("stream", "output_128m_python_bytes_per_s", OUTPUT_PYTHON, &[Emulated]),
    target("stream", "output_128m_shell_bytes_per_s", OUTPUT_SHELL, &[Emulated]),
    target("context", "run_python", AtMost(5000), &[Emulated]),
    target("context", "run_shell", AtMost(5000), &[Emulated]),
    target("freeze", "thaw_python", AtMost(4000), &[Emulated]),
    target("freeze", "thaw_shell", AtMost(4000), &[Emulated]),
    target("freeze", "thaw_python", AtMost(2000), &[Kvm]),
    target("freeze", "thaw_shell", AtMost(2000), &[Kvm]),
    target("adopt", "serving_python", AtMost(300_000), ALL),
    target("adopt", "serving_shell", AtMost(300_000), ALL),
    target("adopt", "adopted_64_python", AtMost(2_000_000), &[Emulated]),
    target("adopt", "adopted_64_shell", AtMost(2_000_000), &[Emulated]),
    target("adopt", "adopted_64_python", AtMost(500_000), &[Kvm, Double]),
    target("adopt", "adopted_64_shell", AtMost(500_000), &[Kvm, Double]),
    target("sizes", "create_512_mib_python", AtMost(400), &[Emulated]),
    target("sizes", "create_512_mib_shell", AtMost(400), &[Emulated]),
    target("egress", "create_policy", Above(50, "egress", "create_plain"), &[Kvm, Emulated]),
    target("egress", "connect", Above(300, "egress", "connect_host_floor"), &[Kvm]),
    target("egress", "connect", Percent(130, "egress", "connect_tunnel"), &[Emulated]),
    target("egress", "download_bytes_per_s", AtLeast(400 * MIB), &[Kvm]),
    target("egress", "download_bytes_per_s", DOWNLOAD, &[Emulated]),
    target("egress", "upload_bytes_per_s", UPLOAD, &[Emulated]),
    target("egress", "download_streams_bytes_per_s", AtLeast(800 * MIB), &[Kvm]),
    target("egress", "download_streams_bytes_per_s", STREAMS, &[Emulated]),
    target("egress", "exchange_in_transfer", AtMost(1000), &[Kvm]),
    target("egress", "exchange_in_transfer", AtMost(5000), &[Emulated]),
    target("held", "held_python_count", AtLeast(200), ALL),
    target("held", "held_shell_count", AtLeast(200), ALL),
    target("delete", "answer_python", AtMost(500), &[Kvm, Emulated]),
    target("delete", "answer_shell", AtMost(500), &[Kvm, Emulated]),
    target("memory", "idle_pss_python_bytes", AtMost(5 * MIB), &[Kvm]),
    target("overhead", "exec", AtMost(100), &[Double]),
    target("overhead", "context_run", AtMost(500), &[Double]),
    target("overhead", "exec_with_key", Above(5, "overhead", "exec_without_key"), &[Double]),
    target("overhead", "create_with_key", Above(5, "overhead", "create_without_key"), &[Double]),
    target("audit", "cpu_recorded", Above(20, "audit", "cpu_unrecorded"), &[Double]),
    target("audit", "request_recorded", Above(20, "audit", "request_unrecorded"), &[Double]),
    target("tls", "handshake", AtMost(2000), &[Double]),
    target("metrics", "scrape", AtMost(5000), &[Double]),
    target("mcp", "run_by_stdio", Above(1500, "mcp", "run_by_api"), &[Double]),
    target("mcp", "run_by_http", Above(1000, "mcp", "run_by_api"), &[Double]),
    target("mcp", "tools_list_bytes", AtMost(6 << 10), &[Double]),
    target("python", "import", AtMost(40_000), &[Double]),
    target("python", "exec_package", Above(400, "python", "exec_raw"), &[Double]),
];

/// Returns the result of `series` on such a host, if it has a target there and the reference was
/// measured.
pub fn judge(host: HostKind, results: &Results, scenario: &str, series: &str) -> Option<Verdict> {
    let target = TARGETS.iter().find(|target| {
        target.scenario == scenario && target.series == series && target.hosts.contains(&host)
    })?;
    let median = find(results, scenario, series)?.p50;
    let amount = |value| units::amount(value, Quantity::of(series));
    let mut ratio = None;
    let mut part = |percent: u64, scenario, series| {
        let other = find(results, scenario, series)?.p50;
        ratio = (other > 0).then(|| units::fixed(median, other, 2));
        let words = format!("{} × {series}", units::fixed(percent, 100, 1));
        Some((median.saturating_mul(100).cmp(&other.saturating_mul(percent)), words))
    };
    let (met, target) = match target.bound {
        AtMost(most) => (median <= most, format!("≤ {}", amount(most))),
        AtLeast(least) => (median >= least, format!("≥ {}", amount(least))),
        Percent(percent, scenario, series) => {
            let (order, words) = part(percent, scenario, series)?;
            (order.is_le(), format!("≤ {words}"))
        }
        PercentAtLeast(percent, scenario, series) => {
            let (order, words) = part(percent, scenario, series)?;
            (order.is_ge(), format!("≥ {words}"))
        }
        Above(by, over_scenario, over) => {
            let other = find(results, over_scenario, over)?.p50;
            let met = median <= other.saturating_add(by);
            (met, format!("≤ {over} + {}", amount(by)))
        }
    };
    Some(Verdict { target, met, ratio })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::results;

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
        let (target, ratio) = ("≤ 0.7 × fork_exit_wait".into(), Some("0.70".into()));
        assert_eq!(verdict, Verdict { target, met: true, ratio });
        let verdict = judge(Emulated, &all, "ttfr", "total_python").unwrap();
        let target = "≤ exec_steady_python + 3 ms".into();
        assert_eq!(verdict, Verdict { target, met: false, ratio: None });
        let alone = results(&entries[..1]);
        assert_eq!(judge(Emulated, &alone, "bare-fork", "zygote_exec"), None);
    }

    #[test]
    fn of_what_is_better_if_more_there_is_to_be_enough() {
        let floor = ("stream", "output_128m_shell_floor_bytes_per_s", 100);
        let of = |rate| results(&[floor, ("stream", "output_128m_shell_bytes_per_s", rate)]);
        let judged =
            |rate| judge(Emulated, &of(rate), "stream", "output_128m_shell_bytes_per_s").unwrap();
        let (enough, little) = (judged(25), judged(15));
        assert_eq!((enough.met, enough.ratio.as_deref()), (true, Some("0.25")));
        assert_eq!((little.met, little.ratio.as_deref()), (false, Some("0.15")));
        let held = results(&[("held", "held_shell_count", 256)]);
        let verdict = judge(Kvm, &held, "held", "held_shell_count").unwrap();
        assert_eq!(verdict, Verdict { target: "≥ 200".into(), met: true, ratio: None });
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
