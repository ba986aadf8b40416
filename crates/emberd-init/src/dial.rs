//! A connection to a TCP port of the guest, carried over the host's connection.
//!
//! The agent always reads from the host, so that it notices when the host hangs up even while the
//! server does not read. The window of the protocol limits how much data this makes the agent
//! hold.

use std::collections::VecDeque;
use std::future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use emberd_proto::frame::{BULK_BYTES_MAX, encode, encode_bulk};
use emberd_proto::message::DIAL_WINDOW_BYTES;
use emberd_proto::{Frame, GuestMessage, Kind, RefusalCode};
use nix::sys::socket::{Shutdown, shutdown};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::connection::{Connection, ConnectionError};

/// Time limit for connecting to a port. Loopback answers at once, unless the server's accept
/// queue is full.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Size of the buffer to the host at which reading from the port stops, in bytes.
const BACKLOG_BYTES_MAX: usize = 2 * BULK_BYTES_MAX;

/// Number of bytes after which the host is told that they were consumed: a quarter of its window.
const TAKEN_BYTES_WORTH_TELLING: usize = DIAL_WINDOW_BYTES / 4;

/// Connects to `port` and moves bytes until both sides have ended.
///
/// # Errors
/// Also if the connection to the port fails; the host then sees its own connection close.
pub async fn run(connection: &mut Connection, port: u16) -> Result<(), ConnectionError> {
    let outgoing = &mut connection.outgoing;
    if port == 0 {
        let message = "port 0 is not a port to connect to".to_owned();
        return outgoing.refuse(RefusalCode::Invalid, message).await;
    }
    let stream = match connect(port).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            let message = format!("nothing listens on port {port} of the sandbox");
            return outgoing.refuse(RefusalCode::NotFound, message).await;
        }
        Err(error) => {
            let message = format!("cannot connect to port {port} of the sandbox: {error}");
            return outgoing.refuse(RefusalCode::Failed, message).await;
        }
    };
    outgoing.push(&GuestMessage::Dialed);
    relay(connection, &stream).await
}

/// The loopback addresses; a server may listen on either or on both.
async fn connect(port: u16) -> io::Result<TcpStream> {
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let stream = match connect_to(v4).await {
        Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => {
            let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
            // A kernel without IPv6 returns other errors, which say nothing about the port.
            connect_to(v6).await.map_err(|_| refused)?
        }
        outcome => outcome?,
    };
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn connect_to(address: SocketAddr) -> io::Result<TcpStream> {
    timeout(CONNECT_MAX, TcpStream::connect(address))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn relay(connection: &mut Connection, stream: &TcpStream) -> Result<(), ConnectionError> {
    let Connection { incoming, outgoing, .. } = connection;
    let mut to_port = ToPort::default();
    let mut from_port = FromPort::Open;
    loop {
        if outgoing.buffer.is_empty() {
            match from_port {
                FromPort::Broken(error) => return Err(error.into()),
                FromPort::Ended if to_port.is_done() => {
                    return outgoing.send(&GuestMessage::Done).await;
                }
                FromPort::Ended | FromPort::Open => {}
            }
        }
        let readable = matches!(from_port, FromPort::Open);
        let room = outgoing.buffer.len() < BACKLOG_BYTES_MAX;
        tokio::select! {
            frame = incoming.frame() => to_port.push(frame?)?,
            // The following attempt reports any error.
            _ = to_port.writable(stream) => to_port.write_some(stream),
            _ = stream.readable(), if room && readable => {
                from_port = read_some(stream, &mut outgoing.buffer);
            }
            written = outgoing.write_some(), if !outgoing.buffer.is_empty() => written?,
        }
        if let Some(bytes) = to_port.worth_telling() {
            outgoing.push(&GuestMessage::DataTaken { bytes });
        }
        to_port.shut_down_when_done(stream);
    }
}

/// Returns whether more data may come from the port.
#[derive(Debug)]
enum FromPort {
    Open,
    Ended,
    Broken(io::Error),
}

/// Reads once, without waiting, and appends the frames.
fn read_some(stream: &TcpStream, frames: &mut BytesMut) -> FromPort {
    let mut chunk = BytesMut::with_capacity(BULK_BYTES_MAX);
    match stream.try_read_buf(&mut chunk) {
        Ok(0) => {
            encode(Kind::DataEnd, &[], frames);
            FromPort::Ended
        }
        Ok(_) => {
            encode_bulk(Kind::Data, &chunk, frames);
            FromPort::Open
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => FromPort::Open,
        Err(error) => FromPort::Broken(error),
    }
}

/// Data from the host that the server has not read yet.
#[derive(Debug, Default)]
struct ToPort {
    waiting: VecDeque<Bytes>,
    waiting_bytes: usize,
    /// Bytes that were consumed but not yet reported to the host.
    untold_bytes: usize,
    /// Whether the host has sent everything.
    ended: bool,
    /// Whether the port accepts no more data, or has been told that no more comes.
    shut: bool,
}

impl ToPort {
    fn push(&mut self, frame: Option<Frame>) -> Result<(), ConnectionError> {
        let Some(Frame { kind, payload }) = frame else { return Err(ConnectionError::HostLeft) };
        match kind {
            Kind::Data if !self.ended => {
                self.waiting_bytes += payload.len();
                if self.waiting_bytes + self.untold_bytes > DIAL_WINDOW_BYTES {
                    return Err(ConnectionError::TooMuchData);
                }
                self.waiting.push_back(payload);
                if self.shut {
                    self.discard();
                }
                Ok(())
            }
            Kind::DataEnd if !self.ended => {
                self.ended = true;
                Ok(())
            }
            _ => Err(ConnectionError::Unexpected(kind)),
        }
    }

    /// Waits until the port accepts more data; never returns while there is none. Cancel safe.
    async fn writable(&self, stream: &TcpStream) -> io::Result<()> {
        if self.waiting.is_empty() { future::pending().await } else { stream.writable().await }
    }

    /// Writes data without waiting. A server that accepts no more data may have answered before
    /// it closed, so its output is still read.
    fn write_some(&mut self, stream: &TcpStream) {
        let Some(next) = self.waiting.front_mut() else { return };
        let written = match stream.try_write(next) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(_) => {
                self.shut = true;
                return self.discard();
            }
        };
        next.advance(written);
        if next.is_empty() {
            self.waiting.pop_front();
        }
        self.waiting_bytes -= written;
        self.untold_bytes += written;
    }

    fn discard(&mut self) {
        self.waiting.clear();
        self.untold_bytes += std::mem::take(&mut self.waiting_bytes);
    }

    /// Returns the number of consumed bytes to report to the host, if it is large enough.
    fn worth_telling(&mut self) -> Option<usize> {
        let worth = !self.ended && self.untold_bytes >= TAKEN_BYTES_WORTH_TELLING;
        worth.then(|| std::mem::take(&mut self.untold_bytes))
    }

    fn shut_down_when_done(&mut self, stream: &TcpStream) {
        if self.ended && self.waiting.is_empty() && !self.shut {
            // Fails if the socket is already closed.
            shutdown(stream.as_raw_fd(), Shutdown::Write).ok();
            self.shut = true;
        }
    }

    fn is_done(&self) -> bool {
        self.ended && self.shut
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(bytes: usize) -> Frame {
        Frame { kind: Kind::Data, payload: vec![7; bytes].into() }
    }

    #[test]
    fn a_host_that_overruns_its_window_is_refused() {
        let mut to_port = ToPort::default();
        to_port.push(Some(data(DIAL_WINDOW_BYTES))).unwrap();
        let refused = to_port.push(Some(data(1)));
        assert!(matches!(refused, Err(ConnectionError::TooMuchData)), "{refused:?}");
    }

    #[test]
    fn other_frames_have_no_place_there() {
        let frame = Some(Frame { kind: Kind::Stdin, payload: Bytes::new() });
        let refused = ToPort::default().push(frame);
        assert!(matches!(refused, Err(ConnectionError::Unexpected(Kind::Stdin))));
    }
}
