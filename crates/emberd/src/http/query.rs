//! The query of a request. Paths are bytes: percent-encoded text need not be UTF-8.

use std::ffi::OsString;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStringExt as _;
use std::str::FromStr;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use emberd_api::GuestPath;
use emberd_sandbox::SandboxId;

use super::errors::ApiError;

/// Why a query cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// A `%` stands for itself.
    #[error("the query has a `%` without two hexadecimal digits")]
    Percent,
    /// A parameter is missing or has a wrong value.
    #[error("{0}")]
    Invalid(String),
}

/// Name and value of every parameter after the `?`, decoded. Unknown names are ignored; of two
/// values of one name, the first counts.
#[derive(Debug)]
pub struct Query(Vec<(Vec<u8>, Vec<u8>)>);

impl Query {
    fn parse(query: &str) -> Result<Self, QueryError> {
        let parts = query.split('&').filter(|part| !part.is_empty()).map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            Ok((decoded(name)?, decoded(value)?))
        });
        parts.collect::<Result<_, _>>().map(Self)
    }

    /// The path `name`.
    pub fn path(&self, name: &str) -> Result<GuestPath, QueryError> {
        let missing = || invalid(format!("the query has no `{name}`"));
        let value = self.value(name).filter(|value| !value.is_empty()).ok_or_else(missing)?;
        let path = GuestPath(OsString::from_vec(value.to_vec()).into());
        match path.broken_rule() {
            Some(rule) => Err(invalid(format!("`{name}` in the query: {rule}"))),
            None => Ok(path),
        }
    }

    /// The user whose home relative paths begin at and who owns new files, if one is named.
    pub fn user(&self) -> Result<Option<String>, QueryError> {
        self.text("user")
    }

    /// Mode bits, in octal as in chmod(1).
    pub fn mode(&self) -> Result<Option<u32>, QueryError> {
        let Some(text) = self.text("mode")? else { return Ok(None) };
        let mode = u32::from_str_radix(&text, 8).ok().filter(|mode| *mode <= 0o7777);
        let wrong = || invalid(format!("`mode={text}` is not an octal number from 0 to 7777"));
        mode.ok_or_else(wrong).map(Some)
    }

    /// The ids of sandboxes that are called `name`.
    pub fn sandboxes(&self, name: &str) -> Result<Vec<SandboxId>, QueryError> {
        let id = |text: &[u8]| std::str::from_utf8(text).ok()?.parse().ok();
        let wrong = || invalid(format!("`{name}` in the query is not the id of a sandbox"));
        self.values(name).map(|text| id(text).ok_or_else(wrong)).collect()
    }

    /// The number `name`, if the query has it.
    pub fn number<N: FromStr>(&self, name: &str) -> Result<Option<N>, QueryError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| invalid(format!("`{name}={text}` is not a number")))
    }

    /// The number `name`, if the query has it and it is within `range`.
    pub fn number_in<N: FromStr + PartialOrd + Display>(
        &self,
        name: &str,
        range: RangeInclusive<N>,
    ) -> Result<Option<N>, QueryError> {
        let number = self.number(name)?;
        let (least, most) = (range.start(), range.end());
        match &number {
            Some(wrong) if !range.contains(wrong) => {
                Err(invalid(format!("`{name}={wrong}` is not from {least} to {most}")))
            }
            _ => Ok(number),
        }
    }

    /// Every `name=NAME=VALUE`, as names and values.
    pub fn pairs(&self, name: &str) -> Result<Vec<(String, String)>, QueryError> {
        let pair = |value: &[u8]| {
            let (key, value) = std::str::from_utf8(value).ok()?.split_once('=')?;
            Some((key.to_owned(), value.to_owned()))
        };
        let wrong = || invalid(format!("`{name}` in the query is not NAME=VALUE"));
        self.values(name).map(|value| pair(value).ok_or_else(wrong)).collect()
    }

    /// The flag `name`: `name`, `name=true` or `name=false`; not set when absent.
    pub fn flag(&self, name: &str) -> Result<bool, QueryError> {
        Ok(self.choice_of_flag(name)?.unwrap_or_default())
    }

    /// The flag `name`, if the query has it.
    pub fn choice_of_flag(&self, name: &str) -> Result<Option<bool>, QueryError> {
        match self.text(name)?.as_deref() {
            None => Ok(None),
            Some("false") => Ok(Some(false)),
            Some("" | "true") => Ok(Some(true)),
            Some(other) => Err(invalid(format!("`{name}={other}` is not `true` or `false`"))),
        }
    }

    /// One of the `choices`, each with its name, if the query has `name`.
    pub fn choice<T: Copy>(
        &self,
        name: &str,
        choices: &[(&str, T)],
    ) -> Result<Option<T>, QueryError> {
        Ok(self.choices(name, choices)?.first().copied())
    }

    /// The `choices` that the query has under `name`, in its order.
    pub fn choices<T: Copy>(
        &self,
        name: &str,
        choices: &[(&str, T)],
    ) -> Result<Vec<T>, QueryError> {
        let names = || choices.iter().map(|(choice, _)| *choice).collect::<Vec<_>>().join(", ");
        let chosen = |text: &[u8]| {
            let chosen = choices.iter().find(|(choice, _)| choice.as_bytes() == text);
            let text = String::from_utf8_lossy(text);
            let wrong = || invalid(format!("`{name}={text}` is not one of {}", names()));
            chosen.map(|(_, value)| *value).ok_or_else(wrong)
        };
        self.values(name).map(chosen).collect()
    }

    /// The text `name`, if the query has it.
    pub fn text(&self, name: &str) -> Result<Option<String>, QueryError> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let text = String::from_utf8(value.to_vec());
        text.map(Some).map_err(|_| invalid(format!("`{name}` in the query is not UTF-8")))
    }

    fn value(&self, name: &str) -> Option<&[u8]> {
        self.values(name).next()
    }

    fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        let found = self.0.iter().filter(move |(known, _)| known == name.as_bytes());
        found.map(|(_, value)| value.as_slice())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Ok(Self::parse(parts.uri.query().unwrap_or_default())?)
    }
}

/// Decodes percent-encoding, and `+` for a space, as forms and many clients write it.
fn decoded(text: &str) -> Result<Vec<u8>, QueryError> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let value = digit().zip(digit()).map(|(high, low)| 16 * high + low);
                let value = value.and_then(|value| u8::try_from(value).ok());
                value.ok_or(QueryError::Percent)?
            }
            byte => byte,
        });
    }
    Ok(decoded)
}

fn invalid(error: String) -> QueryError {
    QueryError::Invalid(error)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    #[test]
    fn paths_are_bytes() {
        let check = |query: &str, expect: &[u8]| {
            let path = Query::parse(query).unwrap().path("path").unwrap();
            assert_eq!(path.as_path().as_os_str(), OsStr::from_bytes(expect), "{query}");
        };
        check("path=/a/b", b"/a/b");
        check("x=1&path=a%2fb%26%3d%25", b"a/b&=%");
        check("path=%FF%0a+%2B", b"\xff\n +");
        check("path=a=b&path=c", b"a=b");
    }

    #[test]
    fn wrong_values_are_refused() {
        for query in ["", "path", "path=", "path=%", "path=%f", "path=%zz", "path=a%00b", "%"] {
            let path = Query::parse(query).and_then(|query| query.path("path"));
            assert!(path.is_err(), "{query}");
        }
        let mode = |text: &str| Query::parse(&format!("mode={text}")).unwrap().mode();
        assert_eq!(mode("0644").unwrap(), Some(0o644));
        for wrong in ["", "8", "10000", "-1", "0x1", "u%2Bx"] {
            assert!(mode(wrong).is_err(), "{wrong}");
        }
        let flag = |query: &str| Query::parse(query).unwrap().flag("recursive");
        assert!(flag("recursive").unwrap() && flag("recursive=true").unwrap());
        assert!(!flag("").unwrap() && !flag("recursive=false").unwrap());
        assert!(flag("recursive=1").is_err());
        assert!(Query::parse("depth=-1").unwrap().number::<u32>("depth").is_err());
        assert!(Query::parse("user=%ff").unwrap().user().is_err());
    }
}
