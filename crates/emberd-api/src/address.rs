//! Addresses that a daemon listens on and clients connect to.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::ADDR_UNIX_PREFIX;

/// Scheme that may precede a TCP address, so that an address the daemon prints can be pasted.
const SCHEME: &str = "http://";

/// Scheme of an address that takes TLS.
const TLS_SCHEME: &str = "https://";

/// Longest path of a Unix socket, in bytes: 108 with its final NUL (unix(7)).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Name of the socket, and of its directory, in a runtime directory.
const SOCKET_PATH: &str = "emberd/emberd.sock";

/// Path of a user's Unix socket: the daemon listens on it beside
/// [`ADDR_DEFAULT`](crate::ADDR_DEFAULT), and clients try it first. `/run/emberd/emberd.sock` for
/// root, else a path in `runtime_dir` (`$XDG_RUNTIME_DIR`). None without that directory, or where
/// the path is too long.
pub fn socket_path(user_id: u32, runtime_dir: Option<&Path>) -> Option<PathBuf> {
    let dir = if user_id == 0 { Path::new("/run") } else { runtime_dir? };
    let path = dir.join(SOCKET_PATH);
    (path.is_absolute() && path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX).then_some(path)
}

/// A TCP address, `HOST:PORT`, one that takes TLS, `https://HOST:PORT`, or a Unix socket,
/// `unix:PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// Host name or IP address (IPv6 in brackets), a colon, and a port.
    Tcp(String),
    /// The same of an address that takes TLS.
    Tls(String),
    /// Path of the socket.
    Unix(PathBuf),
}

/// Why a text is not an [`Address`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressError {
    /// The text is neither `HOST:PORT` nor `unix:PATH`.
    Malformed(String),
    /// The path of the socket is longer than the kernel allows.
    PathTooLong(usize),
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(text) => {
                write!(f, "`{text}` is not an address: HOST:PORT, https://HOST:PORT or unix:PATH")
            }
            Self::PathTooLong(bytes) => {
                write!(f, "the socket's path has {bytes} bytes, over {SOCKET_PATH_BYTES_MAX}")
            }
        }
    }
}

impl std::error::Error for AddressError {}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let malformed = || AddressError::Malformed(text.to_owned());
        if let Some(path) = text.strip_prefix(ADDR_UNIX_PREFIX) {
            return match path.len() {
                0 => Err(malformed()),
                1..=SOCKET_PATH_BYTES_MAX => Ok(Self::Unix(path.into())),
                bytes => Err(AddressError::PathTooLong(bytes)),
            };
        }
        let (text, address): (_, fn(String) -> Self) = match text.strip_prefix(TLS_SCHEME) {
            Some(rest) => (rest, Self::Tls),
            None => (text.strip_prefix(SCHEME).unwrap_or(text), Self::Tcp),
        };
        let authority = text.strip_suffix('/').unwrap_or(text);
        let (host, port) = authority.rsplit_once(':').ok_or_else(malformed)?;
        let bracketed = host.starts_with('[') && host.ends_with(']');
        let plain = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
        let port_valid =
            port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
        if host.is_empty() || !(bracketed || plain) || !port_valid {
            return Err(malformed());
        }
        Ok(address(authority.to_owned()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(authority) => write!(f, "{SCHEME}{authority}"),
            Self::Tls(authority) => write!(f, "{TLS_SCHEME}{authority}"),
            Self::Unix(path) => write!(f, "{ADDR_UNIX_PREFIX}{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip_through_what_is_printed() {
        for (text, printed) in [
            ("127.0.0.1:7777", "http://127.0.0.1:7777"),
            ("http://localhost:0/", "http://localhost:0"),
            ("[::1]:80", "http://[::1]:80"),
            ("https://a.example:443/", "https://a.example:443"),
            ("unix:/run/emberd.sock", "unix:/run/emberd.sock"),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), printed);
            assert_eq!(printed.parse(), Ok(address));
        }
    }

    #[test]
    fn the_socket_is_in_a_directory_of_the_user() {
        let of = |user_id, dir: Option<&str>| socket_path(user_id, dir.map(Path::new));
        assert_eq!(of(0, Some("/run/user/0")), Some("/run/emberd/emberd.sock".into()));
        assert_eq!(of(7, Some("/run/user/7")), Some("/run/user/7/emberd/emberd.sock".into()));
        assert_eq!((of(7, None), of(7, Some("run"))), (None, None));
        assert_eq!(of(7, Some(&format!("/{}", "x".repeat(89)))), None);
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "localhost",
            ":80",
            "a:b",
            "a:65536",
            "a:+1",
            "::1:80",
            "a b:1",
            "https://a",
            "https://http://a:1",
            "ftp://a:1",
            "unix:",
        ] {
            let malformed = AddressError::Malformed(text.to_owned());
            assert_eq!(text.parse::<Address>(), Err(malformed), "{text}");
        }
        let long = format!("unix:/{}", "x".repeat(107));
        assert_eq!(long.parse::<Address>(), Err(AddressError::PathTooLong(108)));
    }
}
