//! The standard input of one program.

use std::collections::VecDeque;
use std::future;
use std::io;

use bytes::{Buf as _, Bytes};
use emberd_proto::exec::STDIN_BYTES_MAX;
use tokio::net::unix::pipe::Sender;

use crate::connection::ConnectionError;

/// Takes input as fast as the host sends it and hands it on as fast as the program reads:
/// a program that does not read must not keep the host from sending.
#[derive(Debug)]
pub struct Input {
    /// Closed once the program has all its input or wants no more.
    pipe: Option<Sender>,
    waiting: VecDeque<Bytes>,
    received_bytes: usize,
    ended: bool,
}

impl Input {
    /// Input for the program at the other end of `pipe`.
    pub fn new(pipe: Sender) -> Self {
        Self { pipe: Some(pipe), waiting: VecDeque::new(), received_bytes: 0, ended: false }
    }

    /// Accepts what the host sent.
    ///
    /// # Errors
    /// [`ConnectionError::TooMuchStdin`] beyond [`STDIN_BYTES_MAX`].
    pub fn push(&mut self, bytes: Bytes) -> Result<(), ConnectionError> {
        self.received_bytes = self.received_bytes.saturating_add(bytes.len());
        if self.received_bytes > STDIN_BYTES_MAX {
            return Err(ConnectionError::TooMuchStdin);
        }
        if self.pipe.is_some() && !bytes.is_empty() {
            self.waiting.push_back(bytes);
        }
        Ok(())
    }

    /// Says that the host sends no more.
    pub fn end(&mut self) {
        self.ended = true;
        self.close_when_done();
    }

    /// Waits until the program can take more; forever while there is nothing to give.
    /// Cancel safe.
    pub async fn writable(&self) -> io::Result<()> {
        match &self.pipe {
            Some(pipe) if !self.waiting.is_empty() => pipe.writable().await,
            _ => future::pending().await,
        }
    }

    /// Hands on as much as the program takes without waiting.
    pub fn write_some(&mut self) {
        let (Some(pipe), Some(next)) = (&self.pipe, self.waiting.front_mut()) else { return };
        match pipe.try_write(next) {
            Ok(written) => {
                next.advance(written);
                if next.is_empty() {
                    self.waiting.pop_front();
                }
                self.close_when_done();
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The program has closed its input (EPIPE), as many do.
            Err(_) => self.close(),
        }
    }

    /// Drops the pipe and what was waiting.
    pub fn close(&mut self) {
        self.pipe = None;
        self.waiting.clear();
    }

    fn close_when_done(&mut self) {
        if self.ended && self.waiting.is_empty() {
            self.close();
        }
    }
}
