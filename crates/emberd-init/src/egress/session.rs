//! The session that carries connections to the host: yamux, with the guest as client.
//!
//! ```text
//! no session ◀──────────── its connection ends ─────────────┐
//!     └── the host asks for one ─▶ session ─▶ replaced by another that the host asks for
//! ```
//! Every stream fails when its session ends, and with it the connection that it carries.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::mux::{self, Shared};
use super::stream::{self, FromHost, ToHost};
use crate::duplex::Duplex;

/// Longest time that a connection or a lookup waits for a session. A restored guest has none
/// until the host asks for it.
pub const SESSION_WAIT_MAX: Duration = Duration::from_secs(10);

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
    pub async fn serve(&self, io: Box<dyn Duplex>) {
        let session = Session { shared: Arc::default(), ended: CancellationToken::new() };
        let Session { shared, ended } = session.clone();
        let _place = Place::take(&self.current, session);
        ended.run_until_cancelled(mux::run(io, &shared)).await;
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
    session: Session,
}

impl<'a> Place<'a> {
    fn take(current: &'a watch::Sender<Option<Session>>, session: Session) -> Self {
        if let Some(before) = current.send_replace(Some(session.clone())) {
            before.end();
        }
        Self { current, session }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.session.end();
        self.current.send_if_modified(|current| {
            let ours = |session: &mut Session| Arc::ptr_eq(&session.shared, &self.session.shared);
            current.take_if(ours).is_some()
        });
    }
}

/// A session of the mux.
#[derive(Debug, Clone)]
pub struct Session {
    shared: Arc<Shared>,
    ended: CancellationToken,
}

impl Session {
    /// Opens a stream; the host learns of it with its first bytes. `None` if the session ended.
    pub fn open(&self) -> Option<(FromHost, ToHost)> {
        stream::open(&self.shared)
    }

    /// Waits until the session has ended.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    fn end(&self) {
        self.shared.end();
        self.ended.cancel();
    }
}
