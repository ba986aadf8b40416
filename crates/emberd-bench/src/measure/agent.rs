//! A connection to the agent of a double's guest that bypasses the daemon, to measure the
//! transport.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use emberd_proto::frame::encode_message;
use emberd_proto::message::AGENT_PORT;
use emberd_proto::{Decoder, HostMessage};

/// Maximum read size, in bytes; an answer is much shorter.
const CHUNK_BYTES: usize = 4096;

/// A connection after the hello.
#[derive(Debug)]
pub struct BareAgent {
    stream: UnixStream,
    decoder: Decoder,
}

impl BareAgent {
    /// Connects through the VMM's socket, which is a hybrid vsock as Firecracker's.
    ///
    /// # Errors
    /// If the socket fails, or an answer is not a frame.
    pub fn connect(socket: &Path) -> io::Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        stream.write_all(format!("CONNECT {AGENT_PORT}\n").as_bytes())?;
        let mut last = [0];
        while last != *b"\n" {
            stream.read_exact(&mut last)?;
        }
        let mut agent = Self { stream, decoder: Decoder::default() };
        agent.ask(&HostMessage::hello())?;
        Ok(agent)
    }

    /// Measures a ping of the agent.
    ///
    /// # Errors
    /// If the socket fails, or an answer is not a frame.
    pub fn ping(&mut self) -> io::Result<Duration> {
        let sent = Instant::now();
        self.ask(&HostMessage::Ping)?;
        Ok(sent.elapsed())
    }

    /// Sends `message` and waits for any answer.
    fn ask(&mut self, message: &HostMessage) -> io::Result<()> {
        let mut request = BytesMut::new();
        encode_message(message, &mut request);
        self.stream.write_all(&request)?;
        while self.decoder.next_frame().map_err(io::Error::other)?.is_none() {
            let mut chunk = [0; CHUNK_BYTES];
            let length = self.stream.read(&mut chunk)?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.decoder.buffer().extend_from_slice(&chunk[..length]);
        }
        Ok(())
    }
}
