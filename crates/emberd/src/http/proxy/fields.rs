//! Header fields of requests and responses that pass through: fields of one connection are removed,
//! and the caller's address is added (RFC 9110 §7.6.1).

use std::net::IpAddr;

use axum::http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use emberd_api::{PORT_HEADER, SANDBOX_HEADER};

use crate::http::credential::strip_keys;
use crate::http::url_token::strip_cookie;

/// The addresses that a request passed, nearest last.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The host that the caller named.
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Scheme of the caller's request: `http` or `https`.
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Fields of one connection, whether or not `Connection` names them.
const OF_ONE_CONNECTION: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Turns a caller's fields into those of the request to the guest. `Host` stays: servers make links
/// with it and compare it with `Origin`. Returns the protocol of an upgrade that the caller asks
/// for; the request asks for it too.
///
/// Each request has its own connection, which closes after it.
pub fn for_guest(fields: &mut HeaderMap, caller: Option<IpAddr>) -> Option<HeaderValue> {
    let protocol = asked_upgrade(fields);
    if fields.contains_key(TRANSFER_ENCODING) {
        // Of two lengths, this is the one that is ignored (RFC 9112 §6.3).
        fields.remove(CONTENT_LENGTH);
    }
    strip(fields);
    // The daemon sends `100 Continue` itself, once the guest can take the body.
    fields.remove(EXPECT);
    strip_keys(fields);
    strip_cookie(fields);
    fields.remove(SANDBOX_HEADER);
    fields.remove(PORT_HEADER);
    if let Some(ip) = caller {
        let before = fields.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
        let all: Vec<_> = before.map(str::to_owned).chain([ip.to_string()]).collect();
        if let Ok(value) = HeaderValue::try_from(all.join(", ")) {
            fields.insert(FORWARDED_FOR, value);
        }
    }
    if let Some(host) = fields.get(HOST).cloned() {
        fields.entry(FORWARDED_HOST).or_insert(host);
    }
    fields.entry(FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
    match &protocol {
        Some(_) => upgrade(fields, protocol.clone()),
        None => drop(fields.insert(CONNECTION, HeaderValue::from_static("close"))),
    }
    protocol
}

/// Turns a guest's fields into those of the response to the caller.
pub fn for_caller(fields: &mut HeaderMap) {
    if fields.contains_key(TRANSFER_ENCODING) {
        fields.remove(CONTENT_LENGTH);
    }
    strip(fields);
}

/// Adds the fields that ask for an upgrade, or accept it.
pub fn upgrade(fields: &mut HeaderMap, protocol: Option<HeaderValue>) {
    fields.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Some(protocol) = protocol {
        fields.insert(UPGRADE, protocol);
    }
}

fn asked_upgrade(fields: &HeaderMap) -> Option<HeaderValue> {
    let named = named_by_connection(fields).any(|name| name.eq_ignore_ascii_case("upgrade"));
    fields.get(UPGRADE).filter(|_| named).cloned()
}

fn named_by_connection(fields: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = fields.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

fn strip(fields: &mut HeaderMap) {
    // `Connection` cannot remove the fields that name the destination of a request.
    let named: Vec<HeaderName> = named_by_connection(fields)
        .filter_map(|name| name.parse().ok())
        .filter(|name| *name != HOST && *name != CONTENT_LENGTH)
        .collect();
    for name in named.iter().chain(&OF_ONE_CONNECTION) {
        fields.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[(&'static str, &str)]) -> HeaderMap {
        let pair =
            |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), value.parse());
        lines.iter().map(pair).map(|(name, value)| (name, value.unwrap())).collect()
    }

    #[test]
    fn what_belongs_to_one_connection_stays_behind() {
        let mut asked = fields(&[
            ("host", "8000-sb-0123456789ab.localhost"),
            ("connection", "keep-alive, X-Secret , host"),
            ("keep-alive", "timeout=5"),
            ("x-secret", "1"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("content-length", "5"),
            ("upgrade", "not-asked-for"),
            ("expect", "100-continue"),
            ("x-emberd-sandbox", "sb_0123456789ab"),
            ("x-emberd-port", "80"),
            ("cookie", "a=b"),
        ]);
        assert_eq!(for_guest(&mut asked, None), None);
        let expect = fields(&[
            ("host", "8000-sb-0123456789ab.localhost"),
            ("cookie", "a=b"),
            ("x-forwarded-host", "8000-sb-0123456789ab.localhost"),
            ("x-forwarded-proto", "http"),
            ("connection", "close"),
        ]);
        assert_eq!(asked, expect);
    }

    #[test]
    fn upgrade_is_asked_for_again() {
        let mut asked = fields(&[("connection", "keep-alive, upgrade"), ("upgrade", "websocket")]);
        assert_eq!(for_guest(&mut asked, None).unwrap(), "websocket");
        assert_eq!(
            (&asked["connection"], &asked["upgrade"]),
            (&HeaderValue::from_static("Upgrade"), &HeaderValue::from_static("websocket"))
        );
    }

    #[test]
    fn who_asked_is_told_behind_what_was_told_before() {
        let mut asked = fields(&[
            ("host", "inner"),
            ("x-forwarded-for", "192.0.2.1"),
            ("x-forwarded-host", "outer"),
            ("x-forwarded-proto", "https"),
        ]);
        for_guest(&mut asked, Some([127, 0, 0, 1].into()));
        assert_eq!(asked["x-forwarded-for"], "192.0.2.1, 127.0.0.1");
        assert_eq!(
            (&asked["x-forwarded-host"], &asked["x-forwarded-proto"]),
            (&HeaderValue::from_static("outer"), &HeaderValue::from_static("https"))
        );
    }
}
