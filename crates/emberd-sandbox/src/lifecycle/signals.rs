//! Notifications about sandboxes for the daemon's own tasks.

use tokio::sync::Notify;

/// See the module.
#[derive(Default)]
pub(crate) struct Signals {
    /// Notified when a deadline was set.
    pub deadlines: Notify,
    /// Notified when a sandbox may become due to be frozen at another time than before.
    pub idle: Notify,
}
