//! Deletes the sandboxes whose time is over.

use std::time::Duration;

use tokio::time::timeout;

use super::reaper::Reaper;
use crate::lifecycle::lease::Boottime;
use crate::lifecycle::signals::Signals;
use crate::lifecycle::table::Table;

/// Longest sleep before the deadlines are looked at again. The runtime's clock stands still while
/// the host is suspended, that of the deadlines does not.
const SLEEP_MAX: Duration = Duration::from_secs(10);

/// Deletes each sandbox of `table` at its deadline; never returns.
pub(crate) async fn expire(table: &Table, reaper: &Reaper, signals: &Signals) {
    loop {
        let now = Boottime::now();
        for sandbox in table.take_expired(now) {
            tracing::info!(id = %sandbox.id, "sandbox deleted: its timeout has passed");
            sandbox.tell_expired();
            reaper.reap_later(sandbox);
        }
        match table.next_deadline() {
            Some(deadline) => {
                let wait = deadline.left(Boottime::now()).min(SLEEP_MAX);
                drop(timeout(wait, signals.deadlines.notified()).await);
            }
            None => signals.deadlines.notified().await,
        }
    }
}
