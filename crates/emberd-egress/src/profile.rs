//! Profiles: entries under one name.
//!
//! Those of package managers are not here: they are derived from the tools' own configuration
//! when an image is built, and lie in its manifest.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use crate::entry::Entry;

/// Longest name of a profile, in bytes.
pub const PROFILE_NAME_BYTES_MAX: usize = 64;

/// Profiles of an image: texts of entries, by the name of the profile.
pub type PackProfiles = BTreeMap<String, Vec<String>>;

/// Profiles of every daemon, with their entries.
pub const BUILT_IN: [(&str, &[&str]); 7] = [
    ("anthropic", &["api.anthropic.com"]),
    (
        "dockerhub",
        &[
            "auth.docker.io",
            "hub.docker.com",
            "index.docker.io",
            "production.cloudflare.docker.com",
            "registry-1.docker.io",
        ],
    ),
    (
        "github",
        &[
            "github.com:22,80,443",
            "api.github.com",
            "codeload.github.com",
            "gist.github.com",
            "uploads.github.com",
            "raw.githubusercontent.com",
            "objects.githubusercontent.com",
            "release-assets.githubusercontent.com",
        ],
    ),
    ("gitlab", &["gitlab.com:22,80,443", "registry.gitlab.com"]),
    ("huggingface", &["huggingface.co", "*.huggingface.co", "*.hf.co"]),
    ("openai", &["api.openai.com"]),
    ("public", &["*:*"]),
];

static PARSED: LazyLock<BTreeMap<&str, Vec<Entry>>> = LazyLock::new(|| {
    let parse = |text: &&str| Entry::parse(text).expect("built-in entries are valid");
    BUILT_IN.iter().map(|(name, entries)| (*name, entries.iter().map(parse).collect())).collect()
});

/// A text that does not name a profile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "profiles are named with 1 to {PROFILE_NAME_BYTES_MAX} of a-z, 0-9, `-` and `_`, not `{0}`"
)]
pub struct ProfileNameError(pub String);

/// Checks the name of a profile.
pub fn check_name(name: &str) -> Result<(), ProfileNameError> {
    let is_plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
    let size = 1..=PROFILE_NAME_BYTES_MAX;
    let is_name = size.contains(&name.len()) && name.bytes().all(is_plain) && name != "none";
    if is_name { Ok(()) } else { Err(ProfileNameError(name.to_owned())) }
}

/// The entries of a built-in profile.
pub fn built_in(name: &str) -> Option<&'static [Entry]> {
    PARSED.get(name).map(Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_profiles_have_valid_names_and_entries() {
        for (name, entries) in BUILT_IN {
            check_name(name).unwrap();
            let printed: Vec<String> =
                built_in(name).unwrap().iter().map(ToString::to_string).collect();
            assert_eq!(printed, entries);
        }
    }

    #[test]
    fn other_names_are_refused() {
        for name in ["", "none", "Pip", "a.b", "a b", &"a".repeat(65)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
