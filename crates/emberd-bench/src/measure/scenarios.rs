//! The scenarios, in the order of `all`, and the daemons they need.

use super::error::MeasureError;
use super::rig::Rig;

mod adopt;
mod audit;
mod bare_fork;
mod burst;
mod churn;
mod cold_boot;
mod concurrency;
mod context;
mod delete;
mod density;
mod egress;
mod exec;
mod files;
mod freeze;
mod held;
mod mcp;
mod memory;
mod metrics;
mod overhead;
mod python;
mod restore;
mod sizes;
mod stream;
mod tls;
mod ttfr;
mod warm_create;
mod workloads;

/// A scenario.
#[derive(Debug)]
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// Description, for people.
    pub about: &'static str,
    /// Default number of iterations.
    pub iterations: usize,
    /// Configuration of its daemon.
    pub start: Start,
    /// Runs the scenario.
    pub run: fn(&mut Rig) -> Result<(), MeasureError>,
}

/// Configuration of a scenario's daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With templates and pools.
    Pooled,
    /// With templates and without a pool.
    Restoring,
    /// Without templates.
    Cold,
    /// Without templates, and with guests large enough for the files of `files`.
    Roomy,
    /// With templates and pools, and an operator who permits connections to this host.
    Reaching,
    /// Over the test double, without templates.
    Double,
    /// The same, with room for a thousand sandboxes.
    Crowded,
}

impl Start {
    /// Returns whether the sandboxes are the double's in any case.
    pub fn is_double(self) -> bool {
        matches!(self, Self::Double | Self::Crowded)
    }

    /// Returns the flags for this. The daemon with pools must also hold the widest sweep, beside
    /// which its pools need memory.
    pub fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Pooled | Self::Reaching => &["--templates", "on", "--max-sandboxes", "128"],
            Self::Restoring => &["--templates", "on", "--pool-size", "off"],
            Self::Roomy => &["--templates", "off", "--pool-size", "off", "--guest-ram-mib", "640"],
            Self::Crowded => &[
                "--templates",
                "off",
                "--pool-size",
                "off",
                "--max-sandboxes",
                "1024",
                "--guest-ram-mib",
                "64",
                // The double's guests take none of it.
                "--memory-mib",
                "65536",
            ],
            Self::Cold | Self::Double => &["--templates", "off", "--pool-size", "off"],
        }
    }
}

/// All scenarios.
pub const SCENARIOS: [Scenario; 27] = [
    Scenario {
        name: "overhead",
        about: "overhead of emberd per exec, with the test double",
        iterations: 1000,
        start: Start::Double,
        run: overhead::run,
    },
    Scenario {
        name: "audit",
        about: "cost of the audit journal per request, with the test double",
        iterations: 5000,
        start: Start::Double,
        run: audit::run,
    },
    Scenario {
        name: "tls",
        about: "handshakes, and requests over TLS, with the test double",
        iterations: 1000,
        start: Start::Double,
        run: tls::run,
    },
    Scenario {
        name: "metrics",
        about: "a scrape beside a thousand sandboxes of the test double",
        iterations: 1000,
        start: Start::Crowded,
        run: metrics::run,
    },
    Scenario {
        name: "mcp",
        about: "overhead of MCP per run of code, with the test double",
        iterations: 1000,
        start: Start::Double,
        run: mcp::run,
    },
    Scenario {
        name: "python",
        about: "overhead of the Python package per exec, with the test double",
        iterations: 1000,
        start: Start::Double,
        run: python::run,
    },
    Scenario {
        name: "cold-boot",
        about: "create by a cold boot",
        iterations: 10,
        start: Start::Cold,
        run: cold_boot::run,
    },
    Scenario {
        name: "restore",
        about: "create from a template without a pool, and the first exec",
        iterations: 50,
        start: Start::Restoring,
        run: restore::run,
    },
    Scenario {
        name: "warm-create",
        about: "create from the pool",
        iterations: 100,
        start: Start::Pooled,
        run: warm_create::run,
    },
    Scenario {
        name: "burst",
        about: "six creates at once, more than the pool holds",
        iterations: 10,
        start: Start::Pooled,
        run: burst::run,
    },
    Scenario {
        name: "ttfr",
        about: "create, first exec and delete, from the pool",
        iterations: 50,
        start: Start::Pooled,
        run: ttfr::run,
    },
    Scenario {
        name: "exec",
        about: "exec in an existing sandbox: in a fork of the zygote, and in a new interpreter",
        iterations: 100,
        start: Start::Pooled,
        run: exec::run,
    },
    Scenario {
        name: "bare-fork",
        about: "an exec by zygote compared with a bare fork, exit and wait in the same guest",
        iterations: 100,
        start: Start::Pooled,
        run: bare_fork::run,
    },
    Scenario {
        name: "workloads",
        about: "programs with much code, input or output, failures and time-outs",
        iterations: 10,
        start: Start::Pooled,
        run: workloads::run,
    },
    Scenario {
        name: "files",
        about: "write and read a file of 128 MiB in a sandbox; small files",
        iterations: 5,
        start: Start::Roomy,
        run: files::run,
    },
    Scenario {
        name: "stream",
        about: "first output of a process, echo of its input, 128 MiB of its output",
        iterations: 50,
        start: Start::Pooled,
        run: stream::run,
    },
    Scenario {
        name: "context",
        about: "a run in a context",
        iterations: 100,
        start: Start::Pooled,
        run: context::run,
    },
    Scenario {
        name: "egress",
        about: "connections of programs to a server on this host",
        iterations: 5,
        start: Start::Reaching,
        run: egress::run,
    },
    Scenario {
        name: "held",
        about: "many processes in one sandbox, each with a connected client",
        iterations: 1,
        start: Start::Pooled,
        run: held::run,
    },
    Scenario {
        name: "delete",
        about: "delete: time to the response, and until the microVM is gone",
        iterations: 50,
        start: Start::Pooled,
        run: delete::run,
    },
    Scenario {
        name: "freeze",
        about: "an exec that thaws its sandbox; processor time of a VMM, awake and frozen",
        iterations: 10,
        start: Start::Pooled,
        run: freeze::run,
    },
    Scenario {
        name: "sizes",
        about: "create from the pool of another size",
        iterations: 20,
        start: Start::Pooled,
        run: sizes::run,
    },
    Scenario {
        name: "adopt",
        about: "64 sandboxes go on under the next daemon after a kill",
        iterations: 5,
        start: Start::Restoring,
        run: adopt::run,
    },
    Scenario {
        name: "density",
        about: "many sandboxes that nobody uses",
        iterations: 32,
        start: Start::Restoring,
        run: density::run,
    },
    Scenario {
        name: "memory",
        about: "memory of a sandbox, idle and after work",
        iterations: 8,
        start: Start::Pooled,
        run: memory::run,
    },
    Scenario {
        name: "concurrency",
        about: "create, exec and delete, 1 to 64 at once",
        iterations: 3,
        start: Start::Pooled,
        run: concurrency::run,
    },
    Scenario {
        name: "churn",
        about: "many sandboxes in a row: drift and leaks",
        iterations: 300,
        start: Start::Pooled,
        run: churn::run,
    },
];

pub use egress::own_address;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::targets::TARGETS;

    #[test]
    fn every_target_belongs_to_a_scenario() {
        for target in &TARGETS {
            assert!(SCENARIOS.iter().any(|scenario| scenario.name == target.scenario));
        }
    }
}
