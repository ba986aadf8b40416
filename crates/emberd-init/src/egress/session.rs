//! The session that carries connections to the host: yamux, with the guest as client.
//!
//! ```text
//! no session ◀──────────── its connection ends ─────────────┐
//!     └── the host asks for one ─▶ session ─▶ replaced by another that the host asks for
//! ```
//! Every stream fails when its session ends, and with it the connection that it carries.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use futures::io::{AsyncRead, AsyncWrite};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use yamux::{Connection, Mode};

use super::stream::Stream;
use super::watch::{Watch, Watched};
use crate::gather::{Gather, mux_config};

/// Longest time that a connection or a lookup waits for a session. A restored guest has none
/// until the host asks for it.
pub const SESSION_WAIT_MAX: Duration = Duration::from_secs(10);

/// Most streams of one session. The mux ends a whole session over one stream too many. A stream
/// whose end waits to be sent still counts, and so do 256 that the host has not acknowledged, so
/// this is twice the number of relayed connections and lookups, and that.
const STREAMS_MAX: usize = 2560;

/// Muxes that a byte travels in: under QEMU, the one of the virtio port carries this one.
pub const MUX_LAYERS: usize = 2;

/// Streams that wait to be opened; further ones wait before that.
const OPENS_WAITING_MAX: usize = 64;

/// The session of this guest, if it has one.
#[derive(Debug)]
pub struct Sessions {
    current: watch::Sender<Option<Session>>,
}

impl Default for Sessions {
    fn default() -> Self {
        Self { current: watch::Sender::new(None) }
    }
}

impl Sessions {
    /// Carries streams over `io` until it fails, or until another session is served. The session
    /// before this one ends.
    pub async fn serve(&self, io: impl AsyncRead + AsyncWrite + Unpin) {
        let (opens, wanted) = mpsc::channel(OPENS_WAITING_MAX);
        let session = Session { opens, watch: Arc::default(), ended: CancellationToken::new() };
        let watched = Watched::new(Gather::new(io), Arc::clone(&session.watch));
        let mut mux = Connection::new(watched, mux_config(STREAMS_MAX, MUX_LAYERS), Mode::Client);
        let ended = session.ended.clone();
        // Dropped before the mux: its streams end after everybody knows why.
        let _place = Place::take(&self.current, session);
        ended.run_until_cancelled(drive(&mut mux, wanted)).await;
    }

    /// Returns the session, after waiting for it for at most [`SESSION_WAIT_MAX`].
    pub async fn current(&self) -> Option<Session> {
        let mut current = self.current.subscribe();
        let found = timeout(SESSION_WAIT_MAX, current.wait_for(Option::is_some)).await;
        found.ok()?.ok()?.clone()
    }
}

/// A session's place as the current one, until it is dropped or the next one takes it.
struct Place<'a> {
    current: &'a watch::Sender<Option<Session>>,
    watch: Arc<Watch>,
    ended: CancellationToken,
}

impl<'a> Place<'a> {
    fn take(current: &'a watch::Sender<Option<Session>>, session: Session) -> Self {
        let (watch, ended) = (Arc::clone(&session.watch), session.ended.clone());
        if let Some(before) = current.send_replace(Some(session)) {
            before.watch.end();
            before.ended.cancel();
        }
        Self { current, watch, ended }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.watch.end();
        self.ended.cancel();
        self.current.send_if_modified(|current| {
            let ours = |session: &mut Session| Arc::ptr_eq(&session.watch, &self.watch);
            current.take_if(ours).is_some()
        });
    }
}

/// A session of yamux.
#[derive(Debug, Clone)]
pub struct Session {
    opens: mpsc::Sender<oneshot::Sender<yamux::Stream>>,
    watch: Arc<Watch>,
    ended: CancellationToken,
}

impl Session {
    /// Opens a stream; the host learns of it with its first bytes. `None` if the session ended.
    pub async fn open(&self) -> Option<Stream> {
        let (opened, stream) = oneshot::channel();
        self.opens.send(opened).await.ok()?;
        let mux = stream.await.ok()?;
        self.watch.add(mux.id().val());
        Some(Stream::new(mux, Arc::clone(&self.watch)))
    }

    /// Waits until the session has ended.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

/// Moves the session's bytes and opens the streams that are wanted, until the session fails.
async fn drive<T: AsyncRead + AsyncWrite + Unpin>(
    mux: &mut Connection<T>,
    mut wanted: mpsc::Receiver<oneshot::Sender<yamux::Stream>>,
) {
    let mut next: Option<oneshot::Sender<yamux::Stream>> = None;
    poll_fn(|context| {
        loop {
            match mux.poll_next_inbound(context) {
                // The host has no streams to open; dropping one resets it.
                Poll::Ready(Some(Ok(stream))) => drop(stream),
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(()),
                Poll::Pending => {
                    if next.as_ref().is_none_or(oneshot::Sender::is_closed) {
                        match ready!(wanted.poll_recv(context)) {
                            Some(opening) => next = Some(opening),
                            None => return Poll::Ready(()),
                        }
                    }
                    let Ok(stream) = ready!(mux.poll_new_outbound(context)) else {
                        return Poll::Ready(());
                    };
                    if let Some(opening) = next.take() {
                        // A connection that gave up in the meantime drops the stream.
                        opening.send(stream).ok();
                    }
                }
            }
        }
    })
    .await;
}
