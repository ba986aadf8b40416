//! Who sent a request, and its place among the daemon's connections.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

/// Travels with every request. What outlives the HTTP on a connection holds one, so that the
/// connection goes on to count.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// Where it connected from; none over a Unix socket.
    pub ip: Option<IpAddr>,
    /// Dropped with the last of them.
    pub _turn: Arc<OwnedSemaphorePermit>,
}
