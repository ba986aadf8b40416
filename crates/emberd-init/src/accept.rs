//! Accepts connections until a listener fails for good.

use std::io;
use std::time::Duration;

use nix::errno::Errno;
use tokio::time::sleep;

/// Pause after accept(2) failed, so that a shortage does not become a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// Gives each connection that `next` accepts to `admit`, until `next` fails permanently.
pub async fn accept<T>(
    mut next: impl AsyncFnMut() -> io::Result<T>,
    mut admit: impl FnMut(T),
) -> io::Error {
    loop {
        match next().await {
            Ok(accepted) => admit(accepted),
            Err(error) if listens_no_more(&error) => return error,
            // The peer disconnected before it was accepted, or descriptors or memory are short.
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Returns whether `error`, of accept(2), means that the socket cannot accept connections.
fn listens_no_more(error: &io::Error) -> bool {
    let last = [Errno::EBADF, Errno::EINVAL, Errno::ENOTSOCK, Errno::EOPNOTSUPP];
    error.raw_os_error().is_some_and(|raw| last.contains(&Errno::from_raw(raw)))
}
