//! Heads of HTTP/1 requests (RFC 9112), read so strictly that no server reads them another way.
//!
//! What parsers differ on is refused: bare line feeds, folded lines, space before a colon, a body
//! with both lengths, several hosts. Responses are not read.

use std::net::IpAddr;

use emberd_proto::EgressReason;

use crate::name::Name;

/// Largest head, in bytes (128 KiB).
pub(crate) const HEAD_BYTES_MAX: usize = 128 << 10;

/// Most fields of one head.
const FIELDS_MAX: usize = 200;

/// Most digits of a chunk's length: 2⁶⁰ bytes.
const CHUNK_DIGITS_MAX: usize = 15;

/// Longest line of a chunk's length, with its extensions, in bytes.
const CHUNK_LINE_BYTES_MAX: usize = 4096;

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Bytes of the head.
    pub bytes: usize,
    /// The method.
    pub method: String,
    /// The path, without the query.
    pub path: String,
    /// The host that it is for.
    pub host: Host,
    /// The port that it is for, if it names one.
    pub port: Option<u16>,
    /// The body behind the head.
    pub body: Body,
}

/// The host of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A name.
    Name(Name),
    /// An address.
    Address(IpAddr),
}

/// How the body of a request is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// By its length in bytes, which may be 0.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// Reads the head of a request; none until it is whole.
///
/// # Errors
/// [`EgressReason::NotHttp`] for what is malformed or not carried, [`EgressReason::HostMismatch`]
/// for a request that does not name one host.
pub fn read(bytes: &[u8]) -> Result<Option<Head>, EgressReason> {
    let most = &bytes[..bytes.len().min(HEAD_BYTES_MAX)];
    let Some(end) = find(most, b"\r\n\r\n") else {
        let is_text = most.iter().all(|byte| is_text(*byte) || matches!(byte, b'\r' | b'\n'));
        let is_too_large = most.len() == HEAD_BYTES_MAX;
        let begins_well = most.first().is_none_or(|byte| is_token(*byte));
        return if is_text && begins_well && !is_too_large { Ok(None) } else { Err(NOT_HTTP) };
    };
    // Bytes that are not ASCII are allowed in values; they never delimit.
    let text: String = most[..end].iter().map(|byte| char::from(*byte)).collect();
    let mut lines = text.split("\r\n");
    let request = lines.next().unwrap_or_default();
    let mut fields = Fields::default();
    for (count, line) in (1..).zip(lines) {
        if count > FIELDS_MAX {
            return Err(NOT_HTTP);
        }
        fields.add(line)?;
    }
    fields.head(end + 4, request).map(Some)
}

const NOT_HTTP: EgressReason = EgressReason::NotHttp;

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

/// Whether a byte may stand in a line: visible characters, spaces, tabs and what is not ASCII.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || byte >= b' ' && byte != 0x7f
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn is_token_text(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_token)
}

/// The fields that matter.
#[derive(Default)]
struct Fields<'a> {
    host: Option<&'a str>,
    length: Option<u64>,
    is_chunked: bool,
}

impl<'a> Fields<'a> {
    fn add(&mut self, line: &'a str) -> Result<(), EgressReason> {
        let (name, value) = line.split_once(':').ok_or(NOT_HTTP)?;
        // Refuses folded lines and space before the colon, too.
        if !is_token_text(name) || !value.chars().all(|c| u8::try_from(c).is_ok_and(is_text)) {
            return Err(NOT_HTTP);
        }
        let value = value.trim_matches([' ', '\t']);
        match name.to_ascii_lowercase().as_str() {
            "host" if self.host.is_some() => Err(EgressReason::HostMismatch),
            "host" => {
                self.host = Some(value);
                Ok(())
            }
            "content-length" => {
                let is_number = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
                let length = value.parse().ok().filter(|_| is_number && self.length.is_none());
                self.length = Some(length.ok_or(NOT_HTTP)?);
                Ok(())
            }
            "transfer-encoding" if self.is_chunked || !value.eq_ignore_ascii_case("chunked") => {
                Err(NOT_HTTP)
            }
            "transfer-encoding" => {
                self.is_chunked = true;
                Ok(())
            }
            // Another protocol would follow that is not read, HTTP/2 among them.
            "upgrade" | "http2-settings" => Err(NOT_HTTP),
            _ => Ok(()),
        }
    }

    fn head(&self, bytes: usize, request: &str) -> Result<Head, EgressReason> {
        let mut words = request.split(' ');
        let (Some(method), Some(target), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(NOT_HTTP);
        };
        let is_target = target.bytes().all(|byte| byte > b' ' && byte < 0x7f);
        if !is_token_text(method) || !is_target || matches!(method, "CONNECT" | "TRACE") {
            return Err(NOT_HTTP);
        }
        let is_old = match version {
            "HTTP/1.1" => false,
            "HTTP/1.0" => true,
            _ => return Err(NOT_HTTP),
        };
        let body = match (self.length, self.is_chunked) {
            (Some(_), true) => return Err(NOT_HTTP),
            (None, true) if is_old => return Err(NOT_HTTP),
            (None, true) => Body::Chunked,
            (length, false) => Body::Length(length.unwrap_or(0)),
        };
        let authority = self.host.ok_or(EgressReason::HostMismatch)?;
        let (host, port) = host_and_port(authority)?;
        let path = match target.strip_prefix("http://") {
            // A request as proxies get it; servers must take its host.
            Some(absolute) => {
                let end = absolute.find(['/', '?']).unwrap_or(absolute.len());
                let (of_target, rest) = absolute.split_at(end);
                if host_and_port(of_target)? != (host.clone(), port) {
                    return Err(EgressReason::HostMismatch);
                }
                if rest.starts_with('/') { rest } else { "/" }
            }
            None if target.starts_with('/') => target,
            None if target == "*" && method == "OPTIONS" => target,
            None => return Err(NOT_HTTP),
        };
        let path = path.split(['?', '#']).next().unwrap_or_default().to_owned();
        Ok(Head { bytes, method: method.to_owned(), path, host, port, body })
    }
}

fn host_and_port(authority: &str) -> Result<(Host, Option<u16>), EgressReason> {
    let bad = EgressReason::HostMismatch;
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (address, port) = rest.split_once(']').ok_or(bad)?;
        let address: std::net::Ipv6Addr = address.parse().map_err(|_| bad)?;
        let port = if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or(bad)?) };
        (Host::Address(IpAddr::V6(address).to_canonical()), port)
    } else {
        let (host, port) = match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        };
        let host = match host.parse() {
            Ok(address) => Host::Address(IpAddr::V4(address)),
            Err(_) => Host::Name(Name::parse(host).map_err(|_| bad)?),
        };
        (host, port)
    };
    let is_number = |port: &&str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let number = |port: &str| Some(port).filter(is_number).and_then(|port| port.parse().ok());
    match port {
        None => Ok((host, None)),
        Some(port) => Ok((host, Some(number(port).ok_or(bad)?))),
    }
}

/// Follows a body in chunks, to find its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunks {
    /// Before the line with the length of a chunk.
    Length,
    /// Within a chunk, of which so many bytes and the end of the line are to come.
    Data(u64),
    /// Before a line of the trailer.
    Trailer,
    /// At the end of the body.
    End,
}

impl Chunks {
    /// Returns how many of `bytes` belong to the next piece of the body, and the state after it;
    /// none until there are more bytes.
    ///
    /// # Errors
    /// [`EgressReason::NotHttp`] for what is malformed.
    pub fn next(self, bytes: &[u8]) -> Result<Option<(usize, Self)>, EgressReason> {
        match self {
            Self::End => Ok(None),
            Self::Data(left) => {
                let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                if here > 0 {
                    let left = left - here as u64;
                    return Ok(Some((here, Self::Data(left))));
                }
                match bytes {
                    [b'\r', b'\n', ..] => Ok(Some((2, Self::Length))),
                    [] | [b'\r'] => Ok(None),
                    _ => Err(NOT_HTTP),
                }
            }
            Self::Length | Self::Trailer => {
                let Some(end) = find(&bytes[..bytes.len().min(CHUNK_LINE_BYTES_MAX)], b"\r\n")
                else {
                    return if bytes.len() < CHUNK_LINE_BYTES_MAX {
                        Ok(None)
                    } else {
                        Err(NOT_HTTP)
                    };
                };
                let line = &bytes[..end];
                if !line.iter().all(|byte| is_text(*byte)) {
                    return Err(NOT_HTTP);
                }
                let next = match self {
                    Self::Length => match chunk_length(line)? {
                        0 => Self::Trailer,
                        length => Self::Data(length),
                    },
                    _ if line.is_empty() => Self::End,
                    _ => Self::Trailer,
                };
                Ok(Some((end + 2, next)))
            }
        }
    }
}

/// The length at the beginning of a chunk's line; extensions may follow it.
fn chunk_length(line: &[u8]) -> Result<u64, EgressReason> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
    let digits = std::str::from_utf8(digits).map_err(|_| NOT_HTTP)?.trim_end_matches([' ', '\t']);
    let is_number = (1..=CHUNK_DIGITS_MAX).contains(&digits.len())
        && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let length = is_number.then(|| u64::from_str_radix(digits, 16).ok()).flatten();
    length.ok_or(NOT_HTTP)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(head: &str) -> Result<Option<Head>, EgressReason> {
        read(head.replace('\n', "\r\n").as_bytes())
    }

    fn name(text: &str) -> Host {
        Host::Name(Name::parse(text).unwrap())
    }

    #[test]
    fn requests_are_read() {
        let head =
            of("GET /a/b?q=1 HTTP/1.1\nHost: A.example\nAccept: */*\n\nmore").unwrap().unwrap();
        assert_eq!((head.method.as_str(), head.path.as_str()), ("GET", "/a/b"));
        assert_eq!((head.host, head.port, head.body), (name("a.example"), None, Body::Length(0)));
        assert_eq!(head.bytes, "GET /a/b?q=1 HTTP/1.1..Host: A.example..Accept: */*....".len());
        let head =
            of("POST / HTTP/1.1\nhost:a.example:8080\ncontent-length: 5\n\n").unwrap().unwrap();
        assert_eq!((head.port, head.body), (Some(8080), Body::Length(5)));
        let head =
            of("PUT http://a.example/x HTTP/1.1\nHost: a.example\ntransfer-encoding: Chunked\n\n");
        let head = head.unwrap().unwrap();
        assert_eq!((head.path.as_str(), head.body), ("/x", Body::Chunked));
        let head = of("GET / HTTP/1.1\nHost: [2606:4700::1]\n\n").unwrap().unwrap();
        assert_eq!(head.host, Host::Address("2606:4700::1".parse().unwrap()));
        let latin = b"GET / HTTP/1.1\r\nHost: a.example\r\nX: \xe9\r\n\r\n";
        assert!(read(latin).unwrap().is_some());
        for bytes in 0.."GET / HTTP/1.1\r\nHost: a.example\r\n\r\n".len() {
            let part = &b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"[..bytes];
            assert_eq!(read(part), Ok(None), "{bytes}");
        }
    }

    #[test]
    fn forms_that_are_not_carried_are_refused() {
        for head in [
            "CONNECT a.example:443 HTTP/1.1\nHost: a.example\n\n",
            "TRACE / HTTP/1.1\nHost: a.example\n\n",
            "PRI * HTTP/2.0\n\n",
            "GET / HTTP/1.1\nHost: a.example\nUpgrade: h2c\n\n",
            "GET / HTTP/1.1\nHost: a.example\nUpgrade: websocket\n\n",
            "POST / HTTP/1.1\nHost: a.example\nContent-Length: 1\nTransfer-Encoding: chunked\n\n",
            "POST / HTTP/1.1\nHost: a.example\nContent-Length: 1\nContent-Length: 1\n\n",
            "POST / HTTP/1.1\nHost: a.example\nContent-Length: 1, 1\n\n",
            "POST / HTTP/1.1\nHost: a.example\nContent-Length: +1\n\n",
            "POST / HTTP/1.1\nHost: a.example\nTransfer-Encoding: gzip, chunked\n\n",
            "POST / HTTP/1.1\nHost: a.example\nTransfer-Encoding: xchunked\n\n",
            "POST / HTTP/1.0\nHost: a.example\nTransfer-Encoding: chunked\n\n",
            "GET / HTTP/1.1\nHost : a.example\n\n",
            "GET / HTTP/1.1\nHost: a.example\n folded: b\n\n",
            "GET / HTTP/1.1\nHost: a.example\nX\n\n",
            "GET  / HTTP/1.1\nHost: a.example\n\n",
            "GET / HTTP/1.1 \nHost: a.example\n\n",
            "GET a.example HTTP/1.1\nHost: a.example\n\n",
            "GET / HTTP/1.2\nHost: a.example\n\n",
            "GET / HTTP/1.1\nHost: a.example\nX: a\0b\n\n",
            "\n\n",
        ] {
            assert_eq!(of(head), Err(NOT_HTTP), "{head:?}");
        }
        let many = "X: y\n".repeat(FIELDS_MAX);
        assert_eq!(of(&format!("GET / HTTP/1.1\nHost: a.example\n{many}\n")), Err(NOT_HTTP));
        assert_eq!(read(&b"a".repeat(HEAD_BYTES_MAX)), Err(NOT_HTTP));
        assert_eq!(read(b"\x16\x03\x01"), Err(NOT_HTTP));
        // A line feed alone ends a line for some servers.
        let bare = b"GET / HTTP/1.1\r\nHost: a.example\nX: y\r\n\r\n";
        assert_eq!(read(bare), Err(NOT_HTTP));
    }

    #[test]
    fn a_request_names_one_host() {
        for head in [
            "GET / HTTP/1.1\n\n",
            "GET / HTTP/1.1\nHost: a.example\nHost: b.example\n\n",
            "GET / HTTP/1.1\nHost: a.example\nHost: a.example\n\n",
            "GET / HTTP/1.1\nHost:\n\n",
            "GET / HTTP/1.1\nHost: a.example, b.example\n\n",
            "GET / HTTP/1.1\nHost: a.example:\n\n",
            "GET / HTTP/1.1\nHost: a.example:+80\n\n",
            "GET / HTTP/1.1\nHost: user@a.example\n\n",
            "GET http://b.example/ HTTP/1.1\nHost: a.example\n\n",
            "GET http://a.example@b.example/ HTTP/1.1\nHost: a.example\n\n",
        ] {
            let refusal = of(head);
            assert_eq!(refusal, Err(EgressReason::HostMismatch), "{head:?}");
        }
    }

    /// Bytes of a body in chunks, fed piece by piece.
    fn body_bytes(mut bytes: &[u8]) -> Result<Option<usize>, EgressReason> {
        let (mut state, mut taken) = (Chunks::Length, 0);
        while state != Chunks::End {
            let Some((here, next)) = state.next(bytes)? else { return Ok(None) };
            bytes = &bytes[here..];
            (taken, state) = (taken + here, next);
        }
        Ok(Some(taken))
    }

    #[test]
    fn the_end_of_a_body_in_chunks_is_found() {
        for body in
            ["0\r\n\r\n", "5\r\nhello\r\n0\r\n\r\n", "A;x=y\r\n0123456789\r\n0\r\nT: u\r\n\r\n"]
        {
            let followed = [body.as_bytes(), b"GET / HTTP/1.1\r\n"].concat();
            assert_eq!(body_bytes(&followed), Ok(Some(body.len())), "{body:?}");
            for bytes in 0..body.len() {
                assert_eq!(body_bytes(&body.as_bytes()[..bytes]), Ok(None), "{body:?} {bytes}");
            }
        }
        let long = format!("{}\r\n", "1".repeat(CHUNK_DIGITS_MAX + 1));
        for body in ["5\r\nhelloX", "x\r\n", "-1\r\n", "0x5\r\n", "\r\n", "5\nhello\r\n", &long] {
            assert_eq!(body_bytes(body.as_bytes()), Err(NOT_HTTP), "{body:?}");
        }
        assert_eq!(body_bytes(&b"1;".repeat(CHUNK_LINE_BYTES_MAX)), Err(NOT_HTTP));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(read(&bytes));
            drop(read(&[&b"GET / HTTP/1.1\r\nHost: a\r\n"[..], &bytes, b"\r\n\r\n"].concat()));
            let end = body_bytes(&bytes).unwrap_or(None);
            prop_assert!(end.is_none_or(|end| end <= bytes.len()));
        }
    }
}
