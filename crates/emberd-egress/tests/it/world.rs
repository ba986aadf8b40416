//! A network for tests: names, public addresses, and servers of this process behind them.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use emberd_egress::{
    Egress, LookupError, Network, Operator, PackProfiles, Policy, PolicySpec, Record, SandboxEgress,
};
use futures::future::BoxFuture;
use parking_lot::{Condvar, Mutex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{advance, pause, resume, timeout};

use crate::guest::Guest;

/// Longest wait for what must come about; only ever reached by a failing test.
pub const WAIT_MAX: Duration = Duration::from_secs(60);

/// Public addresses that stand for something here.
pub const ONE: IpAddr = IpAddr::V4(Ipv4Addr::new(151, 101, 0, 1));
pub const TWO: IpAddr = IpAddr::V4(Ipv4Addr::new(151, 101, 0, 2));

/// See the module.
#[derive(Default)]
pub struct Names {
    pub addresses: Mutex<HashMap<String, Vec<IpAddr>>>,
    servers: Mutex<HashMap<SocketAddr, SocketAddr>>,
    /// Destinations that never answer.
    silent: Mutex<HashSet<SocketAddr>>,
    /// Whether lookups of names that begin with `stuck` do not return.
    stuck: Mutex<bool>,
    unstuck: Condvar,
    /// Every destination that was dialled.
    pub dialled: Mutex<Vec<SocketAddr>>,
    /// Every name that was looked up.
    pub looked_up: Mutex<Vec<String>>,
}

impl Network for Names {
    fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, LookupError> {
        self.looked_up.lock().push(name.to_owned());
        if name.starts_with("stuck") {
            self.unstuck.wait_while(&mut self.stuck.lock(), |stuck| *stuck);
        }
        self.addresses.lock().get(name).cloned().ok_or(LookupError::NoSuchName)
    }

    fn connect(&self, destination: SocketAddr) -> BoxFuture<'static, io::Result<TcpStream>> {
        self.dialled.lock().push(destination);
        let server = self.servers.lock().get(&destination).copied();
        let is_silent = self.silent.lock().contains(&destination);
        Box::pin(async move {
            if is_silent {
                std::future::pending::<()>().await;
            }
            match server {
                Some(server) => TcpStream::connect(server).await,
                None => Err(io::ErrorKind::ConnectionRefused.into()),
            }
        })
    }
}

pub struct World {
    pub names: Arc<Names>,
    pub egress: Egress,
}

impl World {
    pub fn new() -> Self {
        Self::with_connections(100_000)
    }

    pub fn with_connections(most: usize) -> Self {
        let names = Arc::new(Names::default());
        let egress = Egress::with_network(most, Arc::clone(&names) as Arc<dyn Network>).unwrap();
        Self { names, egress }
    }

    /// On the runtime of the test, whose clock it has.
    pub fn here() -> Self {
        let names = Arc::new(Names::default());
        let network = Arc::clone(&names) as Arc<dyn Network>;
        let egress = Egress::on(tokio::runtime::Handle::current(), 100_000, network);
        Self { names, egress }
    }

    /// Has `address` never answer.
    pub fn silence(&self, address: IpAddr, port: u16) {
        self.names.silent.lock().insert((address, port).into());
    }

    /// Has lookups of names that begin with `stuck` return, or not.
    pub fn stick(&self, stuck: bool) {
        *self.names.stuck.lock() = stuck;
        self.names.unstuck.notify_all();
    }

    /// Has `name` at `addresses`.
    pub fn name(&self, name: &str, addresses: &[IpAddr]) {
        self.names.addresses.lock().insert(name.to_owned(), addresses.to_vec());
    }

    /// Starts a server; its connections arrive at the receiver.
    pub async fn server(&self, address: IpAddr, port: u16) -> Server {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let place = listener.local_addr().unwrap();
        self.names.servers.lock().insert((address, port).into(), place);
        let (accepted, connections) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if accepted.send(stream).is_err() {
                    return;
                }
            }
        });
        Server(connections)
    }

    pub fn sandbox(&self, policy: serde_json::Value) -> SandboxEgress {
        self.egress.sandbox(&compile(policy))
    }

    /// A sandbox with a session, and its guest.
    pub fn guest(&self, policy: serde_json::Value) -> (SandboxEgress, Guest) {
        let sandbox = self.sandbox(policy);
        let guest = Guest::of(&sandbox);
        (sandbox, guest)
    }
}

/// A policy of an operator who permits everything public.
pub fn compile(policy: serde_json::Value) -> Arc<Policy> {
    compile_under("", policy)
}

pub fn compile_under(operator: &str, policy: serde_json::Value) -> Arc<Policy> {
    let spec: PolicySpec = serde_json::from_value(policy).unwrap();
    let operator = Operator::parse(operator).unwrap();
    Arc::new(Policy::compile(&operator, &PackProfiles::default(), &spec).unwrap())
}

pub struct Server(mpsc::UnboundedReceiver<TcpStream>);

impl Server {
    pub async fn accept(&mut self) -> TcpStream {
        timeout(WAIT_MAX, self.0.recv()).await.unwrap().unwrap()
    }

    /// Whether no connection has arrived.
    pub fn is_untouched(&mut self) -> bool {
        self.0.try_recv().is_err()
    }

    /// Sends back what every connection brings.
    pub fn echo(mut self) {
        tokio::spawn(async move {
            while let Some(mut stream) = self.0.recv().await {
                tokio::spawn(async move {
                    let (mut reader, mut writer) = stream.split();
                    tokio::io::copy(&mut reader, &mut writer).await.ok();
                    writer.shutdown().await.ok();
                });
            }
        });
    }
}

pub async fn read_exact(stream: &mut TcpStream, bytes: usize) -> Vec<u8> {
    let mut read = vec![0; bytes];
    timeout(WAIT_MAX, stream.read_exact(&mut read)).await.unwrap().unwrap();
    read
}

pub async fn read_to_end(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    timeout(WAIT_MAX, stream.read_to_end(&mut all)).await.unwrap()?;
    Ok(all)
}

/// Waits until there are so many records, and returns them.
pub async fn records(sandbox: &SandboxEgress, count: usize) -> Vec<Record> {
    let all = async {
        loop {
            let page = sandbox.log(0, None, usize::MAX);
            if page.records.len() >= count {
                return page.records;
            }
            sandbox.recorded(page.next).await;
            // A sandbox that is closed does not wait.
            tokio::task::yield_now().await;
        }
    };
    timeout(WAIT_MAX, all).await.unwrap()
}

/// Lets time pass at once.
pub async fn pass(time: Duration) {
    pause();
    advance(time).await;
    resume();
}

/// Waits for what has no event.
pub async fn until(mut condition: impl FnMut() -> bool) {
    let met = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    timeout(WAIT_MAX, met).await.unwrap();
}
