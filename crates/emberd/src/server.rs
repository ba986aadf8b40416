//! Accepts connections and speaks HTTP/1 on them, until told to stop.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::caller::{Caller, Principal};
use crate::listener::{Listener, Stream};

/// Most connections at once; more wait to be accepted.
const CONNECTIONS_MAX: usize = 1024;

/// How long the head of a request may take to arrive; also how long a connection may idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Pause after a failed accept, which mostly means that file descriptors ran out: time for
/// some to be closed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until dropped; what it serves then goes on until [`Server::stop`]'s future is
/// done or dropped with the runtime.
#[derive(Debug)]
pub(crate) struct Server {
    listener: Listener,
    router: Router,
    turns: Arc<Semaphore>,
    /// Those on which HTTP is spoken: what a connection became by an upgrade is nobody's to
    /// wait for.
    connections: TaskTracker,
    stopping: CancellationToken,
}

impl Server {
    pub fn new(listener: Listener, router: Router) -> Self {
        let turns = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let (connections, stopping) = (TaskTracker::new(), CancellationToken::new());
        Self { listener, router, turns, connections, stopping }
    }

    /// Accepts connections for as long as it is polled.
    pub async fn accept(&self) -> ! {
        loop {
            let turn = Arc::clone(&self.turns).acquire_owned().await;
            let turn = turn.expect("the semaphore is never closed");
            match self.listener.accept().await {
                Ok(stream) => {
                    let connection = self.connection(stream, turn);
                    self.connections.spawn(async move {
                        if let Err(error) = connection.await {
                            tracing::debug!(%error, "connection broke");
                        }
                    });
                }
                Err(error) if of_one_connection(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "cannot accept connections");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Stops to listen, and returns what ends once every request under way is answered.
    pub fn stop(self) -> impl Future<Output = ()> {
        self.stopping.cancel();
        self.connections.close();
        let connections = self.connections;
        async move { connections.wait().await }
    }

    fn connection(
        &self,
        stream: Stream,
        turn: OwnedSemaphorePermit,
    ) -> impl Future<Output = hyper::Result<()>> + use<> {
        let caller = Caller { principal: principal(&stream), _turn: Arc::new(turn) };
        let router = TowerToHyperService::new(self.router.clone());
        let answer = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(caller.clone());
            router.call(request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), answer)
            .with_upgrades();
        let stopping = self.stopping.clone();
        async move {
            let mut connection = pin!(connection);
            tokio::select! {
                ended = &mut connection => return ended,
                () = stopping.cancelled() => connection.as_mut().graceful_shutdown(),
            }
            connection.await
        }
    }
}

/// Who is at the other end.
fn principal(stream: &Stream) -> Principal {
    match stream {
        Either::Left(tcp) => match tcp.peer_addr() {
            Ok(address) => Principal::Ip(address.ip().to_canonical()),
            Err(_) => Principal::Unknown,
        },
        Either::Right(unix) => match unix.peer_cred() {
            Ok(credentials) => Principal::User(credentials.uid()),
            Err(_) => Principal::Unknown,
        },
    }
}

/// Whether only the connection that was to be accepted failed.
fn of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
