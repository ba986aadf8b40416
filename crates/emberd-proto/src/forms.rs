//! A value in several forms, by MIME type: JSON that is passed on as text.

use std::fmt;

use bytes::Bytes;
use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, Visitor};
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// Maximum number of forms of one value.
pub const FORMS_MAX: usize = 64;

/// Maximum length of a form's name, in bytes.
pub const FORM_NAME_BYTES_MAX: usize = 255;

/// A JSON object whose member names are MIME types and whose values are forms.
///
/// The object is stored as text. A form is found by reading that text, and only the requested
/// form is parsed. Of several members with the same name, the last counts.
#[derive(Clone)]
pub struct Forms(Bytes);

/// Why text is not a set of forms.
#[derive(Debug, thiserror::Error)]
pub enum FormsError {
    /// The text is not a JSON object.
    #[error("the forms of a value are not an object")]
    Json(#[source] serde_json::Error),
    /// There are more than [`FORMS_MAX`] forms, or a name is over [`FORM_NAME_BYTES_MAX`].
    #[error(
        "a value has more than {FORMS_MAX} forms, or a form name of more than \
             {FORM_NAME_BYTES_MAX} bytes"
    )]
    Excess,
}

impl Forms {
    /// Returns the forms in `json`, which is stored unchanged.
    ///
    /// # Errors
    /// [`FormsError`].
    pub fn parse(json: Bytes) -> Result<Self, FormsError> {
        let Within(within) = serde_json::from_slice(&json).map_err(FormsError::Json)?;
        if within { Ok(Self(json)) } else { Err(FormsError::Excess) }
    }

    /// Returns the object as received.
    pub fn json(&self) -> &Bytes {
        &self.0
    }

    /// Returns the object as received.
    pub fn into_json(self) -> Bytes {
        self.0
    }

    /// Returns the names of the forms, in order.
    pub fn kinds(&self) -> Vec<String> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Vec<String>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut names = Vec::new();
                while let Some((name, IgnoredAny)) = map.next_entry::<String, _>()? {
                    if !names.contains(&name) {
                        names.push(name);
                    }
                }
                Ok(names)
            }
        }
        let mut reader = serde_json::Deserializer::from_slice(&self.0);
        reader.deserialize_map(Names).unwrap_or_default()
    }

    /// Returns one form as a `T`; `None` if there is none of that name, or it is not a `T`.
    pub fn get<T: DeserializeOwned>(&self, kind: &str) -> Option<T> {
        let mut reader = serde_json::Deserializer::from_slice(&self.0);
        let raw = reader.deserialize_map(Find(kind)).ok()??;
        serde_json::from_str(raw.get()).ok()
    }

    fn raw(&self) -> Result<&RawValue, serde_json::Error> {
        serde_json::from_slice(&self.0)
    }
}

/// Checks an object against the limits.
struct Within(bool);

impl<'de> Deserialize<'de> for Within {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Count;
        impl<'de> Visitor<'de> for Count {
            type Value = Within;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Within, A::Error> {
                let (mut forms, mut within) = (0, true);
                while let Some((Name(short), _)) = map.next_entry::<Name, &RawValue>()? {
                    forms += 1;
                    within &= short && forms <= FORMS_MAX;
                }
                Ok(Within(within))
            }
        }
        deserializer.deserialize_map(Count)
    }
}

/// Checks the length of a name without storing it.
struct Name(bool);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Length;
        impl Visitor<'_> for Length {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E>(self, name: &str) -> Result<Name, E> {
                Ok(Name(name.len() <= FORM_NAME_BYTES_MAX))
            }
        }
        deserializer.deserialize_str(Length)
    }
}

/// Finds the last form of a name.
struct Find<'a>(&'a str);

impl<'de> Visitor<'de> for Find<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
            if name == self.0 {
                found = Some(value);
            }
        }
        Ok(found)
    }
}

impl PartialEq for Forms {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Forms {}

impl fmt::Debug for Forms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl Serialize for Forms {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.raw().map_err(S::Error::custom)?.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Forms {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let json = Bytes::from(Box::<str>::from(raw).into_boxed_bytes());
        Self::parse(json).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forms(json: &str) -> Result<Forms, FormsError> {
        Forms::parse(Bytes::copy_from_slice(json.as_bytes()))
    }

    #[test]
    fn a_form_is_found_and_the_text_is_kept() {
        let json = r#"{"text/plain": "a\n", "n":[1e2,  {}],"text/plain":"b"}"#;
        let forms = forms(json).unwrap();
        assert_eq!(serde_json::to_string(&forms).unwrap(), json);
        assert_eq!(forms.kinds(), ["text/plain", "n"]);
        assert_eq!(forms.get::<String>("text/plain").unwrap(), "b");
        assert_eq!(forms.get::<String>("n"), None);
        assert_eq!(forms.get::<serde_json::Value>("m"), None);
        assert_eq!(serde_json::from_str::<Forms>(json).unwrap(), forms);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for json in ["", "[]", "null", "{", r#"{"a"}"#, r#"{"a":1,}"#, "{1:2}", "{\"a\":NaN}"] {
            assert!(matches!(forms(json), Err(FormsError::Json(_))), "{json}");
        }
        let invalid = Bytes::from_static(b"{\"a\":\"\xff\"}");
        assert!(matches!(Forms::parse(invalid), Err(FormsError::Json(_))));
    }

    #[test]
    fn forms_have_limits() {
        let of = |forms: usize| {
            let members: Vec<_> = (0..forms).map(|form| format!("\"{form}\":0")).collect();
            format!("{{{}}}", members.join(","))
        };
        assert!(forms(&of(FORMS_MAX)).is_ok());
        assert!(matches!(forms(&of(FORMS_MAX + 1)), Err(FormsError::Excess)));
        let named = |bytes| format!("{{\"{}\":0}}", "x".repeat(bytes));
        assert!(forms(&named(FORM_NAME_BYTES_MAX)).is_ok());
        assert!(matches!(forms(&named(FORM_NAME_BYTES_MAX + 1)), Err(FormsError::Excess)));
    }
}
