//! `egress`: connections of programs to a server on this host, by a policy that allows it. For
//! comparison: the guest's own loopback interface, the host's own connection, and the tunnel to a
//! port of the guest, which takes the same way in the other direction.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use emberd_api::{ContextSpec, EgressLimits, EntryFields, EntrySpec, PolicySpec, ProcessSpec};
use emberd_client::{Client, ClientError, Tunnel};
use futures::future::try_join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::Runtime;

use super::context::run_code;
use crate::measure::error::MeasureError;
use crate::measure::events::Listener;
use crate::measure::rig::{Rig, WARM_POOL, WARM_UPS};

/// The pack whose programs are measured.
const PACK: &str = "python";

/// Bytes that are moved in one direction (32 MiB).
const TRANSFER_BYTES: usize = 32 << 20;

/// Connections for each transfer.
const CONNECTS: usize = 10;

/// Address that packets are never sent to (RFC 5737); it tells which of this host's addresses
/// the way out begins at.
const ELSEWHERE: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 9);

/// Connections that move bytes at once, each its part of [`TRANSFER_BYTES`].
const STREAMS: usize = 8;

/// Transfers of a program in the guest. Each has a counterpart through the tunnel.
const TRANSFERS: [&str; 3] = ["download", "upload", "download_streams"];

/// What a program in the guest does besides.
const OTHERS: [&str; 3] = ["connect", "exchange", "exchange_in_transfer"];

/// Exchanges of one byte over an open connection.
const EXCHANGES: usize = 20;

/// The server's part of a connection: it begins with the name of what is asked.
const CONNECT: u8 = b'e';
const DOWNLOAD: u8 = b'd';
const DOWNLOAD_PART: u8 = b'D';
const UPLOAD: u8 = b'u';
const EXCHANGE: u8 = b'x';

/// A server with that protocol in the guest, on the port that it prints.
const GUEST_SERVER: &str = r"
import socket, threading
def talk(c):
    what = c.recv(1)
    if what in (b'd', b'D'):
        piece = bytes(1 << 16)
        for _ in range((BYTES if what == b'd' else PART) >> 16):
            c.sendall(piece)
    elif what == b'u':
        while c.recv(1 << 16):
            pass
    elif what == b'x':
        c.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while byte := c.recv(1):
            c.sendall(byte)
    c.sendall(b'.')
    c.close()
server = socket.create_server(('127.0.0.1', 0), backlog=64)
print(server.getsockname()[1], flush=True)
while True:
    threading.Thread(target=talk, args=(server.accept()[0],)).start()
";

/// Connects to the server on the host and to the guest's own, and moves bytes; prints the times
/// of each in microseconds. Defined once in a context, because an emulated processor translates
/// the code of a process when it runs first; the server in the guest lasts as long.
const GUEST_CLIENT: &str = r"
import os, socket, threading, time
def now():
    return time.perf_counter_ns() // 1000
def connect(to):
    began = now()
    with socket.create_connection(to) as s:
        s.sendall(b'e')
        assert s.recv(1) == b'.'
    yield now() - began
def fetch(to, what, left):
    with socket.create_connection(to) as s:
        s.sendall(what)
        into = bytearray(1 << 16)
        while left > 0:
            left -= s.recv_into(into) or left
def send(to):
    with socket.create_connection(to) as s:
        s.sendall(b'u')
        piece = bytes(1 << 16)
        for _ in range(BYTES >> 16):
            s.sendall(piece)
        s.shutdown(socket.SHUT_WR)
        assert s.recv(1) == b'.'
def fetch_streams(to):
    threads = [threading.Thread(target=fetch, args=(to, b'D', PART + 1)) for _ in range(STREAMS)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
def timed(transfer, *args):
    began = now()
    transfer(*args)
    yield now() - began
def download(to):
    yield from timed(fetch, to, b'd', BYTES + 1)
def upload(to):
    yield from timed(send, to)
def download_streams(to):
    yield from timed(fetch_streams, to)
def exchanges(to, go_on):
    with socket.create_connection(to) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        s.sendall(b'x')
        while go_on():
            began = now()
            s.sendall(b'1')
            assert s.recv(1) == b'1'
            yield now() - began
            time.sleep(0.005)
def exchange(to):
    left = iter(range(EXCHANGES))
    yield from exchanges(to, lambda: next(left, None) is not None)
def exchange_in_transfer(to):
    child = os.fork()
    if child == 0:
        fetch(to, b'd', BYTES + 1)
        os._exit(0)
    yield from exchanges(to, lambda: os.waitpid(child, os.WNOHANG)[0] == 0)
def work(*steps):
    for what, to in steps:
        for took in globals()[what](to):
            print(what, took)
";

/// The address of this host that guests connect to.
///
/// # Errors
/// If this host has no address besides loopback.
pub fn own_address() -> io::Result<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(ELSEWHERE)?;
    Ok(socket.local_addr()?.ip())
}

pub fn run(rig: &mut Rig) -> Result<(), MeasureError> {
    if !rig.packs.iter().any(|pack| pack == PACK) {
        return Err(MeasureError::NotHere("the scenario needs the pack python"));
    }
    let address = own_address()
        .map_err(|_| MeasureError::NotHere("this host has no address besides loopback"))?;
    let listener = TcpListener::bind((address, 0))?;
    let server = listener.local_addr()?;
    thread::spawn(move || serve(&listener));
    let policy = policy(server);
    creates(rig, &policy)?;
    connections(rig, server, &policy)
}

/// Compares creations from the pool with and without a policy.
fn creates(rig: &mut Rig, policy: &PolicySpec) -> Result<(), MeasureError> {
    for iteration in 0..WARM_UPS + CONNECTS * rig.iterations {
        for (series, policy) in [("create_plain", None), ("create_policy", Some(policy))] {
            rig.settle()?;
            let (id, timing) = rig.connection.create_with(PACK, policy.cloned())?;
            rig.inspect(&id, WARM_POOL)?;
            rig.delete(&id)?;
            if iteration >= WARM_UPS {
                rig.record.call(series, &timing);
            }
        }
    }
    Ok(())
}

fn connections(rig: &mut Rig, server: SocketAddr, policy: &PolicySpec) -> Result<(), MeasureError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = Client::new(&rig.address.to_string()).map_err(io::Error::other)?;
    let (id, _) = rig.connection.create_with(PACK, Some(policy.clone()))?;
    let code = format!("{}{GUEST_SERVER}", sizes());
    let spec = ProcessSpec { code: Some(code), ..ProcessSpec::default() };
    let (pid, _) = rig.connection.start(&id, &spec)?;
    let text = Listener::connect(&rig.address)?.follow(&id, pid)?.output()?;
    let inside = text.and_then(|text| text.trim().parse::<u16>().ok());
    let Some(inside) = inside else {
        return Err(MeasureError::NotHere("the server in the guest did not start"));
    };
    let opened = runtime.block_on(client.open_context(&id, &ContextSpec::default()));
    let context = opened.map_err(io::Error::other)?.id;
    let way = Way { runtime, client, id: &id, port: inside, context };
    way.run(&format!("{}{GUEST_CLIENT}", sizes()))?;
    let out = Destination { address: server, suffix: "" };
    let loopback = (Ipv4Addr::LOCALHOST, way.port).into();
    let floor = Destination { address: loopback, suffix: "_loopback_floor" };
    for iteration in 0..WARM_UPS + rig.iterations {
        let counts = iteration >= WARM_UPS;
        rig.settle()?;
        in_guest(rig, &way, out, &OTHERS, counts)?;
        for what in TRANSFERS {
            // One right after the other: the host's scheduler places threads differently over time.
            in_guest(rig, &way, out, &[what], counts)?;
            through_tunnel(rig, &way, what, counts)?;
        }
        in_guest(rig, &way, floor, &[OTHERS, TRANSFERS].concat(), counts)?;
        rig.settle()?;
        for _ in 0..CONNECTS {
            let began = Instant::now();
            let mut stream = TcpStream::connect(server)?;
            stream.write_all(&[CONNECT])?;
            stream.read_exact(&mut [0])?;
            let host = began.elapsed();
            let began = Instant::now();
            way.ask(CONNECT)?;
            if counts {
                rig.record.time("connect_host_floor", host);
                rig.record.time("connect_tunnel", began.elapsed());
            }
        }
    }
    rig.connection.kill(&id, pid)?;
    rig.delete(&id)?;
    Ok(())
}

/// The beginning of both programs in the guest.
fn sizes() -> String {
    let part = TRANSFER_BYTES / STREAMS;
    format!("BYTES, PART = {TRANSFER_BYTES}, {part}\nSTREAMS, EXCHANGES = {STREAMS}, {EXCHANGES}\n")
}

/// Where a program in the guest connects to, and what the names of its series end in.
#[derive(Debug, Clone, Copy)]
struct Destination {
    address: SocketAddr,
    suffix: &'static str,
}

/// Lets a program in the guest connect and move bytes, and records its times.
fn in_guest(
    rig: &mut Rig,
    way: &Way<'_>,
    to: Destination,
    steps: &[&str],
    counts: bool,
) -> Result<(), MeasureError> {
    let address = format!("('{}', {})", to.address.ip(), to.address.port());
    let times = |step: &str| if step == "connect" { CONNECTS } else { 1 };
    let step = |step: &&str| format!("*[('{step}', {address})] * {}", times(step));
    let steps: Vec<String> = steps.iter().map(step).collect();
    let said = way.run(&format!("work({})", steps.join(", ")))?;
    for line in said.lines() {
        let told = line.split_once(' ').and_then(|(what, us)| Some((what, us.parse().ok()?)));
        let Some((what, us)) = told else {
            return Err(MeasureError::Unexpected {
                what: "transfers in a guest".to_owned(),
                expected: "their times".to_owned(),
                seen: said,
            });
        };
        if counts {
            let (series, took) = (format!("{what}{}", to.suffix), Duration::from_micros(us));
            if OTHERS.contains(&what) {
                rig.record.time(&series, took);
            } else {
                rig.record.transfer(&series, TRANSFER_BYTES, took);
            }
        }
    }
    Ok(())
}

/// Moves the same bytes in the same direction as a transfer of the guest.
fn through_tunnel(
    rig: &mut Rig,
    way: &Way<'_>,
    transfer: &str,
    counts: bool,
) -> Result<(), MeasureError> {
    let began = Instant::now();
    match transfer {
        "download" => way.ask(UPLOAD)?,
        "upload" => way.ask(DOWNLOAD)?,
        _ => way.upload_streams()?,
    }
    if counts {
        rig.record.transfer(&format!("{transfer}_tunnel"), TRANSFER_BYTES, began.elapsed());
    }
    Ok(())
}

/// The way to a port of the guest, and to the program there that connects to others.
struct Way<'a> {
    runtime: Runtime,
    client: Client,
    id: &'a str,
    port: u16,
    context: String,
}

impl Way<'_> {
    /// Runs `code` in the context; returns its output.
    fn run(&self, code: &str) -> Result<String, MeasureError> {
        let run = run_code(&self.client, self.id, &self.context, code);
        Ok(self.runtime.block_on(run).map_err(io::Error::other)?.0)
    }

    /// Connects to the server in the guest, and waits until it has done what is asked.
    fn ask(&self, what: u8) -> Result<(), MeasureError> {
        Ok(self.runtime.block_on(self.talk(what, TRANSFER_BYTES))?)
    }

    /// Sends [`TRANSFER_BYTES`] to the server in the guest over [`STREAMS`] connections at once.
    fn upload_streams(&self) -> Result<(), MeasureError> {
        let streams = (0..STREAMS).map(|_| self.talk(UPLOAD, TRANSFER_BYTES / STREAMS));
        self.runtime.block_on(try_join_all(streams))?;
        Ok(())
    }

    async fn talk(&self, what: u8, bytes: usize) -> io::Result<()> {
        let tunnel = self.client.connect_port(self.id, self.port).await;
        talk(tunnel.map_err(|error: ClientError| io::Error::other(error))?, what, bytes).await
    }
}

async fn talk(mut tunnel: Tunnel, what: u8, bytes: usize) -> io::Result<()> {
    tunnel.write_all(&[what]).await?;
    if what == UPLOAD {
        let piece = vec![0; 64 << 10];
        for _ in 0..bytes / piece.len() {
            tunnel.write_all(&piece).await?;
        }
        tunnel.shutdown().await?;
    }
    let mut left = if what == DOWNLOAD { bytes + 1 } else { 1 };
    let mut piece = vec![0; 64 << 10];
    while left > 0 {
        match tunnel.read(&mut piece).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            bytes => left -= bytes,
        }
    }
    Ok(())
}

/// Serves connections until the bench ends.
fn serve(listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        // A client that breaks off has seen the error itself.
        thread::spawn(move || answer(stream).ok());
    }
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut what = [0];
    stream.read_exact(&mut what)?;
    let mut piece = vec![0; 64 << 10];
    match what[0] {
        DOWNLOAD | DOWNLOAD_PART => {
            let parts = if what[0] == DOWNLOAD { 1 } else { STREAMS };
            for _ in 0..TRANSFER_BYTES / parts / piece.len() {
                stream.write_all(&piece)?;
            }
        }
        UPLOAD => while stream.read(&mut piece)? > 0 {},
        EXCHANGE => {
            stream.set_nodelay(true)?;
            while stream.read(&mut piece[..1])? > 0 {
                stream.write_all(&piece[..1])?;
            }
        }
        _ => {}
    }
    stream.write_all(b".")
}

/// The policy that allows the server, as fast as can be.
fn policy(server: SocketAddr) -> PolicySpec {
    let fields = EntryFields {
        host: server.ip().to_string(),
        ports: Some(server.port().to_string()),
        private: true,
        ..EntryFields::default()
    };
    PolicySpec {
        allow: vec![EntrySpec::Fields(fields)],
        limits: EgressLimits { opens_per_s: 10_000, ..EgressLimits::default() },
        ..PolicySpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_does_what_is_asked() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let server = listener.local_addr().unwrap();
        thread::spawn(move || serve(&listener));
        let (all, part) = (TRANSFER_BYTES, TRANSFER_BYTES / STREAMS);
        let kinds =
            [(CONNECT, 0), (DOWNLOAD, all), (DOWNLOAD_PART, part), (UPLOAD, 0), (EXCHANGE, 0)];
        for (what, expect) in kinds {
            let mut stream = TcpStream::connect(server).unwrap();
            stream.write_all(&[what]).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).unwrap();
            assert_eq!(answer.len(), expect + 1, "{}", char::from(what));
        }
    }
}
