//! `overhead`: emberd's own part of an exec, over the test double: the latency minus the time
//! that the guest reports. For comparison, the cost of its parts: HTTP, the transport to the
//! agent (a ping that bypasses the daemon; the double's relay has two processes to wake that a
//! real VMM does not have), and a round trip of a byte through the kernel's sockets.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use emberd_api::Address;
use emberd_client::Client;
use emberd_keys::Secret;

use super::context::Counter;
use crate::measure::agent::BareAgent;
use crate::measure::connection::Connection;
use crate::measure::error::MeasureError;
use crate::measure::programs::Program;
use crate::measure::rig::{LOOK_AGAIN, Rig, WARM_UPS, body, unrest};

/// The double's socket in a sandbox's directory.
const SOCKET: &str = "v.sock";

/// The pack whose sandboxes are created.
const PACK: &str = "shell";

/// Most creations with a key, and without. Before each, the pool is filled.
const CREATIONS_MAX: usize = 300;

pub fn run(rig: &mut Rig) -> Result<(), MeasureError> {
    let no_op = Program::printing(":", "");
    let mut tcp = tcp_echo()?;
    let mut unix = unix_echo()?;
    let (id, _) = rig.create(PACK)?;
    let socket = Path::new(&rig.connection.sandbox(&id)?.dir).join(SOCKET);
    let mut agent = BareAgent::connect(&socket)?;
    for iteration in 0..WARM_UPS + rig.iterations {
        rig.interrupt.check()?;
        let (outcome, ran) = rig.exec(&id, &no_op)?;
        let health = rig.connection.healthz()?;
        let ping = agent.ping()?;
        let (tcp, unix) = (round_trip(&mut tcp)?, round_trip(&mut unix)?);
        if iteration < WARM_UPS {
            continue;
        }
        let in_guest = Duration::from_micros(outcome.exit.duration_us);
        let overhead = ran.latency.saturating_sub(in_guest);
        rig.record.time("exec", overhead);
        rig.record.time("exec_less_transport", overhead.saturating_sub(ping));
        rig.record.time("exec_less_floors", overhead.saturating_sub(ping + health));
        rig.record.call("exec_whole", &ran);
        rig.record.time("http_floor", health);
        rig.record.time("transport_floor", ping);
        rig.record.time("tcp_floor", tcp);
        rig.record.time("unix_floor", unix);
    }
    by_client(rig, &id)?;
    with_key(rig, &id)?;
    rig.delete(&id)?;
    Ok(())
}

/// With the Rust client: the same smallest request, to show the client's own cost, and a run in a
/// context whose interpreter only counts.
fn by_client(rig: &mut Rig, id: &str) -> Result<(), MeasureError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = Client::new(&rig.address.to_string()).map_err(io::Error::other)?;
    let mut counter = runtime.block_on(Counter::open(&client, id, "shell"))?;
    for iteration in 0..WARM_UPS + rig.iterations {
        rig.interrupt.check()?;
        let asked = Instant::now();
        let answer = runtime.block_on(client.healthz());
        let took = asked.elapsed();
        answer.map_err(io::Error::other)?;
        let run = runtime.block_on(counter.count())?;
        if iteration >= WARM_UPS {
            rig.record.time("http_floor_client", took);
            rig.record.time("context_run", run.whole);
        }
    }
    Ok(())
}

/// The same requests with an access key and without, in turns, if the run has a key: the difference
/// is what the key costs.
fn with_key(rig: &mut Rig, id: &str) -> Result<(), MeasureError> {
    let Some(key) = rig.key else { return Ok(()) };
    let mut both = both(&rig.address, key)?;
    let no_op = Program::printing(":", "");
    for iteration in 0..WARM_UPS + rig.iterations {
        rig.interrupt.check()?;
        // Each is the first as often as the other.
        both.reverse();
        for (which, connection) in &mut both {
            let request = connection.templates()?;
            let (outcome, ran) = connection.exec(id, &body(&no_op))?;
            no_op.verify(&outcome)?;
            if iteration >= WARM_UPS {
                let in_guest = Duration::from_micros(outcome.exit.duration_us);
                rig.record.time(&format!("request_{which}"), request);
                rig.record.time(&format!("exec_{which}"), ran.latency.saturating_sub(in_guest));
            }
        }
    }
    creations_with_key(rig, key)
}

/// Creations from a pool, which is full before each. A cold boot varies by more than a key costs.
fn creations_with_key(rig: &mut Rig, key: &Secret) -> Result<(), MeasureError> {
    let pooled = rig.another(&["--templates", "on", "--pool-size", "4"].map(Into::into))?;
    let mut both = both(&pooled.address, key)?;
    both[0].1.template(PACK)?;
    for iteration in 0..WARM_UPS + rig.iterations.min(CREATIONS_MAX) {
        both.reverse();
        for (which, connection) in &mut both {
            while unrest(&connection.info()?).is_some() {
                rig.interrupt.check()?;
                thread::sleep(LOOK_AGAIN);
            }
            let (id, created) = connection.create(PACK)?;
            if iteration >= WARM_UPS {
                rig.record.time(&format!("create_{which}"), created.latency);
            }
            connection.delete(&id)?;
        }
    }
    rig.stop(pooled)
}

/// A connection without `key`, and one with it.
fn both(address: &Address, key: &Secret) -> Result<[(&'static str, Connection); 2], MeasureError> {
    let without = Connection::open(address)?;
    Ok([("without_key", without), ("with_key", Connection::open(address)?.with_key(key))])
}

/// Measures a round trip of a byte.
fn round_trip(stream: &mut (impl Read + Write)) -> io::Result<Duration> {
    let mut byte = [0];
    let sent = Instant::now();
    stream.write_all(&byte)?;
    stream.read_exact(&mut byte)?;
    Ok(sent.elapsed())
}

/// Returns a loopback connection to a thread that echoes. The thread ends with the connection.
fn tcp_echo() -> io::Result<TcpStream> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    far.set_nodelay(true)?;
    thread::spawn(move || echo(far));
    Ok(near)
}

/// Returns the same over a Unix socket.
fn unix_echo() -> io::Result<UnixStream> {
    let (near, far) = UnixStream::pair()?;
    thread::spawn(move || echo(far));
    Ok(near)
}

fn echo(mut stream: impl Read + Write) {
    let mut byte = [0];
    while stream.read_exact(&mut byte).and_then(|()| stream.write_all(&byte)).is_ok() {}
}
