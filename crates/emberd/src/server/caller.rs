//! Who sent a request, and its place among the daemon's connections.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use crate::server::socket::Connection;

/// Whose requests are counted together. Whoever authenticates callers adds a kind here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Principal {
    /// All that come from one address.
    Ip(IpAddr),
    /// All programs of one user of this host, over a Unix socket.
    User(u32),
    /// All of whom nothing is known.
    Unknown,
}

/// Travels with every request. What outlives the HTTP on a connection holds one, so that the
/// connection goes on to count.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// Who it is.
    pub principal: Principal,
    /// What it speaks on.
    pub connection: Connection,
    /// Dropped with the last of them.
    pub _turn: Arc<OwnedSemaphorePermit>,
}

impl Caller {
    /// Where it connected from; none over a Unix socket.
    pub fn ip(&self) -> Option<IpAddr> {
        match self.principal {
            Principal::Ip(ip) => Some(ip),
            Principal::User(_) | Principal::Unknown => None,
        }
    }
}
