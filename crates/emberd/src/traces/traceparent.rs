//! `traceparent` of W3C Trace Context: the trace and the span that a request comes from.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use axum::http::HeaderMap;
use emberd_proto::exec::check_env;

/// Name of the header.
pub const TRACEPARENT_HEADER: &str = "traceparent";

/// Name of the environment variable of programs.
pub const TRACEPARENT_VARIABLE: &str = "TRACEPARENT";

/// The version that is written. Later ones begin with the same fields.
const VERSION: &str = "00";

/// A span, and the trace that it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traceparent {
    /// Id of the trace, not 0.
    pub trace: u128,
    /// Id of the span, not 0.
    pub span: u64,
    /// Bit 0: the caller keeps the trace.
    pub flags: u8,
}

/// The text is no `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotATraceparent;

impl Traceparent {
    /// The one in `headers`. One that is malformed, or not the only one, is none.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT_HEADER).iter();
        let only = values.next().filter(|_| values.next().is_none())?;
        only.to_str().ok()?.parse().ok()
    }

    /// Adds it to the environment of a program, unless a variable of that name or the limits of
    /// environments stand against it.
    pub fn add_to(self, env: &mut BTreeMap<String, String>) {
        if env.contains_key(TRACEPARENT_VARIABLE) {
            return;
        }
        env.insert(TRACEPARENT_VARIABLE.to_owned(), self.to_string());
        if check_env(env).is_err() {
            env.remove(TRACEPARENT_VARIABLE);
        }
    }
}

impl FromStr for Traceparent {
    type Err = NotATraceparent;

    fn from_str(text: &str) -> Result<Self, NotATraceparent> {
        parse(text).ok_or(NotATraceparent)
    }
}

fn parse(text: &str) -> Option<Traceparent> {
    let mut fields = text.split('-');
    let mut field = |digits: usize| {
        let is_lower_hex = |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        fields.next().filter(|field| field.len() == digits && field.bytes().all(is_lower_hex))
    };
    let version = field(2).filter(|version| *version != "ff")?;
    let trace = u128::from_str_radix(field(32)?, 16).ok().filter(|trace| *trace != 0)?;
    let span = u64::from_str_radix(field(16)?, 16).ok().filter(|span| *span != 0)?;
    let flags = u8::from_str_radix(field(2)?, 16).ok()?;
    // A later version may have more fields.
    let is_whole = version != VERSION || fields.next().is_none();
    is_whole.then_some(Traceparent { trace, span, flags })
}

impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trace, span, flags } = self;
        write!(f, "{VERSION}-{trace:032x}-{span:016x}-{flags:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01";

    #[test]
    fn a_whole_one_is_read_and_written() {
        let parsed: Traceparent = TEXT.parse().unwrap();
        assert_eq!((parsed.span, parsed.flags), (0x00f0_67aa_0ba9_02b7, 1));
        assert_eq!(parsed.to_string(), TEXT);
        // Of a later version, what is known is kept.
        let later = format!("cc{}-what-the-future-brings", &TEXT[2..]);
        assert_eq!(later.parse(), Ok(parsed));
    }

    #[test]
    fn a_bad_one_is_none() {
        let trace = &TEXT[3..35];
        for text in [
            "",
            "00",
            &TEXT[..54],
            &format!("{TEXT}-"),
            &format!("{TEXT}-00"),
            &format!(" {TEXT}"),
            &TEXT.to_uppercase(),
            &TEXT.replace("00-0af", "ff-0af"),
            &TEXT.replace(trace, &"0".repeat(32)),
            &TEXT.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &TEXT.replace("-01", "-+1"),
            &TEXT.replace("-01", "-1"),
            &format!("cc{}x", &TEXT[2..]),
        ] {
            assert_eq!(text.parse::<Traceparent>(), Err(NotATraceparent), "{text}");
        }
    }

    #[test]
    fn two_headers_are_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(Traceparent::of(&headers), None);
        headers.append(TRACEPARENT_HEADER, TEXT.parse().unwrap());
        assert_eq!(Traceparent::of(&headers), TEXT.parse().ok());
        headers.append(TRACEPARENT_HEADER, TEXT.parse().unwrap());
        assert_eq!(Traceparent::of(&headers), None);
    }

    #[test]
    fn an_environment_that_is_full_stays_as_it_is() {
        let parent: Traceparent = TEXT.parse().unwrap();
        let mut env = BTreeMap::new();
        parent.add_to(&mut env);
        assert_eq!(env[TRACEPARENT_VARIABLE], TEXT);
        let own = BTreeMap::from([(TRACEPARENT_VARIABLE.to_owned(), "own".to_owned())]);
        let mut env = own.clone();
        parent.add_to(&mut env);
        assert_eq!(env, own);
        let mut full = (0..).map(|n| (format!("V{n}"), String::new()));
        let mut env: BTreeMap<_, _> = full.by_ref().take(1).collect();
        while check_env(&env).is_ok() {
            env.extend(full.next());
        }
        env.pop_first();
        let before = env.clone();
        parent.add_to(&mut env);
        assert_eq!(env, before);
    }
}
