//! The standard output, or standard error, of one program.

use std::future;
use std::io;
use std::os::fd::AsFd as _;

use bytes::BytesMut;
use emberd_proto::Kind;
use emberd_proto::exec::OUTPUT_BYTES_MAX;
use emberd_proto::frame::{BULK_BYTES_MAX, encode_bulk};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
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
    /// Closed once the program, and whoever inherited it, has closed the other end.
    pipe: Option<Receiver>,
    bytes_max: usize,
    sent_bytes: usize,
    truncated: bool,
}

impl Output {
    /// Output of the program at the other end of `pipe`, sent as frames of `kind`.
    pub fn new(kind: Kind, pipe: Receiver) -> Self {
        let bytes_max = OUTPUT_BYTES_MAX;
        Self { kind, pipe: Some(pipe), bytes_max, sent_bytes: 0, truncated: false }
    }

    /// Drops nothing from now on: the host takes as much as comes.
    pub fn uncap(&mut self) {
        self.bytes_max = usize::MAX;
    }

    /// Whether anything was dropped.
    pub fn truncated(&self) -> bool {
        self.truncated
    }

    /// Waits until there is something to read; forever once the pipe is closed. Cancel safe.
    pub async fn readable(&self) -> io::Result<()> {
        match &self.pipe {
            Some(pipe) => pipe.readable().await,
            None => future::pending().await,
        }
    }

    /// Reads once, without waiting, and appends the frames to `frames`.
    pub fn read_some(&mut self, frames: &mut BytesMut) {
        let Some(pipe) = &self.pipe else { return };
        let mut chunk = BytesMut::with_capacity(BULK_BYTES_MAX);
        match pipe.try_read_buf(&mut chunk) {
            Ok(0) => self.pipe = None,
            Ok(_) => self.append(&chunk, frames),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.pipe = None,
        }
    }

    /// Reads what is in the pipe, once the program has ended.
    ///
    /// All the program wrote before it ended is there, so one pipe's capacity is enough, and
    /// a child of it that goes on writing cannot keep this from ending.
    pub fn read_rest(&mut self, frames: &mut BytesMut) {
        let Some(pipe) = self.pipe.take() else { return };
        let mut chunk = [0; REST_CHUNK_BYTES];
        let mut left = None;
        loop {
            // Past the runtime, which may not have heard yet that the pipe is readable.
            let bytes = match nix::unistd::read(pipe.as_fd(), &mut chunk) {
                Ok(bytes) => bytes,
                Err(Errno::EINTR) => continue,
                Err(_) => break,
            };
            self.append(&chunk[..bytes], frames);
            // Less than was asked for is all there is.
            if bytes < chunk.len() {
                break;
            }
            match left.get_or_insert_with(|| capacity(&pipe)).checked_sub(bytes) {
                None | Some(0) => break,
                less => left = less,
            }
        }
        // Closed when nobody waits for it any more.
        self.pipe = Some(pipe);
    }

    fn append(&mut self, bytes: &[u8], frames: &mut BytesMut) {
        let room = self.bytes_max - self.sent_bytes;
        let kept = &bytes[..bytes.len().min(room)];
        self.truncated |= kept.len() < bytes.len();
        self.sent_bytes = self.sent_bytes.saturating_add(kept.len());
        encode_bulk(self.kind, kept, frames);
    }
}

/// How many bytes `pipe` holds.
fn capacity(pipe: &Receiver) -> usize {
    let bytes = fcntl(pipe.as_fd(), FcntlArg::F_GETPIPE_SZ);
    bytes.ok().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(PIPE_BYTES_FALLBACK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn output_is_cut_at_the_cap_and_flagged_only_beyond_it() {
        let (_writer, reader) = tokio::net::unix::pipe::pipe().unwrap();
        let mut output = Output::new(Kind::Stdout, reader);
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
