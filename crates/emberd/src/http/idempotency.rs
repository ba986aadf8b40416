//! The header `Idempotency-Key` of a creation.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;
use emberd_api::{CreateSandbox, IDEMPOTENCY_KEY_BYTES_MAX, IDEMPOTENCY_KEY_HEADER};

use super::errors::ApiError;
use super::keys::{Key, KeyError, Keys, Turn};
use super::limits::Limits;
use crate::server::principal::Principal;

/// The key of a request, if it has one.
#[derive(Debug)]
pub struct WithKey(Option<(Keys, Key)>);

impl<S: Sync> FromRequestParts<S> for WithKey {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Some(key) = key_of(&parts.headers)? else { return Ok(Self(None)) };
        let Ok::<_, Infallible>(principal) = Principal::from_request_parts(parts, state).await;
        Ok(Self(Some((Limits::of(parts).keys().clone(), (principal, key)))))
    }
}

impl WithKey {
    /// Waits until no other request with the key is under way; none without a key.
    ///
    /// # Errors
    /// [`KeyError`].
    pub async fn turn(self, wanted: &CreateSandbox) -> Result<Option<Turn>, KeyError> {
        match self.0 {
            Some((keys, key)) => keys.turn(key, wanted).await.map(Some),
            None => Ok(None),
        }
    }
}

/// The key in the headers, if there is one.
fn key_of(headers: &HeaderMap) -> Result<Option<String>, KeyError> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY_HEADER).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let bytes = value.as_bytes();
    let fits = (1..=IDEMPOTENCY_KEY_BYTES_MAX).contains(&bytes.len());
    if values.next().is_some() || !fits || !bytes.iter().all(u8::is_ascii_graphic) {
        return Err(KeyError::Malformed);
    }
    Ok(Some(String::from_utf8_lossy(bytes).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_short_and_visible() {
        let read = |values: &[&[u8]]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(IDEMPOTENCY_KEY_HEADER, value.to_vec().try_into().unwrap());
            }
            key_of(&headers)
        };
        assert_eq!(read(&[]).unwrap(), None);
        assert_eq!(read(&[b"7f\"~!"]).unwrap().as_deref(), Some("7f\"~!"));
        let (longest, over) = ([b'x'; IDEMPOTENCY_KEY_BYTES_MAX], [b'x'; 129]);
        assert!(read(&[&longest]).unwrap().is_some());
        for wrong in [&[&over[..]][..], &[b""], &[b"a b"], &[b"\xff"], &[b"a", b"a"]] {
            assert!(matches!(read(wrong), Err(KeyError::Malformed)), "{wrong:?}");
        }
    }
}
