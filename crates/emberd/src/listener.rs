//! The one port: a TCP listener or a Unix socket.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use emberd_api::Address;
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio_util::either::Either;

use crate::socket::Stream;

/// Why the daemon cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody listens there already.
    #[error("{0} is in use by another program, perhaps another emberd")]
    InUse(Address),
    /// Something that is no socket is in the way.
    #[error("{} exists and is no socket", .0.display())]
    NotASocket(PathBuf),
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}")]
    Bind {
        /// The address.
        addr: Address,
        /// Why.
        source: io::Error,
    },
}

#[derive(Debug)]
pub(crate) struct Listener {
    address: Address,
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix { listener: UnixListener, _file: SocketFile },
}

/// A socket's file; removed when dropped.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "socket not removed");
        }
    }
}

impl Listener {
    /// Starts to listen. Port 0 stands for a free one. A Unix socket is its owner's alone;
    /// one that nobody listens on any more is replaced.
    pub async fn bind(addr: &Address) -> Result<Self, ListenError> {
        match addr {
            Address::Tcp(authority) => bind_tcp(addr, authority).await,
            Address::Unix(path) => bind_unix(addr, path).await,
        }
    }

    /// Where clients find it.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The next connection. Cancel safe.
    pub async fn accept(&self) -> io::Result<Stream> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok(Either::Left(stream))
            }
            Socket::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                Ok(Either::Right(stream))
            }
        }
    }
}

fn bind_failed(addr: &Address, source: io::Error) -> ListenError {
    match source.kind() {
        io::ErrorKind::AddrInUse => ListenError::InUse(addr.clone()),
        _ => ListenError::Bind { addr: addr.clone(), source },
    }
}

async fn bind_tcp(addr: &Address, authority: &str) -> Result<Listener, ListenError> {
    let failed = |source| bind_failed(addr, source);
    let listener = TcpListener::bind(authority).await.map_err(failed)?;
    let local = listener.local_addr().map_err(failed)?;
    Ok(Listener { address: Address::Tcp(local.to_string()), socket: Socket::Tcp(listener) })
}

async fn bind_unix(addr: &Address, path: &Path) -> Result<Listener, ListenError> {
    let failed = |source| bind_failed(addr, source);
    remove_stale(addr, path).await?;
    let listener = UnixListener::bind(path).map_err(failed)?;
    let file = SocketFile(path.to_owned());
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(Listener { address: addr.clone(), socket: Socket::Unix { listener, _file: file } })
}

/// Removes a socket left behind by a daemon that was killed: nobody answers there.
async fn remove_stale(addr: &Address, path: &Path) -> Result<(), ListenError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(metadata) if metadata.file_type().is_socket() => {}
        Ok(_) => return Err(ListenError::NotASocket(path.to_owned())),
        Err(source) => return Err(bind_failed(addr, source)),
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|source| bind_failed(addr, source))
        }
        _ => Err(ListenError::InUse(addr.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn socket_is_private_and_goes_with_its_listener() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let addr = Address::Unix(path.clone());
        let listener = Listener::bind(&addr).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(Listener::bind(&addr).await, Err(ListenError::InUse(_))));
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn stale_socket_is_replaced_and_other_files_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        Listener::bind(&Address::Unix(path.clone())).await.unwrap();
        fs::write(&path, "precious").unwrap();
        let refused = Listener::bind(&Address::Unix(path.clone())).await;
        assert!(matches!(refused, Err(ListenError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn port_zero_becomes_a_real_one_that_is_then_in_use() {
        let addr = |text: &str| text.parse::<Address>().unwrap();
        let listener = Listener::bind(&addr("127.0.0.1:0")).await.unwrap();
        assert_ne!(listener.address(), &addr("127.0.0.1:0"));
        let second = Listener::bind(listener.address()).await;
        assert!(matches!(second, Err(ListenError::InUse(_))));
    }
}
