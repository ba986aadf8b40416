//! The network policy that a caller asks for. Defined once for the HTTP API, its client, the
//! operator's file and the enforcement.
//!
//! Nothing is interpreted here: entries and names of profiles are text until `emberd-egress`
//! compiles the policy. Unlike other bodies, a policy with an unknown field is refused: a
//! misspelt restriction would allow more than was meant.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// Most entries of `allow` and `deny` together.
pub const EGRESS_ENTRIES_MAX: usize = 512;
/// Most profiles of one policy.
pub const EGRESS_PROFILES_MAX: usize = 64;
/// Most connections at once that a policy may ask for.
pub const EGRESS_CONNECTIONS_MAX: u32 = 1024;
/// Most opened connections per second that a policy may ask for.
pub const EGRESS_OPENS_PER_S_MAX: u32 = 10_000;

/// The destinations that a sandbox may reach. By default there are none.
///
/// A destination is allowed if an entry of `allow` or of a profile matches it, none of `deny`
/// does, and the operator permits it. The order of entries has no meaning.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct PolicySpec {
    /// Names of profiles, whose entries are allowed; at most 64.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub profiles: Vec<String>,
    /// Entries that are allowed. At most 512 together with `deny`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<EntrySpec>,
    /// Entries that are denied, whatever allows them. Without ports, an entry denies all ports.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<EntrySpec>,
    /// Which connections are recorded.
    #[serde(skip_serializing_if = "is_default")]
    pub log: EgressLogMode,
    /// Limits of the sandbox's connections.
    #[serde(skip_serializing_if = "is_default")]
    pub limits: EgressLimits,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// One entry: `HOST[:PORTS]`, or an object with options.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(untagged)]
pub enum EntrySpec {
    /// `HOST[:PORTS]`. `HOST` is a name, `*.NAME` for all names below it, `*` for all public
    /// destinations, an address or a CIDR range; IPv6 with ports is in brackets. `PORTS` is a
    /// port, a range `8000-8100`, a list with commas, or `*`. Without ports, 80 and 443 are
    /// allowed.
    Text(String),
    /// The host, with ports and options.
    Fields(EntryFields),
}

impl EntrySpec {
    /// The entry without its options, as text.
    pub fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Fields(fields) => match &fields.ports {
                Some(ports) => format!("{}:{ports}", fields.host),
                None => fields.host.clone(),
            },
        }
    }
}

impl From<&str> for EntrySpec {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// A derived `Deserialize` would say of an unknown field only that no variant fits.
impl<'de> Deserialize<'de> for EntrySpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entry;

        impl<'de> Visitor<'de> for Entry {
            type Value = EntrySpec;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an entry such as \"api.example.com:443\", or an object with `host`")
            }

            fn visit_str<E>(self, text: &str) -> Result<EntrySpec, E> {
                Ok(EntrySpec::Text(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<EntrySpec, A::Error> {
                let fields = EntryFields::deserialize(MapAccessDeserializer::new(map));
                fields.map(EntrySpec::Fields)
            }
        }

        deserializer.deserialize_any(Entry)
    }
}

/// An entry with options. Where several entries match one destination, their options add up: the
/// connection may do what any of them permits.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct EntryFields {
    /// The host, as in the short form.
    pub host: String,
    /// The ports, as in the short form. 80 and 443 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<String>,
    /// Methods of HTTP requests that are allowed; all when empty. Only for port 80: requests over
    /// TLS cannot be seen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// Paths of HTTP requests that are allowed, where `*` stands for any characters; all when
    /// empty. Only for port 80.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// Whether the host may have a private address. The operator must permit its range, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub private: bool,
    /// How the content of connections is checked.
    #[serde(default, skip_serializing_if = "is_default")]
    pub protocol: EgressProtocol,
    /// Whether TLS connections may hide the name of their server (Encrypted Client Hello).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ech: bool,
}

/// How the content of a connection to a name is checked.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum EgressProtocol {
    /// By port and first byte: TLS on port 443 or where a TLS message comes first, HTTP/1 on port
    /// 80, else not at all.
    #[default]
    Auto,
    /// Not at all.
    Tcp,
}

/// Which connections of a sandbox are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum EgressLogMode {
    /// All.
    #[default]
    All,
    /// Denied and failed ones.
    Denied,
    /// None.
    Off,
}

/// Limits of one sandbox's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct EgressLimits {
    /// Connections at once, 1 to 1,024.
    pub connections: u32,
    /// Connections opened in a second, on average, 1 to 10,000.
    pub opens_per_s: u32,
    /// Rate of data to destinations, in KiB per second; 0 for no limit.
    pub upload_kib_s: u32,
    /// Rate of data from destinations, in KiB per second; 0 for no limit.
    pub download_kib_s: u32,
    /// Data to destinations over the sandbox's life, in MiB; 0 for no limit.
    pub upload_mib: u32,
}

impl Default for EgressLimits {
    fn default() -> Self {
        Self {
            connections: 256,
            opens_per_s: 100,
            upload_kib_s: 0,
            download_kib_s: 0,
            upload_mib: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_written_as_it_was_read() {
        let json = concat!(
            r#"{"profiles":["pip"],"allow":["api.example.com","github.com:22","#,
            r#"{"host":"*.example","ports":"80","methods":["GET"],"paths":["/a/*"]}],"#,
            r#""deny":["t.example.com"],"log":"denied","limits":{"connections":8,"#,
            r#""opens_per_s":100,"upload_kib_s":0,"download_kib_s":0,"upload_mib":0}}"#,
        );
        let spec: PolicySpec = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&spec).unwrap(), json);
        assert_eq!(spec.allow[2].text(), "*.example:80");
        assert_eq!(serde_json::to_string(&PolicySpec::default()).unwrap(), "{}");
    }

    #[test]
    fn a_field_that_is_unknown_is_named() {
        for (json, field) in [
            (r#"{"denny":[]}"#, "denny"),
            (r#"{"allow":[{"host":"a","method":["GET"]}]}"#, "method"),
            (r#"{"allow":[{"host":"a","inspect":true}]}"#, "inspect"),
            (r#"{"limits":{"connection":1}}"#, "connection"),
        ] {
            let error = serde_json::from_str::<PolicySpec>(json).unwrap_err().to_string();
            assert!(error.contains(&format!("unknown field `{field}`")), "{error}");
        }
        let error = serde_json::from_str::<EntrySpec>("7").unwrap_err().to_string();
        assert!(error.contains("expected an entry such as"), "{error}");
    }
}
