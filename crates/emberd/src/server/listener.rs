//! Listens on a TCP address or a Unix socket.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use emberd_api::Address;
use rustix::fs::{Mode, fchmod};
use tokio::net::{TcpListener, UnixListener, UnixSocket, UnixStream};

use super::socket::Socket;
use super::tls::Tls;

/// Most connections to a Unix socket that wait to be accepted, as many as on a TCP port.
const BACKLOG: u32 = 1024;

/// Why the daemon cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another program listens on the address.
    #[error("{0} is in use by another program, perhaps another emberd")]
    InUse(Address),
    /// A file that is not a socket is at the path.
    #[error("{} exists and is not a socket", .0.display())]
    NotASocket(PathBuf),
    /// Other users could replace a socket in the directory.
    #[error("other users can write to {}, the directory of the socket", .0.display())]
    SharedDir(PathBuf),
    /// Listening on the address failed.
    #[error("cannot listen on {addr}")]
    Bind {
        /// The address.
        addr: Address,
        /// Why.
        source: io::Error,
    },
}

/// An address that clients connect to. Dropping it stops listening.
#[derive(Debug)]
pub(crate) struct Listener {
    address: Address,
    bound: Bound,
    /// Whether the directory of the socket is for it alone.
    is_in_own_dir: bool,
    tls: Option<Tls>,
}

#[derive(Debug)]
enum Bound {
    Tcp(TcpListener),
    Unix { listener: UnixListener, _file: SocketFile },
}

/// The file of a Unix socket. Dropping it removes the file, unless another has replaced it.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: identity(path)? })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let removed = match identity(&self.path) {
            Ok(identity) if identity == self.identity => fs::remove_file(&self.path),
            Ok(_) => return,
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            tracing::warn!(%error, path = %self.path.display(), "cannot remove the socket");
        }
    }
}

/// Device and inode number of the file at `path`.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

impl Listener {
    /// Starts listening. Port 0 stands for any free port. A Unix socket has mode 0600, and
    /// replaces one that nobody listens on.
    ///
    /// # Errors
    /// [`ListenError`], except for `SharedDir`.
    pub async fn bind(addr: &Address) -> Result<Self, ListenError> {
        match addr {
            Address::Tcp(authority) | Address::Tls(authority) => bind_tcp(addr, authority).await,
            Address::Unix(path) => bind_unix(addr, path).await,
        }
    }

    /// Starts listening on a Unix socket in a directory that only this user can write to, since
    /// clients trust what they find there. The directory is created if it is missing.
    ///
    /// # Errors
    /// [`ListenError`].
    pub async fn bind_private(path: &Path) -> Result<Self, ListenError> {
        let addr = Address::Unix(path.to_owned());
        let dir = path.parent().unwrap_or(Path::new("/"));
        let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(|source| bind_failed(&addr, source))?;
        let metadata = fs::symlink_metadata(dir).map_err(|source| bind_failed(&addr, source))?;
        let is_own = metadata.uid() == rustix::process::geteuid().as_raw();
        if !(metadata.is_dir() && is_own && metadata.mode() & 0o022 == 0) {
            return Err(ListenError::SharedDir(dir.to_owned()));
        }
        Ok(Self { is_in_own_dir: true, ..bind_unix(&addr, path).await? })
    }

    /// Has every connection speak TLS.
    #[must_use]
    pub fn secured(self, tls: Tls) -> Self {
        let address = match self.address {
            Address::Tcp(authority) => Address::Tls(authority),
            address => address,
        };
        Self { address, tls: Some(tls), ..self }
    }

    /// The TLS of its connections, if they speak it.
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// The address that clients connect to, with the port that the kernel chose for port 0.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Lets users of this host connect to a Unix socket; who may do what is decided for each of
    /// them. They can look at nothing in its directory.
    ///
    /// # Errors
    /// [`ListenError::Bind`].
    pub fn admit_users(&self) -> Result<(), ListenError> {
        let Address::Unix(path) = &self.address else { return Ok(()) };
        let failed = |source| bind_failed(&self.address, source);
        fs::set_permissions(path, Permissions::from_mode(0o666)).map_err(failed)?;
        let Some(dir) = path.parent().filter(|_| self.is_in_own_dir) else { return Ok(()) };
        fs::set_permissions(dir, Permissions::from_mode(0o711)).map_err(failed)
    }

    /// Accepts the next connection. Cancel safe.
    pub async fn accept(&self) -> io::Result<Socket> {
        match &self.bound {
            Bound::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok(stream.into())
            }
            Bound::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                Ok(stream.into())
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
    let (address, bound) = (Address::Tcp(local.to_string()), Bound::Tcp(listener));
    Ok(Listener { address, bound, is_in_own_dir: false, tls: None })
}

async fn bind_unix(addr: &Address, path: &Path) -> Result<Listener, ListenError> {
    let failed = |source| bind_failed(addr, source);
    remove_stale(addr, path).await?;
    let socket = UnixSocket::new_stream().map_err(failed)?;
    // The file takes its mode from the socket, so that there is no moment at which other users
    // could connect.
    fchmod(&socket, Mode::RUSR | Mode::WUSR).map_err(|error| failed(error.into()))?;
    socket.bind(path).map_err(failed)?;
    let file = SocketFile::new(path).map_err(failed)?;
    let listener = socket.listen(BACKLOG).map_err(failed)?;
    let bound = Bound::Unix { listener, _file: file };
    Ok(Listener { address: addr.clone(), bound, is_in_own_dir: false, tls: None })
}

/// Removes the socket that a killed daemon left behind, if nobody listens on it.
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
    async fn a_private_socket_is_in_a_directory_of_its_user() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("emberd");
        let path = dir.join("emberd.sock");
        let listener = Listener::bind_private(&path).await.unwrap();
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let second = Listener::bind_private(&path).await;
        assert!(matches!(second, Err(ListenError::InUse(_))));
        drop(listener);
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        let shared = Listener::bind_private(&path).await;
        assert!(matches!(shared, Err(ListenError::SharedDir(_))));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
        let listener = Listener::bind_private(&path).await.unwrap();
        listener.admit_users().unwrap();
        assert_eq!((mode(&dir), mode(&path)), (0o711, 0o666));
        drop(listener);
        let link = temp.path().join("link");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::symlink(&dir, &link).unwrap();
        let linked = Listener::bind_private(&link.join("emberd.sock")).await;
        assert!(matches!(linked, Err(ListenError::SharedDir(_))));
    }

    #[tokio::test]
    async fn a_socket_has_its_mode_before_anybody_can_connect() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let socket = UnixSocket::new_stream().unwrap();
        fchmod(&socket, Mode::RUSR | Mode::WUSR).unwrap();
        socket.bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_file_that_replaced_a_socket_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let listener = Listener::bind(&Address::Unix(path.clone())).await.unwrap();
        fs::rename(&path, dir.path().join("t")).unwrap();
        fs::write(&path, "another file").unwrap();
        drop(listener);
        assert_eq!(fs::read_to_string(&path).unwrap(), "another file");
    }

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
