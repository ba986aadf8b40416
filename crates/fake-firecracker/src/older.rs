//! An agent of the generation before: the real one, behind a relay that knows what that one knew.
//!
//! ```text
//! host ──▶ relay ──▶ agent     operations that are newer are refused as unknown
//!      ◀──       ◀──           a welcome says the older generation; no program has an id
//! ```
//! A process or context ends with its connection.

use std::ffi::OsString;
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use bytes::BytesMut;
use emberd_proto::message::GENERATION_OLDEST;
use emberd_proto::{
    Decoder, Frame, GuestMessage, HostMessage, Kind, Refusal, RefusalCode, Welcome, frame,
};

/// First argument of the command line that makes this binary an older agent.
pub const OLDER_WORD: &str = "older-agent";

/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;

/// Pause between two attempts to connect to the agent, which may not listen yet.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Runs `command`, an agent and its arguments, behind the relay. Ends with the agent.
pub fn run(command: &[OsString]) -> ExitCode {
    match relay_all(command) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("cannot be an older agent: {error}");
            ExitCode::FAILURE
        }
    }
}

fn relay_all(command: &[OsString]) -> io::Result<u8> {
    let mut command = command.to_vec();
    let at = command.iter().position(|word| word == "--listen");
    let listen = at.and_then(|at| command.get_mut(at + 1)).ok_or(io::ErrorKind::InvalidInput)?;
    let listener = UnixListener::bind(&*listen)?;
    listen.push(".newer");
    let newer = PathBuf::from(&*listen);
    thread::spawn(move || {
        for host in listener.incoming().flatten() {
            let newer = newer.clone();
            thread::spawn(move || relay(&host, &newer).ok());
        }
    });
    let code = Command::new(&command[0]).args(&command[1..]).status()?.code();
    Ok(code.and_then(|code| code.try_into().ok()).unwrap_or(1))
}

/// Relays one connection, and ends its program with it.
fn relay(host: &UnixStream, newer: &Path) -> io::Result<()> {
    let agent = connect(newer);
    let program = OnceLock::new();
    let relayed = thread::scope(|scope| {
        scope.spawn(|| {
            let relayed = frames(&agent, |frame| to_host(frame, host, &program));
            host.shutdown(Shutdown::Both).and(relayed)
        });
        let relayed = frames(host, |frame| to_agent(frame, host, &agent));
        agent.shutdown(Shutdown::Both).and(relayed)
    });
    if let Some(id) = program.into_inner() {
        let mut said = BytesMut::new();
        frame::encode_message(&HostMessage::hello(), &mut said);
        frame::encode_message(&HostMessage::Delete { id }, &mut said);
        let mut agent = connect(newer);
        agent.write_all(&said)?;
        agent.shutdown(Shutdown::Write)?;
        io::copy(&mut agent, &mut io::sink())?;
    }
    relayed
}

fn connect(newer: &Path) -> UnixStream {
    loop {
        match UnixStream::connect(newer) {
            Ok(stream) => return stream,
            Err(_) => thread::sleep(LOOK_AGAIN),
        }
    }
}

/// Calls `each` with the frames of a stream, to its end.
fn frames(
    mut stream: &UnixStream,
    mut each: impl FnMut(&Frame) -> io::Result<()>,
) -> io::Result<()> {
    let (mut decoder, mut piece) = (Decoder::default(), vec![0; READ_BYTES]);
    loop {
        while let Some(frame) = decoder.next_frame().map_err(io::Error::other)? {
            each(&frame)?;
        }
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            count => decoder.buffer().extend_from_slice(&piece[..count]),
        }
    }
}

fn to_host(frame: &Frame, host: &UnixStream, program: &OnceLock<u64>) -> io::Result<()> {
    let message = (frame.kind == Kind::Control).then(|| frame.message::<GuestMessage>().ok());
    match message.flatten() {
        Some(GuestMessage::Welcome(welcome)) => {
            let generation = GENERATION_OLDEST;
            say(host, &GuestMessage::Welcome(Welcome { generation, ..welcome }))
        }
        Some(GuestMessage::Attached(attached)) => {
            program.get_or_init(|| attached.id);
            Ok(())
        }
        _ => pass(host, frame),
    }
}

fn to_agent(frame: &Frame, host: &UnixStream, agent: &UnixStream) -> io::Result<()> {
    let message = (frame.kind == Kind::Control).then(|| frame.message::<HostMessage>().ok());
    match message.flatten() {
        Some(
            HostMessage::Attach { .. }
            | HostMessage::Note { .. }
            | HostMessage::List
            | HostMessage::Delete { .. }
            | HostMessage::Adopt { .. }
            | HostMessage::Limit(_),
        ) => {
            let message = "unknown operation".to_owned();
            let refusal = Refusal { code: RefusalCode::UnknownOperation, message };
            say(host, &GuestMessage::Refused(refusal))
        }
        _ => pass(agent, frame),
    }
}

fn say(mut to: &UnixStream, message: &GuestMessage) -> io::Result<()> {
    let mut said = BytesMut::new();
    frame::encode_message(message, &mut said);
    to.write_all(&said)
}

fn pass(mut to: &UnixStream, frame: &Frame) -> io::Result<()> {
    let mut said = BytesMut::new();
    frame::encode(frame.kind, &frame.payload, &mut said);
    to.write_all(&said)
}
