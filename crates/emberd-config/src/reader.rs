//! Reads one option after the other and collects everything that is wrong.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use clap::builder::{BoolishValueParser, TypedValueParser as _};

use crate::definition::{DefaultValue, Key};
use crate::duration;
use crate::form::Form;
use crate::given::Given;
use crate::problem::Problem;

/// Reads options out of what was given. A wrong one is noted and read as its default, so that
/// the rest is checked too.
pub(crate) struct Reader<'a> {
    pub given: &'a Given,
    pub problems: Vec<Problem>,
}

impl Reader<'_> {
    /// The value that was given, if it can be read; `form` says what is expected otherwise.
    pub fn given<T>(
        &mut self,
        key: Key,
        form: impl FnOnce(&OsStr) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.given.0.get(&key)?.values.last()?.clone();
        match form(&value) {
            Ok(value) => Some(value),
            Err(expected) => {
                self.refuse(key, &value, &expected);
                None
            }
        }
    }

    /// The value that was given, or else the default, read in the same way.
    ///
    /// # Panics
    /// When the default is described instead of written, or cannot be read.
    pub fn value<T>(&mut self, key: Key, form: impl Fn(&OsStr) -> Result<T, String>) -> T {
        let given = self.given(key, &form);
        given.unwrap_or_else(|| match key.definition().default {
            DefaultValue::Text(text) => form(text.as_ref()).expect("a default can be read"),
            DefaultValue::Described(_) => panic!("{key:?} has no default text"),
        })
    }

    pub fn choice<T: ValueEnum>(&mut self, key: Key) -> T {
        self.value(key, choice)
    }

    pub fn choice_if_given<T: ValueEnum>(&mut self, key: Key) -> Option<T> {
        self.given(key, choice)
    }

    pub fn path(&mut self, key: Key) -> Option<PathBuf> {
        self.given(key, |text| {
            let expected = |_| "a path: it must not be empty".to_owned();
            std::path::absolute(text).map_err(expected)
        })
    }

    /// A number within the limits of `key`: a count, a size in MiB or a duration in ms.
    pub fn number(&mut self, key: Key) -> u64 {
        self.value(key, |text| number(key, text))
    }

    pub fn number_if_given(&mut self, key: Key) -> Option<u64> {
        self.given(key, |text| number(key, text))
    }

    pub fn duration(&mut self, key: Key) -> Duration {
        Duration::from_millis(self.number(key))
    }

    /// As [`Self::duration`]; none for never.
    pub fn duration_or_never(&mut self, key: Key) -> Option<Duration> {
        some_time(self.number(key))
    }

    /// As [`Self::duration_or_never`], if it was given.
    #[expect(clippy::option_option, reason = "not given, never and a time")]
    pub fn duration_or_never_if_given(&mut self, key: Key) -> Option<Option<Duration>> {
        self.number_if_given(key).map(some_time)
    }

    /// Every text of a list.
    pub fn list(&self, key: Key) -> Vec<OsString> {
        self.given.0.get(&key).map_or_else(Vec::new, |entry| entry.values.clone())
    }

    /// Notes that `value` is not what `key` takes.
    pub fn refuse(&mut self, key: Key, value: &OsStr, expected: &str) {
        let error = format!("{} is `{}`, not {expected}", self.given.name(key), value.display());
        let limits = key.definition().form.limits().replace('`', "");
        let default = key.definition().default.text();
        let hint = format!("values: {limits}; without the option: {default}");
        self.problems.push(Problem { error, hint });
    }

    /// Notes a problem of `key` and the advice.
    pub fn report(&mut self, key: Key, error: &str, hint: &str) {
        let error = format!("{}: {error}", self.given.name(key));
        self.problems.push(Problem { error, hint: hint.to_owned() });
    }
}

/// A duration in milliseconds, of which 0 stands for never.
fn some_time(ms: u64) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms))
}

/// Reads a truth value.
pub(crate) fn flag(text: &OsStr) -> Result<bool, String> {
    let boolish = BoolishValueParser::new();
    let parsed = boolish.parse_ref(&clap::Command::new("emberd"), None, text);
    parsed.map_err(|_| "true or false".to_owned())
}

/// The text of `value`.
pub(crate) fn utf8(value: &OsStr) -> Result<&str, String> {
    value.to_str().ok_or_else(|| "text in UTF-8".to_owned())
}

fn choice<T: ValueEnum>(value: &OsStr) -> Result<T, String> {
    let expected = || {
        let values = crate::value::possible::<T>();
        let names: Vec<_> = values.iter().map(clap::builder::PossibleValue::get_name).collect();
        format!("one of {}", names.join(", "))
    };
    T::from_str(utf8(value)?, false).map_err(|_| expected())
}

fn number(key: Key, value: &OsStr) -> Result<u64, String> {
    let text = utf8(value)?;
    let count = |expected: &str| text.parse::<u64>().map_err(|_| expected.to_owned());
    let (number, least, most, unit) = match key.definition().form {
        Form::Count { least, most } => (count("a whole number")?, least, most, ""),
        Form::CountOrOff { most } if text == "off" => (0, 0, most, ""),
        Form::CountOrOff { most } => (count("a whole number or `off`")?, 0, most, ""),
        Form::SizeMibOrOff { .. } if text == "off" => return Ok(0),
        Form::SizeMib { least, most } | Form::SizeMibOrOff { least, most } => {
            (parse_mib(text)?, least, most, " MiB")
        }
        Form::DurationOrNever { .. } if text == "never" => (0, 0, 0, ""),
        Form::Duration { least_ms, most_ms } | Form::DurationOrNever { least_ms, most_ms } => {
            let milliseconds = duration::parse(text)?.as_millis();
            (u64::try_from(milliseconds).unwrap_or(u64::MAX), least_ms, most_ms, " ms")
        }
        _ => panic!("{key:?} is not a number"),
    };
    let within = (least..=most).contains(&number);
    within.then_some(number).ok_or_else(|| format!("between {least} and {most}{unit}"))
}

/// Parses a size of memory as people write it, a whole number and a unit such as `2GiB`, into MiB.
/// A number alone is in MiB. `M`, `G` and `T`, also in lower case, are short for `MiB`, `GiB`
/// and `TiB`.
///
/// # Errors
/// A phrase that says what is expected.
pub fn parse_mib(text: &str) -> Result<u64, String> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let mib_per_unit = match unit.trim_start() {
        "" | "M" | "m" | "MiB" => Some(1),
        "G" | "g" | "GiB" => Some(1 << 10),
        "T" | "t" | "TiB" => Some(1 << 20),
        _ => None,
    };
    let number = number.parse::<u64>().ok();
    number
        .zip(mib_per_unit)
        .and_then(|(number, mib)| number.checked_mul(mib))
        .ok_or_else(|| "a size in MiB, such as 512, 512MiB or 2GiB".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_read_and_anything_else_is_refused() {
        let cases = [
            ("512", Some(512)),
            ("512MiB", Some(512)),
            ("512 MiB", Some(512)),
            ("2G", Some(2048)),
            ("1g", Some(1024)),
            ("1TiB", Some(1 << 20)),
            ("", None),
            ("GiB", None),
            ("-5", None),
            ("1.5GiB", None),
            ("2GB", None),
            ("18446744073709551615T", None),
        ];
        for (text, mib) in cases {
            assert_eq!(parse_mib(text).ok(), mib, "{text:?}");
        }
    }
}
