//! The agent's end of the socket by which a context's interpreter is told what to run.

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

/// Most bytes read of what an interpreter left behind when it ended (1 MiB): more than a
/// socket's buffer holds.
const REST_BYTES_MAX: usize = 1 << 20;

/// An interpreter says this, which is no byte of JSON, when its output so far is to be read
/// before it goes on: its two streams are read apart, and their order would be lost.
const ORDER: u8 = 0x16;

/// What it is told then, between any two bytes of a line.
const ORDERED: u8 = 0x06;

/// Most answers that are written at once.
const ANSWERS_AT_ONCE: usize = 64;

/// Takes what the host sends as fast as it comes, and hands it on as fast as it is read.
#[derive(Debug)]
pub struct Channel {
    /// Closed once the interpreter has closed its end.
    socket: Option<UnixStream>,
    waiting: VecDeque<Bytes>,
    waiting_bytes: usize,
    /// How many times the interpreter is to be told that its output was read.
    answers: usize,
}

impl Channel {
    /// A channel, and the end of it that becomes the interpreter's standard input.
    ///
    /// # Errors
    /// When there is no socket to be had.
    pub fn open() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let socket = Some(UnixStream::from_std(ours)?);
        Ok((Self { socket, waiting: VecDeque::new(), waiting_bytes: 0, answers: 0 }, theirs.into()))
    }

    /// Accepts what the host sent.
    ///
    /// # Errors
    /// [`ConnectionError::TooMuchData`] when more than [`CONTEXT_CALLS_BYTES_MAX`] would wait.
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

    /// Waits until the interpreter can take more; for ever while there is nothing to give.
    /// Cancel safe.
    pub async fn writable(&self) -> io::Result<()> {
        match &self.socket {
            Some(socket) if self.answers > 0 || !self.waiting.is_empty() => socket.writable().await,
            _ => future::pending().await,
        }
    }

    /// Hands on as much as the interpreter takes without waiting.
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

    /// Leaves of what the interpreter said the lines; its output has been read by now, and where
    /// it asked for that, it is told.
    pub fn answer(&mut self, said: &mut BytesMut) {
        let before = said.len();
        if said.contains(&ORDER) {
            *said = said.iter().copied().filter(|byte| *byte != ORDER).collect();
        }
        self.answers += before - said.len();
    }

    /// Waits until the interpreter has said something; for ever once it cannot. Cancel safe.
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

    /// Reads what an interpreter that has ended left behind.
    pub fn read_rest(&mut self) -> BytesMut {
        let mut rest = BytesMut::new();
        let Some(socket) = self.socket.take() else { return rest };
        let mut chunk = [0; 4 << 10];
        while rest.len() < REST_BYTES_MAX {
            // Past the runtime, which may not have heard yet that there is something.
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
