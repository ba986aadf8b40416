//! Refuses requests of web pages that are not the daemon's own. A browser would send requests to
//! the API for any open page. The browser marks them: with `Origin` on all but plain reads, and
//! with `Sec-Fetch-Site` on all.
//!
//! The daemon's own origin is the request's scheme and `Host`, whose name `host` checks afterwards.
//! A port of a sandbox has a host of its own, which is diverted before.

use axum::extract::{Request, State};
use axum::http::header::{HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::errors::ApiError;
use crate::server::observe::FromPage;

/// Relation of the page that sends a request to the daemon's origin (W3C Fetch Metadata). Browsers
/// set it; neither programs nor scripts of a page do.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The request came from a web page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the API refuses requests from web pages")]
pub enum PageError {
    /// The `Origin` of the request is not the daemon's.
    ForeignOrigin,
    /// The browser names another site.
    CrossSite,
}

/// Whether a listener is reached over TLS.
#[derive(Debug, Clone, Copy)]
pub struct IsTls(pub bool);

/// Refuses requests of web pages, before anything else is read.
pub async fn refuse_pages(State(is_tls): State<IsTls>, request: Request, next: Next) -> Response {
    let target = request.uri().authority();
    let Some(error) = page(target, request.headers(), is_tls) else {
        return next.run(request).await;
    };
    let mut response = ApiError::from(error).into_response();
    response.extensions_mut().insert(FromPage);
    response
}

/// Why a request with these header fields came from a page of others; none if it did not. `target`
/// is its host where that stands in the request line, as over HTTP/2.
fn page(target: Option<&Authority>, fields: &HeaderMap, is_tls: IsTls) -> Option<PageError> {
    let mut origins = fields.get_all(ORIGIN).iter();
    let own = || own_origin(target, fields, is_tls);
    if !origins.all(|origin| own().is_some_and(|own| origin.as_bytes() == own.as_bytes())) {
        return Some(PageError::ForeignOrigin);
    }
    let mut sites = fields.get_all(SEC_FETCH_SITE).iter();
    (!sites.all(is_own)).then_some(PageError::CrossSite)
}

/// The origin of a page that the daemon would have served to the sender of this request. Browsers
/// write it in lower case, and leave the scheme's own port out of it and of `Host` alike.
fn own_origin(target: Option<&Authority>, fields: &HeaderMap, is_tls: IsTls) -> Option<String> {
    let mut hosts = fields.get_all(HOST).iter();
    let host = match (target, hosts.next(), hosts.next()) {
        (Some(target), _, None) => target.as_str(),
        (None, Some(host), None) => host.to_str().ok()?,
        _ => return None,
    };
    let scheme = if is_tls.0 { "https" } else { "http" };
    (!host.is_empty()).then(|| format!("{scheme}://{}", host.to_ascii_lowercase()))
}

/// Whether the user typed the address (`none`), or a shown response of the daemon refers to another
/// (`same-origin`). A page whose name was made to resolve to this machine is `same-origin` too, and
/// is refused by its `Host`. Unknown values are refused.
fn is_own(site: &HeaderValue) -> bool {
    matches!(site.as_bytes(), b"none" | b"same-origin")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged_at(
        target: Option<&str>,
        fields: &[(HeaderName, &str)],
        tls: bool,
    ) -> Option<PageError> {
        let target = target.map(|target| target.parse().unwrap());
        let fields = fields.iter().map(|(name, value)| (name, HeaderValue::from_str(value)));
        let mut map = HeaderMap::new();
        fields.for_each(|(name, value)| {
            map.append(name, value.unwrap());
        });
        page(target.as_ref(), &map, IsTls(tls))
    }

    #[test]
    fn requests_of_pages_are_recognised() {
        let judged = |fields: &[(HeaderName, &'static str)]| judged_at(None, fields, false);
        let site = |value| (SEC_FETCH_SITE, value);
        assert_eq!(judged(&[]), None);
        assert_eq!(judged(&[site("none")]), None);
        assert_eq!(judged(&[site("same-origin")]), None);
        for value in ["cross-site", "same-site", "Cross-Site", "", "of-tomorrow", "none, none"] {
            assert_eq!(judged(&[site(value)]), Some(PageError::CrossSite), "{value}");
        }
        assert_eq!(judged(&[site("none"), site("cross-site")]), Some(PageError::CrossSite));
        let own = || [(ORIGIN, "http://localhost:7777"), (HOST, "localhost:7777")];
        let [origin, host] = own();
        assert_eq!(judged(&[site("same-origin"), origin]), Some(PageError::ForeignOrigin));
        assert_eq!(judged(&[site("same-site"), host]), Some(PageError::CrossSite));
        let [origin, host] = own();
        assert_eq!(judged(&[site("same-origin"), origin, host]), None);
        let [origin, host] = own();
        assert_eq!(judged(&[site("same-site"), origin, host]), Some(PageError::CrossSite));
    }

    #[test]
    fn only_the_origin_of_the_request_itself_is_the_daemons() {
        let judged = |origin, host| judged_at(None, &[(ORIGIN, origin), (HOST, host)], false);
        for (origin, host) in [
            ("http://localhost:7777", "localhost:7777"),
            ("http://localhost:7777", "LOCALHOST:7777"),
            ("http://[::1]:7777", "[::1]:7777"),
            ("http://build-box", "build-box"),
        ] {
            assert_eq!(judged(origin, host), None, "{origin} to {host}");
        }
        for (origin, host) in [
            ("https://localhost:7777", "localhost:7777"),
            ("http://localhost:7778", "localhost:7777"),
            ("http://localhost", "localhost:7777"),
            ("http://127.0.0.1:7777", "localhost:7777"),
            ("http://8000-sb-1.localhost:7777", "localhost:7777"),
            ("http://localhost:7777/", "localhost:7777"),
            ("http://localhost:7777.evil.example", "localhost:7777"),
            ("http://evil.example", "localhost:7777"),
            ("null", "localhost:7777"),
            ("", "localhost:7777"),
            ("http://", ""),
        ] {
            let foreign = Some(PageError::ForeignOrigin);
            assert_eq!(judged(origin, host), foreign, "{origin} to {host}");
        }
        let (own, host) = ((ORIGIN, "https://a:1"), (HOST, "a:1"));
        assert_eq!(judged_at(None, &[own.clone(), host.clone()], true), None);
        assert_eq!(judged_at(Some("a:1"), std::slice::from_ref(&own), true), None);
        let twice = [own.clone(), (ORIGIN, "https://evil.example"), host.clone()];
        assert_eq!(judged_at(None, &twice, true), Some(PageError::ForeignOrigin));
        let two_hosts = [own, host.clone(), host];
        assert_eq!(judged_at(None, &two_hosts, true), Some(PageError::ForeignOrigin));
    }
}
