//! The most that one key may use.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Largest amount of each limit that is a number of things.
const AMOUNT_MAX: u64 = 1_000_000;

/// Shortest and longest timeout, in milliseconds: 1 s to ten years.
const TIMEOUT_MS: (u64, u64) = (1_000, 3_650 * 24 * 60 * 60 * 1_000);

/// Most words of a list.
const WORDS_MAX: usize = 64;

/// Longest word of a list, in bytes.
const WORD_BYTES_MAX: usize = 255;

/// Limits of one key. What is none is not limited. All sandboxes of the key count together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeyLimits {
    /// Most sandboxes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sandboxes: Option<u64>,
    /// Most virtual processors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u64>,
    /// Most memory of guests, in MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u64>,
    /// Most disk of guests, in GiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_gib: Option<u64>,
    /// Longest timeout of one sandbox, in milliseconds. A sandbox without one gets this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Most creations in a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub creates_per_minute: Option<u64>,
    /// Most requests under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<u64>,
    /// The language packs of its sandboxes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packs: Option<Vec<String>>,
    /// The most that its sandboxes may reach: profiles and entries, beside what the operator
    /// permits. Nothing if it is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<String>>,
}

/// Which limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LimitName {
    /// Sandboxes.
    Sandboxes,
    /// Virtual processors.
    Vcpus,
    /// Memory of guests, in MiB.
    MemoryMib,
    /// Disk of guests, in GiB.
    DiskGib,
    /// Timeout of one sandbox, in milliseconds.
    TimeoutMs,
    /// Creations in a minute.
    CreatesPerMinute,
    /// Requests under way.
    Requests,
    /// Language packs.
    Packs,
    /// Network access.
    Egress,
}

impl LimitName {
    /// Every limit, in the order in which they are shown.
    pub const ALL: [Self; 9] = [
        Self::Sandboxes,
        Self::Vcpus,
        Self::MemoryMib,
        Self::DiskGib,
        Self::TimeoutMs,
        Self::CreatesPerMinute,
        Self::Requests,
        Self::Packs,
        Self::Egress,
    ];

    /// Its name, as in the file of keys.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sandboxes => "sandboxes",
            Self::Vcpus => "vcpus",
            Self::MemoryMib => "memory_mib",
            Self::DiskGib => "disk_gib",
            Self::TimeoutMs => "timeout_ms",
            Self::CreatesPerMinute => "creates_per_minute",
            Self::Requests => "requests",
            Self::Packs => "packs",
            Self::Egress => "egress",
        }
    }
}

impl fmt::Display for LimitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A limit that cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// The amount is out of its bounds.
    #[error("the limit {name} is {amount}, not {least} to {most}")]
    Amount {
        /// Which limit.
        name: LimitName,
        /// Its amount.
        amount: u64,
        /// The least.
        least: u64,
        /// The most.
        most: u64,
    },
    /// The list is too long.
    #[error("the limit {0} has more than {WORDS_MAX} words")]
    TooMany(LimitName),
    /// A word of the list cannot be one.
    #[error("the limit {0} has a word that is not 1 to {WORD_BYTES_MAX} visible characters")]
    Word(LimitName),
}

/// A limit as it is written.
#[derive(Debug, Clone, Copy)]
pub enum LimitValue<'a> {
    /// An amount, in the unit of the name.
    Amount(u64),
    /// A list of words.
    Words(&'a [String]),
}

impl KeyLimits {
    /// Whether nothing is limited.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// The value of one limit; none if it is not limited.
    pub fn get(&self, name: LimitName) -> Option<LimitValue<'_>> {
        let amount = match name {
            LimitName::Sandboxes => self.sandboxes,
            LimitName::Vcpus => self.vcpus,
            LimitName::MemoryMib => self.memory_mib,
            LimitName::DiskGib => self.disk_gib,
            LimitName::TimeoutMs => self.timeout_ms,
            LimitName::CreatesPerMinute => self.creates_per_minute,
            LimitName::Requests => self.requests,
            LimitName::Packs => return self.packs.as_deref().map(LimitValue::Words),
            LimitName::Egress => return self.egress.as_deref().map(LimitValue::Words),
        };
        amount.map(LimitValue::Amount)
    }

    /// The limits that are set, with their values.
    pub fn iter(&self) -> impl Iterator<Item = (LimitName, LimitValue<'_>)> {
        LimitName::ALL.into_iter().filter_map(|name| Some((name, self.get(name)?)))
    }

    /// Checks that each limit is one.
    ///
    /// # Errors
    /// [`LimitError`].
    pub fn check(&self) -> Result<(), LimitError> {
        for (name, value) in self.iter() {
            match value {
                LimitValue::Amount(amount) => check_amount(name, amount)?,
                LimitValue::Words(words) => check_words(name, words)?,
            }
        }
        Ok(())
    }
}

fn check_amount(name: LimitName, amount: u64) -> Result<(), LimitError> {
    let (least, most) = match name {
        LimitName::TimeoutMs => TIMEOUT_MS,
        LimitName::MemoryMib => (1, AMOUNT_MAX << 10),
        _ => (1, AMOUNT_MAX),
    };
    if (least..=most).contains(&amount) {
        return Ok(());
    }
    Err(LimitError::Amount { name, amount, least, most })
}

fn check_words(name: LimitName, words: &[String]) -> Result<(), LimitError> {
    if words.len() > WORDS_MAX {
        return Err(LimitError::TooMany(name));
    }
    let is_word = |word: &String| {
        (1..=WORD_BYTES_MAX).contains(&word.len())
            && word.bytes().all(|byte| byte.is_ascii_graphic())
    };
    if words.iter().all(is_word) { Ok(()) } else { Err(LimitError::Word(name)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> KeyLimits {
        KeyLimits {
            sandboxes: Some(1),
            vcpus: Some(2),
            memory_mib: Some(512),
            disk_gib: Some(4),
            timeout_ms: Some(60_000),
            creates_per_minute: Some(10),
            requests: Some(7),
            packs: Some(vec!["python".to_owned()]),
            egress: Some(Vec::new()),
        }
    }

    #[test]
    fn names_are_those_of_the_file() {
        let json = serde_json::to_value(all()).unwrap();
        let written: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        let mut names = LimitName::ALL.map(LimitName::name);
        names.sort_unstable();
        assert_eq!(written, names);
        assert_eq!(all().iter().count(), names.len());
        assert_eq!(serde_json::from_value::<KeyLimits>(json).unwrap(), all());
        assert_eq!(serde_json::to_string(&KeyLimits::default()).unwrap(), "{}");
        assert!(serde_json::from_str::<KeyLimits>(r#"{"sandbox":1}"#).is_err());
    }

    #[test]
    fn what_cannot_be_a_limit_is_named() {
        all().check().unwrap();
        let check = |limits: KeyLimits| limits.check().unwrap_err().to_string();
        let none = KeyLimits { sandboxes: Some(0), ..all() };
        assert_eq!(check(none), "the limit sandboxes is 0, not 1 to 1000000");
        let short = KeyLimits { timeout_ms: Some(999), ..all() };
        assert!(check(short).starts_with("the limit timeout_ms is 999, not 1000 to "));
        let words = |words: Vec<String>| KeyLimits { packs: Some(words), ..all() };
        assert!(check(words(vec!["a".to_owned(); 65])).contains("packs has more than 64 words"));
        for word in ["", "a b", "ä", &"x".repeat(256)] {
            assert!(check(words(vec![word.to_owned()])).contains("packs has a word"), "{word}");
        }
    }
}
