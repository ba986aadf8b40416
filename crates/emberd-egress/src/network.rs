//! The network of this host, as far as sandboxes use it.

use std::io;
use std::net::{IpAddr, SocketAddr};

use emberd_proto::EgressReason;
use futures::future::BoxFuture;
use tokio::net::TcpStream;

/// Why a name has no addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookupError {
    /// The name, or an address of it, does not exist.
    NoSuchName,
    /// The resolver failed, or took too long.
    Failed,
}

impl LookupError {
    /// The reason in answers and records.
    pub(crate) fn reason(self) -> EgressReason {
        match self {
            Self::NoSuchName => EgressReason::NoSuchName,
            Self::Failed => EgressReason::LookupFailed,
        }
    }
}

/// A network.
pub trait Network: Send + Sync + 'static {
    /// Returns the addresses of `name`, of both families, in the order in which to try them.
    /// Blocks.
    ///
    /// # Errors
    /// [`LookupError`].
    fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, LookupError>;

    /// Connects to a destination.
    ///
    /// # Errors
    /// When it does not accept the connection.
    fn connect(&self, destination: SocketAddr) -> BoxFuture<'static, io::Result<TcpStream>>;
}

/// The network of this host.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostNetwork;

impl Network for HostNetwork {
    fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, LookupError> {
        use dns_lookup::LookupErrorKind::{NoData, NoName};
        // One answer for each address, not for each type of socket.
        let socktype = dns_lookup::SockType::Stream.into();
        let hints = dns_lookup::AddrInfoHints { socktype, ..Default::default() };
        match dns_lookup::getaddrinfo(Some(name), None, Some(hints)) {
            Ok(found) => Ok(found.filter_map(Result::ok).map(|info| info.sockaddr.ip()).collect()),
            Err(error) if matches!(error.kind(), NoName | NoData) => Err(LookupError::NoSuchName),
            Err(_) => Err(LookupError::Failed),
        }
    }

    fn connect(&self, destination: SocketAddr) -> BoxFuture<'static, io::Result<TcpStream>> {
        Box::pin(TcpStream::connect(destination))
    }
}
