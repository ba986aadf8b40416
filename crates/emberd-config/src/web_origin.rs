//! Origins of web pages, written as browsers write them in the field `Origin` (RFC 6454 §6.2).

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use emberd_api::split_port_host;
use http::Uri;

/// Most origins of pages.
pub(crate) const WEB_ORIGINS_MAX: usize = 16;

/// Longest origin, in bytes.
pub(crate) const WEB_ORIGIN_BYTES_MAX: usize = 255;

/// Longest part of a host name between dots, in bytes (RFC 1035 §2.3.4).
const LABEL_BYTES_MAX: usize = 63;

/// Longest host name, in bytes.
const HOST_BYTES_MAX: usize = 253;

/// The origin of a web page: scheme, host, and the port unless it is the scheme's own. In lower
/// case; never `null`, and never that of a port inside a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebOrigin(String);

impl WebOrigin {
    /// The value of `Origin` in requests of its pages.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for WebOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for WebOrigin {
    type Err = String;

    /// Reads `SCHEME://HOST[:PORT]`. The error says what to write instead.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('*') {
            return Err("one origin: write each, such as https://console.example".to_owned());
        }
        if text.eq_ignore_ascii_case("null") {
            return Err("an origin of one site: files and frames in a sandbox have `null`, all \
                alike; serve the page, such as from http://localhost:3000"
                .to_owned());
        }
        let expected = || "an origin such as https://console.example".to_owned();
        let (scheme, rest) = text.split_once("://").ok_or_else(expected)?;
        let scheme = scheme.to_ascii_lowercase();
        let port_of_scheme = match scheme.as_str() {
            "http" => 80,
            "https" => 443,
            _ => return Err("an origin with http or https".to_owned()),
        };
        let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let address = authority.rsplit_once('@').map_or(authority, |(_, address)| address);
        let (host, port) = host_and_port(&format!("{scheme}://{address}"))?;
        if split_port_host(&host).is_some() {
            return Err("an origin of yours: programs in a sandbox make the pages of its ports, \
                and would have the key of who opens them"
                .to_owned());
        }
        let port = port.filter(|port| *port != port_of_scheme);
        let origin = match port {
            Some(port) => format!("{scheme}://{host}:{port}"),
            None => format!("{scheme}://{host}"),
        };
        match (address == authority, path.is_empty()) {
            (true, true) => Ok(Self(origin)),
            (false, _) => Err(format!("an origin without a user: write {origin}")),
            (true, false) => Err(format!("an origin without a path: write {origin}")),
        }
    }
}

/// Host, in lower case, and port of a URL that has no more than these.
fn host_and_port(url: &str) -> Result<(String, Option<u16>), String> {
    let uri = url.parse::<Uri>().ok();
    let authority = uri.as_ref().and_then(Uri::authority).ok_or_else(|| {
        "an origin with a host in ASCII, such as https://console.example; a name with other \
            letters is written as `xn--…`"
            .to_owned()
    })?;
    let port = match authority.as_str().strip_prefix(authority.host()) {
        Some("") => None,
        Some(text) => {
            let digits = text.bytes().skip(1).all(|byte| byte.is_ascii_digit());
            let port = authority.port_u16().filter(|port| digits && *port > 0);
            Some(port.ok_or_else(|| "an origin with a port from 1 to 65535".to_owned())?)
        }
        None => return Err("an origin such as https://console.example".to_owned()),
    };
    Ok((host(&authority.host().to_ascii_lowercase())?, port))
}

/// A host as browsers write it: an address in its shortest form.
fn host(host: &str) -> Result<String, String> {
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        let address = address.parse::<Ipv6Addr>().ok();
        // Browsers write those with an IPv4 address inside in another way than Rust.
        let plain = address.filter(|address| address.to_ipv4().is_none() || address.is_loopback());
        let expected = || "an origin with an IPv6 address such as http://[::1]:3000".to_owned();
        return plain.map(|address| format!("[{address}]")).ok_or_else(expected);
    }
    let labels: Vec<_> = host.split('.').collect();
    // Browsers read a name with such an end as an IPv4 address, in whatever form.
    let last = labels.last().copied().unwrap_or_default();
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number(last) && !last.is_empty() || last.starts_with("0x") {
        let expected = || "an origin with an IPv4 address such as http://192.0.2.1:3000".to_owned();
        return host.parse::<Ipv4Addr>().map(|it| it.to_string()).map_err(|_| expected());
    }
    let plain = |label: &&str| {
        let mut bytes = label.bytes();
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let is_name = host.len() <= HOST_BYTES_MAX && labels.iter().all(plain);
    let expected = || "an origin with the name of a host, such as https://console.example";
    is_name.then(|| host.to_owned()).ok_or_else(|| expected().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_written_as_browsers_do() {
        for (text, origin) in [
            ("https://console.example", "https://console.example"),
            ("HTTPS://Console.EXAMPLE:443", "https://console.example"),
            ("http://a:80", "http://a"),
            ("http://a:443", "http://a:443"),
            ("https://a:80", "https://a:80"),
            ("http://localhost:03000", "http://localhost:3000"),
            ("http://127.0.0.1:3000", "http://127.0.0.1:3000"),
            ("http://[::1]:3000", "http://[::1]:3000"),
            ("http://[2001:DB8:0:0::1]", "http://[2001:db8::1]"),
            ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
            ("http://build_box", "http://build_box"),
            ("https://x.8000-sb-0123456789ab.example", "https://x.8000-sb-0123456789ab.example"),
        ] {
            assert_eq!(text.parse::<WebOrigin>().as_ref().map(WebOrigin::as_str), Ok(origin));
        }
    }

    #[test]
    fn what_is_no_origin_is_refused_with_what_to_write() {
        for (text, said) in [
            ("", "an origin such as https://console.example"),
            ("console.example", "an origin such as https://console.example"),
            ("localhost:3000", "an origin such as https://console.example"),
            ("//a", "an origin such as https://console.example"),
            ("*", "one origin"),
            ("https://*.example", "one origin"),
            ("null", "files and frames"),
            ("NULL", "files and frames"),
            ("ftp://a", "an origin with http or https"),
            ("file:///a", "an origin with http or https"),
            ("chrome-extension://abc", "an origin with http or https"),
            ("https://A.example:443/", "without a path: write https://a.example"),
            ("http://a:3000/b?c", "without a path: write http://a:3000"),
            ("http://a?c", "without a path: write http://a"),
            ("http://a#c", "without a path: write http://a"),
            ("http://a\\b", "without a path: write http://a"),
            ("https://me:secret@a.example", "without a user: write https://a.example"),
            ("https://me@a.example/b", "without a user: write https://a.example"),
            ("https://", "with a host in ASCII"),
            ("https://b\u{fc}cher.example", "xn--"),
            ("https://a b", "with a host in ASCII"),
            ("http://a:", "a port from 1 to 65535"),
            ("http://a:0", "a port from 1 to 65535"),
            ("http://a:65536", "a port from 1 to 65535"),
            ("http://a:+1", "a port from 1 to 65535"),
            ("http://a..b", "the name of a host"),
            ("http://a.", "the name of a host"),
            ("http://.", "the name of a host"),
            ("http://a%41", "with"),
            ("http://a,b", "the name of a host"),
            ("http://2130706433", "an IPv4 address"),
            ("http://127.1", "an IPv4 address"),
            ("http://0x7f.0.0.0x1", "an IPv4 address"),
            ("http://[::ffff:127.0.0.1]", "an IPv6 address"),
            ("http://[::1", "with"),
            ("http://[x]", "an IPv6 address"),
            ("http://8000-sb-0123456789ab.localhost:7777", "programs in a sandbox"),
            ("https://8000-SB_0123456789AB.example", "programs in a sandbox"),
            ("https://1-sb-.example", "programs in a sandbox"),
        ] {
            let error = text.parse::<WebOrigin>().unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
        let long = format!("http://{}.example", "a".repeat(64));
        assert!(long.parse::<WebOrigin>().unwrap_err().contains("the name of a host"));
    }
}
