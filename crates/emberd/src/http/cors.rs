//! Serves the web pages of other origins that the operator allows (CORS, of the Fetch standard).
//!
//! ```text
//! OPTIONS ahead of a request ─▶ 204 with what a page may send: browsers send no key then
//! the request ────────────────▶ a key, and nothing in its place ─▶ as any caller with the key
//! every answer ───────────────▶ may be read by that origin
//! ```
//! A port of a sandbox is left alone: the server there decides which pages it serves.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
    VARY,
};
use axum::http::{HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::Response;
use emberd_config::WebOrigin;

use super::origin::{AllowedPage, IsTls, own_origin};
use super::proxy::is_for_port;

/// Every method of the API.
const METHODS: &str = "DELETE, GET, HEAD, PATCH, POST, PUT";

/// Fields that the API reads and a page may set. Those that lead to a port are not among them.
const READ: &str = "accept, authorization, content-encoding, content-type, idempotency-key, \
    last-event-id, mcp-method, mcp-name, mcp-protocol-version, range, traceparent, tracestate, \
    x-api-key";

/// Fields of answers that a page may read, beside those that it always may.
const EXPOSED: &str = "accept-ranges, content-range, idempotent-replayed, retry-after, \
    server-timing, www-authenticate, x-emberd-unknown-fields, x-request-id";

/// How long a browser remembers what a page may send, in seconds: no browser does for longer than
/// a day, and some for two hours. Requests of a page that is allowed no more are refused at once.
const REMEMBERED_SECONDS: &str = "7200";

/// Fields of the answer to a preflight.
const PREFLIGHT: &[(HeaderName, &str)] = &[
    (ACCESS_CONTROL_ALLOW_METHODS, METHODS),
    (ACCESS_CONTROL_ALLOW_HEADERS, READ),
    (ACCESS_CONTROL_MAX_AGE, REMEMBERED_SECONDS),
];

/// Fields of other answers.
const ANSWER: &[(HeaderName, &str)] = &[(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED)];

/// Origins of the pages that are served.
#[derive(Debug, Clone, Default)]
pub struct Pages(Arc<[HeaderValue]>);

impl Pages {
    /// The pages of `origins`.
    ///
    /// # Panics
    /// Never: an origin has visible characters only.
    pub fn new(origins: &[WebOrigin]) -> Self {
        let value = |origin: &WebOrigin| HeaderValue::try_from(origin.as_str());
        Self(origins.iter().map(|origin| value(origin).expect("visible characters")).collect())
    }

    /// The state of [`share`] on a listener; none if no page is served.
    pub fn on(&self, is_tls: IsTls) -> Option<(Self, IsTls)> {
        (!self.0.is_empty()).then(|| (self.clone(), is_tls))
    }

    /// The origin of the page that a request comes from, if that is among these. The daemon's own
    /// needs nobody's leave.
    fn origin_of(&self, request: &Request, is_tls: IsTls) -> Option<HeaderValue> {
        let fields = request.headers();
        let mut origins = fields.get_all(ORIGIN).iter();
        let (Some(origin), None) = (origins.next(), origins.next()) else { return None };
        let allowed = self.0.iter().find(|allowed| *allowed == origin)?;
        let own = own_origin(request.uri().authority(), fields, is_tls);
        (own.is_none_or(|own| own.as_bytes() != origin.as_bytes())).then(|| allowed.clone())
    }
}

/// Marks requests of allowed pages, and lets these read the answers.
pub async fn share(
    State((pages, is_tls)): State<(Pages, IsTls)>,
    mut request: Request,
    next: Next,
) -> Response {
    if is_for_port(&request) {
        return next.run(request).await;
    }
    let origin = pages.origin_of(&request, is_tls);
    let asks = request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let is_preflight = asks && request.method() == Method::OPTIONS;
    if origin.is_some() {
        let page = if is_preflight { AllowedPage::Preflight } else { AllowedPage::Request };
        request.extensions_mut().insert(page);
    }
    let mut response = next.run(request).await;
    let fields = response.headers_mut();
    // Without an origin too: a cache must not give that answer to a page.
    fields.append(VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = origin {
        fields.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        let more = if is_preflight { PREFLIGHT } else { ANSWER };
        let more = more.iter().map(|(name, text)| (name.clone(), HeaderValue::from_static(text)));
        fields.extend(more);
    }
    response
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use axum::body::Body;
    use emberd_api::{PORT_HEADER, REQUEST_ID_HEADER, SANDBOX_HEADER};
    use utoipa::openapi::RefOr;
    use utoipa::openapi::path::ParameterIn;

    use super::super::operations::operations;
    use super::super::scope::{CALLERS, PUBLIC, SCOPES};
    use super::*;

    fn names(list: &str) -> BTreeSet<&str> {
        list.split(", ").collect()
    }

    #[test]
    fn pages_may_use_every_method_of_the_api_and_no_other() {
        let scopes = SCOPES.iter().map(|(method, ..)| *method);
        let public = PUBLIC.iter().map(|(method, _)| *method);
        let callers = CALLERS.iter().map(|(method, ..)| *method);
        let all: BTreeSet<_> = scopes.chain(public).chain(callers).chain(["HEAD"]).collect();
        assert_eq!(names(METHODS), all);
    }

    #[test]
    fn pages_may_send_and_read_every_field_of_the_document() {
        let mut document = super::super::document();
        let (sent, read) = (names(READ), names(EXPOSED));
        for (path, method, operation) in operations(&mut document) {
            for parameter in operation.parameters.iter().flatten() {
                let RefOr::T(parameter) = parameter else { panic!("{method} {path}: a reference") };
                let is_sent = parameter.parameter_in == ParameterIn::Header;
                let name = parameter.name.as_str();
                assert!(!is_sent || sent.contains(name), "{method} {path}: {name}");
            }
            for response in operation.responses.responses.values() {
                let RefOr::T(response) = response else { panic!("{method} {path}: a reference") };
                for name in response.headers.keys() {
                    assert!(read.contains(name.as_str()), "{method} {path}: {name}");
                }
            }
        }
        assert!(read.contains(REQUEST_ID_HEADER));
        // A page reaches a port by the host of its own, where the server's rules apply.
        assert!(!sent.contains(SANDBOX_HEADER) && !sent.contains(PORT_HEADER));
    }

    #[track_caller]
    fn check(fields: &[(&str, &str)], tls: bool, allowed: bool) {
        let pages = ["https://console.example", "http://localhost:3000", "http://localhost:7777"];
        let pages = Pages::new(&pages.map(|origin| origin.parse().unwrap()));
        let mut request = Request::builder();
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let origin = pages.origin_of(&request.body(Body::empty()).unwrap(), IsTls(tls));
        let expect = allowed.then_some(fields[0].1.as_bytes());
        assert_eq!(origin.as_ref().map(HeaderValue::as_bytes), expect, "{fields:?}");
    }

    #[test]
    fn a_page_is_allowed_by_its_exact_origin() {
        let host = ("host", "localhost:7777");
        for origin in ["https://console.example", "http://localhost:3000"] {
            check(&[("origin", origin), host], false, true);
        }
        for origin in [
            "http://console.example",
            "https://console.example:443",
            "https://console.example:8443",
            "https://Console.example",
            "HTTPS://console.example",
            "https://console.example/",
            "https://console.example.",
            "https://console.example.evil.example",
            "https://evil-console.example",
            "http://localhost:3001",
            "http://localhost",
            "http://127.0.0.1:3000",
            "http://8000-sb-0123456789ab.localhost:7777",
            "null",
            "",
            "*",
        ] {
            check(&[("origin", origin), host], false, false);
        }
        let one = ("origin", "https://console.example");
        check(&[one, one, host], false, false);
        check(&[one, ("origin", "https://evil.example"), host], false, false);
    }

    #[test]
    fn the_daemons_own_origin_is_not_that_of_another() {
        let own = ("origin", "http://localhost:7777");
        check(&[own, ("host", "localhost:7777")], false, false);
        check(&[own, ("host", "LOCALHOST:7777")], false, false);
        // Another daemon's, or this one's behind TLS.
        check(&[own, ("host", "localhost:7778")], false, true);
        check(&[own, ("host", "localhost:7777")], true, true);
    }
}
