//! Connections of programs, each carried to the host over a stream of the session.
//!
//! The host decides, so a program's connection is accepted before it is allowed. One that is
//! refused, or that fails later, is reset, as by a machine that is not there any more.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use emberd_proto::egress::{EgressAnswer, EgressRequest, encode_frame};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf as TcpReadHalf, WriteHalf as TcpWriteHalf};
use tokio::sync::Semaphore;
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt as _};

use super::capture::is_of_guest;
use super::frame::read_answer;
use super::names::Names;
use super::session::{Sessions, Stream};

/// Maximum number of relayed connections; further ones are reset. A policy allows no more.
pub const RELAYS_MAX: usize = 1024;

/// Bytes that are moved in one go, in either direction (16 KiB).
const CHUNK_BYTES: usize = 16 << 10;

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
    request.resize(encoded_bytes + CHUNK_BYTES, 0);
    let first_bytes = program.try_read(&mut request[encoded_bytes..]).unwrap_or(0);
    request.truncate(encoded_bytes + first_bytes);
    let (from_host, mut to_host) = tokio::io::split(stream.compat());
    let (from_program, to_program) = program.split();
    to_host.write_all(&request).await?;
    drop(request);
    tokio::try_join!(up(from_program, to_host), down(from_host, to_program))?;
    Ok(())
}

/// Moves what the program sends.
async fn up(mut program: TcpReadHalf<'_>, mut host: WriteHalf<Compat<Stream>>) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let bytes = program.read(&mut chunk).await?;
        if bytes == 0 {
            return host.shutdown().await;
        }
        host.write_all(&chunk[..bytes]).await?;
    }
}

/// Moves what the host sends, after its answer.
async fn down(mut host: ReadHalf<Compat<Stream>>, mut program: TcpWriteHalf<'_>) -> io::Result<()> {
    match read_answer(&mut host).await? {
        EgressAnswer::Opened => {}
        EgressAnswer::Refused { .. } => return Err(io::ErrorKind::ConnectionRefused.into()),
        EgressAnswer::Resolved { .. } => return Err(io::ErrorKind::InvalidData.into()),
    }
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let bytes = host.read(&mut chunk).await?;
        if bytes == 0 {
            return program.shutdown().await;
        }
        program.write_all(&chunk[..bytes]).await?;
    }
}

/// Makes the end of `program`'s connection a reset rather than an end of data.
fn reset(program: &TcpStream) {
    // A connection that is gone already needs no reset.
    program.set_zero_linger().ok();
}
