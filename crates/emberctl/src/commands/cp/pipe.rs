//! Between the requests, which wait for each other, and threads that read and write files.

use std::io::{self, Read, Write};
use std::mem;

use bytes::{Buf as _, Bytes};
use emberd_client::Upload;
use futures::stream;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

/// Bytes of one piece (64 KiB).
const PIECE_BYTES: usize = 64 << 10;

/// Pieces on their way.
const PIECES_MAX: usize = 4;

/// A writer for a thread, whose bytes go into an upload.
pub struct PipeWriter {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl Write for PipeWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == PIECE_BYTES {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = mem::replace(&mut self.buffer, Vec::with_capacity(PIECE_BYTES));
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.pieces.blocking_send(Ok(piece.into())).map_err(gone)
    }
}

/// An upload of what `work` writes. Its error ends the request.
pub fn upload<T>(work: impl FnOnce(&mut PipeWriter) -> io::Result<T> + Send + 'static) -> Upload {
    let (pieces, receiver) = mpsc::channel(PIECES_MAX);
    // A thread that the end of the program need not wait for: it may be reading a terminal.
    std::thread::spawn(move || {
        let mut pipe = PipeWriter { pieces, buffer: Vec::with_capacity(PIECE_BYTES) };
        let outcome = work(&mut pipe).and_then(|_| pipe.flush());
        if let Err(error) = outcome {
            // Nobody is left to tell when the request has ended.
            pipe.pieces.blocking_send(Err(error)).ok();
        }
    });
    Upload::new(stream::unfold(receiver, async |mut receiver| {
        receiver.recv().await.map(|piece| (piece, receiver))
    }))
}

/// A reader for a thread, whose bytes come from a download.
pub struct PipeReader {
    pieces: mpsc::Receiver<Bytes>,
    rest: Bytes,
}

impl Read for PipeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.pieces.blocking_recv() {
                Some(piece) => self.rest = piece,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.rest.len());
        self.rest.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// Does `work` with what is sent to it.
pub fn download(
    work: impl FnOnce(&mut PipeReader) -> io::Result<()> + Send + 'static,
) -> (mpsc::Sender<Bytes>, JoinHandle<io::Result<()>>) {
    let (sender, pieces) = mpsc::channel(PIECES_MAX);
    let work = spawn_blocking(move || work(&mut PipeReader { pieces, rest: Bytes::new() }));
    (sender, work)
}
