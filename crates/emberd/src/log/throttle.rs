//! Limits the rate of each kind of line, so that a line that callers can cause at will does not
//! fill a disk. A kind is what one call site writes. Dropped lines are counted and reported later.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

use super::line::Sanitizer;

/// Lines of one kind that pass at once after a pause.
pub const LINES_BURST: u32 = 200;

/// Interval at which lines of one kind pass in the long run: ten a second.
pub const LINE_EVERY: Duration = Duration::from_millis(100);

/// Longest part of a dropped line's message that is kept, in bytes.
const LIKE_BYTES_MAX: usize = 120;

/// Every kind seen so far, at most one for each call site of the program.
static KINDS: LazyLock<Mutex<HashMap<Identifier, Kind>>> = LazyLock::new(Mutex::default);

/// Drops the lines of a kind that are over its rate.
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
    /// The call site that would have written them.
    pub at: &'static str,
    /// The message of the first of them.
    pub like: String,
}

/// Returns what was dropped since the last call.
pub fn dropped() -> Vec<Dropped> {
    kinds().values_mut().filter_map(|kind| kind.dropped.take()).collect()
}

/// Nothing that could panic halfway through a change runs under this lock.
fn kinds() -> MutexGuard<'static, HashMap<Identifier, Kind>> {
    KINDS.lock()
}

#[derive(Debug)]
struct Kind {
    bucket: Bucket,
    dropped: Option<Dropped>,
}

impl Kind {
    fn new() -> Self {
        Self { bucket: Bucket::default(), dropped: None }
    }

    fn take(&mut self, event: &Event<'_>) -> bool {
        let passes = self.bucket.take(Instant::now());
        if !passes {
            let first = || Dropped { lines: 0, at: event.metadata().name(), like: like(event) };
            self.dropped.get_or_insert_with(first).lines += 1;
        }
        passes
    }
}

/// A token bucket, stored as the time at which it will be full again.
#[derive(Debug, Default)]
pub struct Bucket {
    full_at: Option<Instant>,
}

impl Bucket {
    /// Takes one, if there is one.
    pub fn take(&mut self, now: Instant) -> bool {
        let full_at = self.full_at.map_or(now, |full_at| full_at.max(now));
        let passes = full_at - now <= LINE_EVERY * (LINES_BURST - 1);
        if passes {
            self.full_at = Some(full_at + LINE_EVERY);
        }
        passes
    }
}

/// The message of an event, sanitized.
fn like(event: &Event<'_>) -> String {
    struct Message(String);
    impl Visit for Message {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            if field.name() == "message" {
                let mut sanitizer = Sanitizer::new(&mut self.0, LIKE_BYTES_MAX);
                let written = write!(sanitizer, "{value:?}");
                // Writing to a string fails only where it is cut.
                sanitizer.finish(written).unwrap_or_default();
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
    fn a_burst_passes_and_then_a_steady_rate() {
        let (mut bucket, start) = (Bucket::default(), Instant::now());
        let mut passing = |now, lines: u32| (0..lines).filter(|_| bucket.take(now)).count();
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
        // However slow the machine is, the flood is faster than the rate.
        assert!(written >= 200 && flooded.lines > flood / 2, "{flooded:?}");
        assert!(flooded.at.contains("throttle.rs"), "{flooded:?}");
        assert!(!dropped().iter().any(|kind| kind.like == "a flood\\n"));
    }
}
