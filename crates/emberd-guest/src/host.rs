//! What this crate asks of whoever runs the guest.

use std::error::Error;

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream to a guest's agent.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> ByteStream for S {}

/// Why a guest is no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Its sandbox was deleted.
    Deleted,
    /// Its microVM ended by itself, for this reason.
    Gone(String),
}

/// Whoever runs a guest.
pub trait Host<S>: Send + Sync + 'static {
    /// Opens a stream to the guest's agent.
    ///
    /// # Errors
    /// When no later attempt can succeed.
    fn connect(&self) -> BoxFuture<'_, Result<S, Box<dyn Error + Send + Sync>>>;

    /// Waits until the guest is no more, or is to end.
    fn ended(&self) -> BoxFuture<'static, End>;

    /// Waits until the guest's sandbox is deleted, which it may be long after the guest's end.
    fn deleted(&self) -> BoxFuture<'static, ()>;

    /// Waits until no more sandboxes are made: what only listens ends then.
    fn closing(&self) -> BoxFuture<'static, ()>;

    /// Ends the guest, which broke the protocol.
    fn end(&self);

    /// Notes that the guest is in use.
    fn stir(&self);
}
