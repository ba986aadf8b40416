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
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::caller::Caller;
use self::connection::{Abortable, Connection, ConnectionHandle};
use self::guarded::guarded;
use self::listener::Listener;
use self::permits::ConnectionPermits;
use self::principal::{Principal, Source};

pub(crate) mod caller;
pub(crate) mod connection;
pub(crate) mod guarded;
pub(crate) mod limits;
pub(crate) mod listener;
#[cfg(test)]
pub(crate) mod memory;
pub(crate) mod observe;
mod permits;
pub(crate) mod principal;
mod socket;
pub(crate) mod tls;

/// Most connections to one endpoint at once; for more, idle ones are closed.
const CONNECTIONS_MAX: u64 = 1024;

/// Fewest connections that an endpoint takes, however few descriptors there are.
const CONNECTIONS_MIN: u64 = 16;

/// The connections to one endpoint take at most one in this many descriptors of the process. The
/// rest is for sandboxes, however many clients connect.
const DESCRIPTORS_PER_CONNECTION: u64 = 4;

/// How long the head of a request may take to arrive. A connection without a request is closed
/// after this time too.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest head of a request, in bytes (64 KiB).
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Pause after a failed accept, which mostly means that the process is out of descriptors. It
/// doubles with each further failure, up to the maximum.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(2);

/// Listens on endpoints. Connections that are open when it is dropped live on until the future
/// of [`Server::stop`] is done, or the runtime is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    listeners: Vec<(Listener, Arc<Endpoint>)>,
    /// Connections on which HTTP is spoken. An upgraded connection is not waited for.
    connections: TaskTracker,
    stopping: CancellationToken,
}

impl Server {
    /// Answers the requests on each listener by its router.
    pub fn new(listeners: impl IntoIterator<Item = (Listener, Router)>) -> Self {
        let count = connections_max(getrlimit(Resource::Nofile).current);
        let endpoint = |(listener, router)| (listener, Arc::new(Endpoint::new(router, count)));
        let listeners = listeners.into_iter().map(endpoint).collect();
        Self { listeners, connections: TaskTracker::new(), stopping: CancellationToken::new() }
    }

    /// Accepts connections for as long as it is polled.
    pub async fn accept(&self) -> ! {
        join_all(
            self.listeners.iter().map(|(listener, endpoint)| self.accept_on(listener, endpoint)),
        )
        .await;
        std::future::pending().await
    }

    async fn accept_on(&self, listener: &Listener, endpoint: &Arc<Endpoint>) {
        loop {
            let make_room = || endpoint.permits.abort_idlest();
            let socket = persist(async || listener.accept().await, make_room).await;
            let permit = endpoint.permits.acquire().await;
            let stopping = self.stopping.clone();
            let Some(tls) = listener.tls() else {
                self.connections.spawn(carry(endpoint.serve(socket, permit, stopping)));
                continue;
            };
            let (tls, endpoint) = (tls.clone(), Arc::clone(endpoint));
            self.connections.spawn(async move {
                let secured = stopping.run_until_cancelled(tls.secure(socket)).await;
                match secured {
                    Some(Ok(secured)) => carry(endpoint.serve(secured, permit, stopping)).await,
                    Some(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                    None => {}
                }
            });
        }
    }

    /// Stops listening, and returns a future that is done once every request under way is
    /// answered.
    pub fn stop(self) -> impl Future<Output = ()> {
        self.stopping.cancel();
        self.connections.close();
        let connections = self.connections;
        async move { connections.wait().await }
    }
}

/// Where clients connect to: what answers there, and how many may be connected.
#[derive(Debug)]
pub(crate) struct Endpoint {
    router: Router,
    permits: Arc<ConnectionPermits>,
}

impl Endpoint {
    /// Answers by `router` on at most `connections_max` connections at once.
    pub fn new(router: Router, connections_max: usize) -> Self {
        Self { router, permits: ConnectionPermits::new(connections_max) }
    }

    /// Answers the requests on `connection` until the client closes it, it fails, or `stopping`
    /// is cancelled and the request under way is answered.
    ///
    /// # Errors
    /// The client broke the protocol or left in the middle of a request, or the connection failed.
    pub fn serve<C: Connection>(
        &self,
        connection: C,
        permit: OwnedSemaphorePermit,
        stopping: CancellationToken,
    ) -> impl Future<Output = hyper::Result<()>> + use<C> {
        let (peer, handle) = (connection.peer(), ConnectionHandle::default());
        let connection = Abortable::new(connection, &handle);
        let entry = self.permits.add(handle.clone());
        let principal = Principal::Local(Source::from(&peer));
        let caller = Caller { peer, connection: handle, _permit: Arc::new(permit) };
        let router = TowerToHyperService::new(self.router.clone());
        let respond = service_fn(move |mut request: Request<Incoming>| {
            let busy = entry.busy();
            request.extensions_mut().insert(principal);
            request.extensions_mut().insert(caller.clone());
            let response = router.call(request);
            async move {
                let response = response.await?;
                if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    busy.until_closed();
                    return Ok(response);
                }
                Ok::<_, std::convert::Infallible>(response.map(|body| guarded(body, busy)))
            }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(connection), respond)
            .with_upgrades();
        async move {
            let mut served = pin!(served);
            tokio::select! {
                ended = &mut served => return ended,
                () = stopping.cancelled() => served.as_mut().graceful_shutdown(),
            }
            served.await
        }
    }

    /// Serves one more connection, to its end. For tests of what is served.
    #[cfg(test)]
    pub async fn serve_one(&self, connection: impl Connection) -> hyper::Result<()> {
        let permit = self.permits.acquire().await;
        self.serve(connection, permit, CancellationToken::new()).await
    }
}

/// Waits for the end of a connection.
async fn carry(served: impl Future<Output = hyper::Result<()>>) {
    if let Err(error) = served.await {
        tracing::debug!(%error, "a connection failed");
    }
}

/// Accepts until that succeeds. After a failure that concerns more than one connection, mostly
/// for want of descriptors, it asks for room by `make_room` and pauses.
async fn persist<T>(mut accept: impl AsyncFnMut() -> io::Result<T>, make_room: impl Fn()) -> T {
    let mut pause = ACCEPT_PAUSE;
    loop {
        match accept().await {
            Ok(socket) => return socket,
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::error!(%error, ?pause, "cannot accept connections");
                make_room();
                tokio::time::sleep(pause).await;
                pause = ACCEPT_PAUSE_MAX.min(pause * 2);
            }
        }
    }
}

/// Whether an accept failed because its connection did, and the next can succeed at once.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Most connections of one kind, for a process that may have so many `descriptors`.
fn part_of(descriptors: Option<u64>) -> u64 {
    (descriptors.unwrap_or(u64::MAX) / DESCRIPTORS_PER_CONNECTION).max(CONNECTIONS_MIN)
}

/// Most connections to one endpoint, for a process that may have so many `descriptors`.
fn connections_max(descriptors: Option<u64>) -> usize {
    usize::try_from(part_of(descriptors).min(CONNECTIONS_MAX)).unwrap_or(usize::MAX)
}

/// Most connections of sandboxes to other hosts, of the number that is `asked` for. Those to the
/// endpoints, the VMMs and the guests have descriptors, too, however many connections guests make.
pub(crate) fn egress_connections_max(asked: u32) -> usize {
    let descriptors = getrlimit(Resource::Nofile).current;
    let part = part_of(descriptors);
    if part < asked.into() {
        tracing::warn!(descriptors, "{part} connections of sandboxes at once, instead of {asked}");
    }
    usize::try_from(part.min(asked.into())).unwrap_or(usize::MAX)
}

/// Raises the limit of open descriptors as far as this process may. Shells and service managers
/// start programs with a low one, for the sake of `select`.
pub(crate) fn raise_descriptors() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use axum::Extension;
    use axum::routing::get as get_route;
    use emberd_api::Address;
    use rustix::process::{getgid, getuid};
    use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, duplex};
    use tokio::net::{TcpStream, UnixStream};

    use super::connection::Peer;
    use super::memory::Memory;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failing_accepts_are_tried_less_and_less_often() {
        let (tried, asked) = (Cell::new(0), Cell::new(0));
        let accept = async || -> io::Result<()> {
            tried.set(tried.get() + 1);
            Err(rustix::io::Errno::MFILE.into())
        };
        let never = persist(accept, || asked.set(asked.get() + 1));
        assert!(tokio::time::timeout(Duration::from_secs(100), never).await.is_err());
        // Six until the pause is at its maximum, then one every two seconds.
        assert!((50..60).contains(&tried.get()), "{}", tried.get());
        assert_eq!(tried.get(), asked.get());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_failed_delays_no_other() {
        let mut left = 1000;
        let accept = async || {
            left -= 1;
            if left > 0 { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
        };
        let start = tokio::time::Instant::now();
        persist(accept, || panic!("no room is needed")).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[test]
    fn most_descriptors_are_for_sandboxes() {
        assert_eq!(connections_max(None), 1024);
        assert_eq!(connections_max(Some(1 << 20)), 1024);
        assert_eq!(connections_max(Some(1024)), 256);
        assert_eq!(connections_max(Some(32)), 16);
    }

    /// Asks for `/` on one end of a connection, and reads the response.
    async fn get(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> String {
        let head = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(head).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        response
    }

    #[tokio::test]
    async fn any_connection_is_served_and_an_idle_one_is_closed_for_the_next() {
        let router = Router::new().route("/", get_route(async || "hello"));
        let endpoint = Arc::new(Endpoint::new(router, 1));
        let serve = |ours| {
            let (endpoint, connection) = (Arc::clone(&endpoint), Memory::new(ours));
            let aborted = connection.aborted();
            (tokio::spawn(async move { endpoint.serve_one(connection).await }), aborted)
        };
        let (idle, ours) = duplex(1024);
        let (first, first_aborted) = serve(ours);
        tokio::task::yield_now().await;
        let (theirs, ours) = duplex(1024);
        let (second, second_aborted) = serve(ours);
        let response = get(Memory::new(theirs)).await;
        assert!(response.starts_with("HTTP/1.1 200") && response.ends_with("hello"), "{response}");
        second.await.unwrap().unwrap();
        assert!(first.await.unwrap().is_err());
        assert!(first_aborted.is_cancelled() && !second_aborted.is_cancelled());
        drop(idle);
    }

    #[tokio::test]
    async fn a_route_sees_the_credentials_of_the_peer_of_a_unix_socket() {
        async fn who(principal: Principal, Extension(caller): Extension<Caller>) -> String {
            let Peer::Credentials(peer) = caller.peer else { panic!("{caller:?}") };
            format!("{principal:?} {} {:?}", peer.gid(), peer.pid())
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = Listener::bind(&Address::Unix(path.clone())).await.unwrap();
        let server = Server::new([(listener, Router::new().route("/", get_route(who)))]);
        let response = tokio::select! {
            response = async { get(UnixStream::connect(&path).await.unwrap()).await } => response,
            never = server.accept() => never,
        };
        let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
        let expect =
            format!("Local(User({uid})) {gid} {:?}", Some(std::process::id().cast_signed()));
        assert!(response.ends_with(&expect), "{response}, not {expect}");
        server.stop().await;
    }

    #[tokio::test]
    async fn a_route_sees_the_address_of_the_peer_over_tcp() {
        async fn who(principal: Principal, Extension(caller): Extension<Caller>) -> String {
            let Peer::Address(peer) = caller.peer else { panic!("{caller:?}") };
            format!("{principal:?} {peer}")
        }
        let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
        let Address::Tcp(authority) = listener.address().clone() else { panic!("{listener:?}") };
        let server = Server::new([(listener, Router::new().route("/", get_route(who)))]);
        let asked = async {
            let stream = TcpStream::connect(authority).await.unwrap();
            let address = stream.local_addr().unwrap();
            (get(stream).await, address)
        };
        let (response, address) = tokio::select! {
            asked = asked => asked,
            never = server.accept() => never,
        };
        let expect = format!("Local(Ip(127.0.0.1)) {address}");
        assert!(response.ends_with(&expect), "{response}, not {expect}");
        server.stop().await;
    }
}
