//! Opens a stream to a guest port through Firecracker's vsock socket on the host.
//!
//! ```text
//! host ── CONNECT 1024\n ─▶        ◀─ OK 1073741824\n ── guest's bytes from here on
//!                                  ◀─ end of stream: nobody listens on that port
//!                                  ◀─ nothing: the guest's driver is not up, or paused
//! ```
//!
//! After Firecracker's docs/vsock.md; that the line must come in one write, and what
//! silence means, is from its vsock/unix/muxer.rs.

use std::io;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::machine::VSOCK_SOCKET;
use super::stage::Root;

/// Longest answer, in bytes: `OK`, a space, ten digits and a line feed, with room to spare.
const ANSWER_BYTES_MAX: usize = 32;

/// First and longest time one attempt waits for its answer. Attempts made before the guest's
/// driver is up are never answered, so waiting long for one is waste; but a slow guest needs
/// its time.
const ANSWER_WAIT: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(4));

/// First and longest pause after an attempt that failed at once.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(64));

/// Why one attempt failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// The guest has no listener on that port, or not yet.
    #[error("nobody listens on guest port {0}")]
    NotListening(u32),
    /// No answer in time: the guest is not up, or paused.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The socket could not be used.
    #[error("the vsock socket failed")]
    Socket(#[source] io::Error),
    /// The answer is none.
    #[error("unexpected answer {0:?}")]
    Unexpected(String),
}

impl DialError {
    /// Whether a guest that still boots may answer a later attempt.
    fn may_pass(&self) -> bool {
        use io::ErrorKind::{ConnectionRefused, NotFound};
        match self {
            Self::NotListening(_) | Self::TimedOut(_) => true,
            Self::Socket(error) => matches!(error.kind(), NotFound | ConnectionRefused),
            Self::Unexpected(_) => false,
        }
    }
}

impl From<DialError> for io::Error {
    fn from(error: DialError) -> Self {
        match error {
            DialError::Socket(error) => error,
            DialError::NotListening(_) => Self::new(io::ErrorKind::ConnectionRefused, error),
            DialError::TimedOut(_) => Self::new(io::ErrorKind::TimedOut, error),
            DialError::Unexpected(_) => Self::new(io::ErrorKind::InvalidData, error),
        }
    }
}

/// Dials until the guest answers, for as long as that takes. Cancel safe.
///
/// With `booted`, a port on which nobody listens is an error and not waited for.
pub(crate) async fn dial(
    root: &Root,
    port: u32,
    booted: impl Fn() -> bool,
) -> Result<UnixStream, DialError> {
    let mut wait = ANSWER_WAIT.0;
    let mut pause = PAUSE.0;
    loop {
        match attempt(root, port, wait).await {
            Ok(stream) => return Ok(stream),
            Err(error @ DialError::NotListening(_)) if booted() => return Err(error),
            Err(error) if !error.may_pass() => return Err(error),
            Err(DialError::TimedOut(_)) => wait = (wait * 2).min(ANSWER_WAIT.1),
            Err(_) => {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
            }
        }
    }
}

/// Dials once and waits up to `wait` for the answer.
pub(crate) async fn attempt(
    root: &Root,
    port: u32,
    wait: Duration,
) -> Result<UnixStream, DialError> {
    let handshake = async {
        let mut stream = root.connect(VSOCK_SOCKET).await.map_err(DialError::Socket)?;
        ask(&stream, port).await.map_err(|error| unheard(error, port))?;
        let answer = read_line(&mut stream).await.map_err(|error| unheard(error, port))?;
        check(&answer)?;
        Ok(stream)
    };
    timeout(wait, handshake).await.map_err(|_| DialError::TimedOut(wait))?
}

/// A connection that ends before its answer was turned away, however the end shows.
fn unheard(error: io::Error, port: u32) -> DialError {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    match error.kind() {
        BrokenPipe | ConnectionReset | UnexpectedEof => DialError::NotListening(port),
        _ => DialError::Socket(error),
    }
}

/// Asks for `port` in a single write: Firecracker drops a connection whose first bytes are
/// not the whole line. An empty socket takes so few bytes whole.
async fn ask(stream: &UnixStream, port: u32) -> io::Result<()> {
    let line = format!("CONNECT {port}\n");
    loop {
        stream.writable().await?;
        match stream.try_write(line.as_bytes()) {
            Ok(written) if written == line.len() => return Ok(()),
            Ok(_) => return Err(io::ErrorKind::BrokenPipe.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reads to the line feed and not a byte further: what follows is the guest's.
async fn read_line(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut line = Vec::with_capacity(ANSWER_BYTES_MAX);
    while line.len() < ANSWER_BYTES_MAX {
        line.push(stream.read_u8().await?);
        if line.ends_with(b"\n") {
            break;
        }
    }
    Ok(line)
}

/// `OK`, a space, the host's port number, a line feed.
fn check(answer: &[u8]) -> Result<(), DialError> {
    let port = answer.strip_prefix(b"OK ").and_then(|rest| rest.strip_suffix(b"\n"));
    let is_port = |digits: &[u8]| {
        std::str::from_utf8(digits).is_ok_and(|digits| digits.parse::<u32>().is_ok())
    };
    if port.is_some_and(is_port) {
        Ok(())
    } else {
        Err(DialError::Unexpected(String::from_utf8_lossy(answer).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ok_and_a_number_is_an_answer() {
        for good in ["OK 1073741824\n", "OK 0\n"] {
            assert!(check(good.as_bytes()).is_ok(), "{good:?}");
        }
        for bad in ["", "OK\n", "OK \n", "OK 1", "ok 1\n", "OK 1x\n", "OK 99999999999\n", "NO 1\n"]
        {
            assert!(check(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
