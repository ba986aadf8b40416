//! The standard output, or standard error, of one program.

use std::future;
use std::io;
use std::mem;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use bytes::BytesMut;
use emberd_proto::Kind;
use emberd_proto::exec::OUTPUT_BYTES_MAX;
use emberd_proto::frame::{BULK_BYTES_MAX, encode_bulk};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::net::unix::pipe::Receiver;

/// Capacity assumed for a pipe that does not tell, in bytes (1 MiB): the most an
/// unprivileged program can give it.
const PIPE_BYTES_FALLBACK: usize = 1 << 20;

/// What is read at once of what a program leaves behind, in bytes (4 KiB): mostly nothing.
const REST_CHUNK_BYTES: usize = 4 << 10;

/// Turns what the program writes into frames, up to [`OUTPUT_BYTES_MAX`]; the rest is read
/// and dropped, so that the program runs on as if it had been read.
#[derive(Debug)]
pub struct Output {
    kind: Kind,
    pipe: Pipe,
    sent_bytes: usize,
    truncated: bool,
}

/// The agent's end of a program's pipe; it never blocks.
#[derive(Debug)]
enum Pipe {
    /// The runtime has not heard of it, and is not woken when the program writes.
    Unwatched(OwnedFd),
    Watched(Receiver),
    /// The program, and whoever inherited the other end, has closed that.
    Closed,
}

impl Output {
    /// Output of the program at the other end of `pipe`, sent as frames of `kind`.
    ///
    /// # Errors
    /// When the pipe cannot be told not to block.
    pub fn new(kind: Kind, pipe: OwnedFd) -> io::Result<Self> {
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self { kind, pipe: Pipe::Unwatched(pipe), sent_bytes: 0, truncated: false })
    }

    /// Whether anything was dropped.
    pub fn truncated(&self) -> bool {
        self.truncated
    }

    /// Waits until there is something to read; forever once the pipe is closed. Cancel safe.
    /// From the first wait on, the runtime watches the pipe.
    pub async fn readable(&mut self) -> io::Result<()> {
        self.pipe = match mem::replace(&mut self.pipe, Pipe::Closed) {
            Pipe::Unwatched(pipe) => Pipe::Watched(Receiver::from_owned_fd_unchecked(pipe)?),
            pipe => pipe,
        };
        match &self.pipe {
            Pipe::Watched(pipe) => pipe.readable().await,
            Pipe::Unwatched(_) | Pipe::Closed => future::pending().await,
        }
    }

    /// Reads once, without waiting, and appends the frames to `frames`.
    pub fn read_some(&mut self, frames: &mut BytesMut) {
        let Pipe::Watched(pipe) = &self.pipe else { return };
        let mut chunk = BytesMut::with_capacity(BULK_BYTES_MAX);
        match pipe.try_read_buf(&mut chunk) {
            Ok(0) => self.pipe = Pipe::Closed,
            Ok(_) => self.append(&chunk, frames),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.pipe = Pipe::Closed,
        }
    }

    /// Reads what is in the pipe, once the program has ended.
    ///
    /// All the program wrote before it ended is there, so one pipe's capacity is enough, and
    /// a child of it that goes on writing cannot keep this from ending.
    pub fn read_rest(&mut self, frames: &mut BytesMut) {
        let pipe = mem::replace(&mut self.pipe, Pipe::Closed);
        let fd = match &pipe {
            Pipe::Unwatched(pipe) => pipe.as_fd(),
            // Past the runtime, which may not have heard yet that the pipe is readable.
            Pipe::Watched(pipe) => pipe.as_fd(),
            Pipe::Closed => return,
        };
        let mut chunk = [0; REST_CHUNK_BYTES];
        let mut left = None;
        loop {
            let bytes = match nix::unistd::read(fd, &mut chunk) {
                Ok(bytes) => bytes,
                Err(Errno::EINTR) => continue,
                Err(_) => break,
            };
            self.append(&chunk[..bytes], frames);
            // Less than was asked for is all there is.
            if bytes < chunk.len() {
                break;
            }
            match left.get_or_insert_with(|| capacity(fd)).checked_sub(bytes) {
                None | Some(0) => break,
                less => left = less,
            }
        }
        // Closed when nobody waits for it any more.
        self.pipe = pipe;
    }

    fn append(&mut self, bytes: &[u8], frames: &mut BytesMut) {
        let room = OUTPUT_BYTES_MAX - self.sent_bytes;
        let kept = &bytes[..bytes.len().min(room)];
        self.truncated |= kept.len() < bytes.len();
        self.sent_bytes += kept.len();
        encode_bulk(self.kind, kept, frames);
    }
}

/// How many bytes `pipe` holds.
fn capacity(pipe: BorrowedFd<'_>) -> usize {
    let bytes = fcntl(pipe, FcntlArg::F_GETPIPE_SZ);
    bytes.ok().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(PIPE_BYTES_FALLBACK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn output_is_cut_at_the_cap_and_flagged_only_beyond_it() {
        let (reader, _writer) = nix::unistd::pipe().unwrap();
        let mut output = Output::new(Kind::Stdout, reader).unwrap();
        let mut frames = BytesMut::new();
        output.append(&vec![b'x'; OUTPUT_BYTES_MAX - 1], &mut frames);
        output.append(b"y", &mut frames);
        assert!(!output.truncated());
        let at_the_cap = frames.len();
        output.append(b"z", &mut frames);
        assert!(output.truncated());
        assert_eq!(frames.len(), at_the_cap);
    }
}
