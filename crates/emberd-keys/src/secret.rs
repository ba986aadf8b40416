//! The secret of a key, and what is kept of it.
//!
//! ```text
//! emb_k7f3a09z_9wDUVjS4mPq0yXcT7aLhR2eBn5KgZ8sJ     e2b_0f3c9a71 7b…40 hexadecimal digits…e2
//!     └ id ──┘ └ 190 random bits ──────────────┘        └ id ──┘ └ 160 random bits ─────────┘
//! ```

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// Length of an id.
const ID_BYTES: usize = 8;

/// Length of the random part of each form.
const EMB_BYTES: usize = 32;
const E2B_BYTES: usize = 40;

/// Begin of each form.
const EMB_PREFIX: &str = "emb_";
const E2B_PREFIX: &str = "e2b_";

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const BASE36: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
const BASE16: &[u8; 16] = b"0123456789abcdef";

/// How a key is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// `emb_`, the id, `_` and 32 letters and digits.
    #[default]
    Emb,
    /// `e2b_`, the id and 40 hexadecimal digits, as the SDKs of E2B expect it.
    E2b,
}

/// Identity of a key, which may be shown: 8 of `a-z` and `0-9`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; ID_BYTES]);

impl KeyId {
    /// The id as text.
    ///
    /// # Panics
    /// Never: an id is ASCII.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("an id is ASCII")
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is not an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the id of a key is {ID_BYTES} characters of a-z and 0-9")]
pub struct KeyIdError;

impl FromStr for KeyId {
    type Err = KeyIdError;

    fn from_str(text: &str) -> Result<Self, KeyIdError> {
        let bytes = text.as_bytes().try_into().map_err(|_| KeyIdError)?;
        let is_plain = text.bytes().all(|byte| BASE36.contains(&byte));
        if is_plain { Ok(Self(bytes)) } else { Err(KeyIdError) }
    }
}

impl Serialize for KeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A secret, which no format shows but [`Self::expose`].
#[derive(Clone)]
pub struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Secret {
    /// Makes a secret with an id that `is_taken` does not know.
    ///
    /// # Panics
    /// When the kernel has no randomness to give.
    pub(crate) fn generate(form: Form, is_taken: impl Fn(KeyId) -> bool) -> (KeyId, Self) {
        let alphabet: &[u8] = match form {
            Form::Emb => BASE36,
            Form::E2b => BASE16,
        };
        loop {
            let id = KeyId(random(alphabet));
            if !is_taken(id) {
                return (id, Self::of(form, id));
            }
        }
    }

    /// Makes a secret for the key `id`.
    ///
    /// # Panics
    /// When the kernel has no randomness to give.
    pub(crate) fn of(form: Form, id: KeyId) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self(match form {
            Form::Emb => {
                format!("{EMB_PREFIX}{id}_{}", text(&random::<EMB_BYTES>(BASE62)))
            }
            Form::E2b => format!("{E2B_PREFIX}{id}{}", text(&random::<E2B_BYTES>(BASE16))),
        })
    }

    /// The secret itself, for the one time that it is shown.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The part of it that is kept.
    pub fn digest(&self) -> Digest {
        Digest::of(self.0.as_bytes())
    }
}

/// Random characters of `alphabet`, each as likely as the others.
fn random<const N: usize>(alphabet: &[u8]) -> [u8; N] {
    let count = u8::try_from(alphabet.len()).expect("an alphabet is short");
    // Bytes from here on would favour the first characters.
    let fair = u8::MAX - u8::MAX % count;
    std::array::from_fn(|_| {
        loop {
            let mut byte = [0];
            getrandom::fill(&mut byte).expect("the kernel gives random bytes");
            if byte[0] < fair {
                return alphabet[usize::from(byte[0] % count)];
            }
        }
    })
}

/// SHA-256 of a secret. Equal digests are found in constant time.
#[derive(Clone, Copy)]
pub struct Digest([u8; 32]);

impl Digest {
    fn of(secret: &[u8]) -> Self {
        Self(Sha256::digest(secret).into())
    }
}

impl PartialEq for Digest {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Digest {}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Digest(..)")
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&HEXLOWER.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        let wrong = || de::Error::custom("a SHA-256 has 64 hexadecimal digits");
        bytes.map(Self).ok_or_else(wrong)
    }
}

/// A secret as a caller sends it: which key it claims to be, and its digest.
#[derive(Debug, Clone, Copy)]
pub struct Presented {
    /// The key.
    pub id: KeyId,
    /// Digest of the whole text.
    pub digest: Digest,
}

impl Presented {
    /// Reads what a caller sent; none if it has the form of no key.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (rest, random_bytes, alphabet): (_, _, &[u8]) =
            if let Some(rest) = text.strip_prefix(EMB_PREFIX.as_bytes()) {
                (rest, 1 + EMB_BYTES, BASE62)
            } else {
                (text.strip_prefix(E2B_PREFIX.as_bytes())?, E2B_BYTES, BASE16)
            };
        let (id, random) = rest.split_at_checked(ID_BYTES)?;
        if random.len() != random_bytes {
            return None;
        }
        let digits =
            if alphabet.len() == BASE62.len() { random.strip_prefix(b"_")? } else { random };
        if !digits.iter().all(|byte| alphabet.contains(byte)) {
            return None;
        }
        let id = std::str::from_utf8(id).ok()?.parse().ok()?;
        Some(Self { id, digest: Digest::of(text) })
    }

    /// Whether `text` begins as a key does, whole or not.
    pub fn is_alike(text: &[u8]) -> bool {
        text.starts_with(EMB_PREFIX.as_bytes()) || text.starts_with(E2B_PREFIX.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_back_and_nothing_like_it() {
        for form in [Form::Emb, Form::E2b] {
            let (id, secret) = Secret::generate(form, |_| false);
            let text = secret.expose();
            let presented = Presented::parse(text.as_bytes()).unwrap();
            assert_eq!((presented.id, presented.digest), (id, secret.digest()));
            let (shorter, longer) = (&text[..text.len() - 1], format!("{text}0"));
            let upper = text.to_uppercase();
            let other = text.replacen(id.as_str(), "ABCDEFGH", 1);
            let broken = format!("{shorter}-");
            for wrong in [shorter, &longer, &upper, &other, &broken, "", "emb_", "e2b_", &text[4..]]
            {
                assert!(Presented::parse(wrong.as_bytes()).is_none(), "{wrong}");
            }
            assert!(
                Presented::is_alike(text.as_bytes()) && Presented::is_alike(shorter.as_bytes())
            );
        }
        let (_, e2b) = Secret::generate(Form::E2b, |_| false);
        let digits = e2b.expose().strip_prefix("e2b_").unwrap();
        assert!(digits.len() == 48 && digits.bytes().all(|byte| BASE16.contains(&byte)));
    }

    #[test]
    fn one_character_more_or_less_is_another_secret() {
        let (id, secret) = Secret::generate(Form::Emb, |_| false);
        let again = Secret::of(Form::Emb, id);
        assert_ne!(secret.digest(), again.digest());
        assert!(again.expose().contains(id.as_str()));
    }

    #[test]
    fn a_taken_id_is_not_given_again() {
        let tried = std::cell::Cell::new(0);
        let (id, _) = Secret::generate(Form::Emb, |_| {
            tried.set(tried.get() + 1);
            tried.get() < 3
        });
        assert_eq!((tried.get(), id.as_str().len()), (3, ID_BYTES));
    }

    #[test]
    fn no_format_shows_a_secret() {
        let (_, secret) = Secret::generate(Form::Emb, |_| false);
        let shown = format!("{secret:?} {:?}", secret.digest());
        assert_eq!(shown, "Secret(..) Digest(..)");
    }

    #[test]
    fn digests_are_read_back_from_json() {
        let digest = Digest::of(b"abc");
        let json = serde_json::to_string(&digest).unwrap();
        // FIPS 180-4, example B.1.
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(json, format!("\"{known}\""));
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
        for wrong in [&known[1..], &known.to_uppercase(), &format!("{known}0"), &"é".repeat(32)] {
            assert!(serde_json::from_str::<Digest>(&format!("\"{wrong}\"")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_character_of_an_alphabet_is_drawn() {
        let drawn: std::collections::BTreeSet<_> = random::<4096>(BASE62).into();
        assert_eq!(drawn.len(), 62);
    }
}
