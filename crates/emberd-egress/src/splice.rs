//! Moves the bytes of one connection, both ways.
//!
//! An end of data in one direction is passed on and leaves the other open. Anything else that
//! ends a direction resets the connection on both sides, so that neither takes a part for the
//! whole.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::{Instant, sleep_until};

use crate::limits::Traffic;
use crate::mux::MuxStream;

/// Time without a byte in either direction after which a connection is cut.
pub(crate) const IDLE_MAX: Duration = Duration::from_secs(60 * 60);

/// The same once one direction has ended.
const HALF_IDLE_MAX: Duration = Duration::from_secs(10 * 60);

/// Bytes that are read from a destination in one go (64 KiB).
const READ_BYTES: usize = 64 << 10;

/// Why a connection was cut before both sides had ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The guest reset it, or its session ended.
    Guest,
    /// The destination reset it.
    Destination,
    /// Nothing was moved for too long.
    Idle,
    /// The sandbox has sent all it may.
    Spent,
    /// The guest sent something that is refused.
    Refused(emberd_proto::EgressReason),
}

/// Bytes that one connection has moved.
#[derive(Debug)]
pub(crate) struct Moved {
    /// Bytes to the destination.
    pub sent: AtomicU64,
    /// Bytes from the destination.
    pub received: AtomicU64,
    /// When the last byte was moved.
    last: Mutex<Instant>,
}

impl Default for Moved {
    fn default() -> Self {
        let (sent, received) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { sent, received, last: Mutex::new(Instant::now()) }
    }
}

impl Moved {
    /// Whether nothing was moved.
    pub fn is_nothing(&self) -> bool {
        self.sent.load(Ordering::Relaxed) == 0 && self.received.load(Ordering::Relaxed) == 0
    }
}

/// The direction from the guest.
pub(crate) struct Upward<'a> {
    pub stream: &'a MuxStream,
    pub writer: WriteHalf<'a>,
    pub traffic: &'a Traffic,
    pub moved: &'a Moved,
}

impl Upward<'_> {
    /// Passes on `bytes` that came from the guest, and lets it send as many again.
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), Cut> {
        self.traffic.send(bytes.len()).await.map_err(|_| Cut::Spent)?;
        tokio::select! {
            // A guest that resets while the destination takes nothing.
            () = self.stream.broken() => return Err(Cut::Guest),
            written = self.writer.write_all(bytes) => written.map_err(|_| Cut::Destination)?,
        }
        self.stream.took(bytes.len());
        self.moved.sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        *self.moved.last.lock() = Instant::now();
        Ok(())
    }

    /// Passes on everything from `head` on, and the end.
    pub async fn all(mut self, head: BytesMut) -> Result<(), Cut> {
        if !head.is_empty() {
            self.send(&head).await?;
        }
        drop(head);
        while let Some(chunk) = self.stream.chunk().await.map_err(|_| Cut::Guest)? {
            self.send(&chunk).await?;
        }
        self.end().await
    }

    /// Passes on the end of data.
    pub async fn end(mut self) -> Result<(), Cut> {
        self.writer.shutdown().await.map_err(|_| Cut::Destination)
    }
}

/// Passes on everything from the destination, and the end.
async fn downward(
    stream: &MuxStream,
    reader: ReadHalf<'_>,
    traffic: &Traffic,
    moved: &Moved,
) -> Result<(), Cut> {
    loop {
        reader.readable().await.map_err(|_| Cut::Destination)?;
        // A connection that waits holds no buffer.
        let mut bytes = BytesMut::with_capacity(READ_BYTES);
        loop {
            match reader.try_read_buf(&mut bytes) {
                Ok(0) => return stream.finish().await.map_err(|_| Cut::Guest),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(_) => return Err(Cut::Destination),
            }
            traffic.receive(bytes.len()).await;
            stream.write_all(&bytes).await.map_err(|_| Cut::Guest)?;
            moved.received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            *moved.last.lock() = Instant::now();
            bytes.clear();
        }
    }
}

/// Moves bytes between the guest and `upstream` until both directions have ended. `upward` is
/// given the direction from the guest.
pub(crate) async fn splice<'a, F>(
    stream: &'a MuxStream,
    upstream: &'a mut TcpStream,
    traffic: &'a Traffic,
    moved: &'a Moved,
    upward: impl FnOnce(Upward<'a>) -> F,
) -> Result<(), Cut>
where
    F: Future<Output = Result<(), Cut>>,
{
    let (reader, writer) = upstream.split();
    let up = std::pin::pin!(upward(Upward { stream, writer, traffic, moved }));
    let down = std::pin::pin!(downward(stream, reader, traffic, moved));
    let (mut up, mut down) = (up, down);
    let (mut up_ended, mut down_ended) = (false, false);
    while !(up_ended && down_ended) {
        let idle_max = if up_ended || down_ended { HALF_IDLE_MAX } else { IDLE_MAX };
        let idle_at = *moved.last.lock() + idle_max;
        tokio::select! {
            ended = &mut up, if !up_ended => {
                ended?;
                up_ended = true;
            }
            ended = &mut down, if !down_ended => {
                ended?;
                down_ended = true;
            }
            () = stream.broken(), if up_ended => return Err(Cut::Guest),
            () = sleep_until(idle_at) => {
                if moved.last.lock().elapsed() >= idle_max {
                    return Err(Cut::Idle);
                }
            }
        }
    }
    Ok(())
}
