//! `/sandboxes/{id}/urls`: addresses of ports that a browser can open.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::State;
use axum::http::header::HOST;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::{Extension, Json};
use emberd_api::{Address, CreateUrl, CreatedUrl, URL_EXPIRES_MS, URL_EXPIRES_MS_DEFAULT, paths};
use emberd_mcp::Daemon;
use emberd_sandbox::{NotRecorded, Sandboxes, Unknown};

use super::body::{Body, BodyError};
use super::cors::Pages;
use super::errors::ApiError;
use super::failures::Failures;
use super::id::{Id, PathError};
use super::proxy::Target;
use super::url_token::{self, PARAMETER};
use crate::access::{Grant, Now};
use crate::server::principal::Principal;

/// Longest `base`, in bytes.
const BASE_BYTES_MAX: usize = 255;

/// Why there is no such URL.
#[derive(Debug, thiserror::Error)]
pub enum UrlError {
    /// No port has that number.
    #[error("port: a port is a number from 1 to 65535")]
    Port,
    /// The time is too short or too long.
    #[error(
        "expires_ms: {ms} is not a number of milliseconds from {} to {} (7 days)",
        URL_EXPIRES_MS.start(),
        URL_EXPIRES_MS.end()
    )]
    Expires {
        /// The time, in milliseconds.
        ms: u64,
    },
    /// The base is not the begin of a URL.
    #[error(
        "base: not http://HOST or https://HOST, with or without a port, of at most {BASE_BYTES_MAX} bytes"
    )]
    Base,
    /// Over a Unix socket, and to an address without a name, no host is known.
    #[error("base: the daemon does not know by which host browsers reach it")]
    NoHost,
    /// The key of the URLs could not be written down.
    #[error(transparent)]
    Record(#[from] NotRecorded),
}

/// The address of one listener, or of that beside it.
#[derive(Debug, Clone)]
pub struct Front {
    /// The listener's own.
    own: Address,
    /// The one where browsers reach the daemon; none if only programs of its host do.
    address: Option<Address>,
    /// Whether agents are served there.
    has_mcp: bool,
    /// The pages of other origins that are.
    pages: Pages,
}

impl Front {
    /// The front of a listener at `own`, in a daemon whose first listener is at `first`.
    pub fn new(own: &Address, first: &Address) -> Self {
        let address = [own, first].into_iter().find(|address| !is_socket(address));
        let (own, address) = (own.clone(), address.cloned());
        Self { own, address, has_mcp: false, pages: Pages::default() }
    }

    /// Serves agents over MCP, or does not.
    #[must_use]
    pub fn with_mcp(self, has_mcp: bool) -> Self {
        Self { has_mcp, ..self }
    }

    /// Serves pages of other origins.
    #[must_use]
    pub fn with_pages(self, pages: Pages) -> Self {
        Self { pages, ..self }
    }

    /// The pages of other origins that are served.
    pub fn pages(&self) -> &Pages {
        &self.pages
    }

    /// Where browsers reach the daemon, for agents; none if they are not served.
    pub fn origin_for_agents(&self) -> Option<String> {
        self.has_mcp.then(|| Daemon::origin(self.address.as_ref().unwrap_or(&self.own)))
    }

    /// Whether requests come over TLS.
    pub fn is_tls(&self) -> bool {
        matches!(self.own, Address::Tls(_))
    }

    /// The base of URLs for a caller that asked `host`, if that is one.
    fn base(&self, host: Option<&str>) -> Result<Base, UrlError> {
        let (is_tls, authority) = match &self.address {
            Some(Address::Tcp(authority)) => (false, authority),
            Some(Address::Tls(authority)) => (true, authority),
            _ => return Err(UrlError::NoHost),
        };
        // Over a Unix socket, the host is a word without meaning.
        let asked = host.filter(|_| !is_socket(&self.own));
        let (scheme, authority) =
            (if is_tls { "https" } else { "http" }, asked.unwrap_or(authority));
        Base::parse(&format!("{scheme}://{authority}")).ok_or(UrlError::NoHost)
    }
}

fn is_socket(address: &Address) -> bool {
    matches!(address, Address::Unix(_))
}

/// Scheme, host and port of URLs.
#[derive(Debug, PartialEq, Eq)]
struct Base {
    scheme: String,
    host: String,
    port: Option<u16>,
}

impl Base {
    fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok().filter(|_| text.len() <= BASE_BYTES_MAX)?;
        let scheme = uri.scheme_str().filter(|scheme| ["http", "https"].contains(scheme))?;
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
        if uri.path_and_query().is_some_and(|path| path.as_str() != "/") {
            return None;
        }
        let host = authority.host();
        // An address has no hosts below it. Every browser resolves those of `localhost`.
        let is_address = host.starts_with('[') || host.parse::<std::net::Ipv4Addr>().is_ok();
        let host = if is_address { "localhost" } else { host };
        Some(Self { scheme: scheme.to_owned(), host: host.to_owned(), port: authority.port_u16() })
    }

    /// The URL of a port, with `token`.
    fn url(&self, target: Target, token: &str) -> String {
        let Self { scheme, host, port } = self;
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let id = target.id.to_string().replace('_', "-");
        format!("{scheme}://{}-{id}.{host}{port}/?{PARAMETER}={token}", target.port)
    }
}

/// Makes a URL with which everybody who has it reaches one port of a sandbox, for some time.
///
/// A browser that opens the URL gets a cookie for the host of the port, and is sent on to the URL
/// without the token. The URL ends with the key that asked for it.
#[utoipa::path(
    post,
    path = paths::URLS,
    operation_id = "create_url",
    tag = "ports",
    params(Id),
    request_body = CreateUrl,
    responses(
        (status = 201, description = "The URL, which is a secret.", body = CreatedUrl),
        Failures<(PathError, BodyError, Unknown, UrlError)>,
    )
)]
pub async fn create(
    State(sandboxes): State<Sandboxes>,
    Extension(front): Extension<Front>,
    grant: Option<Extension<Grant>>,
    Id(id): Id,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<CreatedUrl>), ApiError> {
    let CreateUrl { port, expires_ms, base } = body.json()?;
    if port == 0 {
        return Err(UrlError::Port.into());
    }
    let expires_ms = expires_ms.unwrap_or(URL_EXPIRES_MS_DEFAULT);
    if !URL_EXPIRES_MS.contains(&expires_ms) {
        return Err(UrlError::Expires { ms: expires_ms }.into());
    }
    let base = match base {
        Some(base) => Base::parse(&base).ok_or(UrlError::Base)?,
        None => front.base(headers.get(HOST).and_then(|host| host.to_str().ok()))?,
    };
    let issuer = match grant.map(|grant| grant.principal) {
        Some(Principal::Key(id)) => Some(id),
        _ => None,
    };
    let key = sandboxes.get(id)?.url_key_or_new().map_err(UrlError::Record)?;
    let (target, lasts) = (Target { id, port }, Duration::from_millis(expires_ms));
    let token = url_token::token(&key, (id, port), Now::read().boot + lasts, issuer);
    let at = (SystemTime::now() + lasts).duration_since(UNIX_EPOCH).unwrap_or_default();
    let expires_at_ms = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
    let created = CreatedUrl { url: base.url(target, &token), expires_at_ms };
    Ok((StatusCode::CREATED, Json(created)))
}

/// Revokes every URL of a sandbox.
///
/// Requests under way with one end within a second.
#[utoipa::path(
    delete,
    path = paths::URLS,
    operation_id = "delete_urls",
    tag = "ports",
    params(Id),
    responses(
        (status = 204, description = "No URL of before is valid any more."),
        Failures<(PathError, Unknown, UrlError)>,
    )
)]
pub async fn revoke(
    State(sandboxes): State<Sandboxes>,
    Id(id): Id,
) -> Result<StatusCode, ApiError> {
    sandboxes.get(id)?.revoke_urls().map_err(UrlError::Record)?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[track_caller]
    fn check(own: &str, first: &str, host: Option<&str>, expect: Option<&str>) {
        let base = Front::new(&address(own), &address(first)).base(host);
        let target = Target { id: "sb_0123456789ab".parse().unwrap(), port: 80 };
        let url = base.ok().map(|base| base.url(target, "T"));
        let expect = expect.map(|base| {
            let (scheme, rest) = base.split_once("://").unwrap();
            format!("{scheme}://80-sb-0123456789ab.{rest}/?emberd_token=T")
        });
        assert_eq!(url, expect, "{own} {first} {host:?}");
    }

    #[test]
    fn urls_are_those_by_which_the_caller_reaches_the_daemon() {
        let own = "127.0.0.1:7777";
        check(own, own, Some("127.0.0.1:7777"), Some("http://localhost:7777"));
        check(own, own, Some("[::1]:7777"), Some("http://localhost:7777"));
        check(own, own, Some("box.example:7777"), Some("http://box.example:7777"));
        check("https://0.0.0.0:443", own, Some("box.example"), Some("https://box.example"));
        check(own, own, None, Some("http://localhost:7777"));
        check(own, own, Some("a b.c"), None);
        check("unix:/s", own, Some("emberd"), Some("http://localhost:7777"));
        check("unix:/s", "https://0.0.0.0:8443", Some("x"), Some("https://localhost:8443"));
        check("unix:/s", "unix:/t", Some("emberd"), None);
    }

    #[test]
    fn a_base_is_scheme_host_and_port() {
        for base in ["http://a.example", "https://a.example:8443/", "http://[::1]:80"] {
            assert!(Base::parse(base).is_some(), "{base}");
        }
        for wrong in [
            "",
            "a.example",
            "ftp://a.example",
            "http://",
            "http://a.example/b",
            "http://a@b.example",
            "http://a.example?x",
            "javascript:alert(1)",
            &format!("http://{}", "a".repeat(255)),
        ] {
            assert_eq!(Base::parse(wrong), None, "{wrong}");
        }
    }
}
