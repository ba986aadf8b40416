//! Signed URLs of ports: a token in the query, exchanged for a cookie of one host.
//!
//! ```text
//! GET /a?emberd_token=T ─▶ 303 /a, Set-Cookie: emberd_port=T ─▶ GET /a, Cookie ─▶ the port
//! ```
//! A token is of one sandbox, one port and one time. It names no host: that of a request says which
//! port it is for, so that a cookie is worth nothing at another. Times are on the clock that nobody
//! sets and that begins with the host, as a sandbox does.

use std::time::Duration;

use axum::extract::Request;
use axum::http::header::{
    CACHE_CONTROL, HOST, LOCATION, ORIGIN, REFERRER_POLICY, SET_COOKIE, UPGRADE,
};
use axum::http::uri::Authority;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use emberd_sandbox::{Sandboxes, UrlKey};
use tokio_util::sync::CancellationToken;

use super::proxy::{Target, host_target};
use super::url_token::{COOKIE_NAME, Token, Twice, in_cookies, in_query, message, without_tokens};
use crate::access::{Access, AccessError, Now};

/// Longest wait for the end of a token before the clock is looked at again: the runtime's clock
/// stands still while the host is suspended.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The right to one port for some time.
#[derive(Debug, Clone)]
pub struct Admission {
    key: UrlKey,
    ends: Duration,
    issuer: Option<CancellationToken>,
}

impl Admission {
    /// Waits until the token has ended, or was revoked, or its issuer has ended.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + 'static {
        let Self { key, ends, issuer } = self.clone();
        async move {
            let over = async {
                while let Some(left) = left(ends, Now::read().boot) {
                    tokio::time::sleep(left.min(LOOK_AGAIN)).await;
                }
            };
            let issuer = async {
                match issuer {
                    Some(issuer) => issuer.cancelled().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = over => {}
                () = key.revoked() => {}
                () = issuer => {}
            }
        }
    }
}

/// Time until `ends`; none once it has come.
fn left(ends: Duration, now: Duration) -> Option<Duration> {
    ends.checked_sub(now).filter(|left| !left.is_zero())
}

/// Worth of a request to a port, by its URL and its cookie.
#[derive(Debug)]
pub enum Visit {
    /// No token, or a cookie that is worth nothing any more.
    Unsigned(Option<AccessError>),
    /// A token to exchange for a cookie: the answer does that.
    Exchanged(Box<Response>),
    /// A token that lets it pass.
    Admitted(Admission),
}

/// Looks for a token in a request to a port, named by its host. With `is_tls`, it came over TLS.
///
/// # Errors
/// A token in the URL that is worth nothing; a page of another host.
pub fn judge(
    request: &Request,
    access: &Access,
    sandboxes: &Sandboxes,
    is_tls: bool,
) -> Result<Visit, AccessError> {
    let Some(target) = host_target(request) else { return Ok(Visit::Unsigned(None)) };
    let admit = |text: &str| admit(text, target, Now::read().boot, access, sandboxes);
    if let Some(text) = in_query(request.uri()) {
        let text = text.map_err(|Twice| AccessError::UrlInvalid)?;
        let admission = admit(text)?;
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        // A program that opens a WebSocket follows no redirect.
        if !reads || request.headers().contains_key(UPGRADE) {
            refuse_pages(request)?;
            return Ok(Visit::Admitted(admission));
        }
        let left = left(admission.ends, Now::read().boot).unwrap_or_default();
        return Ok(Visit::Exchanged(Box::new(exchange(request, text, left, is_tls))));
    }
    let mut problem = None;
    for text in in_cookies(request.headers()) {
        match admit(text) {
            Ok(admission) => {
                refuse_pages(request)?;
                return Ok(Visit::Admitted(admission));
            }
            Err(error) => problem = Some(error),
        }
    }
    Ok(Visit::Unsigned(problem))
}

/// The right that the token `text` gives to `target` at `now`.
fn admit(
    text: &str,
    target: Target,
    now: Duration,
    access: &Access,
    sandboxes: &Sandboxes,
) -> Result<Admission, AccessError> {
    let token = Token::parse(text).ok_or(AccessError::UrlInvalid)?;
    // A sandbox that does not exist is not told from one with another key.
    let key = sandboxes.get(target.id).ok().and_then(|sandbox| sandbox.url_key());
    let key = key.filter(|key| {
        key.verifies(&message(target.id, target.port, token.signed), &token.signature)
    });
    let key = key.ok_or(AccessError::UrlInvalid)?;
    let issuer = match token.issuer {
        Some(id) => Some(access.ended(id).ok_or(AccessError::UrlExpired)?),
        None => None,
    };
    left(token.ends, now).ok_or(AccessError::UrlExpired)?;
    Ok(Admission { key, ends: token.ends, issuer })
}

/// Sends the browser to the same URL without the token, with a cookie in its place.
fn exchange(request: &Request, token: &str, left: Duration, is_tls: bool) -> Response {
    let forwarded = request.headers().get("x-forwarded-proto");
    let is_secure = is_tls || forwarded.is_some_and(|scheme| scheme == "https");
    let secure = if is_secure { "; Secure" } else { "" };
    let seconds = left.as_secs().max(1);
    let cookie =
        format!("{COOKIE_NAME}={token}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}");
    let plain = without_tokens(request.uri());
    let location = local(plain.map_or_else(|| "/".to_owned(), |plain| plain.to_string()));
    let fields = [(LOCATION, location), (SET_COOKIE, cookie)];
    let unseen = [(CACHE_CONTROL, "no-store"), (REFERRER_POLICY, "no-referrer")];
    (StatusCode::SEE_OTHER, fields, unseen).into_response()
}

/// The path and the query as a reference that stays on its host: one that begins with two slashes
/// would name another.
fn local(path_and_query: String) -> String {
    let mut second = path_and_query.bytes().skip(1);
    let leads_away = second.next().is_some_and(|byte| byte == b'/' || byte == b'\\');
    if leads_away { format!("/.{path_and_query}") } else { path_and_query }
}

/// Refuses what a page of another host has its browser send with the cookie: hosts of other
/// sandboxes are of the same site, to which `SameSite` does not apply.
fn refuse_pages(request: &Request) -> Result<(), AccessError> {
    let fields = request.headers();
    let text = |name: &str| fields.get(name).map(|value| value.to_str().unwrap_or_default());
    if fields.contains_key(ORIGIN) {
        let host = request.uri().authority().map(Authority::as_str).or_else(|| text(HOST.as_str()));
        let origin = text(ORIGIN.as_str()).and_then(|origin| origin.split_once("://"));
        let is_own =
            origin.zip(host).is_some_and(|((_, origin), host)| origin.eq_ignore_ascii_case(host));
        if !is_own {
            return Err(AccessError::ForeignPage);
        }
    }
    let is_own = text("sec-fetch-site").is_none_or(|site| ["none", "same-origin"].contains(&site));
    let is_link = text("sec-fetch-mode") == Some("navigate") && *request.method() == Method::GET;
    if is_own || is_link { Ok(()) } else { Err(AccessError::ForeignPage) }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn a_redirect_stays_on_its_host() {
        for (path, expect) in [
            ("/", "/"),
            ("/a//b", "/a//b"),
            ("//evil.example/a", "/.//evil.example/a"),
            ("/\\evil.example", "/./\\evil.example"),
        ] {
            assert_eq!(local(path.to_owned()), expect);
        }
    }

    #[test]
    fn pages_of_other_hosts_are_refused() {
        let judged = |method: &str, fields: &[(&str, &str)]| {
            let mut request = Request::builder().method(method).header("host", "80-sb-1.x:7777");
            for (name, value) in fields {
                request = request.header(*name, *value);
            }
            refuse_pages(&request.body(Body::empty()).unwrap())
        };
        for fields in [
            &[][..],
            &[("origin", "http://80-sb-1.x:7777"), ("sec-fetch-site", "same-origin")],
            &[("sec-fetch-site", "none"), ("sec-fetch-mode", "navigate")],
            &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")],
        ] {
            assert_eq!(judged("GET", fields), Ok(()), "{fields:?}");
        }
        for (method, fields) in [
            ("GET", &[("origin", "http://81-sb-1.x:7777")][..]),
            ("GET", &[("origin", "null")]),
            ("GET", &[("origin", "http://80-sb-1.x")]),
            ("GET", &[("sec-fetch-site", "same-site"), ("sec-fetch-mode", "no-cors")]),
            ("GET", &[("sec-fetch-site", "same-site"), ("sec-fetch-mode", "websocket")]),
            ("POST", &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate")]),
        ] {
            assert_eq!(judged(method, fields), Err(AccessError::ForeignPage), "{fields:?}");
        }
    }

    #[test]
    fn a_time_that_has_come_is_over_whatever_the_date() {
        let at = Duration::from_secs;
        assert_eq!(left(at(60), at(59)), Some(at(1)));
        assert_eq!((left(at(60), at(60)), left(at(60), at(61))), (None, None));
    }
}
