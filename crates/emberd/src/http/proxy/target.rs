//! The port inside a sandbox that a request is for.

use axum::extract::Request;
use axum::http::header::HOST;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue};
use emberd_api::{PORT_HEADER, SANDBOX_HEADER, split_port_host};
use emberd_sandbox::SandboxId;

use crate::http::errors::ApiError;
use crate::http::id::sandbox;

/// A port inside a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    pub id: SandboxId,
    pub port: u16,
}

/// Why a request names no port inside a sandbox.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TargetError(String);

impl TargetError {
    /// The error `message`.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// The port that a request is for; `None` if the request is for the API.
///
/// A host in the form of a port's never leads to the API, even if the sandbox does not exist: a
/// web page from a sandbox must not reach the API by any name. The host precedes the headers, which
/// such a page could set.
pub fn of(request: &Request) -> Result<Option<Target>, ApiError> {
    let headers = request.headers();
    let host = one(headers, HOST.as_str())?.and_then(|host| host.to_str().ok());
    for host in [request.uri().authority().map(Authority::as_str), host] {
        if let Some(target) = host.map_or(Ok(None), of_host)? {
            return Ok(Some(target));
        }
    }
    match (one(headers, SANDBOX_HEADER)?, one(headers, PORT_HEADER)?) {
        (None, None) => Ok(None),
        (Some(id), Some(port)) => {
            let (id, port) = (id.to_str().unwrap_or_default(), port.to_str().unwrap_or_default());
            Ok(Some(Target { id: sandbox(id)?, port: self::port(port)? }))
        }
        _ => Err(invalid(format!("{SANDBOX_HEADER} and {PORT_HEADER} go together")).into()),
    }
}

/// The port that the host of a request names, if it does and nothing about the request is odd.
pub fn host_target(request: &Request) -> Option<Target> {
    let host = one(request.headers(), HOST.as_str()).ok()?.and_then(|host| host.to_str().ok());
    let hosts = [request.uri().authority().map(Authority::as_str), host];
    hosts.into_iter().flatten().find_map(|host| of_host(host).transpose())?.ok()
}

/// Whether a request is for a port, or almost is: not for the API.
pub fn is_for_port(request: &Request) -> bool {
    !matches!(of(request), Ok(None))
}

/// The value of a header that may occur once. Of two values, two programs on the way could choose
/// differently.
fn one<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a HeaderValue>, TargetError> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        _ => Err(invalid(format!("the header {name} occurs more than once"))),
    }
}

/// Reads a host such as `8000-sb-0123456789ab.localhost:7777`.
fn of_host(host: &str) -> Result<Option<Target>, ApiError> {
    let Some((port, rest_of_id)) = split_port_host(host) else { return Ok(None) };
    let id = format!("sb_{}", rest_of_id.to_ascii_lowercase());
    Ok(Some(Target { id: sandbox(&id)?, port: self::port(port)? }))
}

/// Reads a TCP port in decimal, 1 to 65535.
///
/// # Errors
/// [`TargetError`].
pub fn port(text: &str) -> Result<u16, TargetError> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|port| digits && *port > 0);
    port.ok_or_else(|| invalid("a port is a number from 1 to 65535".to_owned()))
}

fn invalid(message: String) -> TargetError {
    TargetError(message)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    const ID: &str = "sb_0123456789ab";

    fn of(uri: &str, fields: &[(&str, &str)]) -> Result<Option<Target>, ApiError> {
        let mut request = Request::builder().uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        super::of(&request.body(Body::empty()).unwrap())
    }

    fn port(port: u16) -> Target {
        Target { id: ID.parse().unwrap(), port }
    }

    #[test]
    fn hosts_of_ports() {
        for host in [
            "8000-sb-0123456789ab.localhost:7777",
            "8000-sb_0123456789ab.sandboxes.example.com",
            "8000-SB-0123456789AB.LOCALHOST.",
            "8000-sb-0123456789ab",
            "08000-sb-0123456789ab.x",
        ] {
            assert_eq!(of("/", &[("host", host)]).unwrap(), Some(port(8000)), "{host}");
        }
        let keyed = Target { id: "sb_eu120123456789ab".parse().unwrap(), port: 80 };
        for host in ["80-sb-eu120123456789ab.localhost", "80-SB_EU120123456789AB.x:7777"] {
            assert_eq!(of("/", &[("host", host)]).unwrap(), Some(keyed), "{host}");
        }
        let absolute = "http://8000-sb-0123456789ab.localhost/a";
        assert_eq!(of(absolute, &[("host", "localhost")]).unwrap(), Some(port(8000)));
        let hidden = [("host", "8000-sb-0123456789ab.localhost")];
        assert_eq!(of("http://localhost/sandboxes", &hidden).unwrap(), Some(port(8000)));
    }

    #[test]
    fn hosts_of_the_api() {
        for host in [
            "127.0.0.1:7777",
            "localhost",
            "[::1]:7777",
            "",
            "emberd",
            "x.8000-sb-0123456789ab.localhost",
            "80-other.example.com",
            "-sb-0123456789ab.localhost",
            "a80-sb-0123456789ab.localhost",
        ] {
            assert_eq!(of("/sandboxes", &[("host", host)]).unwrap(), None, "{host}");
        }
        assert_eq!(of("/", &[]).unwrap(), None);
    }

    #[test]
    fn hosts_that_almost_name_a_port_are_not_the_api() {
        for host in [
            "8000-sb-.localhost",
            "8000-sb-eu1230123456789ab.localhost",
            "8000-sb-e-0123456789ab.localhost",
            "8000-sb-xxxxxxxxxxxx.localhost",
            "0-sb-0123456789ab.localhost",
            "65536-sb-0123456789ab.localhost",
            "99999999999999999999-sb-0123456789ab.localhost",
        ] {
            assert!(of("/", &[("host", host)]).is_err(), "{host}");
        }
        let twice = [("host", "localhost"), ("host", "8000-sb-0123456789ab.localhost")];
        assert!(of("/", &twice).is_err());
    }

    #[test]
    fn headers_name_a_port_unless_the_host_does() {
        let named = [(SANDBOX_HEADER, ID), (PORT_HEADER, "80")];
        assert_eq!(of("/", &named).unwrap(), Some(port(80)));
        let [sandbox, number] = named;
        let host = ("host", "8000-sb-0123456789ab.localhost");
        assert_eq!(of("/", &[sandbox, number, host]).unwrap(), Some(port(8000)));
        for wrong in [
            &[sandbox][..],
            &[number],
            &[sandbox, number, number],
            &[(SANDBOX_HEADER, "x"), number],
            &[sandbox, (PORT_HEADER, "+80")],
            &[sandbox, (PORT_HEADER, "")],
            &[sandbox, (PORT_HEADER, "0")],
        ] {
            assert!(of("/", wrong).is_err(), "{wrong:?}");
        }
    }
}
