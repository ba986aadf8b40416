//! Many connections over one virtio port: yamux, with the host as client.
//!
//! ```text
//! port found ─▶ host connected ─▶ session: one stream per connection
//!                    ▲                 │
//!                    └── host left ────┘  (its streams end, and with them their execs)
//! ```
//! A host that disconnects and reconnects must close its session first. The port only reports
//! that a host is connected, not that it is a new one. A host whose predecessor has vanished asks
//! over the control port: then the session ends, and what is in the port of it is dropped. One that
//! asks to be alone is answered when the kernel has seen every earlier host leave.

use std::convert::Infallible;
use std::future::{self, poll_fn};
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use emberd_proto::message::{AGENT_PORT_NAME, ALONE, CONTROL_PORT_NAME};
use futures::Stream as _;
use futures::io::{AsyncRead as _, AsyncWrite as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt as _};
use yamux::{Connection, Mode};

use super::port::{self, Port};
use super::{CONNECTIONS_MAX, Hall};
use crate::console;
use crate::duplex::Duplex;
use crate::gather::{Gather, mux_config};
use crate::uevents::AsyncUevents;

/// Maximum number of streams of one session. The mux ends a whole session over one stream too
/// many, so this leaves room above [`CONNECTIONS_MAX`] for streams that are closing.
const STREAMS_MAX: usize = 2 * CONNECTIONS_MAX;

/// Maximum number of bytes read at once from the control port.
const ASKED_BYTES_MAX: usize = 64;

/// Serves the agent's virtio port as soon as it exists.
///
/// # Errors
/// If the port fails.
pub async fn serve(hall: &Hall, uevents: &AsyncUevents) -> io::Result<Infallible> {
    let path = find_port(uevents, AGENT_PORT_NAME).await?;
    let mut control = Port::open(&find_port(uevents, CONTROL_PORT_NAME).await?)?;
    let (mut asked, mut bytes) = ([0; ASKED_BYTES_MAX], 0);
    loop {
        // Closing the one before had the kernel drop what was not read.
        let mut port = Port::open(&path)?;
        if asked[..bytes].starts_with(ALONE) {
            let mut later = asked;
            let heard = tokio::select! {
                left = port.host_left() => left.map(|()| None)?,
                heard = hear(&mut control, &mut later) => Some(heard?),
            };
            // A later question stands for this one, whose host has given up.
            if let Some(later_bytes) = heard {
                (asked, bytes) = (later, later_bytes);
                continue;
            }
        }
        let mut answer = &asked[..bytes];
        while !answer.is_empty() {
            let write =
                |context: &mut Context<'_>| Pin::new(&mut control).poll_write(context, answer);
            answer = &answer[poll_fn(write).await?..];
        }
        bytes = tokio::select! {
            ended = serve_sessions(hall, &mut port) => return ended,
            heard = hear(&mut control, &mut asked) => heard?,
        };
    }
}

/// Serves one session after the other.
async fn serve_sessions(hall: &Hall, port: &mut Port) -> io::Result<Infallible> {
    loop {
        port.host_connected().await?;
        let mut session =
            Connection::new(Gather::new(&mut *port), mux_config(STREAMS_MAX), Mode::Server);
        while let Some(stream) = poll_fn(|context| session.poll_next_inbound(context)).await {
            match stream {
                Ok(stream) => hall.admit(Box::new(MuxStream(stream.compat())), future::pending()),
                Err(error) => {
                    console::report(&error);
                    break;
                }
            }
        }
    }
}

/// A stream of a session.
struct MuxStream(Compat<yamux::Stream>);

impl Duplex for MuxStream {
    /// Returns the data of one frame, or the rest of them, which are not copied.
    fn poll_piece(
        &mut self,
        context: &mut Context<'_>,
        _: &mut BytesMut,
    ) -> Poll<io::Result<Bytes>> {
        loop {
            let stream = Pin::new(self.0.get_mut());
            match ready!(stream.poll_next(context)).transpose()? {
                None => return Poll::Ready(Ok(Bytes::new())),
                // All of the frame was read before.
                Some(frame) if frame.as_ref().is_empty() => {}
                Some(frame) => return Poll::Ready(Ok(Bytes::from_owner(frame))),
            }
        }
    }
}

impl AsyncRead for MuxStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for MuxStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// Waits until a host asks over the control port, and returns how many bytes it said.
async fn hear(control: &mut Port, asked: &mut [u8]) -> io::Result<usize> {
    loop {
        control.host_connected().await?;
        let read = |context: &mut Context<'_>| Pin::new(&mut *control).poll_read(context, asked);
        match poll_fn(read).await? {
            // The host has left.
            0 => {}
            bytes => return Ok(bytes),
        }
    }
}

/// Waits until the kernel knows the port's name, which the VMM sends some time after it announced
/// the port.
async fn find_port(uevents: &AsyncUevents, name: &str) -> io::Result<PathBuf> {
    loop {
        if let Some(device) = port::find(Path::new(port::CLASS_DIR), name) {
            return Ok(Path::new("/dev").join(device));
        }
        uevents.wait().await?;
    }
}
