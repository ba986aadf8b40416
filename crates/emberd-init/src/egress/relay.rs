//! Connections of programs, each carried to the host over a stream of the session.
//!
//! The host decides, so a program's connection is accepted before it is allowed. One that is
//! refused, or that fails later, is reset, as by a machine that is not there any more.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use emberd_proto::egress::{EgressAnswer, EgressRequest, encode_frame};
use emberd_proto::mux::HEADER_BYTES;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::Semaphore;

use super::capture::is_of_guest;
use super::frame::read_answer;
use super::names::Names;
use super::session::Sessions;
use super::stream::{FromHost, ToHost};
use crate::gather::FRAME_BYTES_MAX;

/// Maximum number of relayed connections; further ones are reset. A policy allows no more.
pub const RELAYS_MAX: usize = 1024;

/// Size of the buffer for a program's bytes, and for the header of the frame that carries them,
/// while little comes (4 KiB), and much (two whole frames of the mux below, 64 KiB): fewer, larger
/// pieces are fewer switches between the program and the agent.
const FRAME_BYTES: RangeInclusive<usize> = (4 << 10)..=2 * FRAME_BYTES_MAX;

/// Relays connections.
#[derive(Debug)]
pub struct Relay {
    sessions: Arc<Sessions>,
    names: Arc<Mutex<Names>>,
    permits: Arc<Semaphore>,
}

impl Relay {
    /// A relay without connections.
    pub fn new(sessions: Arc<Sessions>, names: Arc<Mutex<Names>>) -> Self {
        Self { sessions, names, permits: Arc::new(Semaphore::new(RELAYS_MAX)) }
    }

    /// Relays `program`'s connection in the background.
    pub fn admit(self: &Arc<Self>, program: TcpStream) {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            return reset(&program);
        };
        let relay = Arc::clone(self);
        tokio::spawn(async move {
            let mut program = program;
            if relay.carry(&mut program).await.is_err() {
                reset(&program);
            }
            drop(permit);
        });
    }

    /// Moves bytes until both directions have ended.
    ///
    /// # Errors
    /// If the connection is refused, or fails on either side.
    async fn carry(&self, program: &mut TcpStream) -> io::Result<()> {
        let destination = program.local_addr()?;
        let destination = SocketAddr::new(destination.ip().to_canonical(), destination.port());
        if is_of_guest(destination.ip()) {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        program.set_nodelay(true)?;
        let no_session = || io::Error::from(io::ErrorKind::NetworkUnreachable);
        let session = self.sessions.current().await.ok_or_else(no_session)?;
        let request = self.request(destination.ip(), destination.port())?;
        let (from_host, to_host) = session.open().ok_or_else(no_session)?;
        tokio::select! {
            carried = carry_bytes(program, from_host, to_host, &request) => carried,
            () = session.ended() => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }

    /// The request to open a connection, encoded.
    fn request(&self, address: IpAddr, port: u16) -> io::Result<Vec<u8>> {
        let names = self.names.lock().of(address);
        encode_frame(&EgressRequest::Open { address, port, names }).map_err(io::Error::other)
    }
}

async fn carry_bytes(
    program: &mut TcpStream,
    mut from_host: FromHost,
    mut to_host: ToHost,
    request: &[u8],
) -> io::Result<()> {
    // What the program has sent already travels with the request.
    let mut frame = [&[0; HEADER_BYTES], request].concat();
    let request_end = frame.len();
    frame.resize(request_end + FRAME_BYTES.start(), 0);
    let first_bytes = program.try_read(&mut frame[request_end..]).unwrap_or(0);
    let (from_program, to_program) = program.split();
    to_host.send(frame, request_end + first_bytes).await?;
    let answered = async {
        match read_answer(&mut from_host).await? {
            EgressAnswer::Opened => down(from_host, to_program).await,
            EgressAnswer::Refused { .. } => Err(io::ErrorKind::ConnectionRefused.into()),
            EgressAnswer::Resolved { .. } => Err(io::ErrorKind::InvalidData.into()),
        }
    };
    tokio::try_join!(up(from_program, to_host), answered)?;
    Ok(())
}

/// Moves what the host sends.
async fn down(mut host: FromHost, mut program: WriteHalf<'_>) -> io::Result<()> {
    while host.ready().await? {
        let bytes = program.write_vectored(&host.slices()).await?;
        host.consume(bytes);
    }
    program.shutdown().await
}

/// Moves what the program sends.
async fn up(mut program: ReadHalf<'_>, mut host: ToHost) -> io::Result<()> {
    let mut frame = vec![0; *FRAME_BYTES.start()];
    loop {
        let room = host.room().await?.min(frame.len() - HEADER_BYTES);
        let bytes = program.read(&mut frame[HEADER_BYTES..][..room]).await?;
        if bytes == 0 {
            return host.finish().await;
        }
        frame = host.send(frame, HEADER_BYTES + bytes).await?;
        // A connection that moves little holds little.
        let wanted = if bytes == room { 4 * frame.len() } else { frame.len().min(8 * bytes) };
        let wanted = wanted.clamp(*FRAME_BYTES.start(), *FRAME_BYTES.end());
        if wanted != frame.len() {
            frame = vec![0; wanted];
        }
    }
}

/// Makes the end of `program`'s connection a reset rather than an end of data.
fn reset(program: &TcpStream) {
    // A connection that is gone already needs no reset.
    program.set_zero_linger().ok();
}
