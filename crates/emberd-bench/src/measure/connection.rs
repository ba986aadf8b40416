//! An HTTP/1.1 connection that stays open, for everything that is timed.
//!
//! The clock runs from before the request's first byte is written until after the answer's last
//! byte is read. Formatting the request and parsing the answer's JSON are not timed.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use emberd_api::{Address, ErrorBody, SERVER_TIMING_HEADER, ServerTiming};
use emberd_keys::Secret;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, StreamOwned};

/// Time limit for an answer: a cold boot under emulation on a busy host takes seconds.
const ANSWER_MAX: Duration = Duration::from_secs(180);

/// Idle time after which a new connection is made for the next request: less than the 10 s after
/// which the daemon closes it.
const IDLE_MAX: Duration = Duration::from_secs(5);

/// Maximum length of a line of an answer's head, in bytes, and maximum number of lines.
const HEAD_LINE_BYTES_MAX: u64 = 8 << 10;
const HEAD_LINES_MAX: usize = 64;

/// Maximum size of an answer, in bytes (256 MiB): twice the largest file that is read.
const BODY_BYTES_MAX: usize = 256 << 20;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The daemon cannot be reached.
    #[error("cannot connect to a daemon at {addr}")]
    Connect {
        /// The daemon's address.
        addr: Address,
        /// The cause.
        source: io::Error,
    },
    /// The connection failed.
    #[error("{method} {path}: the connection broke")]
    Broken {
        /// HTTP method.
        method: &'static str,
        /// Path of the request.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// The daemon answered with an error.
    #[error("{method} {path}: {} (HTTP {status})", body.error)]
    Refused {
        /// HTTP method.
        method: &'static str,
        /// Path of the request.
        path: String,
        /// HTTP status.
        status: u16,
        /// The error.
        body: ErrorBody,
    },
    /// The answer does not have the expected body.
    #[error("unexpected answer to {method} {path}; is this an emberd?")]
    Body {
        /// HTTP method.
        method: &'static str,
        /// Path of the request.
        path: String,
        /// The cause.
        source: serde_json::Error,
    },
}

/// A successful answer and its latency.
#[derive(Debug)]
pub struct Answer {
    /// The body, which may be empty.
    pub body: Vec<u8>,
    /// Time from the request's first byte to the answer's last.
    pub latency: Duration,
    /// The daemon's own account of the time.
    pub server_timing: ServerTiming,
}

/// A connection to the daemon at an address.
#[derive(Debug)]
pub struct Connection {
    address: Address,
    socket: BufReader<Socket>,
    used: Instant,
    key: Option<Secret>,
    tls: Option<Arc<ClientConfig>>,
}

/// A byte stream in both directions.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Tls(Box<TlsStream>),
    Unix(UnixStream),
}

/// A connection in TLS.
type TlsStream = StreamOwned<ClientConnection, TcpStream>;

/// The head of an answer.
pub(super) struct Head {
    /// HTTP status.
    pub status: u16,
    /// Length of the body.
    pub length: Length,
    server_timing: ServerTiming,
}

/// Length of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    /// A number of bytes.
    Known(usize),
    /// Chunks, the last of which is empty (RFC 9112 §7.1).
    Chunked,
}

/// Returns the error for answer `status` with `body`.
pub(super) fn refusal(method: &'static str, path: &str, status: u16, body: &[u8]) -> CallError {
    let path = path.to_owned();
    match serde_json::from_slice(body) {
        Ok(body) => CallError::Refused { method, path, status, body },
        Err(source) => CallError::Body { method, path, source },
    }
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// [`CallError::Connect`].
    pub fn open(address: &Address) -> Result<Self, CallError> {
        Self::to(address.clone(), None)
    }

    /// Connects by TLS.
    ///
    /// # Errors
    /// [`CallError::Connect`].
    pub fn secured(authority: &str, config: &Arc<ClientConfig>) -> Result<Self, CallError> {
        Self::to(Address::Tls(authority.to_owned()), Some(Arc::clone(config)))
    }

    fn to(address: Address, tls: Option<Arc<ClientConfig>>) -> Result<Self, CallError> {
        match Socket::connect(&address, tls.as_ref()) {
            Ok(socket) => {
                let (socket, used) = (BufReader::new(socket), Instant::now());
                Ok(Self { address, socket, used, key: None, tls })
            }
            Err(source) => Err(CallError::Connect { addr: address, source }),
        }
    }

    /// Sends `key` with each request.
    pub fn with_key(self, key: &Secret) -> Self {
        Self { key: Some(key.clone()), ..self }
    }

    /// Sends one request and waits for the answer.
    ///
    /// # Errors
    /// [`CallError`]; every status except 2xx is one.
    pub fn call(
        &mut self,
        method: &'static str,
        path: &str,
        body: &[u8],
    ) -> Result<Answer, CallError> {
        let (status, answer) = self
            .exchange(method, path, "", body)
            .map_err(|source| CallError::Broken { method, path: path.to_owned(), source })?;
        if (200..300).contains(&status) {
            return Ok(answer);
        }
        Err(refusal(method, path, status, &answer.body))
    }

    /// Calls the tool `name` over MCP, in `version` of the protocol.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub fn call_tool(
        &mut self,
        name: &str,
        version: &str,
        message: &[u8],
    ) -> Result<Answer, CallError> {
        let (method, path) = ("POST", emberd_api::paths::MCP);
        let fields = format!(
            "Accept: application/json, text/event-stream\r\nMCP-Protocol-Version: {version}\r\n\
             Mcp-Method: tools/call\r\nMcp-Name: {name}\r\n"
        );
        let exchanged = self.exchange(method, path, &fields, message);
        let (status, answer) = exchanged.map_err(|source| CallError::Broken {
            method,
            path: path.to_owned(),
            source,
        })?;
        if status == 200 { Ok(answer) } else { Err(refusal(method, path, status, &answer.body)) }
    }

    fn exchange(
        &mut self,
        method: &str,
        path: &str,
        fields: &str,
        body: &[u8],
    ) -> io::Result<(u16, Answer)> {
        if self.used.elapsed() > IDLE_MAX {
            let socket = Socket::connect(&self.address, self.tls.as_ref())?;
            self.socket = BufReader::new(socket);
        }
        let key = self.key.as_ref().map(|key| format!("X-API-Key: {}\r\n", key.expose()));
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             {fields}{}Content-Length: {}\r\n\r\n",
            key.unwrap_or_default(),
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        let sent = Instant::now();
        self.socket.get_mut().write_all(&request)?;
        self.socket.get_mut().flush()?;
        let head = read_head(&mut self.socket)?;
        let Length::Known(length) = head.length else {
            return Err(malformed("transfer encoding", "chunked"));
        };
        let mut body = vec![0; length];
        self.socket.read_exact(&mut body)?;
        let latency = sent.elapsed();
        self.used = Instant::now();
        Ok((head.status, Answer { body, latency, server_timing: head.server_timing }))
    }
}

impl Socket {
    /// Connects; by TLS, as `tls` says.
    pub(super) fn connect(address: &Address, tls: Option<&Arc<ClientConfig>>) -> io::Result<Self> {
        match address {
            Address::Tcp(authority) => Ok(Self::Tcp(tcp(authority)?)),
            Address::Tls(authority) => {
                let unsupported = || {
                    let error = "only the scenario `tls` measures over TLS";
                    io::Error::new(io::ErrorKind::Unsupported, error)
                };
                let config = tls.ok_or_else(unsupported)?;
                Ok(Self::Tls(Box::new(shake_hands(tcp(authority)?, authority, config)?)))
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(ANSWER_MAX))?;
                Ok(Self::Unix(stream))
            }
        }
    }
}

fn tcp(authority: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(authority)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    Ok(stream)
}

/// Makes the handshake of TLS with `authority`.
///
/// # Errors
/// If the daemon breaks off, or is not trusted.
pub fn shake_hands(
    mut stream: TcpStream,
    authority: &str,
    config: &Arc<ClientConfig>,
) -> io::Result<TlsStream> {
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host).to_owned();
    let name = ServerName::try_from(host).map_err(io::Error::other)?;
    let mut connection =
        ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
    while connection.is_handshaking() {
        connection.complete_io(&mut stream)?;
    }
    Ok(StreamOwned::new(connection, stream))
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Tls(stream) => stream.flush(),
            Self::Tcp(_) | Self::Unix(_) => Ok(()),
        }
    }
}

/// Reads the status line and headers, including the empty line after them.
pub(super) fn read_head(reader: &mut impl io::BufRead) -> io::Result<Head> {
    let status_line = read_line(reader)?;
    let status = status_line.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status = status.ok_or_else(|| malformed("status line", &status_line))?;
    let mut head =
        Head { status, length: Length::Known(0), server_timing: ServerTiming::default() };
    for _ in 0..HEAD_LINES_MAX {
        let line = read_line(reader)?;
        if line.is_empty() {
            return Ok(head);
        }
        let (name, value) = line.split_once(':').ok_or_else(|| malformed("header", &line))?;
        match name.to_ascii_lowercase().as_str() {
            "content-length" => {
                let length = value.trim().parse().ok().filter(|length| *length <= BODY_BYTES_MAX);
                head.length = Length::Known(length.ok_or_else(|| malformed("length", value))?);
            }
            "transfer-encoding" if value.trim() == "chunked" => head.length = Length::Chunked,
            "transfer-encoding" => return Err(malformed("transfer encoding", value)),
            SERVER_TIMING_HEADER => head.server_timing = value.parse().unwrap_or_default(),
            _ => {}
        }
    }
    Err(malformed("head", "too many headers"))
}

/// Reads a line of a head or of the chunk framing.
pub(super) fn read_line(reader: &mut impl io::BufRead) -> io::Result<String> {
    let mut line = String::new();
    reader.take(HEAD_LINE_BYTES_MAX).read_line(&mut line)?;
    match line.strip_suffix("\r\n") {
        Some(text) => Ok(text.to_owned()),
        None if line.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
        None => Err(malformed("line", &line)),
    }
}

pub(super) fn malformed(what: &str, text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("unexpected {what}: {text:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_taken_apart_or_refused() {
        let head = |text: &str| read_head(&mut text.as_bytes());
        let text = "HTTP/1.1 204 No Content\r\nserver-timing: total;dur=1\r\n\r\nrest";
        let parsed = head(text).unwrap();
        let none = Length::Known(0);
        assert_eq!(
            (parsed.status, parsed.length, parsed.server_timing.stages.len()),
            (204, none, 1)
        );
        let length = |field: &str| head(&format!("HTTP/1.1 200 OK\r\n{field}\r\n\r\n")).unwrap();
        assert_eq!(length("Content-Length: 5").length, Length::Known(5));
        assert_eq!(length("Transfer-Encoding: chunked").length, Length::Chunked);
        for text in [
            "",
            "HTTP/1.1 200",
            "HTTP/1.1 two OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        ] {
            assert!(head(text).is_err(), "{text:?}");
        }
    }
}
