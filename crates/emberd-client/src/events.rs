//! What becomes of the daemon's sandboxes.

use bytes::Bytes;
use emberd_api::{DaemonEvent, paths};
use hyper::Method;

use crate::client::{Client, ClientError};
use crate::follow::{Events, Form};

/// Largest event that is read, in bytes (1 MiB).
const EVENT_BYTES_MAX: usize = 1 << 20;

impl Client {
    /// Reads the events of all sandboxes, or of these: those that the daemon has kept after number
    /// `after`, or all; and with `follow` those that come, until the daemon stops.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn events(
        &self,
        sandboxes: &[String],
        after: Option<u64>,
        follow: bool,
    ) -> Result<Events<DaemonEvent>, ClientError> {
        let path = paths::events(sandboxes, after, follow);
        self.follow(Method::GET, &path, Bytes::new(), Form::server(EVENT_BYTES_MAX)).await
    }
}
