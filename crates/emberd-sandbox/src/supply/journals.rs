//! Writes the journals that could not be written when something changed.

use std::time::Duration;

use tokio::time::sleep;

use crate::lifecycle::signals::Signals;
use crate::lifecycle::table::Table;

/// Time between two attempts: a full disk does not become empty at once.
const RETRY: Duration = Duration::from_secs(5);

/// Writes them as soon as that succeeds; never returns.
pub(crate) async fn catch_up(table: &Table, signals: &Signals) {
    loop {
        signals.journals.notified().await;
        sleep(RETRY).await;
        // One that fails again notifies again.
        for sandbox in table.behind() {
            sandbox.note();
        }
    }
}
