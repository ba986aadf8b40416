//! Opens a stream to a guest port through Firecracker's vsock socket on the host.
//!
//! ```text
//! host ── CONNECT 1024\n ─▶        ◀─ OK 1073741824\n ── guest's bytes from here on
//!                                  ◀─ end of stream: nothing listens on that port
//!                                  ◀─ nothing: the guest's driver is not up, or paused
//! ```
//!
//! Firecracker's document vsock.md describes the exchange. Its vsock/unix/muxer.rs shows that the
//! line must arrive in one write, and what a missing answer means.

use std::io;
use std::time::Duration;

use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncReadExt as _, Interest};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::machine::VSOCK_SOCKET;
use crate::root::Root;

/// Longest answer, in bytes: `OK`, a space, ten digits and a line feed, with room to spare.
const ANSWER_BYTES_MAX: usize = 32;

/// First and longest time one attempt waits for its answer. An attempt given up before the
/// guest's driver is up still reaches the guest later and costs it time, so they get rare;
/// one made just after a restore may be lost, so the first are short.
const ANSWER_WAIT: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(16));

/// First and longest pause after an attempt that failed at once.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(64));

/// Why one attempt failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// The guest has no listener on that port, or not yet.
    #[error("nothing listens on guest port {0}")]
    NotListening(u32),
    /// No answer in time: the guest is not up, or paused.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The socket could not be used.
    #[error("the vsock socket failed")]
    Socket(#[source] io::Error),
    /// The answer is malformed.
    #[error("unexpected answer {0:?}")]
    Unexpected(String),
}

impl DialError {
    /// Whether a guest that still boots may answer a later attempt.
    fn may_pass(&self) -> bool {
        use io::ErrorKind::{ConnectionRefused, ConnectionReset, NotFound};
        match self {
            Self::NotListening(_) | Self::TimedOut(_) => true,
            // Reset: the VMM ended before it accepted, which its process's end will tell.
            Self::Socket(error) => {
                matches!(error.kind(), NotFound | ConnectionRefused | ConnectionReset)
            }
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
/// With `booted`, a port on which nothing listens is an error and not waited for.
pub(crate) async fn dial(
    root: &Root,
    port: u32,
    booted: impl Fn() -> bool,
) -> Result<UnixStream, DialError> {
    let mut wait = ANSWER_WAIT.0;
    let mut pause = PAUSE.0;
    loop {
        // Asked first: a guest that is ready now may have turned an earlier attempt away.
        let booted = booted();
        match attempt(root, port, wait).await {
            Ok(stream) => return Ok(stream),
            Err(error @ DialError::NotListening(_)) if booted => return Err(error),
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
        ask(&stream, port).await.map_err(|error| refused(error, port))?;
        let answer = read_line(&mut stream).await.map_err(|error| refused(error, port))?;
        check(&answer)?;
        Ok(stream)
    };
    timeout(wait, handshake).await.map_err(|_| DialError::TimedOut(wait))?
}

/// Returns the error of a connection that ended before its answer: the guest refused it.
fn refused(error: io::Error, port: u32) -> DialError {
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

/// Reads to the line feed and not a byte further: what follows is the guest's. What there is is
/// looked at before it is taken, which is two calls for an answer that came in one piece.
async fn read_line(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut line = Vec::with_capacity(ANSWER_BYTES_MAX);
    while line.len() < ANSWER_BYTES_MAX && !line.ends_with(b"\n") {
        let mut seen = [0; ANSWER_BYTES_MAX];
        let room = ANSWER_BYTES_MAX - line.len();
        let peek = || Ok(recv(&*stream, &mut seen[..room], RecvFlags::PEEK)?.1);
        let there = stream.async_io(Interest::READABLE, peek).await?;
        if there == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let end = seen[..there].iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(there, |end| end + 1);
        stream.read_exact(&mut seen[..taken]).await?;
        line.extend_from_slice(&seen[..taken]);
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
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::UnixListener;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(30);

    fn root() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path().into()).unwrap();
        (dir, root)
    }

    /// Accepts one connection and answers it with `answer` once it has asked.
    async fn answer_one(listener: &UnixListener, answer: &[u8]) -> (UnixStream, String) {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = [0; 64];
        let n = stream.read(&mut asked).await.unwrap();
        stream.write_all(answer).await.unwrap();
        (stream, String::from_utf8_lossy(&asked[..n]).into_owned())
    }

    #[tokio::test]
    async fn the_guests_first_bytes_stay_in_the_stream() {
        let (_dir, root) = root();
        let listener = root.bind(VSOCK_SOCKET).unwrap();
        let (dialled, (_guest, asked)) = tokio::join!(
            attempt(&root, 1024, LONG),
            answer_one(&listener, b"OK 1073741824\nhello"),
        );
        assert_eq!(asked, "CONNECT 1024\n", "in one write");
        let mut first = [0; 5];
        dialled.unwrap().read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"hello");
    }

    #[tokio::test]
    async fn an_end_before_the_answer_is_nobody_listening() {
        for part in [&b""[..], b"OK 10"] {
            let (_dir, root) = root();
            let listener = root.bind(VSOCK_SOCKET).unwrap();
            let turn_away = async { drop(answer_one(&listener, part).await) };
            let (dialled, ()) = tokio::join!(attempt(&root, 9, LONG), turn_away);
            assert!(matches!(dialled, Err(DialError::NotListening(9))), "{dialled:?}");
        }
    }

    #[tokio::test]
    async fn an_answer_without_end_is_none() {
        let (_dir, root) = root();
        let listener = root.bind(VSOCK_SOCKET).unwrap();
        let (dialled, _) =
            tokio::join!(attempt(&root, 9, LONG), answer_one(&listener, &[b'9'; 100]));
        assert!(matches!(dialled, Err(DialError::Unexpected(text)) if text.len() == 32));
    }

    #[tokio::test]
    async fn silence_is_not_waited_for_beyond_its_time() {
        let (_dir, root) = root();
        let _listener = root.bind(VSOCK_SOCKET).unwrap();
        let dialled = attempt(&root, 9, SHORT).await;
        assert!(matches!(dialled, Err(DialError::TimedOut(wait)) if wait == SHORT));
    }

    #[tokio::test]
    async fn a_booting_guest_is_dialled_until_it_answers() {
        let (_dir, root) = root();
        let boots = async {
            let listener = root.bind(VSOCK_SOCKET).unwrap();
            drop(answer_one(&listener, b"").await);
            drop(answer_one(&listener, b"").await);
            answer_one(&listener, b"OK 1073741824\n").await.0
        };
        let (dialled, _guest) = tokio::join!(dial(&root, 9, || false), boots);
        dialled.unwrap();
    }

    #[tokio::test]
    async fn a_booted_guest_without_a_listener_is_not_dialled_again() {
        let (_dir, root) = root();
        let listener = root.bind(VSOCK_SOCKET).unwrap();
        let turn_away = async { drop(answer_one(&listener, b"").await) };
        let (dialled, ()) = tokio::join!(dial(&root, 9, || true), turn_away);
        assert!(matches!(dialled, Err(DialError::NotListening(9))));
    }

    #[tokio::test]
    async fn an_attempt_older_than_the_guests_readiness_is_made_again() {
        let (_dir, root) = root();
        let listener = root.bind(VSOCK_SOCKET).unwrap();
        let booted = std::cell::Cell::new(false);
        let boots = async {
            let first = listener.accept().await.unwrap();
            booted.set(true);
            drop(first);
            answer_one(&listener, b"OK 1073741824\n").await.0
        };
        let (dialled, _guest) = tokio::join!(dial(&root, 9, || booted.get()), boots);
        dialled.unwrap();
    }

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
