//! Connects to a Unix socket that a process just started is about to listen on.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::net::UnixStream;

/// Time between two attempts: nothing tells when a socket begins to listen.
const RETRY: Duration = Duration::from_millis(1);

/// Connects as soon as somebody listens at `path`, however long that takes. Cancel safe.
///
/// # Errors
/// What no later attempt could change, such as a path over the 107 bytes a socket's may have.
pub(crate) async fn dial(path: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(error) if not_listening_yet(&error) => tokio::time::sleep(RETRY).await,
            outcome => return outcome,
        }
    }
}

fn not_listening_yet(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}
