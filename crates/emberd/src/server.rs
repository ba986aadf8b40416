//! Accepts connections and speaks HTTP/1 on them, until told to stop.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use futures::future::join_all;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::caller::{Caller, Principal};
use self::listener::Listener;
use self::socket::{Connection, Socket, Stream};

pub(crate) mod caller;
mod held;
pub(crate) mod listener;
pub(crate) mod observe;
mod places;
pub(crate) mod socket;

pub(crate) use held::holding;
use places::Places;

/// Most connections at once to one listener; beyond that the idlest make room.
const CONNECTIONS_MAX: u64 = 1024;

/// Fewest, where descriptors are few.
const CONNECTIONS_MIN: u64 = 16;

/// Part of the descriptors that the connections to one listener may take, one in this many: the
/// rest is for sandboxes, however many connect.
const DESCRIPTORS_PART: u64 = 4;

/// How long the head of a request may take to arrive; also how long a connection may idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest head of a request, in bytes (64 KiB).
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Pause after a failed accept, which mostly means that file descriptors ran out: time for
/// some to be closed. Twice as long after each further one, up to the other.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(2);

/// Serves until dropped; what it serves then goes on until [`Server::stop`]'s future is
/// done or dropped with the runtime.
#[derive(Debug)]
pub(crate) struct Server {
    doors: Vec<Door>,
    /// Those on which HTTP is spoken: what a connection became by an upgrade is nobody's to
    /// wait for.
    connections: TaskTracker,
    stopping: CancellationToken,
}

/// One way in.
#[derive(Debug)]
struct Door {
    listener: Listener,
    router: Router,
    places: Arc<Places>,
}

impl Server {
    /// What is asked at each listener its router answers.
    pub fn new(listeners: impl IntoIterator<Item = (Listener, Router)>) -> Self {
        let count = connections_max(getrlimit(Resource::Nofile).current);
        let door = |(listener, router)| Door { listener, router, places: Places::new(count) };
        let doors = listeners.into_iter().map(door).collect();
        Self { doors, connections: TaskTracker::new(), stopping: CancellationToken::new() }
    }

    /// Accepts connections for as long as it is polled.
    pub async fn accept(&self) -> ! {
        join_all(self.doors.iter().map(|door| self.accept_at(door))).await;
        std::future::pending().await
    }

    async fn accept_at(&self, door: &Door) {
        loop {
            let shed = || door.places.shed();
            let stream = persist(async || door.listener.accept().await, shed).await;
            let turn = door.places.take().await;
            let connection = self.connection(door, stream, turn);
            self.connections.spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "connection broke");
                }
            });
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
        door: &Door,
        stream: Stream,
        turn: OwnedSemaphorePermit,
    ) -> impl Future<Output = hyper::Result<()>> + use<> {
        let connection = Connection::default();
        let principal = principal(&stream);
        let socket = Socket::new(stream, &connection);
        let entry = door.places.enter(connection.clone());
        let caller = Caller { principal, connection, _turn: Arc::new(turn) };
        let router = TowerToHyperService::new(door.router.clone());
        let answer = service_fn(move |mut request: Request<Incoming>| {
            let busy = entry.busy();
            request.extensions_mut().insert(caller.clone());
            let answer = router.call(request);
            async move {
                let answer = answer.await?;
                if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                    busy.for_good();
                    return Ok(answer);
                }
                Ok::<_, std::convert::Infallible>(answer.map(|body| holding(body, busy)))
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(socket), answer)
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

/// Accepts until that succeeds. What fails for want of something, descriptors mostly, pauses, and
/// asks others by `shed` to make room.
async fn persist<T>(mut accept: impl AsyncFnMut() -> io::Result<T>, shed: impl Fn()) -> T {
    let mut pause = ACCEPT_PAUSE;
    loop {
        match accept().await {
            Ok(stream) => return stream,
            Err(error) if of_one_connection(&error) => {}
            Err(error) => {
                tracing::error!(%error, ?pause, "cannot accept connections");
                shed();
                tokio::time::sleep(pause).await;
                pause = ACCEPT_PAUSE_MAX.min(pause * 2);
            }
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

/// How many connections there may be to one listener, of so many descriptors.
fn connections_max(descriptors: Option<u64>) -> usize {
    let part = descriptors.unwrap_or(u64::MAX) / DESCRIPTORS_PART;
    usize::try_from(part.clamp(CONNECTIONS_MIN, CONNECTIONS_MAX)).unwrap_or(usize::MAX)
}

/// Lets this process have as many descriptors as it may: shells and service managers give few
/// unless asked, for programs that cannot deal with more.
pub(crate) fn raise_descriptors() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, "the limit of open files is not raised");
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failing_accepts_come_ever_more_seldom() {
        let (asked, shed) = (Cell::new(0), Cell::new(0));
        let accept = async || -> io::Result<()> {
            asked.set(asked.get() + 1);
            Err(rustix::io::Errno::MFILE.into())
        };
        let never = persist(accept, || shed.set(shed.get() + 1));
        assert!(tokio::time::timeout(Duration::from_secs(100), never).await.is_err());
        // Six until the pause is as long as it gets, then one every two seconds.
        assert!((50..60).contains(&asked.get()), "{}", asked.get());
        assert_eq!(asked.get(), shed.get());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_broke_delays_no_other() {
        let mut left = 1000;
        let accept = async || {
            left -= 1;
            if left > 0 { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
        };
        let start = tokio::time::Instant::now();
        persist(accept, || panic!("nothing lacks")).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[test]
    fn most_descriptors_are_for_sandboxes() {
        assert_eq!(connections_max(None), 1024);
        assert_eq!(connections_max(Some(1 << 20)), 1024);
        assert_eq!(connections_max(Some(1024)), 256);
        assert_eq!(connections_max(Some(32)), 16);
    }
}
