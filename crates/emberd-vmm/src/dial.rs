//! Connects to a Unix socket that a process just started is about to listen on.

use std::io;
use std::time::Duration;

use tokio::net::UnixStream;

/// Time between two attempts: no event reports when a socket begins to listen.
const RETRY: Duration = Duration::from_millis(1);

/// Calls `connect` until a process listens on the socket, without a time limit. Cancel safe.
///
/// # Errors
/// An error that no later attempt could change, such as a path over the limit of 107 bytes.
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
