//! Tells a service manager how far the daemon is (`sd_notify(3)`).

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Variable with the service manager's socket.
const VARIABLE: &str = "NOTIFY_SOCKET";

/// The daemon serves requests.
pub(crate) const READY: &str = "READY=1";

/// The daemon is about to end.
pub(crate) const STOPPING: &str = "STOPPING=1";

/// Tells the service manager that started the daemon, if one did.
pub(crate) fn tell(state: &str) {
    let Some(socket) = std::env::var_os(VARIABLE) else { return };
    if let Err(error) = send(&socket, state) {
        tracing::warn!(%error, ?socket, "cannot notify the service manager");
    }
}

fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_is_told_by_path_and_by_abstract_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let name = format!("emberd-test-{}", std::process::id());
        let by_path = UnixDatagram::bind(&path).unwrap();
        let by_name =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        send(path.as_os_str(), READY).unwrap();
        send(OsStr::new(&format!("@{name}")), STOPPING).unwrap();
        for (socket, state) in [(by_path, READY), (by_name, STOPPING)] {
            let mut told = [0; 32];
            let bytes = socket.recv(&mut told).unwrap();
            assert_eq!(&told[..bytes], state.as_bytes());
        }
        send(&dir.path().join("absent").into_os_string(), READY).unwrap_err();
    }
}
