//! The renewal of a restored guest. Clones of one template share their clock, random pool and
//! names until the host sends each a [`Renewal`].

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

/// Maximum wall clock, in microseconds since the epoch (start of 2200). A later time is a mistake
/// of the host; the kernel's own limit is not much higher.
pub const WALL_CLOCK_US_MAX: u64 = 7_258_118_400_000_000;
/// Minimum entropy, in bytes: the key size of the kernel's generator.
pub const ENTROPY_BYTES_MIN: usize = 32;
/// Maximum entropy, in bytes; more has no effect.
pub const ENTROPY_BYTES_MAX: usize = 256;
/// Maximum length of a host name, in bytes: one label of a domain name.
pub const HOSTNAME_BYTES_MAX: usize = 63;
/// Length of a machine id, in hexadecimal digits (machine-id(5)).
pub const MACHINE_ID_DIGITS: usize = 32;
/// Positions of the hyphens in a UUID.
const UUID_HYPHENS: [usize; 4] = [8, 13, 18, 23];
/// Length of a UUID as text, in bytes.
const UUID_BYTES: usize = 36;

/// The identity of a restored guest, applied before it runs code again.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewal {
    /// Current time, in microseconds since the epoch.
    pub wall_clock_us: u64,
    /// Random bytes for this guest only, 32 to 256 of them, as base64. They are secret, because
    /// they may reveal the guest's random numbers.
    pub entropy_base64: String,
    /// Host name: letters, digits and inner hyphens, at most 63.
    pub hostname: String,
    /// Machine id: 32 lower-case hexadecimal digits.
    pub machine_id: String,
    /// Boot id: a UUID in lower case.
    pub boot_id: String,
}

/// Checks a wall clock, in microseconds since the epoch.
///
/// # Errors
/// [`RenewalError::WallClock`] over [`WALL_CLOCK_US_MAX`].
pub fn check_wall_clock(wall_clock_us: u64) -> Result<(), RenewalError> {
    let fits = wall_clock_us <= WALL_CLOCK_US_MAX;
    if fits { Ok(()) } else { Err(RenewalError::WallClock(wall_clock_us)) }
}

impl Renewal {
    /// Checks this renewal against the rules of its fields.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&self) -> Result<(), RenewalError> {
        let rule = |kept, broken| if kept { Ok(()) } else { Err(broken) };
        check_wall_clock(self.wall_clock_us)?;
        self.entropy()?;
        rule(is_label(&self.hostname), RenewalError::Hostname)?;
        let machine_id = self.machine_id.as_bytes();
        let digits = machine_id.iter().all(|digit| is_lower_hex(*digit));
        rule(machine_id.len() == MACHINE_ID_DIGITS && digits, RenewalError::MachineId)?;
        rule(is_uuid(&self.boot_id), RenewalError::BootId)
    }

    /// Returns the entropy as bytes.
    ///
    /// # Errors
    /// [`RenewalError::Entropy`], [`RenewalError::EntropyBytes`].
    pub fn entropy(&self) -> Result<Vec<u8>, RenewalError> {
        let bytes = BASE64.decode(&self.entropy_base64).map_err(|_| RenewalError::Entropy)?;
        if (ENTROPY_BYTES_MIN..=ENTROPY_BYTES_MAX).contains(&bytes.len()) {
            Ok(bytes)
        } else {
            Err(RenewalError::EntropyBytes(bytes.len()))
        }
    }
}

/// Formats everything except the secret.
impl fmt::Debug for Renewal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Renewal")
            .field("wall_clock_us", &self.wall_clock_us)
            .field("entropy_base64", &format_args!("(secret)"))
            .field("hostname", &self.hostname)
            .field("machine_id", &self.machine_id)
            .field("boot_id", &self.boot_id)
            .finish()
    }
}

fn is_label(name: &str) -> bool {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let inner = !name.starts_with('-') && !name.ends_with('-');
    (1..=HOSTNAME_BYTES_MAX).contains(&name.len()) && plain && inner
}

fn is_uuid(text: &str) -> bool {
    text.len() == UUID_BYTES
        && text.bytes().enumerate().all(|(at, byte)| match byte {
            b'-' => UUID_HYPHENS.contains(&at),
            _ => is_lower_hex(byte) && !UUID_HYPHENS.contains(&at),
        })
}

fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// A rule that a [`Renewal`] breaks. The messages do not repeat secrets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RenewalError {
    /// The clock is over [`WALL_CLOCK_US_MAX`].
    #[error("wall_clock_us is {0}, over the limit of {WALL_CLOCK_US_MAX}")]
    WallClock(u64),
    /// The entropy is not base64.
    #[error("entropy_base64 is not base64")]
    Entropy,
    /// There is too little entropy, or too much.
    #[error("entropy is {0} bytes, not {ENTROPY_BYTES_MIN} to {ENTROPY_BYTES_MAX}")]
    EntropyBytes(usize),
    /// The host name is invalid.
    #[error("hostname is not 1 to {HOSTNAME_BYTES_MAX} letters, digits and inner hyphens")]
    Hostname,
    /// The machine id is invalid.
    #[error("machine_id is not {MACHINE_ID_DIGITS} lower-case hexadecimal digits")]
    MachineId,
    /// The boot id is invalid.
    #[error("boot_id is not a UUID in lower case")]
    BootId,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renewal() -> Renewal {
        Renewal {
            wall_clock_us: 1_800_000_000_000_000,
            entropy_base64: BASE64.encode([7; ENTROPY_BYTES_MIN]),
            hostname: "emberd".into(),
            machine_id: "0123456789abcdef0123456789abcdef".into(),
            boot_id: "01234567-89ab-cdef-0123-456789abcdef".into(),
        }
    }

    #[test]
    fn rules_are_held_and_their_edges_pass() {
        use RenewalError as Broken;
        type Edit = fn(&mut Renewal);
        let cases: [(Edit, Result<(), Broken>); 19] = [
            (|_| (), Ok(())),
            (|it| it.wall_clock_us = WALL_CLOCK_US_MAX, Ok(())),
            (
                |it| it.wall_clock_us = WALL_CLOCK_US_MAX + 1,
                Err(Broken::WallClock(WALL_CLOCK_US_MAX + 1)),
            ),
            (|it| it.entropy_base64 = BASE64.encode([0; ENTROPY_BYTES_MAX]), Ok(())),
            (|it| it.entropy_base64 = BASE64.encode([0; 31]), Err(Broken::EntropyBytes(31))),
            (|it| it.entropy_base64 = BASE64.encode([0; 257]), Err(Broken::EntropyBytes(257))),
            (|it| it.entropy_base64.push('\n'), Err(Broken::Entropy)),
            (|it| it.hostname = "A-1".repeat(21), Ok(())),
            (|it| it.hostname = "a".repeat(HOSTNAME_BYTES_MAX + 1), Err(Broken::Hostname)),
            (|it| it.hostname.clear(), Err(Broken::Hostname)),
            (|it| it.hostname = "a-".into(), Err(Broken::Hostname)),
            (|it| it.hostname = "a.b".into(), Err(Broken::Hostname)),
            (|it| it.hostname = "a\0".into(), Err(Broken::Hostname)),
            (|it| it.machine_id.truncate(31), Err(Broken::MachineId)),
            (|it| it.machine_id = "A".repeat(MACHINE_ID_DIGITS), Err(Broken::MachineId)),
            (|it| it.boot_id.push('0'), Err(Broken::BootId)),
            (|it| it.boot_id = "f".repeat(UUID_BYTES), Err(Broken::BootId)),
            (|it| it.boot_id = "-".repeat(UUID_BYTES), Err(Broken::BootId)),
            (|it| it.boot_id = it.boot_id.to_uppercase(), Err(Broken::BootId)),
        ];
        for (case, (edit, expect)) in cases.into_iter().enumerate() {
            let mut edited = renewal();
            edit(&mut edited);
            assert_eq!(edited.check(), expect, "case {case}: {edited:?}");
        }
    }

    #[test]
    fn entropy_is_never_shown() {
        let message = crate::HostMessage::Renew(renewal());
        let shown = format!("{message:?} {message:#?}");
        assert!(shown.contains("(secret)") && shown.contains("emberd"), "{shown}");
        assert!(!shown.contains(&renewal().entropy_base64[..8]), "{shown}");
    }
}
