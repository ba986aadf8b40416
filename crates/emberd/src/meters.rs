//! What the daemon counts and times, for `GET /metrics` in the text format of Prometheus.
//!
//! Requests are counted as they are answered. What exists now is counted when somebody asks. No
//! label has an id, an address or a text of a caller: the number of series has a bound, whatever
//! is asked for.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use emberd_keys::LimitName;
use emberd_sandbox::Sandboxes;
use prometheus_client::encoding::{EncodeLabelSet, prometheus_text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

mod audit;
mod egress;
mod state;
mod vmms;

use vmms::{LOOK_EVERY, Vmms};

use crate::audit::Audit;

/// Prefix of every name.
const PREFIX: &str = "emberd";

/// Content type of what [`Meters::scrape`] returns.
pub const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// See the module. Clones share it.
#[derive(Debug, Clone)]
pub struct Meters(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    requests: Family<Request, Counter>,
    refused: Family<Refusal, Counter>,
    over_limit: Family<OverLimit, Counter>,
    create: Timed<Creation>,
    exec: Timed<Execution>,
    exec_overhead: Histogram,
    vmms: Vmms,
}

type Timed<L> = Family<L, Histogram, fn() -> Histogram>;

/// A kind of answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Request {
    /// Method, or `other`.
    pub method: &'static str,
    /// Path as it is registered; `none` where there is no such path, `port` for a server in a
    /// sandbox.
    pub route: String,
    /// HTTP status; 0 where a server in a sandbox has answered.
    pub code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refusal {
    code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OverLimit {
    limit: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Creation {
    path: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Execution {
    started_by: &'static str,
}

/// A request whose time counts, beside how it was answered.
#[derive(Debug, Clone)]
pub enum Timing {
    /// A sandbox was created in this way.
    Created(String),
    /// A program has run, and took `run` of the time in the guest.
    Executed {
        /// How the program was started.
        started_by: &'static str,
        /// Time from its start to its end, in the guest.
        run: Duration,
    },
}

/// From 50 µs on, each twice the one before: to 26 s.
fn times() -> Histogram {
    Histogram::new(exponential_buckets(50e-6, 2.0, 20))
}

impl Default for Meters {
    fn default() -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let (requests, refused, over_limit) = Default::default();
        let create = Timed::new_with_constructor(times as fn() -> Histogram);
        let exec = Timed::new_with_constructor(times as fn() -> Histogram);
        let exec_overhead = times();
        let help = "Requests that were answered";
        registry.register("requests", help, Family::clone(&requests));
        let help = "Requests that were refused or failed, by the code of the error";
        registry.register("errors", help, Family::clone(&refused));
        let help = "Requests that a limit of their key has refused";
        registry.register("quota_refused", help, Family::clone(&over_limit));
        let help = "Time of creations until their answer";
        registry.register("create_seconds", help, create.clone());
        let help = "Time of execs until their answer";
        registry.register("exec_seconds", help, exec.clone());
        let help = "Time of execs that their programs did not run";
        registry.register("exec_overhead_seconds", help, exec_overhead.clone());
        let vmms = Vmms::default();
        Self(Arc::new(Inner {
            registry,
            requests,
            refused,
            over_limit,
            create,
            exec,
            exec_overhead,
            vmms,
        }))
    }
}

impl Meters {
    /// Counts an answer, which took `took`: an error by its code, and what else is timed.
    pub fn count(
        &self,
        request: &Request,
        refusal: Option<String>,
        timing: Option<Timing>,
        took: Duration,
    ) {
        self.0.requests.get_or_create(request).inc();
        if let Some(code) = refusal {
            self.0.refused.get_or_create(&Refusal { code }).inc();
        }
        match timing {
            Some(Timing::Created(path)) => {
                self.0.create.get_or_create(&Creation { path }).observe(took.as_secs_f64());
            }
            Some(Timing::Executed { started_by, run }) => {
                self.0.exec.get_or_create(&Execution { started_by }).observe(took.as_secs_f64());
                self.0.exec_overhead.observe(took.saturating_sub(run).as_secs_f64());
            }
            None => {}
        }
    }

    /// Counts a request that a limit of its key has refused.
    pub fn count_limit(&self, name: LimitName) {
        self.0.over_limit.get_or_create(&OverLimit { limit: name.name() }).inc();
    }

    /// Reads the VMMs of sandboxes again and again, for as long as it is polled.
    pub async fn keep_looking(&self, sandboxes: &Sandboxes) -> ! {
        loop {
            let (meters, sandboxes) = (self.clone(), sandboxes.clone());
            let looked = spawn_blocking(move || meters.0.vmms.look(&sandboxes)).await;
            if let Err(panicked) = looked {
                std::panic::resume_unwind(panicked.into_panic());
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Returns everything that is counted, and what exists now. Of VMMs, it shows what was read at
    /// the last look; of some new ones, it reads a file of `/proc`.
    pub fn scrape(&self, sandboxes: &Sandboxes, journal: &Audit) -> String {
        let mut text = String::new();
        let views = sandboxes.list();
        let mut state = Registry::with_prefix(PREFIX);
        state::register(&mut state, sandboxes, &views, &self.0.vmms);
        audit::register(&mut state, journal);
        if let Some(egress) = &sandboxes.config().egress {
            egress::register(&mut state, egress);
        }
        encode(&mut text, &self.0.registry);
        encode(&mut text, &state);
        text
    }
}

fn encode(text: &mut impl Write, registry: &Registry) {
    prometheus_text::encode(text, registry).expect("a text takes everything");
}
