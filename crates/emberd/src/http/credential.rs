//! The key in the header of a request.

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use emberd_api::API_KEY_HEADER;
use emberd_keys::Presented;

use crate::access::AccessError;

/// Scheme of a key in the field `Authorization` (RFC 6750 §2.1).
const SCHEME: &str = "Bearer ";

/// The field with a key alone.
pub const API_KEY: HeaderName = HeaderName::from_static(API_KEY_HEADER);

/// The key that a request carries. What a request to a port inside a sandbox carries is for the
/// server there, unless it looks like a key of this daemon.
///
/// # Errors
/// [`AccessError::Invalid`].
pub fn key(fields: &HeaderMap, is_for_port: bool) -> Result<Option<&[u8]>, AccessError> {
    let is_meant = |key: &&[u8]| !is_for_port || Presented::is_alike(key);
    let alone = fields.get_all(API_KEY).iter().map(HeaderValue::as_bytes);
    let bearer = fields.get_all(AUTHORIZATION).iter().filter_map(|value| bearer(value.as_bytes()));
    // Clients of E2B send a key, and another token as `Authorization`.
    one(alone.filter(is_meant))?.map_or_else(|| one(bearer.filter(is_meant)), |key| Ok(Some(key)))
}

/// Of two keys, it is not known which one the caller means.
fn one<'a>(mut keys: impl Iterator<Item = &'a [u8]>) -> Result<Option<&'a [u8]>, AccessError> {
    match (keys.next(), keys.next()) {
        (key, None) => Ok(key),
        _ => Err(AccessError::Invalid),
    }
}

/// The token of a field with the scheme `Bearer`.
fn bearer(field: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = field.split_at_checked(SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME.as_bytes()).then(|| token.trim_ascii())
}

/// Removes keys of this daemon, which are nobody's business in a sandbox.
pub fn strip_keys(fields: &mut HeaderMap) {
    let is_key = |value: &HeaderValue| {
        let value = value.as_bytes();
        Presented::is_alike(bearer(value).unwrap_or(value))
    };
    for name in [API_KEY, AUTHORIZATION] {
        if fields.get_all(&name).iter().any(is_key) {
            fields.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMB: &str = "emb_0a1b2c3d_0123456789ABCDEFGHIJKLMNOPQRSTUV";

    fn fields(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in pairs {
            fields.append(name.clone(), HeaderValue::from_str(value).unwrap());
        }
        fields
    }

    #[track_caller]
    fn check(pairs: &[(HeaderName, &str)], api: Option<&str>, port: Option<&str>) {
        let fields = fields(pairs);
        assert_eq!(key(&fields, false).unwrap(), api.map(str::as_bytes), "{pairs:?}");
        assert_eq!(key(&fields, true).unwrap(), port.map(str::as_bytes), "{pairs:?}");
    }

    #[test]
    fn a_key_is_in_one_of_two_fields() {
        let bearer = format!("bEaReR  {EMB}");
        check(&[], None, None);
        check(&[(API_KEY, EMB)], Some(EMB), Some(EMB));
        check(&[(AUTHORIZATION, &bearer)], Some(EMB), Some(EMB));
        check(&[(API_KEY, "x"), (AUTHORIZATION, &bearer)], Some("x"), Some(EMB));
        check(&[(AUTHORIZATION, "Bearer x")], Some("x"), None);
        check(&[(AUTHORIZATION, "Bearer")], None, None);
        check(&[(AUTHORIZATION, "Basic eDp5")], None, None);
        let twice = fields(&[(API_KEY, EMB), (API_KEY, EMB)]);
        assert_eq!(key(&twice, false), Err(AccessError::Invalid));
        assert_eq!(key(&twice, true), Err(AccessError::Invalid));
    }

    #[test]
    fn keys_do_not_reach_a_sandbox_and_other_fields_do() {
        let left = |pairs: &[(HeaderName, &str)]| {
            let mut fields = fields(pairs);
            strip_keys(&mut fields);
            fields.len()
        };
        let bearer = format!("Bearer {EMB}");
        assert_eq!(left(&[(API_KEY, EMB), (AUTHORIZATION, &bearer)]), 0);
        assert_eq!(left(&[(API_KEY, "e2b_torn"), (AUTHORIZATION, "Bearer x")]), 1);
        assert_eq!(left(&[(API_KEY, "x"), (AUTHORIZATION, "Basic eDp5")]), 2);
        assert_eq!(left(&[(API_KEY, "x"), (API_KEY, EMB)]), 0);
    }
}
