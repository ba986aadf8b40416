//! Refuses requests of web pages. The API is for programs, and a browser would send requests to it
//! for any open page. The browser marks them: with `Origin` on all but plain reads, and with
//! `Sec-Fetch-Site` on all.

use axum::extract::Request;
use axum::http::header::ORIGIN;
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
    /// The request has an `Origin` header.
    ForeignOrigin,
    /// The browser names another site.
    CrossSite,
}

/// Refuses requests of web pages, before anything else is read.
pub async fn refuse_pages(request: Request, next: Next) -> Response {
    let Some(error) = page(request.headers()) else { return next.run(request).await };
    let mut response = ApiError::from(error).into_response();
    response.extensions_mut().insert(FromPage);
    response
}

/// Why a request with these header fields came from a page; none if it did not.
fn page(fields: &HeaderMap) -> Option<PageError> {
    if fields.contains_key(ORIGIN) {
        return Some(PageError::ForeignOrigin);
    }
    let mut sites = fields.get_all(SEC_FETCH_SITE).iter();
    (!sites.all(is_own)).then_some(PageError::CrossSite)
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

    #[test]
    fn requests_of_pages_are_recognised() {
        let judged = |fields: &[(HeaderName, &'static str)]| {
            let fields = fields.iter().map(|(name, value)| (name, HeaderValue::from_static(value)));
            let mut map = HeaderMap::new();
            fields.for_each(|(name, value)| {
                map.append(name, value);
            });
            page(&map)
        };
        let site = |value| (SEC_FETCH_SITE, value);
        assert_eq!(judged(&[]), None);
        assert_eq!(judged(&[site("none")]), None);
        assert_eq!(judged(&[site("same-origin")]), None);
        for value in ["cross-site", "same-site", "Cross-Site", "", "of-tomorrow", "none, none"] {
            assert_eq!(judged(&[site(value)]), Some(PageError::CrossSite), "{value}");
        }
        assert_eq!(judged(&[site("none"), site("cross-site")]), Some(PageError::CrossSite));
        let origin = (ORIGIN, "http://localhost");
        assert_eq!(judged(&[site("same-origin"), origin]), Some(PageError::ForeignOrigin));
    }
}
