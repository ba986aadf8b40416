//! The daemon's log, on standard error: what a caller or a guest has a say in is escaped and
//! cut, and lines of one kind are let through at a steady pace.

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

pub(crate) use fields::Chain;
pub(crate) use line::excerpt;
use throttle::Throttle;

/// How often the log is told how many lines were dropped, if any were.
const DROPPED_TOLD_EVERY: Duration = Duration::from_secs(10);

/// Starts the log; `RUST_LOG` filters it, `info` and above by default.
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

/// Tells the log how many lines of each kind were dropped since it was told last.
pub(crate) fn tell_dropped() {
    for kind in throttle::dropped() {
        let (dropped, at, like) = (kind.lines, kind.at, kind.like);
        tracing::warn!(dropped, at, like, "lines like this were dropped");
    }
}

/// The same again and again.
pub(crate) async fn go_on_telling_dropped() -> ! {
    loop {
        tokio::time::sleep(DROPPED_TOLD_EVERY).await;
        tell_dropped();
    }
}
