//! Refuses requests of web pages that are neither the daemon's own nor allowed. A browser would
//! send requests to the API for any open page. The browser marks them: with `Origin` on all but
//! plain reads, and with `Sec-Fetch-Site` on all.
//!
//! The daemon's own origin is the request's scheme and `Host`, whose name `host` checks afterwards.
//! A port of a sandbox has a host of its own, which is diverted before.

use axum::extract::{Request, State};
use axum::http::header::{HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::errors::ApiError;
use crate::server::observe::FromPage;
use crate::server::principal::Principal;

/// Relation of the page that sends a request to the daemon's origin (W3C Fetch Metadata). Browsers
/// set it; neither programs nor scripts of a page do.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The request came from a web page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the API refuses requests from web pages")]
pub enum PageError {
    /// The `Origin` of the request is neither the daemon's nor allowed, or it is allowed to
    /// callers with a key and there is none.
    ForeignOrigin,
    /// The browser names another site.
    CrossSite,
}

/// Marks a request of a page of another origin that the operator allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllowedPage {
    /// Its browser asks what the page may send, ahead of its request.
    Preflight,
    /// The page wants something, for which it needs a key.
    Request,
}

/// Whether a listener is reached over TLS.
#[derive(Debug, Clone, Copy)]
pub struct IsTls(pub bool);

/// Refuses requests of web pages, before anything else is read. An allowed page's are answered, if
/// their caller has a key.
pub async fn refuse_pages(State(is_tls): State<IsTls>, request: Request, next: Next) -> Response {
    let allowed = request.extensions().get::<AllowedPage>().copied();
    let error = match allowed {
        None => page(request.uri().authority(), request.headers(), is_tls),
        Some(allowed) => allowed_page(allowed, request.extensions().get(), request.headers()),
    };
    let Some(error) = error else {
        return match allowed {
            Some(AllowedPage::Preflight) => StatusCode::NO_CONTENT.into_response(),
            _ => next.run(request).await,
        };
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

/// Why a request of an allowed page, whose caller is `principal`, is refused all the same; none if
/// it is not. Its browser names any relation of the two sites, and no other word.
fn allowed_page(
    page: AllowedPage,
    principal: Option<&Principal>,
    fields: &HeaderMap,
) -> Option<PageError> {
    // Its caller was judged by the key alone. This holds on every route, and if that changes.
    let has_key = matches!(principal, Some(Principal::Key(_)));
    if !has_key && page != AllowedPage::Preflight {
        return Some(PageError::ForeignOrigin);
    }
    let is_known = |site: &HeaderValue| {
        is_own(site) || matches!(site.as_bytes(), b"same-site" | b"cross-site")
    };
    let mut sites = fields.get_all(SEC_FETCH_SITE).iter();
    (!sites.all(is_known)).then_some(PageError::CrossSite)
}

/// The origin of a page that the daemon would have served to the sender of this request. Browsers
/// write it in lower case, and leave the scheme's own port out of it and of `Host` alike.
pub(super) fn own_origin(
    target: Option<&Authority>,
    fields: &HeaderMap,
    is_tls: IsTls,
) -> Option<String> {
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
    fn allowed_pages_need_a_key_and_their_preflights_none() {
        use AllowedPage::{Preflight, Request};

        use crate::server::principal::Source;
        let judged = |page, principal: Option<Principal>, site: Option<&str>| {
            let fields = site.map(|site| (SEC_FETCH_SITE, HeaderValue::from_str(site).unwrap()));
            allowed_page(page, principal.as_ref(), &fields.into_iter().collect())
        };
        let key = Some(Principal::Key("0a1b2c3d".parse().unwrap()));
        let loopback = Principal::Local(Source::Ip("127.0.0.1".parse().unwrap()));
        let user = Principal::Local(Source::User(0));
        for principal in [None, Some(loopback), Some(user), Some(Principal::Url)] {
            let refused = judged(Request, principal, Some("cross-site"));
            assert_eq!(refused, Some(PageError::ForeignOrigin), "{principal:?}");
            assert_eq!(judged(Preflight, principal, Some("cross-site")), None);
        }
        for site in [None, Some("cross-site"), Some("same-site"), Some("same-origin")] {
            assert_eq!(judged(Request, key, site), None, "{site:?}");
        }
        for page in [Request, Preflight] {
            for site in ["", "of-tomorrow", "cross-site, none"] {
                assert_eq!(judged(page, key, Some(site)), Some(PageError::CrossSite), "{site}");
            }
        }
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
