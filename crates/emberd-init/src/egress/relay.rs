//! Connections of programs, each carried to the host over a stream of the session.
//!
//! The host decides, so a program's connection is accepted before it is allowed. One that is
//! refused, or that fails later, is reset, as by a machine that is not there any more.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;

use emberd_proto::egress::{EgressAnswer, EgressRequest, encode_frame};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::Semaphore;

use super::capture::is_of_guest;
use super::frame::read_answer;
use super::names::Names;
use super::session::{MUX_LAYERS, Sessions};
use super::stream::{FromHost, Stream, ToHost};
use crate::gather::frame_bytes_max;

/// Maximum number of relayed connections; further ones are reset. A policy allows no more.
pub const RELAYS_MAX: usize = 1024;

/// Bytes of a program that travel with its request, and that are moved in one go while little comes
/// (4 KiB), or much (two whole frames, 64 KiB): fewer, larger pieces are fewer switches between the
/// program and the agent.
const CHUNK_BYTES: RangeInclusive<usize> = (4 << 10)..=2 * frame_bytes_max(MUX_LAYERS);

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
        let stream = session.open().await.ok_or_else(no_session)?;
        let request = self.request(destination.ip(), destination.port())?;
        tokio::select! {
            carried = carry_bytes(program, stream, request) => carried,
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
    stream: Stream,
    mut request: Vec<u8>,
) -> io::Result<()> {
    // What the program has sent already travels with the request.
    let encoded_bytes = request.len();
    request.resize(encoded_bytes + CHUNK_BYTES.start(), 0);
    let first_bytes = program.try_read(&mut request[encoded_bytes..]).unwrap_or(0);
    request.truncate(encoded_bytes + first_bytes);
    let (mut from_host, mut to_host) = stream.split();
    let (from_program, to_program) = program.split();
    to_host.write_all(&request).await?;
    drop(request);
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
    while let Some(packet) = host.packet().await? {
        program.write_all(packet.as_ref()).await?;
    }
    program.shutdown().await
}

/// Moves what the program sends.
async fn up(mut program: ReadHalf<'_>, mut host: ToHost) -> io::Result<()> {
    let mut chunk = vec![0; *CHUNK_BYTES.start()];
    loop {
        let bytes = program.read(&mut chunk).await?;
        if bytes == 0 {
            return host.shutdown().await;
        }
        host.write_all(&chunk[..bytes]).await?;
        // A connection that moves little holds little.
        let room = if bytes == chunk.len() { 4 * bytes } else { chunk.len().min(8 * bytes) };
        let room = room.clamp(*CHUNK_BYTES.start(), *CHUNK_BYTES.end());
        if room != chunk.len() {
            chunk = vec![0; room];
        }
    }
}

/// Makes the end of `program`'s connection a reset rather than an end of data.
fn reset(program: &TcpStream) {
    // A connection that is gone already needs no reset.
    program.set_zero_linger().ok();
}
