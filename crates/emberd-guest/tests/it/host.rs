//! A host for tests and fuzz targets: streams come from a function, and the test ends the guest.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use emberd_guest::{End, Host};
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

/// Opens a stream to the guest.
pub type Connect<S> =
    Box<dyn Fn() -> BoxFuture<'static, Result<S, Box<dyn Error + Send + Sync>>> + Send + Sync>;

pub struct TestHost<S> {
    pub connect: Connect<S>,
    /// Cancelled once the guest broke the protocol, or was deleted.
    pub ended: CancellationToken,
    /// Cancelled once the daemon stops.
    pub closing: CancellationToken,
    pub broke: Arc<AtomicBool>,
}

impl<S> TestHost<S> {
    /// A host that opens streams by `connect`.
    pub fn new(connect: Connect<S>) -> Self {
        let (ended, closing) = (CancellationToken::new(), CancellationToken::new());
        Self { connect, ended, closing, broke: Arc::default() }
    }
}

impl<S: 'static> Host<S> for TestHost<S> {
    fn connect(&self) -> BoxFuture<'_, Result<S, Box<dyn Error + Send + Sync>>> {
        (self.connect)()
    }

    fn ended(&self) -> BoxFuture<'static, End> {
        let ended = self.ended.clone();
        Box::pin(async move {
            ended.cancelled_owned().await;
            End::Gone("it was ended".to_owned())
        })
    }

    fn deleted(&self) -> BoxFuture<'static, ()> {
        Box::pin(self.ended.clone().cancelled_owned())
    }

    fn closing(&self) -> BoxFuture<'static, ()> {
        Box::pin(self.closing.clone().cancelled_owned())
    }

    fn end(&self) {
        self.broke.store(true, Ordering::Relaxed);
        self.ended.cancel();
    }

    fn stir(&self) {}
}
