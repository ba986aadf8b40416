//! Carries bytes between a caller and a port of a sandbox, once a connection has left HTTP.

use std::io;
use std::time::Duration;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use crate::server::caller::Caller;

/// How long one direction may go on after the other has ended. A caller that has closed its
/// connection cannot be told from one that only has no more to send.
const HALF_CLOSED_MAX: Duration = Duration::from_secs(600);

/// Moves bytes both ways until both have ended or one has failed, then closes both sides.
///
/// If one way failed, the connection of `caller` is aborted: after an orderly end it would believe
/// that it had received everything, though its sandbox has died.
pub async fn carry(upgraded: Upgraded, guest: impl AsyncRead + AsyncWrite, caller: Option<Caller>) {
    let mut upgraded = TokioIo::new(upgraded);
    if let Err(error) = both_ways(&mut upgraded, guest).await {
        tracing::debug!(%error, "a tunnel failed");
        if let Some(caller) = &caller {
            caller.connection.abort();
        }
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::extract::{Request, State};
    use axum::http::StatusCode;
    use axum::http::header::{CONNECTION, UPGRADE};
    use axum::response::IntoResponse;
    use axum::routing::get;
    use axum::{Extension, Router};
    use tokio::io::{AsyncReadExt as _, duplex};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::server::Endpoint;
    use crate::server::connection::{Abortable, ConnectionHandle};
    use crate::server::memory::Memory;

    type Guest = Abortable<Memory>;

    /// Turns the connection into a tunnel to the guest.
    async fn tunnel(
        State(guest): State<Arc<Mutex<Option<Guest>>>>,
        Extension(caller): Extension<Caller>,
        mut request: Request,
    ) -> impl IntoResponse {
        let guest = guest.lock().unwrap().take().unwrap();
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move { carry(upgrade.await.unwrap(), guest, Some(caller)).await });
        (StatusCode::SWITCHING_PROTOCOLS, [(CONNECTION, "upgrade"), (UPGRADE, "tcp")])
    }

    /// A tunnel through the server: the caller's end, the guest's end, what breaks the guest's
    /// connection, and whether the caller's was aborted.
    async fn open() -> (Memory, Memory, ConnectionHandle, CancellationToken) {
        let (theirs, ours) = duplex(1024);
        let (guest, guest_end) = duplex(1024);
        let handle = ConnectionHandle::default();
        let guest = Abortable::new(Memory::new(guest), &handle);
        let router = Router::new().route("/", get(tunnel));
        let router = router.with_state(Arc::new(Mutex::new(Some(guest))));
        let connection = Memory::new(ours);
        let aborted = connection.aborted();
        tokio::spawn(async move { Endpoint::new(router, 1).serve_one(connection).await });
        let mut caller = Memory::new(theirs);
        let head = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: tcp\r\n\r\n";
        caller.write_all(head).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(caller.read_u8().await.unwrap());
        }
        assert!(answer.starts_with(b"HTTP/1.1 101"), "{}", answer.escape_ascii());
        let mut guest_end = Memory::new(guest_end);
        caller.write_all(b"ping").await.unwrap();
        let mut text = [0; 4];
        guest_end.read_exact(&mut text).await.unwrap();
        assert_eq!(&text, b"ping");
        guest_end.write_all(b"pong").await.unwrap();
        caller.read_exact(&mut text).await.unwrap();
        assert_eq!(&text, b"pong");
        (caller, guest_end, handle, aborted)
    }

    #[tokio::test]
    async fn a_tunnel_whose_guest_fails_is_aborted() {
        let (mut caller, _guest_end, handle, aborted) = open().await;
        handle.abort();
        assert_eq!(caller.read(&mut [0; 8]).await.unwrap(), 0);
        assert!(aborted.is_cancelled());
    }

    #[tokio::test]
    async fn a_tunnel_that_both_sides_end_is_not() {
        let (mut caller, mut guest_end, handle, aborted) = open().await;
        guest_end.write_all(b"bye").await.unwrap();
        guest_end.shutdown().await.unwrap();
        let mut text = String::new();
        caller.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "bye");
        caller.shutdown().await.unwrap();
        guest_end.read_to_end(&mut Vec::new()).await.unwrap();
        handle.closed().await;
        assert!(!aborted.is_cancelled());
    }
}
