//! Refuses requests to names that are not the daemon's. A web page whose name is made to resolve to
//! this machine (DNS rebinding) has the daemon's origin to its browser, and its plain reads have no
//! `Origin`; but they have that name as `Host`.
//!
//! An IP address is safe: a page has it only if it was served from there.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::HOST;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use emberd_api::Address;

use super::errors::ApiError;

/// Name of every daemon on its own machine.
const LOCALHOST: &str = "localhost";

/// Longest name that an error repeats, in bytes: the longest of DNS.
const NAME_BYTES_MAX: usize = 253;

/// Host names of the daemon. Requests to others are refused.
#[derive(Debug, Clone)]
pub struct Hosts(
    /// Names other than `localhost`; none where every host is accepted.
    Option<Arc<[String]>>,
);

impl Hosts {
    /// The names of a daemon that listens on `addr`: `localhost`, the name in `addr`, all IP
    /// addresses, and `names`; on a Unix socket, which no web page reaches, every name.
    pub fn new(addr: &Address, names: &[String]) -> Self {
        let (Address::Tcp(authority) | Address::Tls(authority)) = addr else { return Self(None) };
        let own = authority.rsplit_once(':').map(|(name, _port)| name.to_owned());
        Self(Some(names.iter().cloned().chain(own).collect()))
    }

    /// Whether `host`, with or without a port, is a name of the daemon.
    fn contain(&self, host: &str) -> bool {
        let Some(names) = &self.0 else { return true };
        let (name, port) = match host.rsplit_once(':') {
            Some(parts) if !host.ends_with(']') => parts,
            _ => (host, ""),
        };
        if !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return false;
        }
        if let Some(ip) = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
            return ip.parse::<Ipv6Addr>().is_ok();
        }
        let name = name.strip_suffix('.').unwrap_or(name);
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        name.parse::<Ipv4Addr>().is_ok()
            || is(LOCALHOST)
            || names.iter().map(String::as_str).any(is)
    }
}

/// The `Host` of a request, quoted, is not a name of this daemon.
#[derive(Debug, thiserror::Error)]
#[error("the daemon does not answer to the host {0}")]
pub struct HostError(String);

/// Refuses requests to other hosts. A request without a host passes: only programs send one.
pub async fn refuse_strangers(
    State(hosts): State<Hosts>,
    request: Request,
    next: Next,
) -> Response {
    let headers = request.headers().get_all(HOST).iter().map(|host| host.to_str().ok());
    let target = request.uri().authority().map(|target| Some(target.as_str()));
    let mut named = target.into_iter().chain(headers).filter(|host| *host != Some(""));
    match named.find(|host| !host.is_some_and(|host| hosts.contain(host))) {
        None => next.run(request).await,
        Some(host) => ApiError::from(foreign(host.unwrap_or_default())).into_response(),
    }
}

fn foreign(host: &str) -> HostError {
    let shown = (1..=NAME_BYTES_MAX).contains(&host.len());
    HostError(if shown { format!("`{host}`") } else { "the `Host` of the request".to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(addr: &str) -> Hosts {
        Hosts::new(&addr.parse().unwrap(), &["Sandboxes.example".to_owned()])
    }

    #[test]
    fn names_of_the_daemon() {
        let hosts = hosts("build-box:7777");
        for host in [
            "localhost",
            "LOCALHOST:7777",
            "localhost.",
            "127.0.0.1:7777",
            "127.9.9.9",
            "192.0.2.1:80",
            "[::1]:7777",
            "[::1]",
            "[2001:db8::1]:1",
            "build-box:7777",
            "sandboxes.EXAMPLE",
            "sandboxes.example.:443",
        ] {
            assert!(hosts.contain(host), "{host}");
        }
    }

    #[test]
    fn names_of_others() {
        for addr in ["build-box:7777", "127.0.0.1:0", "[::]:7777"] {
            for host in [
                "evil.example",
                "evil.example:7777",
                "localhost.evil.example",
                "x.localhost",
                "127.0.0.1.evil.example",
                "x.sandboxes.example",
                "evilsandboxes.example",
                "2130706433",
                "0x7f.1",
                "[::1",
                "[::1].evil.example",
                "[evil.example]",
                "localhost:7777@evil.example",
                "::1",
                ".",
                ":7777",
            ] {
                assert!(!hosts(addr).contain(host), "{host}");
            }
        }
        assert!(hosts("unix:/run/emberd.sock").contain("evil.example"));
    }
}
