//! The standard input of one program.

use std::collections::VecDeque;
use std::future;
use std::io;

use bytes::{Buf as _, Bytes};
use emberd_proto::exec::STDIN_BYTES_MAX;
use emberd_proto::process::STDIN_WINDOW_BYTES;
use tokio::net::unix::pipe::Sender;

use super::terminal::{END_OF_INPUT, Terminal};
use crate::connection::ConnectionError;

/// Number of consumed bytes after which the host is told (a quarter of the window).
const TELL_BYTES: usize = STDIN_WINDOW_BYTES / 4;

/// Buffers input until the program reads it. A program that does not read must not block the
/// host.
#[derive(Debug)]
pub struct Input {
    /// Closed once the program has all its input or has closed its end.
    sink: Option<Sink>,
    waiting: VecDeque<Bytes>,
    bound: Bound,
    ended: bool,
}

#[derive(Debug)]
enum Sink {
    Pipe(Sender),
    Terminal(Terminal),
}

/// Limits of buffered input.
#[derive(Debug)]
enum Bound {
    /// All input may arrive at once, for an exec.
    Whole { received_bytes: usize },
    /// At most a window of input; the host is told how much was consumed.
    Window { waiting_bytes: usize, taken_bytes: usize },
}

impl Input {
    /// Returns the input of the program at the other end of `pipe`.
    pub fn new(pipe: Sender) -> Self {
        Self::into(Sink::Pipe(pipe))
    }

    /// Returns the input of the program at the other end of `terminal`.
    pub fn of_terminal(terminal: Terminal) -> Self {
        Self::into(Sink::Terminal(terminal))
    }

    fn into(sink: Sink) -> Self {
        let bound = Bound::Whole { received_bytes: 0 };
        Self { sink: Some(sink), waiting: VecDeque::new(), bound, ended: false }
    }

    /// Limits the host to the window.
    pub fn window(&mut self) {
        self.bound = Bound::Window { waiting_bytes: 0, taken_bytes: 0 };
    }

    /// Accepts data from the host.
    ///
    /// # Errors
    /// [`ConnectionError::TooMuchStdin`] beyond [`STDIN_BYTES_MAX`], or beyond the window.
    pub fn push(&mut self, bytes: Bytes) -> Result<(), ConnectionError> {
        let wanted = self.sink.is_some() && !self.ended;
        let too_much = match &mut self.bound {
            Bound::Whole { received_bytes } => {
                *received_bytes = received_bytes.saturating_add(bytes.len());
                *received_bytes > STDIN_BYTES_MAX
            }
            Bound::Window { waiting_bytes, .. } if wanted => {
                *waiting_bytes = waiting_bytes.saturating_add(bytes.len());
                *waiting_bytes > STDIN_WINDOW_BYTES
            }
            Bound::Window { taken_bytes, .. } => {
                *taken_bytes = taken_bytes.saturating_add(bytes.len());
                false
            }
        };
        if too_much {
            return Err(ConnectionError::TooMuchStdin);
        }
        if wanted && !bytes.is_empty() {
            self.waiting.push_back(bytes);
        }
        Ok(())
    }

    /// Marks the end of the host's input. A terminal stays open, and its program gets the
    /// end-of-input character.
    pub fn end(&mut self) {
        if matches!(self.sink, Some(Sink::Terminal(_))) && !self.ended {
            self.waiting.push_back(Bytes::from_static(END_OF_INPUT));
        }
        self.ended = true;
        self.close_when_done();
    }

    /// Waits until the program can accept more; never returns while there is nothing to write.
    /// Cancel safe.
    pub async fn writable(&self) -> io::Result<()> {
        match &self.sink {
            Some(Sink::Pipe(pipe)) if !self.waiting.is_empty() => pipe.writable().await,
            Some(Sink::Terminal(terminal)) if !self.waiting.is_empty() => terminal.writable().await,
            _ => future::pending().await,
        }
    }

    /// Writes as much as the program accepts without waiting.
    pub fn write_some(&mut self) {
        let (Some(sink), Some(next)) = (&self.sink, self.waiting.front_mut()) else { return };
        let written = match sink {
            Sink::Pipe(pipe) => pipe.try_write(next),
            Sink::Terminal(terminal) => terminal.try_write(next),
        };
        match written {
            Ok(written) => {
                next.advance(written);
                if next.is_empty() {
                    self.waiting.pop_front();
                }
                if let Bound::Window { waiting_bytes, taken_bytes } = &mut self.bound {
                    // The end-of-input character was not part of the host's data.
                    let taken = written.min(*waiting_bytes);
                    *waiting_bytes -= taken;
                    *taken_bytes += taken;
                }
                self.close_when_done();
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // The program has closed its input (EPIPE), as many do.
            Err(_) => self.close(),
        }
    }

    /// Returns how much was consumed since the last call, if it is enough to tell the host.
    pub fn taken(&mut self) -> Option<usize> {
        match &mut self.bound {
            Bound::Window { waiting_bytes, taken_bytes }
                if *taken_bytes >= TELL_BYTES || (*taken_bytes > 0 && *waiting_bytes == 0) =>
            {
                Some(std::mem::take(taken_bytes))
            }
            _ => None,
        }
    }

    /// Drops the pipe and the buffered input.
    pub fn close(&mut self) {
        self.sink = None;
        self.waiting.clear();
        if let Bound::Window { waiting_bytes, taken_bytes } = &mut self.bound {
            *taken_bytes += std::mem::take(waiting_bytes);
        }
    }

    fn close_when_done(&mut self) {
        let stays_open = matches!(self.sink, Some(Sink::Terminal(_)));
        if self.ended && self.waiting.is_empty() && !stays_open {
            self.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windowed() -> (Input, tokio::net::unix::pipe::Receiver) {
        let (sender, receiver) = tokio::net::unix::pipe::pipe().unwrap();
        let mut input = Input::new(sender);
        input.window();
        (input, receiver)
    }

    #[tokio::test]
    async fn window_is_held() {
        let (mut input, _receiver) = windowed();
        input.push(Bytes::from(vec![0; STDIN_WINDOW_BYTES])).unwrap();
        assert_eq!(input.taken(), None);
        assert!(matches!(input.push(Bytes::from_static(b"x")), Err(ConnectionError::TooMuchStdin)));
    }

    #[tokio::test]
    async fn what_is_taken_is_told_and_what_never_will_be_too() {
        let (mut input, receiver) = windowed();
        input.push(Bytes::from_static(b"one")).unwrap();
        input.writable().await.unwrap();
        input.write_some();
        assert_eq!((input.taken(), input.taken()), (Some(3), None));
        drop(receiver);
        input.push(Bytes::from_static(b"four")).unwrap();
        input.write_some();
        assert_eq!(input.taken(), Some(4));
        input.push(Bytes::from(vec![0; 2 * STDIN_WINDOW_BYTES])).unwrap();
        assert_eq!(input.taken(), Some(2 * STDIN_WINDOW_BYTES));
    }
}
