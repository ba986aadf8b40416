//! The standard output, or standard error, of one program.

use std::future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bytes::{BufMut as _, BytesMut};
use emberd_proto::Kind;
use emberd_proto::exec::OUTPUT_BYTES_MAX;
use emberd_proto::frame::{BULK_BYTES_MAX, HEADER_BYTES, encode_bulk, header};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::net::unix::pipe::Receiver;

use super::terminal::Terminal;

/// Capacity assumed for a pipe that does not report one, in bytes (1 MiB): the maximum that an
/// unprivileged program can set.
const PIPE_BYTES_FALLBACK: usize = 1 << 20;

/// Capacity given to the pipe of a program that filled it, in bytes (256 KiB): as much as may
/// wait for the host.
const WIDE_PIPE_BYTES: i32 = 256 << 10;

/// Read size for programs that were left behind, in bytes (4 KiB); mostly they have no output.
const REST_CHUNK_BYTES: usize = 4 << 10;

/// Read size for a terminal, in bytes (16 KiB): more than it holds.
const TERMINAL_READ_BYTES: usize = 16 << 10;

/// Turns a program's output into frames, up to a cap. Output beyond the cap is read and dropped,
/// so that the program does not block.
#[derive(Debug)]
pub struct Output {
    kind: Kind,
    /// Closed once the program, and every process that inherited the pipe, has closed the other
    /// end.
    source: Option<Source>,
    bytes_max: usize,
    sent_bytes: usize,
    truncated: bool,
    is_widened: bool,
}

#[derive(Debug)]
enum Source {
    /// A pipe that is not registered with the runtime, so that writes of the program wake no
    /// task.
    Unwatched(OwnedFd),
    Pipe(Receiver),
    Terminal(Terminal),
}

impl Output {
    /// Returns the output of the program at the other end of `pipe`, sent as frames of `kind` and
    /// cut after [`OUTPUT_BYTES_MAX`].
    ///
    /// # Errors
    /// If the pipe cannot be made non-blocking.
    pub fn new(kind: Kind, pipe: OwnedFd) -> io::Result<Self> {
        fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Self::of(kind, Some(Source::Unwatched(pipe))))
    }

    /// Returns the output of the program at the other end of `terminal`.
    pub fn of_terminal(terminal: Terminal) -> Self {
        Self::of(Kind::Stdout, Some(Source::Terminal(terminal)))
    }

    /// Returns an empty output, for the second stream of a program at a terminal.
    pub fn none(kind: Kind) -> Self {
        Self::of(kind, None)
    }

    fn of(kind: Kind, source: Option<Source>) -> Self {
        Self {
            kind,
            source,
            bytes_max: OUTPUT_BYTES_MAX,
            sent_bytes: 0,
            truncated: false,
            is_widened: false,
        }
    }

    /// Returns the pipe, if this is one and still open.
    pub fn into_pipe(self) -> Option<OwnedFd> {
        match self.source? {
            Source::Unwatched(pipe) => Some(pipe),
            Source::Pipe(pipe) => pipe.into_nonblocking_fd().ok(),
            Source::Terminal(_) => None,
        }
    }

    /// Turns off the cap.
    pub fn unbounded(&mut self) {
        self.bytes_max = usize::MAX;
    }

    /// Returns whether output was dropped.
    pub fn truncated(&self) -> bool {
        self.truncated
    }

    /// Waits until there is output; never returns once the pipe is closed. Registers the pipe
    /// with the runtime. Cancel safe.
    pub async fn readable(&mut self) -> io::Result<()> {
        if let Some(Source::Unwatched(pipe)) =
            self.source.take_if(|source| matches!(source, Source::Unwatched(_)))
        {
            self.source = Some(Source::Pipe(Receiver::from_owned_fd_unchecked(pipe)?));
        }
        match &self.source {
            Some(Source::Unwatched(_)) => unreachable!("it is watched now"),
            Some(Source::Pipe(pipe)) => pipe.readable().await,
            Some(Source::Terminal(terminal)) => terminal.readable().await,
            None => future::pending().await,
        }
    }

    /// Reads once, without waiting, and appends the frames to `frames`.
    pub fn read_some(&mut self, frames: &mut BytesMut) {
        let Some(source) = &self.source else { return };
        // Data is read to where it is sent from; its header is written afterwards, when the size
        // is known.
        let start = frames.len();
        frames.reserve(HEADER_BYTES + BULK_BYTES_MAX);
        frames.put_bytes(0, HEADER_BYTES);
        let read = source.read(frames);
        match read {
            Ok(0) => self.source = None,
            Ok(bytes) => {
                if bytes == BULK_BYTES_MAX && !self.is_widened {
                    self.is_widened = true;
                    source.widen();
                }
                return self.complete(start, bytes, frames);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.source = None,
        }
        frames.truncate(start);
    }

    /// Reads the remaining output after the program has ended.
    ///
    /// Everything that the program wrote is in the pipe, so reading one capacity is enough. A
    /// child that continues to write cannot keep this from ending.
    pub fn read_rest(&mut self, frames: &mut BytesMut) {
        let Some(source) = self.source.take() else { return };
        let mut chunk = [0; REST_CHUNK_BYTES];
        let mut left = None;
        loop {
            // Bypasses the runtime, which may not have noticed yet that the pipe is readable.
            let bytes = match nix::unistd::read(source.as_fd(), &mut chunk) {
                Ok(bytes) => bytes,
                Err(Errno::EINTR) => continue,
                Err(_) => break,
            };
            self.append(&chunk[..bytes], frames);
            // A short read means that a pipe is empty. A terminal returns lines.
            let is_all = match source {
                Source::Unwatched(_) | Source::Pipe(_) => bytes < chunk.len(),
                Source::Terminal(_) => bytes == 0,
            };
            if is_all {
                break;
            }
            match left.get_or_insert_with(|| source.capacity()).checked_sub(bytes) {
                None | Some(0) => break,
                less => left = less,
            }
        }
        // Closed when the receiver is gone.
        self.source = Some(source);
    }

    /// Completes the frame whose header starts at `start` with the data behind it.
    fn complete(&mut self, start: usize, bytes: usize, frames: &mut BytesMut) {
        let kept = self.keep(bytes);
        let frame_bytes = if kept == 0 { 0 } else { HEADER_BYTES + kept };
        frames.truncate(start + frame_bytes);
        if kept > 0 {
            frames[start..start + HEADER_BYTES].copy_from_slice(&header(self.kind, kept));
        }
    }

    fn append(&mut self, bytes: &[u8], frames: &mut BytesMut) {
        let kept = self.keep(bytes.len());
        encode_bulk(self.kind, &bytes[..kept], frames);
    }

    /// Returns how many of `bytes` more bytes are sent.
    fn keep(&mut self, bytes: usize) -> usize {
        let kept = bytes.min(self.bytes_max - self.sent_bytes);
        self.truncated |= kept < bytes;
        self.sent_bytes += kept;
        kept
    }
}

impl Source {
    /// Appends available output to `buffer`, at most [`BULK_BYTES_MAX`].
    fn read(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        match self {
            Self::Unwatched(_) => Err(io::ErrorKind::WouldBlock.into()),
            Self::Pipe(pipe) => pipe.try_read_buf(&mut buffer.limit(BULK_BYTES_MAX)),
            Self::Terminal(terminal) => {
                let start = buffer.len();
                buffer.resize(start + TERMINAL_READ_BYTES, 0);
                let read = terminal.try_read(&mut buffer[start..]);
                buffer.truncate(start + *read.as_ref().unwrap_or(&0));
                read
            }
        }
    }

    /// Enlarges the pipe, so that a program that fills it and its reader alternate less often.
    /// Does nothing if the system does not allow it.
    fn widen(&self) {
        if let Self::Pipe(pipe) = self {
            fcntl(pipe, FcntlArg::F_SETPIPE_SZ(WIDE_PIPE_BYTES)).ok();
        }
    }

    /// Returns the capacity of the pipe.
    fn capacity(&self) -> usize {
        let bytes = match self {
            Self::Unwatched(_) | Self::Pipe(_) => fcntl(self.as_fd(), FcntlArg::F_GETPIPE_SZ).ok(),
            Self::Terminal(_) => None,
        };
        bytes.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(PIPE_BYTES_FALLBACK)
    }
}

impl AsFd for Source {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unwatched(pipe) => pipe.as_fd(),
            Self::Pipe(pipe) => pipe.as_fd(),
            Self::Terminal(terminal) => terminal.as_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use emberd_proto::Decoder;
    use futures::FutureExt as _;

    use super::*;

    /// The payloads of `frames`, each of which must be an output's.
    fn payloads(frames: &BytesMut) -> Vec<usize> {
        let mut decoder = Decoder::default();
        decoder.buffer().extend_from_slice(frames);
        let mut payloads = Vec::new();
        while let Some(frame) = decoder.next_frame().unwrap() {
            assert_eq!(frame.kind, Kind::Stdout);
            payloads.push(frame.payload.len());
        }
        decoder.finish().unwrap();
        payloads
    }

    #[tokio::test]
    async fn a_program_that_fills_its_pipe_gets_a_wider_one() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut output = Output::new(Kind::Stdout, reader.into()).unwrap();
        let mut frames = BytesMut::from(&b"\0\0\0\x02\x04x"[..]);
        output.readable().now_or_never();
        output.read_some(&mut frames);
        assert_eq!(payloads(&frames), [1], "nothing was written yet");
        writer.write_all(&vec![b'x'; BULK_BYTES_MAX]).unwrap();
        output.readable().await.unwrap();
        output.read_some(&mut frames);
        // Would block with the old capacity.
        writer.write_all(&vec![b'y'; 2 * BULK_BYTES_MAX]).unwrap();
        output.readable().await.unwrap();
        output.read_some(&mut frames);
        assert_eq!(payloads(&frames), [1, BULK_BYTES_MAX, BULK_BYTES_MAX]);
        drop(writer);
        output.read_rest(&mut frames);
        assert_eq!(payloads(&frames).iter().sum::<usize>(), 1 + 3 * BULK_BYTES_MAX);
    }

    #[tokio::test]
    async fn what_is_read_past_the_cap_is_dropped() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut output = Output::new(Kind::Stdout, reader.into()).unwrap();
        output.bytes_max = 3;
        let mut frames = BytesMut::new();
        for _ in 0..3 {
            writer.write_all(b"xy").unwrap();
            output.readable().await.unwrap();
            output.read_some(&mut frames);
        }
        assert_eq!(payloads(&frames), [2, 1]);
        assert!(output.truncated());
    }

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
