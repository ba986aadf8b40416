//! What the daemon itself adds to an exec, and how much of that is transport.
//!
//! In one run, turn by turn: an exec by the client and by a bare socket, each less the
//! program's own time in the guest; a `GET /healthz` by both, which is HTTP alone; and a ping
//! of the agent past the daemon, which is the double's relay alone: a process to wake on the
//! way there and back that a real VMM does not have. A health request goes before each and is
//! not counted: what a processor takes to wake from a rest is several times what is measured.

use std::env;
use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use emberd_api::ExecOutcome;
use emberd_proto::frame::encode_message;
use emberd_proto::message::{AGENT_PORT, GENERATION};
use emberd_proto::{Decoder, HostMessage};
use rustix::process::Signal;

use crate::lives::no_op;
use crate::process::Room;

/// How many turns, unless `EMBERD_EXECS` says otherwise.
const TURNS: usize = 200;

#[tokio::test]
async fn overhead_of_an_exec_is_told() {
    let turns = env::var("EMBERD_EXECS").map_or(TURNS, |text| text.parse().unwrap());
    let room = Room::new();
    let mut daemon = room.start();
    let (id, _) = daemon.create().await;
    let mut http = BareHttp::connect(daemon.addr.strip_prefix("http://").unwrap()).unwrap();
    let mut agent = BareAgent::connect(&room.run_dir().join(&id).join("v.sock")).unwrap();
    let exec_path = emberd_api::paths::exec(&id);
    let exec_body = serde_json::to_string(&no_op()).unwrap();
    let mut execs = Series::new("exec less its program, by the client");
    let mut bare_execs = Series::new("exec less its program, by a bare socket");
    let mut health = Series::new("GET /healthz, by the client");
    let mut bare_health = Series::new("GET /healthz, by a bare socket");
    let mut pings = Series::new("ping of the agent past the daemon");
    for _ in 0..turns {
        http.wake();
        let sent = Instant::now();
        let outcome = daemon.client.exec(&id, &no_op()).await.unwrap();
        execs.add_less(sent, &outcome);

        http.wake();
        let sent = Instant::now();
        let answer = http.call("POST", &exec_path, &exec_body).unwrap();
        bare_execs.add_less(sent, &serde_json::from_str(&answer).unwrap());

        http.wake();
        let sent = Instant::now();
        daemon.client.healthz().await.unwrap();
        health.add(sent.elapsed());

        http.wake();
        let sent = Instant::now();
        http.wake();
        bare_health.add(sent.elapsed());

        http.wake();
        let sent = Instant::now();
        agent.ask(&HostMessage::Ping).unwrap();
        pings.add(sent.elapsed());
    }
    let own = bare_execs.median().saturating_sub(pings.median());
    for series in [execs, bare_execs, health, bare_health, pings] {
        println!("{}", series.text());
    }
    println!("an exec less its program and a ping, by a bare socket: p50 {own:?}");
    daemon.client.delete(&id).await.unwrap();
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.exit_code().await, Some(0));
    room.close().await;
}

struct Series {
    name: &'static str,
    times: Vec<Duration>,
}

impl Series {
    fn new(name: &'static str) -> Self {
        Self { name, times: Vec::new() }
    }

    fn add(&mut self, time: Duration) {
        let at = self.times.partition_point(|earlier| *earlier < time);
        self.times.insert(at, time);
    }

    /// Adds the time since `sent`, less what the program took by the guest's clock.
    fn add_less(&mut self, sent: Instant, outcome: &ExecOutcome) {
        let latency = sent.elapsed();
        assert_eq!(outcome.exit.exit_code, 0, "{outcome:?}");
        let in_guest = Duration::from_micros(outcome.exit.duration_us);
        self.add(latency.checked_sub(in_guest).expect("the program ran meanwhile"));
    }

    fn percentile(&self, percent: usize) -> Duration {
        self.times[(self.times.len() - 1) * percent / 100]
    }

    fn median(&self) -> Duration {
        self.percentile(50)
    }

    fn text(&self) -> String {
        let [p50, p90, p99] = [50, 90, 99].map(|percent| self.percentile(percent));
        format!("{}: p50 {p50:?}, p90 {p90:?}, p99 {p99:?}", self.name)
    }
}

/// HTTP with nothing around it: one kept connection, blocking.
struct BareHttp(TcpStream);

impl BareHttp {
    fn connect(authority: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(authority)?;
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }

    /// Asks for nothing.
    fn wake(&mut self) {
        self.call("GET", emberd_api::paths::HEALTHZ, "").unwrap();
    }

    /// Sends a request and returns the body of its answer, which must be a 200.
    fn call(&mut self, method: &str, path: &str, body: &str) -> io::Result<String> {
        let length = body.len();
        let head =
            format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}");
        self.0.write_all(format!("{head}\r\n\r\n{body}").as_bytes())?;
        let mut answer = Vec::new();
        loop {
            let mut chunk = [0; 4096];
            let length = self.0.read(&mut chunk)?;
            answer.extend_from_slice(&chunk[..length]);
            let text = std::str::from_utf8(&answer).map_err(io::Error::other)?;
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            assert!(head.starts_with("HTTP/1.1 200"), "{text}");
            let expect = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if expect.is_some_and(|length| length.parse() == Ok(body.len())) {
                return Ok(body.to_owned());
            }
        }
    }
}

/// A connection to the agent of a double's guest, blocking.
struct BareAgent {
    stream: UnixStream,
    decoder: Decoder,
}

impl BareAgent {
    fn connect(socket: &Path) -> io::Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        stream.write_all(format!("CONNECT {AGENT_PORT}\n").as_bytes())?;
        let mut last = [0];
        while last != *b"\n" {
            stream.read_exact(&mut last)?;
        }
        let mut agent = Self { stream, decoder: Decoder::default() };
        agent.ask(&HostMessage::Hello { generation: GENERATION })?;
        Ok(agent)
    }

    /// Sends `message` and waits for its answer, whatever it is.
    fn ask(&mut self, message: &HostMessage) -> io::Result<()> {
        let mut request = BytesMut::new();
        encode_message(message, &mut request);
        self.stream.write_all(&request)?;
        while self.decoder.next_frame().map_err(io::Error::other)?.is_none() {
            let mut chunk = [0; 4096];
            let length = self.stream.read(&mut chunk)?;
            self.decoder.buffer().extend_from_slice(&chunk[..length]);
        }
        Ok(())
    }
}
