//! Tells a client that asked for it how a long call goes on.

use std::time::Duration;

use rmcp::RoleServer;
use rmcp::model::{ProgressNotificationParam, ProgressToken};
use rmcp::service::{Peer, RequestContext};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::text::{Cleaner, Kept, one_line};

/// Shortest time between two notifications: four in a second.
const PAUSE: Duration = Duration::from_millis(250);

/// Longest message, in characters.
const MESSAGE_CHARS_MAX: usize = 200;

/// The progress of one call: the milliseconds since it began, and the last line of output.
#[derive(Debug)]
pub struct Progress {
    to: Option<(Peer<RoleServer>, ProgressToken)>,
    started: Instant,
    ticks: Interval,
    cleaner: Cleaner,
    line: String,
    is_new: bool,
    sent: Duration,
}

/// A client that hears nothing for so long is told that the call goes on.
const SILENCE: Duration = Duration::from_secs(5);

impl Progress {
    /// The progress of the call of `context`.
    pub fn of(context: &RequestContext<RoleServer>) -> Self {
        let token = context.meta.get_progress_token();
        let started = Instant::now();
        let mut ticks = interval_at(started + PAUSE, PAUSE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let to = token.map(|token| (context.peer.clone(), token));
        let (cleaner, line) = Default::default();
        Self { to, started, ticks, cleaner, line, is_new: false, sent: Duration::ZERO }
    }

    /// Notes output.
    pub fn note(&mut self, text: &str) {
        if self.to.is_none() {
            return;
        }
        let mut kept = Kept::default();
        self.cleaner.push(text, &mut kept);
        let line = self.cleaner.line();
        let (lines, _) = kept.all();
        let last = if line.is_empty() { lines.trim_end().lines().last() } else { Some(line) };
        if let Some(last) = last.filter(|last| !last.is_empty()) {
            self.line = one_line(last, MESSAGE_CHARS_MAX);
            self.is_new = true;
        }
    }

    /// Tells the client from time to time, for as long as it is polled. Cancel safe.
    pub async fn tell(&mut self) -> std::convert::Infallible {
        loop {
            let Some((peer, token)) = &self.to else { std::future::pending().await };
            self.ticks.tick().await;
            let elapsed = self.started.elapsed();
            if !self.is_new && elapsed < self.sent + SILENCE {
                continue;
            }
            let milliseconds = elapsed.as_secs_f64() * 1_000.0;
            let mut told = ProgressNotificationParam::new(token.clone(), milliseconds.floor());
            if !self.line.is_empty() {
                told = told.with_message(self.line.clone());
            }
            (self.is_new, self.sent) = (false, elapsed);
            // A client that is gone cancels the call.
            if let Err(error) = peer.notify_progress(told).await {
                tracing::debug!(%error, "no progress was told");
            }
        }
    }
}
