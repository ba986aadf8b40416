//! Lines of one kind, which are those written at one place of the code, at a steady pace: what a
//! caller can provoke at will must not fill a disk. What is dropped is counted, and told later.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::line::Tame;

/// Lines of one kind that may be written at once after a pause.
pub const LINES_BURST: u32 = 200;

/// Time for which each line of a kind stands: ten in a second, one with another.
pub const LINE_EVERY: Duration = Duration::from_millis(100);

/// What is remembered of a dropped line's message, in bytes.
const LIKE_BYTES_MAX: usize = 120;

/// Every kind there was a line of: as many as there are places that write to the log.
static KINDS: LazyLock<Mutex<HashMap<Identifier, Kind>>> = LazyLock::new(Mutex::default);

/// Lets lines pass while their kind keeps to its pace.
#[derive(Debug, Clone, Copy)]
pub struct Throttle;

impl<S: Subscriber> Layer<S> for Throttle {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        kinds().entry(event.metadata().callsite()).or_insert_with(Kind::new).take(event)
    }
}

/// Lines of one kind that were dropped.
#[derive(Debug, PartialEq, Eq)]
pub struct Dropped {
    pub lines: u64,
    /// Which place in the code would have written them.
    pub at: &'static str,
    /// The message of the first of them.
    pub like: String,
}

/// What was dropped since this was asked last.
pub fn dropped() -> Vec<Dropped> {
    kinds().values_mut().filter_map(|kind| kind.dropped.take()).collect()
}

/// No code that could panic half-way through a change runs under this lock.
fn kinds() -> MutexGuard<'static, HashMap<Identifier, Kind>> {
    KINDS.lock()
}

#[derive(Debug)]
struct Kind {
    pace: Pace,
    dropped: Option<Dropped>,
}

impl Kind {
    fn new() -> Self {
        Self { pace: Pace::default(), dropped: None }
    }

    fn take(&mut self, event: &Event<'_>) -> bool {
        let passes = self.pace.take(Instant::now());
        if !passes {
            let first = || Dropped { lines: 0, at: event.metadata().name(), like: like(event) };
            self.dropped.get_or_insert_with(first).lines += 1;
        }
        passes
    }
}

/// A bucket of tokens, told by when it will be full again.
#[derive(Debug, Default)]
struct Pace {
    full_at: Option<Instant>,
}

impl Pace {
    fn take(&mut self, now: Instant) -> bool {
        let full_at = self.full_at.map_or(now, |full_at| full_at.max(now));
        let passes = full_at - now <= LINE_EVERY * (LINES_BURST - 1);
        if passes {
            self.full_at = Some(full_at + LINE_EVERY);
        }
        passes
    }
}

/// The message of an event, tame.
fn like(event: &Event<'_>) -> String {
    struct Message(String);
    impl Visit for Message {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            if field.name() == "message" {
                let mut tame = Tame::new(&mut self.0, LIKE_BYTES_MAX);
                let written = write!(tame, "{value:?}");
                // Strings can be written to.
                tame.finish(written).unwrap_or_default();
            }
        }
    }
    let mut message = Message(String::new());
    event.record(&mut message);
    message.0
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::super::written::Written;
    use super::*;

    #[test]
    fn a_burst_passes_and_then_a_steady_pace() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let mut passing = |now, lines: u32| (0..lines).filter(|_| pace.take(now)).count();
        let burst = usize::try_from(LINES_BURST).unwrap();
        assert_eq!(passing(start, 100_000), burst);
        assert_eq!(passing(start + LINE_EVERY, 100), 1);
        assert_eq!(passing(start + LINE_EVERY * 11, 100), 10);
        assert_eq!(passing(start + LINE_EVERY * 100_000, 100_000), burst);
    }

    #[test]
    fn of_a_flood_a_burst_is_written_and_the_rest_is_counted() {
        let lines = Written::default();
        let layer = tracing_subscriber::fmt::layer().with_writer(lines.maker());
        let log = tracing_subscriber::registry().with(layer).with(Throttle);
        let flood = 20_000;
        tracing::subscriber::with_default(log, || {
            for number in 0..flood {
                tracing::warn!(number, "a flood\n");
            }
            tracing::warn!("another kind");
        });
        let text = lines.text();
        let written = text.matches("a flood").count();
        assert!(text.contains("another kind"));
        let flooded = dropped().into_iter().find(|kind| kind.like == "a flood\\n").unwrap();
        assert_eq!(written as u64 + flooded.lines, flood);
        // As slow as this machine may be, the flood is faster than the pace.
        assert!(written >= 200 && flooded.lines > flood / 2, "{flooded:?}");
        assert!(flooded.at.contains("throttle.rs"), "{flooded:?}");
        assert!(!dropped().iter().any(|kind| kind.like == "a flood\\n"));
    }
}
