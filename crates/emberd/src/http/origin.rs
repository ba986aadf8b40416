//! Keeps web pages out. The API is for programs; a browser would send requests to it on
//! behalf of any page that is open, and says so: with `Origin` on all but plain reads, and with
//! `Sec-Fetch-Site` on those too.

use axum::extract::Request;
use axum::http::header::ORIGIN;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use emberd_api::ErrorCode;

use super::errors::ApiError;
use crate::server::observe::FromPage;

/// What the page that asks is to the daemon (W3C Fetch Metadata). No program sends it, and no
/// page can.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Refuses what a web page sent, before anything else is looked at.
pub async fn refuse_pages(request: Request, next: Next) -> Response {
    let Some(code) = page(request.headers()) else { return next.run(request).await };
    let hint = match code {
        ErrorCode::CrossSite => "type the address, or call the API from a program",
        _ => "call it from a program; a request with an `Origin` header is refused",
    };
    let refusal = ApiError::new(code, "web pages may not use this API").hint(hint);
    let mut response = refusal.into_response();
    response.extensions_mut().insert(FromPage);
    response
}

/// Why a request with these fields is a page's.
fn page(fields: &HeaderMap) -> Option<ErrorCode> {
    if fields.contains_key(ORIGIN) {
        return Some(ErrorCode::ForeignOrigin);
    }
    let mut sites = fields.get_all(SEC_FETCH_SITE).iter();
    (!sites.all(is_own)).then_some(ErrorCode::CrossSite)
}

/// Whether nobody but the user, or the daemon's own answers, made a browser ask: the address was
/// typed (`none`), or an answer that is shown refers to another (`same-origin`; a page whose name
/// was made to point here says that too, and is refused by its `Host`). What is unknown is not.
fn is_own(site: &HeaderValue) -> bool {
    matches!(site.as_bytes(), b"none" | b"same-origin")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_pages_are_told_from_those_of_programs_and_people() {
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
            assert_eq!(judged(&[site(value)]), Some(ErrorCode::CrossSite), "{value}");
        }
        assert_eq!(judged(&[site("none"), site("cross-site")]), Some(ErrorCode::CrossSite));
        let origin = (ORIGIN, "http://localhost");
        assert_eq!(judged(&[site("same-origin"), origin]), Some(ErrorCode::ForeignOrigin));
    }
}
