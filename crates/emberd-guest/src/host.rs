//! The interface to the host that runs a guest.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use emberd_proto::EgressDenials;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream to a guest's agent.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> ByteStream for S {}

/// Why a guest has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The sandbox was deleted.
    Deleted,
    /// The microVM ended by itself, for this reason.
    Gone(String),
}

/// The host that runs a guest.
pub trait Host<S>: Send + Sync + 'static {
    /// Opens a stream to the guest's agent.
    ///
    /// # Errors
    /// When no later attempt can succeed.
    fn connect(&self) -> BoxFuture<'_, Result<S, Box<dyn Error + Send + Sync>>>;

    /// Waits until the guest has ended, or is about to.
    fn ended(&self) -> BoxFuture<'static, End>;

    /// Waits until the guest's sandbox is deleted, possibly long after the guest's end.
    fn deleted(&self) -> BoxFuture<'static, ()>;

    /// Waits until the daemon stops making sandboxes; followers end then.
    fn closing(&self) -> BoxFuture<'static, ()>;

    /// Ends the guest, which broke the protocol.
    fn end(&self);

    /// Marks this moment, for [`Self::denied_since`].
    fn mark(&self) -> u64 {
        0
    }

    /// Returns what the network policy has denied to the guest since `mark`. By default nothing is
    /// denied.
    fn denied_since(&self, _mark: u64) -> EgressDenials {
        EgressDenials::default()
    }

    /// Environment variables of every program that does not set them itself. None by default.
    fn env(&self) -> Option<&BTreeMap<String, String>> {
        None
    }

    /// Waits until the guest has run for `time`: where the host has stopped it meanwhile, longer.
    /// By default it always runs.
    fn run_for(&self, time: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(time))
    }

    /// Notes that the guest is in use.
    fn stir(&self);

    /// Notes input of a caller over an open connection, and continues a guest that was stopped for
    /// want of use. By default none is.
    fn knock(&self) {}
}
