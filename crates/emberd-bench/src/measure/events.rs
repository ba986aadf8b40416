//! The events of a process, as server-sent events over a separate connection.

use std::io::{self, BufRead, BufReader, Read, Write as _};

use emberd_api::{Address, ExecExit, ProcessEvent, ProcessEventKind, paths};
use emberd_client::ServerEvents;

use super::connection::{CallError, Length, Socket, malformed, read_head, read_line, refusal};

/// Maximum size of an event, in bytes (8 MiB): 64 KiB of output, with every byte escaped as six and
/// also in base64, with room to spare.
const EVENT_BYTES_MAX: usize = 8 << 20;

/// Maximum size of an error answer, in bytes (64 KiB).
const REFUSAL_BYTES_MAX: usize = 64 << 10;

const METHOD: &str = "GET";

/// A connection for events, made before the clock starts.
#[derive(Debug)]
pub struct Listener(BufReader<Socket>);

/// The events of one process.
#[derive(Debug)]
pub struct Events {
    path: String,
    body: BufReader<Chunked<BufReader<Socket>>>,
    received: ServerEvents,
}

impl Listener {
    /// Connects.
    ///
    /// # Errors
    /// [`CallError::Connect`].
    pub fn connect(address: &Address) -> Result<Self, CallError> {
        let socket = Socket::connect(address, None)
            .map_err(|source| CallError::Connect { addr: address.clone(), source })?;
        Ok(Self(BufReader::new(socket)))
    }

    /// Follows process `pid` from its first event; returns once the daemon has accepted.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn follow(mut self, id: &str, pid: u32) -> Result<Events, CallError> {
        let path = paths::process(paths::PROCESS_EVENTS, id, pid);
        match self.ask(&path) {
            Ok(None) => {
                let body = BufReader::new(Chunked { inner: self.0, left: 0, state: State::First });
                Ok(Events { path, body, received: ServerEvents::new(EVENT_BYTES_MAX) })
            }
            Ok(Some((status, body))) => Err(refusal(METHOD, &path, status, &body)),
            Err(source) => Err(CallError::Broken { method: METHOD, path, source }),
        }
    }

    /// Reads status and body of an answer that is not a stream.
    fn ask(&mut self, path: &str) -> io::Result<Option<(u16, Vec<u8>)>> {
        let request = format!("{METHOD} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes())?;
        let head = read_head(&mut self.0)?;
        match head.length {
            Length::Chunked if head.status == 200 => Ok(None),
            Length::Known(length) if length <= REFUSAL_BYTES_MAX => {
                let mut body = vec![0; length];
                self.0.read_exact(&mut body)?;
                Ok(Some((head.status, body)))
            }
            length => Err(malformed("length", &format!("{length:?}"))),
        }
    }
}

impl Events {
    /// Waits for the next event; `None` after the last.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn next(&mut self) -> Result<Option<ProcessEvent>, CallError> {
        let data = next_data(&mut self.body, &mut self.received).map_err(|source| {
            CallError::Broken { method: METHOD, path: self.path.clone(), source }
        })?;
        let Some(data) = data else { return Ok(None) };
        let event = serde_json::from_str(&data).map_err(|source| CallError::Body {
            method: METHOD,
            path: self.path.clone(),
            source,
        })?;
        Ok(Some(event))
    }

    /// Waits for output and returns its text; `None` if the process ends without output.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn output(&mut self) -> Result<Option<String>, CallError> {
        while let Some(event) = self.next()? {
            if let ProcessEventKind::Stdout(text) = event.kind {
                return Ok(Some(text.text));
            }
        }
        Ok(None)
    }

    /// Waits for the end of the process.
    ///
    /// # Errors
    /// [`CallError`].
    pub fn exit(&mut self) -> Result<Option<ExecExit>, CallError> {
        while let Some(event) = self.next()? {
            if let ProcessEventKind::Exit(exit) = event.kind {
                return Ok(Some(exit));
            }
        }
        Ok(None)
    }
}

/// Returns the data of the next event.
fn next_data(reader: &mut impl BufRead, received: &mut ServerEvents) -> io::Result<Option<String>> {
    loop {
        if let Some(event) = received.event().map_err(io::Error::other)? {
            return Ok(Some(event.data));
        }
        let piece = reader.fill_buf()?;
        let bytes = piece.len();
        if bytes == 0 {
            let is_partial = received.is_partial();
            return if is_partial { Err(malformed("end", "in an event")) } else { Ok(None) };
        }
        received.push(piece);
        reader.consume(bytes);
    }
}

/// A chunked body, without the framing of its chunks.
#[derive(Debug)]
struct Chunked<R> {
    inner: R,
    /// Unread bytes of the current chunk.
    left: usize,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    First,
    Later,
    Ended,
}

impl<R: BufRead> Chunked<R> {
    fn begin(&mut self) -> io::Result<()> {
        if self.state == State::Later {
            read_line(&mut self.inner)?;
        }
        let line = read_line(&mut self.inner)?;
        self.left =
            usize::from_str_radix(&line, 16).map_err(|_| malformed("size of a chunk", &line))?;
        self.state = if self.left == 0 { State::Ended } else { State::Later };
        Ok(())
    }
}

impl<R: BufRead> Read for Chunked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 && self.state != State::Ended {
            self.begin()?;
        }
        let wanted = buffer.len().min(self.left);
        if wanted == 0 {
            return Ok(0);
        }
        let read = self.inner.read(&mut buffer[..wanted])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= read;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the data of every event in `body`.
    fn check(body: &str, expect: &[&str]) -> io::Result<()> {
        let chunked = Chunked { inner: body.as_bytes(), left: 0, state: State::First };
        let (mut reader, mut received) = (BufReader::new(chunked), ServerEvents::new(100));
        for data in expect {
            assert_eq!(next_data(&mut reader, &mut received)?.as_deref(), Some(*data));
        }
        assert_eq!(next_data(&mut reader, &mut received)?, None);
        Ok(())
    }

    #[test]
    fn events_are_found_whatever_the_chunks() {
        let body = "15\r\nid: 0\nevent: started\n\r\n9\r\ndata: a\n\n\r\n3\r\n:\n\n\r\nC\r\ndata: b\
                    \n\ndat\r\n6\r\na: c\n\n\r\n0\r\n\r\n";
        check(body, &["a", "b", "c"]).unwrap();
    }

    #[test]
    fn a_stream_that_breaks_off_is_an_error() {
        for body in ["", "5\r\ndata", "x\r\n", "7\r\ndata: a\r\n0\r\n\r\n"] {
            assert!(check(body, &[]).is_err(), "{body:?}");
        }
    }
}
