//! The daemon's log, on standard error. Text from callers and guests is escaped and cut, and each
//! kind of line is limited in rate.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use emberd_config::LogFormat;
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

mod fields;
mod line;
mod throttle;
#[cfg(test)]
mod written;

pub(crate) use line::excerpt;
pub(crate) use throttle::Bucket;
use throttle::Throttle;

/// How often the log reports how many lines were dropped, if any were.
const DROPPED_REPORT_EVERY: Duration = Duration::from_secs(10);

/// Starts the log. `RUST_LOG` filters it; the default is `info` and above.
///
/// # Panics
/// When called twice.
pub fn start(format: LogFormat) {
    let filter =
        EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    let lines = tracing_subscriber::fmt::layer();
    match format {
        LogFormat::Text => {
            let is_terminal = io::stderr().is_terminal();
            let lines = lines.with_writer(io::stderr).with_ansi(is_terminal);
            let lines = lines.fmt_fields(fields::Fields);
            tracing_subscriber::registry().with(lines).with(Throttle).with(filter).init();
        }
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_writer(line::JsonLines::stderr);
            tracing_subscriber::registry().with(lines).with(Throttle).with(filter).init();
        }
    }
}

/// Logs how many lines of each kind were dropped since the last report.
pub(crate) fn report_dropped() {
    for kind in throttle::dropped() {
        let (dropped, at, like) = (kind.lines, kind.at, kind.like);
        tracing::warn!(dropped, at, like, "lines like this were dropped");
    }
}

/// Calls [`report_dropped`] at intervals, for as long as it is polled.
pub(crate) async fn keep_reporting_dropped() -> ! {
    loop {
        tokio::time::sleep(DROPPED_REPORT_EVERY).await;
        report_dropped();
    }
}
