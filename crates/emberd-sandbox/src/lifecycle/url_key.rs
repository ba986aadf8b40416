//! The key that signs URLs of one sandbox's ports. It never leaves this crate.

use std::fmt;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::Sha256;
use tokio_util::sync::CancellationToken;

/// Length of the secret, in bytes.
const SECRET_BYTES: usize = 32;

/// Length of a signature, in bytes.
pub const SIGNATURE_BYTES: usize = 32;

/// The key of one sandbox until it is revoked. Clones are of the same key.
#[derive(Clone)]
pub struct UrlKey(Arc<Inner>);

struct Inner {
    secret: UrlSecret,
    revoked: CancellationToken,
}

impl fmt::Debug for UrlKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UrlKey(..)")
    }
}

impl UrlKey {
    /// A key that nobody has had.
    ///
    /// # Panics
    /// When the kernel has no randomness to give.
    pub(crate) fn generate() -> Self {
        let mut secret = [0; SECRET_BYTES];
        getrandom::fill(&mut secret).expect("the kernel gives random bytes");
        Self::of(UrlSecret(secret))
    }

    /// The key with the secret that an earlier daemon has made.
    pub(crate) fn of(secret: UrlSecret) -> Self {
        Self(Arc::new(Inner { secret, revoked: CancellationToken::new() }))
    }

    pub(crate) fn secret(&self) -> UrlSecret {
        self.0.secret.clone()
    }

    pub(crate) fn revoke(&self) {
        self.0.revoked.cancel();
    }

    /// Signs `message` (HMAC-SHA256).
    pub fn sign(&self, message: &[u8]) -> [u8; SIGNATURE_BYTES] {
        self.mac(message).finalize().into_bytes().into()
    }

    /// Whether `signature` is that of `message`, in constant time.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.mac(message).verify_slice(signature).is_ok()
    }

    /// Waits until the key is revoked.
    pub fn revoked(&self) -> impl Future<Output = ()> + Send + use<> {
        self.0.revoked.clone().cancelled_owned()
    }

    fn mac(&self, message: &[u8]) -> Hmac<Sha256> {
        let mac = Hmac::<Sha256>::new_from_slice(&self.0.secret.0);
        mac.expect("a key has any length").chain_update(message)
    }
}

/// The secret of a key, as the journal has it: hexadecimal digits.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct UrlSecret([u8; SECRET_BYTES]);

impl fmt::Debug for UrlSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UrlSecret(..)")
    }
}

impl Serialize for UrlSecret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&HEXLOWER.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for UrlSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let secret = HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        let wrong = || de::Error::custom("a secret is not 64 hexadecimal digits");
        secret.map(Self).ok_or_else(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_of_one_message_and_one_key() {
        let (one, other) = (UrlKey::generate(), UrlKey::generate());
        let signature = one.sign(b"a");
        assert!(one.verifies(b"a", &signature));
        assert!(!one.verifies(b"b", &signature) && !other.verifies(b"a", &signature));
        assert!(!one.verifies(b"a", &signature[1..]) && !one.verifies(b"a", b""));
        let mut altered = signature;
        altered[31] ^= 1;
        assert!(!one.verifies(b"a", &altered));
        // RFC 4231, test case 2, with the key padded as HMAC pads it.
        let mut secret = [0; SECRET_BYTES];
        secret[..4].copy_from_slice(b"Jefe");
        let known = UrlKey::of(UrlSecret(secret)).sign(b"what do ya want for nothing?");
        assert_eq!(known[..4], [0x5b, 0xdc, 0xc1, 0x46]);
    }

    #[test]
    fn a_key_comes_back_and_no_format_shows_it() {
        let key = UrlKey::generate();
        let json = serde_json::to_string(&key.secret()).unwrap();
        let again = UrlKey::of(serde_json::from_str(&json).unwrap());
        assert!(again.verifies(b"a", &key.sign(b"a")));
        let shown = format!("{key:?} {:?}", key.secret());
        assert_eq!(shown, "UrlKey(..) UrlSecret(..)");
        for wrong in ["\"\"", "\"00\"", &json.replace(&json[1..3], "zz"), &json.replace('"', "\"0")]
        {
            assert!(serde_json::from_str::<UrlSecret>(wrong).is_err(), "{wrong}");
        }
    }
}
