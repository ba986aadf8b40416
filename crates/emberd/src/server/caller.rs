//! The connection a request came on: travels with every request.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use super::connection::{ConnectionHandle, Peer};

/// The client's end of a connection. Whatever goes on with the connection after HTTP, such as a
/// tunnel, keeps a clone, so that the connection goes on to count against its limit.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// The other end.
    pub peer: Peer,
    /// Aborts the connection.
    pub connection: ConnectionHandle,
    /// The connection's permit, released with the last clone.
    pub _permit: Arc<OwnedSemaphorePermit>,
}
