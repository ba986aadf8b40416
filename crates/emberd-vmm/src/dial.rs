//! Connects to a Unix socket that a process just started is about to listen on.

use std::io;
use std::time::Duration;

use tokio::net::UnixStream;

/// Time between two attempts: nothing tells when a socket begins to listen.
const RETRY: Duration = Duration::from_millis(1);

/// Connects as `connect` does, as soon as somebody listens there, however long that takes.
/// Cancel safe.
///
/// # Errors
/// What no later attempt could change, such as a path over the 107 bytes a socket's may have.
pub(crate) async fn dial<F>(connect: impl Fn() -> F) -> io::Result<UnixStream>
where
    F: Future<Output = io::Result<UnixStream>>,
{
    loop {
        match connect().await {
            Err(error) if not_listening_yet(&error) => tokio::time::sleep(RETRY).await,
            outcome => return outcome,
        }
    }
}

fn not_listening_yet(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}
