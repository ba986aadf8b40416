//! The access key that a client sends.

use hyper::header::HeaderValue;

/// Names the key of this process.
pub(crate) const VARIABLE: &str = "EMBERD_API_KEY";

/// An access key, as the field `Authorization` has it. No format shows it.
#[derive(Debug, Clone)]
pub(crate) struct ApiKey(HeaderValue);

/// The text cannot be an access key. The message does not repeat it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the access key is not one line of visible ASCII characters")]
pub struct ApiKeyError;

impl ApiKey {
    /// Takes `text`, without white space around it, as a key.
    ///
    /// # Errors
    /// [`ApiKeyError`].
    pub fn new(text: &str) -> Result<Self, ApiKeyError> {
        let text = text.trim_ascii();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ApiKeyError);
        }
        let mut field = HeaderValue::try_from(format!("Bearer {text}")).map_err(|_| ApiKeyError)?;
        field.set_sensitive(true);
        Ok(Self(field))
    }

    /// The key of this process; none if there is none.
    ///
    /// # Errors
    /// [`ApiKeyError`].
    pub fn of_process() -> Result<Option<Self>, ApiKeyError> {
        let Some(text) = std::env::var_os(VARIABLE).filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        Self::new(text.to_str().ok_or(ApiKeyError)?).map(Some)
    }

    /// The value of the field `Authorization`.
    pub fn field(&self) -> &HeaderValue {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_sent_and_not_shown() {
        let key = ApiKey::new(" emb_0a1b2c3d_secret\n").unwrap();
        assert_eq!(key.field(), "Bearer emb_0a1b2c3d_secret");
        assert!(!format!("{key:?}").contains("secret"));
        for wrong in ["", " ", "a b", "a\nb", "ä"] {
            assert!(ApiKey::new(wrong).is_err(), "{wrong}");
        }
    }
}
