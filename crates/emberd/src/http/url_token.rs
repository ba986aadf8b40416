//! Tokens of signed URLs: their form, and where requests carry them.
//!
//! ```text
//! 86400000.0a1b2c3d.Y7m…43 characters…8Q      until then (ms), for this key (or `-`), signature
//! ```

use std::time::Duration;

use axum::http::header::COOKIE;
use axum::http::{HeaderMap, HeaderValue, Uri};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use emberd_keys::KeyId;
use emberd_sandbox::{SandboxId, UrlKey};

/// Name of the parameter with a token.
pub const PARAMETER: &str = "emberd_token";

/// Name of the cookie with a token.
pub const COOKIE_NAME: &str = "emberd_port";

/// Place of the issuer in a token of a caller without a key.
const NO_ISSUER: &str = "-";

/// A URL has two tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Twice;

/// A token, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub struct Token<'a> {
    /// When it ends, on `CLOCK_BOOTTIME`.
    pub ends: Duration,
    /// The key that asked for it; it ends with that.
    pub issuer: Option<KeyId>,
    /// Everything that is signed but the port.
    pub signed: &'a str,
    pub signature: Vec<u8>,
}

impl<'a> Token<'a> {
    /// Reads a token; none if the text has the form of none.
    pub fn parse(text: &'a str) -> Option<Self> {
        let (signed, signature) = text.rsplit_once('.')?;
        let (ends_ms, issuer) = signed.split_once('.')?;
        let is_plain = !ends_ms.is_empty() && ends_ms.bytes().all(|byte| byte.is_ascii_digit());
        let ends = Duration::from_millis(ends_ms.parse().ok().filter(|_| is_plain)?);
        let issuer = if issuer == NO_ISSUER { None } else { Some(issuer.parse().ok()?) };
        Some(Self { ends, issuer, signed, signature: BASE64.decode(signature).ok()? })
    }
}

/// The text that is signed: each part has an end, so that no two ports have the same.
pub fn message(id: SandboxId, port: u16, signed: &str) -> Vec<u8> {
    format!("emberd port 1\n{id}\n{port}\n{signed}").into_bytes()
}

/// Makes the token of a port of a sandbox, which ends at `ends` (`CLOCK_BOOTTIME`), and with its
/// `issuer`.
pub fn token(
    key: &UrlKey,
    (id, port): (SandboxId, u16),
    ends: Duration,
    issuer: Option<KeyId>,
) -> String {
    let issuer = issuer.map_or_else(|| NO_ISSUER.to_owned(), |issuer| issuer.to_string());
    let signed = format!("{}.{issuer}", ends.as_millis());
    let signature = key.sign(&message(id, port, &signed));
    format!("{signed}.{}", BASE64.encode(signature))
}

/// The token in the query of a URL. Of two, it is not known which one is meant.
///
/// # Errors
/// [`Twice`].
pub fn in_query(uri: &Uri) -> Option<Result<&str, Twice>> {
    let pairs = uri.query()?.split('&').filter_map(|pair| pair.split_once('='));
    let mut tokens = pairs.filter(|(name, _)| *name == PARAMETER).map(|(_, value)| value);
    let token = tokens.next()?;
    Some(if tokens.next().is_none() { Ok(token) } else { Err(Twice) })
}

/// The tokens in cookies.
pub fn in_cookies(fields: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = fields.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = values.flat_map(|value| value.split(';')).filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        Some((name.trim(), value.trim()))
    });
    pairs.filter(|(name, _)| *name == COOKIE_NAME).map(|(_, value)| value)
}

/// Path and query of a URL without its tokens, if it has some.
pub fn without_tokens(uri: &Uri) -> Option<Uri> {
    let (path, query) = (uri.path(), uri.query()?);
    let is_token = |pair: &&str| pair.split('=').next() == Some(PARAMETER);
    if !query.split('&').any(|pair| is_token(&pair)) {
        return None;
    }
    let kept: Vec<_> = query.split('&').filter(|pair| !is_token(pair)).collect();
    let mark = if kept.is_empty() { "" } else { "?" };
    Some(format!("{path}{mark}{}", kept.join("&")).parse().expect("a part of a URL is one"))
}

/// Removes tokens from cookies, which are nobody's business in a sandbox.
pub fn strip_cookie(fields: &mut HeaderMap) {
    let is_token = |pair: &str| pair.split('=').next().map(str::trim) == Some(COOKIE_NAME);
    let has_token = |value: &HeaderValue| {
        // A value that is not text is passed on as it is, unless it may hide one.
        let name = COOKIE_NAME.as_bytes();
        value.as_bytes().windows(name.len()).any(|window| window == name)
    };
    if !fields.get_all(COOKIE).iter().any(has_token) {
        return;
    }
    let kept: Vec<_> = fields
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';').filter(|pair| !is_token(pair)).map(str::trim))
        .filter(|pair| !pair.is_empty())
        .map(str::to_owned)
        .collect();
    fields.remove(COOKIE);
    if let Ok(value) = HeaderValue::try_from(kept.join("; "))
        && !kept.is_empty()
    {
        fields.insert(COOKIE, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "sb_0123456789ab";

    #[test]
    fn tokens_are_read_back_and_nothing_like_them() {
        let text = "86400000.0a1b2c3d.c2lnbmF0dXJl";
        let token = Token::parse(text).unwrap();
        assert_eq!(token.ends, Duration::from_hours(24));
        assert_eq!(token.issuer.unwrap().as_str(), "0a1b2c3d");
        assert_eq!((token.signed, &token.signature[..]), ("86400000.0a1b2c3d", &b"signature"[..]));
        assert_eq!(Token::parse("1.-.c2ln").unwrap().issuer, None);
        for wrong in [
            "",
            ".",
            "..",
            "1.-",
            "1.-.",
            "-1.-.c2ln",
            "+1.-.c2ln",
            "x.-.c2ln",
            "1..c2ln",
            "1.short.c2ln",
            "1.-.c2l",
            "1.-.c2ln=",
            "1.-.c2+n",
            "99999999999999999999.-.c2ln",
        ] {
            let token = Token::parse(wrong);
            assert!(token.is_none_or(|token| token.signature.is_empty()), "{wrong}");
        }
        // Parts cannot be moved from one to the next.
        let id = ID.parse().unwrap();
        assert_ne!(message(id, 11, "1.-"), message(id, 1, "11.-"));
    }

    #[test]
    fn what_is_passed_on_has_no_token() {
        for (asked, expect) in [
            ("http://h/a?emberd_token=T", Some("/a")),
            ("http://h/a?x=1&emberd_token=T&y=%20", Some("/a?x=1&y=%20")),
            ("http://h/a?emberd_token=T&emberd_token=U&emberd_token", Some("/a")),
            ("http://h?emberd_token=T", Some("/")),
            ("//evil.example/?emberd_token=T", Some("//evil.example/")),
            ("http://h/a?emberd_tokens=T&a&", None),
            ("http://h", None),
            ("*", None),
        ] {
            let plain = without_tokens(&asked.parse().unwrap()).map(|uri| uri.to_string());
            assert_eq!(plain.as_deref(), expect, "{asked}");
        }
        let left = |values: &[&str]| {
            let mut fields = HeaderMap::new();
            for value in values {
                fields.append(COOKIE, HeaderValue::from_str(value).unwrap());
            }
            strip_cookie(&mut fields);
            let left =
                fields.get_all(COOKIE).iter().map(|value| value.to_str().unwrap().to_owned());
            left.collect::<Vec<_>>()
        };
        assert_eq!(left(&["a=b; emberd_port=T;c=d"]), ["a=b; c=d"]);
        assert_eq!(left(&["emberd_port=T", "a=b"]), ["a=b"]);
        assert_eq!(left(&["emberd_port=T; emberd_port=U"]), Vec::<String>::new());
        assert_eq!(left(&["a=b;c=d", "emberd_ports=1"]), ["a=b; c=d; emberd_ports=1"]);
        assert_eq!(left(&["a=b;c=d"]), ["a=b;c=d"], "others are not touched");
    }
}
