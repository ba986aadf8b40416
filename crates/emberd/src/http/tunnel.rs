//! Bytes between a caller and a port, once nobody speaks HTTP there any more.

use std::io;
use std::time::Duration;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use crate::server::socket::Socket;

/// How long one direction may go on when the other has ended. A caller that closed its
/// connection looks like one that only has no more to say.
const HALF_CLOSED_MAX: Duration = Duration::from_secs(600);

/// Moves bytes both ways until both have ended, or one way broke. Closes both then.
pub async fn carry(caller: Upgraded, guest: impl AsyncRead + AsyncWrite) {
    let mut caller = TokioIo::new(caller);
    if let Err(error) = both_ways(&mut caller, guest).await {
        tracing::debug!(%error, "a tunnel broke");
        reset(caller.into_inner());
    }
}

/// Closes a connection so that nobody takes it for an orderly end: a caller whose sandbox has
/// died would believe that it had received everything.
fn reset(caller: Upgraded) {
    if let Ok(parts) = caller.downcast::<TokioIo<Socket>>() {
        parts.io.into_inner().reset();
    }
}

async fn both_ways(
    caller: impl AsyncRead + AsyncWrite,
    guest: impl AsyncRead + AsyncWrite,
) -> io::Result<()> {
    let (mut from_caller, mut to_caller) = tokio::io::split(caller);
    let (mut from_guest, mut to_guest) = tokio::io::split(guest);
    let up = async {
        tokio::io::copy(&mut from_caller, &mut to_guest).await?;
        to_guest.shutdown().await
    };
    let down = async {
        tokio::io::copy(&mut from_guest, &mut to_caller).await?;
        to_caller.shutdown().await
    };
    let (mut up, mut down) = (std::pin::pin!(up), std::pin::pin!(down));
    tokio::select! {
        ended = &mut up => match ended {
            Ok(()) => tokio::time::timeout(HALF_CLOSED_MAX, down).await.unwrap_or(Ok(())),
            broken => broken,
        },
        ended = &mut down => match ended {
            Ok(()) => tokio::time::timeout(HALF_CLOSED_MAX, up).await.unwrap_or(Ok(())),
            broken => broken,
        },
    }
}
