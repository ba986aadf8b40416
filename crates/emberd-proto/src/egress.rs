//! Egress: how connections that programs of the guest open reach the host.
//!
//! After [`HostMessage::Egress`](crate::HostMessage::Egress) and its answer, the connection
//! carries a yamux session in which only the guest opens streams. A stream begins with one
//! request, a `u16` big-endian byte count and that many bytes of JSON; the answer has the same
//! form. After [`EgressAnswer::Opened`] both directions carry the bytes of the connection: a
//! closed direction is an end of data, a reset stream is a connection that failed.
//!
//! ```text
//! guest ── Open{address, port, names} [first bytes] ─▶ host ── Opened | Refused ─▶ bytes ⇄
//! guest ── Resolve{name, family} ───────────────────▶ host ── Resolved | Refused ─▶ end
//! ```

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Largest request and largest answer, in bytes of JSON.
pub const EGRESS_FRAME_BYTES_MAX: usize = 4096;

/// Most names that one [`EgressRequest::Open`] claims.
pub const EGRESS_NAMES_MAX: usize = 8;

/// Most addresses in one [`EgressAnswer::Resolved`].
pub const EGRESS_ADDRESSES_MAX: usize = 16;

/// Longest name, in bytes (RFC 1035, without the final dot).
pub const EGRESS_NAME_BYTES_MAX: usize = 253;

/// Longest label of a name, in bytes (RFC 1035).
pub const EGRESS_LABEL_BYTES_MAX: usize = 63;

/// Shortest and longest time for which a guest may keep a resolved name.
pub const EGRESS_TTL: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(5)..=Duration::from_secs(60);

/// Address of the guest's own resolver, from the range of RFC 2544.
pub const EGRESS_RESOLVER: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

/// Address of the guest on its loopback interface, from the same range. The C library asks for
/// IPv4 addresses only on a machine that has one besides 127.0.0.1.
pub const EGRESS_GUEST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);

/// First bytes of one stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum EgressRequest {
    /// A program connected to an address.
    Open {
        /// The address that the program named.
        address: IpAddr,
        /// The port.
        port: u16,
        /// Names that resolved to the address, the latest first; at most [`EGRESS_NAMES_MAX`].
        /// The host treats them as claims.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        names: Vec<String>,
    },
    /// A program asked for the addresses of a name.
    Resolve {
        /// The name, without a final dot.
        name: String,
        /// The family of the addresses.
        family: EgressFamily,
    },
    /// A request newer than this code.
    #[serde(other)]
    Unknown,
}

/// Family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EgressFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Answer to an [`EgressRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum EgressAnswer {
    /// The connection is allowed and, where the guest speaks first, may not be established yet.
    Opened,
    /// The addresses of a name.
    Resolved {
        /// At most [`EGRESS_ADDRESSES_MAX`]; none if the name has no address of this family.
        addresses: Vec<IpAddr>,
        /// Seconds for which the guest may keep them, within [`EGRESS_TTL`].
        ttl_s: u32,
    },
    /// The request is refused, or failed.
    Refused {
        /// Why.
        reason: EgressReason,
    },
}

/// Why a connection, a lookup or a request was refused or failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum EgressReason {
    /// No entry of the policy allows the destination.
    NoRule,
    /// An entry of the sandbox's `deny` matches.
    DeniedByRule,
    /// The sandbox's policy allows it, the operator's ceiling does not.
    OverCeiling,
    /// An entry of the operator's `deny` matches.
    OperatorDenied,
    /// The host is allowed, on other ports.
    PortNotAllowed,
    /// The address is private or special, and the operator or the entry does not allow those.
    PrivateAddress,
    /// The address belongs to the machine that runs the sandbox.
    OwnAddress,
    /// A TLS connection to a named host does not name its server.
    SniMissing,
    /// The name in a TLS connection is none of the names that the address was resolved from.
    SniMismatch,
    /// The host in an HTTP request is not the one that the connection was opened to.
    HostMismatch,
    /// The first TLS message is spread over several records.
    FragmentedHello,
    /// The TLS connection hides its server's name (Encrypted Client Hello).
    Ech,
    /// The port is for TLS, and the connection does not speak it.
    NotTls,
    /// The port is for HTTP/1, and the connection does not speak it, or uses a form that is not
    /// allowed.
    NotHttp,
    /// The entry does not allow the method.
    MethodNotAllowed,
    /// The entry does not allow the path.
    PathNotAllowed,
    /// The name could not be resolved.
    LookupFailed,
    /// The name does not exist.
    NoSuchName,
    /// The destination does not accept the connection.
    ConnectFailed,
    /// The connection's TLS to the destination failed.
    UpstreamTls,
    /// The sandbox or the daemon has too many connections.
    ConnectionLimit,
    /// The sandbox opens connections, or asks for names, too fast.
    RateLimit,
    /// The sandbox has sent as much as it may.
    Budget,
    /// A secret has no value.
    SecretMissing,
    /// A secret was sent to a host that it is not for.
    SecretWrongHost,
    /// The policy was changed and does not allow the connection any more.
    PolicyChanged,
    /// A reason newer than this code.
    #[serde(other)]
    Other,
}

impl EgressReason {
    /// Every reason, in the order of the variants.
    pub const ALL: [Self; 27] = [
        Self::NoRule,
        Self::DeniedByRule,
        Self::OverCeiling,
        Self::OperatorDenied,
        Self::PortNotAllowed,
        Self::PrivateAddress,
        Self::OwnAddress,
        Self::SniMissing,
        Self::SniMismatch,
        Self::HostMismatch,
        Self::FragmentedHello,
        Self::Ech,
        Self::NotTls,
        Self::NotHttp,
        Self::MethodNotAllowed,
        Self::PathNotAllowed,
        Self::LookupFailed,
        Self::NoSuchName,
        Self::ConnectFailed,
        Self::UpstreamTls,
        Self::ConnectionLimit,
        Self::RateLimit,
        Self::Budget,
        Self::SecretMissing,
        Self::SecretWrongHost,
        Self::PolicyChanged,
        Self::Other,
    ];

    /// Name on the wire and in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoRule => "no_rule",
            Self::DeniedByRule => "denied_by_rule",
            Self::OverCeiling => "over_ceiling",
            Self::OperatorDenied => "operator_denied",
            Self::PortNotAllowed => "port_not_allowed",
            Self::PrivateAddress => "private_address",
            Self::OwnAddress => "own_address",
            Self::SniMissing => "sni_missing",
            Self::SniMismatch => "sni_mismatch",
            Self::HostMismatch => "host_mismatch",
            Self::FragmentedHello => "fragmented_hello",
            Self::Ech => "ech",
            Self::NotTls => "not_tls",
            Self::NotHttp => "not_http",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::PathNotAllowed => "path_not_allowed",
            Self::LookupFailed => "lookup_failed",
            Self::NoSuchName => "no_such_name",
            Self::ConnectFailed => "connect_failed",
            Self::UpstreamTls => "upstream_tls",
            Self::ConnectionLimit => "connection_limit",
            Self::RateLimit => "rate_limit",
            Self::Budget => "budget",
            Self::SecretMissing => "secret_missing",
            Self::SecretWrongHost => "secret_wrong_host",
            Self::PolicyChanged => "policy_changed",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for EgressReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Answer to [`HostMessage::Egress`](crate::HostMessage::Egress): what the guest does with
/// connections of its programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "capture", rename_all = "snake_case")]
pub enum EgressCapture {
    /// They are sent to the host, over the session that follows on this connection.
    Ready,
    /// The guest cannot capture them. The connection is idle again.
    Unavailable {
        /// Why, for people: for instance an option that the kernel lacks.
        why: String,
    },
}

/// A destination that the policy denied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct EgressDenied {
    /// The name, or the address where there was none.
    pub host: String,
    /// The port. Absent if the name was only looked up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Why.
    pub reason: EgressReason,
    /// Number of attempts.
    pub count: u32,
}

impl EgressDenied {
    /// Returns the entry that would allow the destination; none where no entry can.
    pub fn entry(&self) -> Option<String> {
        if !matches!(self.reason, EgressReason::NoRule | EgressReason::PortNotAllowed) {
            return None;
        }
        let host = match self.host.parse() {
            Ok(IpAddr::V6(address)) => format!("[{address}]"),
            _ => self.host.clone(),
        };
        Some(match self.port {
            None | Some(80 | 443) => host,
            Some(port) => format!("{host}:{port}"),
        })
    }
}

/// Denials of a policy while a program of its sandbox ran.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct EgressDenials {
    /// Destinations that the network policy denied to the sandbox while the program ran, the
    /// latest first, at most 8. Absent when there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress_denied: Vec<EgressDenied>,
    /// Advice on what to ask for. Absent when nothing would help.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// A frame of a stream that is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EgressFrameError {
    /// The frame is larger than [`EGRESS_FRAME_BYTES_MAX`].
    #[error("egress frame of {0} bytes exceeds {EGRESS_FRAME_BYTES_MAX}")]
    TooLarge(usize),
    /// The bytes are not the JSON expected.
    #[error("malformed egress frame: {0}")]
    Malformed(String),
}

/// Encodes a request or an answer.
///
/// # Errors
/// [`EgressFrameError::TooLarge`].
///
/// # Panics
/// If the message has maps with keys that are no strings. Requests and answers have none.
pub fn encode_frame(message: &impl Serialize) -> Result<Vec<u8>, EgressFrameError> {
    let mut frame = vec![0, 0];
    serde_json::to_writer(&mut frame, message).expect("messages have string keys only");
    let count = frame.len() - 2;
    let header = u16::try_from(count).ok().filter(|_| count <= EGRESS_FRAME_BYTES_MAX);
    let header = header.ok_or(EgressFrameError::TooLarge(count))?;
    frame[..2].copy_from_slice(&header.to_be_bytes());
    Ok(frame)
}

/// Returns how many bytes follow a frame's header.
///
/// # Errors
/// [`EgressFrameError::TooLarge`].
pub fn frame_bytes(header: [u8; 2]) -> Result<usize, EgressFrameError> {
    let count = usize::from(u16::from_be_bytes(header));
    if count > EGRESS_FRAME_BYTES_MAX {
        return Err(EgressFrameError::TooLarge(count));
    }
    Ok(count)
}

/// Decodes a frame's bytes, without its header.
///
/// # Errors
/// [`EgressFrameError::Malformed`].
pub fn decode_frame<T: DeserializeOwned>(json: &[u8]) -> Result<T, EgressFrameError> {
    serde_json::from_slice(json).map_err(|error| EgressFrameError::Malformed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T>(message: &T, json: &str)
    where
        T: Serialize + DeserializeOwned + PartialEq + fmt::Debug,
    {
        let frame = encode_frame(message).unwrap();
        let (header, body) = frame.split_first_chunk().unwrap();
        assert_eq!(frame_bytes(*header), Ok(body.len()));
        assert_eq!(std::str::from_utf8(body).unwrap(), json);
        assert_eq!(&decode_frame::<T>(body).unwrap(), message);
    }

    #[test]
    fn every_reason_is_at_its_place_and_has_a_name_of_its_own() {
        for (at, reason) in EgressReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, at, "{reason}");
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.name());
        }
        assert_eq!(EgressReason::ALL.last(), Some(&EgressReason::Other));
    }

    #[test]
    fn golden_frames() {
        check(
            &EgressRequest::Open {
                address: "192.0.2.1".parse().unwrap(),
                port: 443,
                names: vec!["a.example".into()],
            },
            r#"{"op":"open","address":"192.0.2.1","port":443,"names":["a.example"]}"#,
        );
        check(
            &EgressRequest::Resolve { name: "a.example".into(), family: EgressFamily::V6 },
            r#"{"op":"resolve","name":"a.example","family":"v6"}"#,
        );
        check(&EgressAnswer::Opened, r#"{"answer":"opened"}"#);
        check(
            &EgressAnswer::Resolved { addresses: vec!["::1".parse().unwrap()], ttl_s: 5 },
            r#"{"answer":"resolved","addresses":["::1"],"ttl_s":5}"#,
        );
        check(
            &EgressAnswer::Refused { reason: EgressReason::NoRule },
            r#"{"answer":"refused","reason":"no_rule"}"#,
        );
        check(&EgressCapture::Ready, r#"{"capture":"ready"}"#);
    }

    #[test]
    fn a_reason_has_its_name_on_the_wire() {
        for reason in [EgressReason::NoRule, EgressReason::Ech, EgressReason::FragmentedHello] {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.name());
        }
        assert_eq!(decode_frame::<EgressReason>(br#""of_tomorrow""#).unwrap(), EgressReason::Other);
    }

    #[test]
    fn large_frames_are_refused() {
        let name = "a".repeat(EGRESS_FRAME_BYTES_MAX);
        let refused = encode_frame(&EgressRequest::Resolve { name, family: EgressFamily::V4 });
        assert!(matches!(refused, Err(EgressFrameError::TooLarge(_))), "{refused:?}");
        assert_eq!(frame_bytes([0xff, 0xff]), Err(EgressFrameError::TooLarge(65_535)));
        assert_eq!(frame_bytes([0x10, 0x00]), Ok(EGRESS_FRAME_BYTES_MAX));
    }

    #[test]
    fn requests_of_tomorrow_are_unknown() {
        let request = decode_frame::<EgressRequest>(br#"{"op":"teleport","to":1}"#);
        assert_eq!(request, Ok(EgressRequest::Unknown));
    }
}
