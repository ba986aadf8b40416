//! News of sandboxes: notifications for the daemon's own tasks, and events for followers.

use std::time::SystemTime;

use tokio::sync::Notify;

use super::events::EventLog;

/// See the module.
pub(crate) struct Signals {
    /// Notified when a deadline was set.
    pub deadlines: Notify,
    /// Notified when a sandbox may become due to be frozen at another time than before.
    pub idle: Notify,
    /// Notified when a journal could not be written.
    pub journals: Notify,
    /// Events of the sandboxes in the table.
    pub events: EventLog,
}

impl Default for Signals {
    fn default() -> Self {
        let [deadlines, idle, journals] = [Notify::new(), Notify::new(), Notify::new()];
        Self { deadlines, idle, journals, events: EventLog::new(SystemTime::now()) }
    }
}
