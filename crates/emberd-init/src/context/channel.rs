//! The agent's end of the socket that carries calls and events of a context's interpreter.

use std::collections::VecDeque;
use std::future;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;

use bytes::{Buf as _, Bytes, BytesMut};
use emberd_proto::context::CONTEXT_CALLS_BYTES_MAX;
use emberd_proto::frame::BULK_BYTES_MAX;
use nix::errno::Errno;
use tokio::net::UnixStream;

use crate::connection::ConnectionError;

/// Maximum number of bytes read from an interpreter that has ended (1 MiB): more than a socket's
/// buffer holds.
const REST_BYTES_MAX: usize = 1 << 20;

/// Byte with which an interpreter asks the agent to read its output so far. It is not valid in
/// JSON. The two output streams are read separately, so their order would be lost otherwise.
const ORDER: u8 = 0x16;

/// The answer, which may come between any two bytes of a line.
const ORDERED: u8 = 0x06;

/// Maximum number of answers written at once.
const ANSWERS_AT_ONCE: usize = 64;

/// Buffers the host's data until the interpreter reads it.
#[derive(Debug)]
pub struct Channel {
    /// Closed once the interpreter has closed its end.
    socket: Option<UnixStream>,
    waiting: VecDeque<Bytes>,
    waiting_bytes: usize,
    /// Number of answers that the interpreter still has to get.
    answers: usize,
}

impl Channel {
    /// Returns a channel, and the socket that becomes the interpreter's standard input.
    ///
    /// # Errors
    /// If no socket can be created.
    pub fn open() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let socket = Some(UnixStream::from_std(ours)?);
        Ok((Self { socket, waiting: VecDeque::new(), waiting_bytes: 0, answers: 0 }, theirs.into()))
    }

    /// Accepts data from the host.
    ///
    /// # Errors
    /// [`ConnectionError::TooMuchData`] if more than [`CONTEXT_CALLS_BYTES_MAX`] would be
    /// buffered.
    pub fn push(&mut self, bytes: Bytes) -> Result<(), ConnectionError> {
        if self.socket.is_none() || bytes.is_empty() {
            return Ok(());
        }
        self.waiting_bytes += bytes.len();
        if self.waiting_bytes > CONTEXT_CALLS_BYTES_MAX {
            return Err(ConnectionError::TooMuchData);
        }
        self.waiting.push_back(bytes);
        Ok(())
    }

    /// Waits until the interpreter can accept more; never returns while there is nothing to
    /// write. Cancel safe.
    pub async fn writable(&self) -> io::Result<()> {
        match &self.socket {
            Some(socket) if self.answers > 0 || !self.waiting.is_empty() => socket.writable().await,
            _ => future::pending().await,
        }
    }

    /// Writes as much as the interpreter accepts without waiting.
    pub fn write_some(&mut self) {
        let Some(socket) = &self.socket else { return };
        if self.answers > 0 {
            match socket.try_write(&[ORDERED; ANSWERS_AT_ONCE][..self.answers.min(ANSWERS_AT_ONCE)])
            {
                Ok(written) => self.answers -= written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => self.close(),
            }
            return;
        }
        let Some(next) = self.waiting.front_mut() else { return };
        match socket.try_write(next) {
            Ok(written) => {
                next.advance(written);
                self.waiting_bytes -= written;
                if next.is_empty() {
                    self.waiting.pop_front();
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.close(),
        }
    }

    /// Removes order bytes from the interpreter's data, which leaves the lines. The output has
    /// been read by now, so each order byte is answered.
    pub fn answer(&mut self, said: &mut BytesMut) {
        let before = said.len();
        if said.contains(&ORDER) {
            *said = said.iter().copied().filter(|byte| *byte != ORDER).collect();
        }
        self.answers += before - said.len();
    }

    /// Waits until there is data from the interpreter; never returns once it is closed. Cancel
    /// safe.
    pub async fn readable(&self) -> io::Result<()> {
        match &self.socket {
            Some(socket) => socket.readable().await,
            None => future::pending().await,
        }
    }

    /// Reads once, without waiting.
    pub fn read_some(&mut self) -> BytesMut {
        let mut chunk = BytesMut::with_capacity(BULK_BYTES_MAX);
        let Some(socket) = &self.socket else { return chunk };
        match socket.try_read_buf(&mut chunk) {
            Ok(0) => self.close(),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.close(),
        }
        chunk
    }

    /// Reads the remaining data of an interpreter that has ended.
    pub fn read_rest(&mut self) -> BytesMut {
        let mut rest = BytesMut::new();
        let Some(socket) = self.socket.take() else { return rest };
        let mut chunk = [0; 4 << 10];
        while rest.len() < REST_BYTES_MAX {
            // Bypasses the runtime, which may not have noticed yet that there is data.
            match nix::unistd::read(socket.as_fd(), &mut chunk) {
                Err(Errno::EINTR) => {}
                Ok(0) | Err(_) => break,
                Ok(bytes) => rest.extend_from_slice(&chunk[..bytes]),
            }
        }
        rest
    }

    fn close(&mut self) {
        self.socket = None;
        self.waiting.clear();
        self.waiting_bytes = 0;
        self.answers = 0;
    }
}
