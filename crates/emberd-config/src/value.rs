//! Values that options take: the choices, and limits that other crates share.

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;
use clap::builder::PossibleValue;
use emberd_keys::Role;

/// Longest path of the run directory, in bytes, without a node key. A Unix socket's path has
/// at most 107 bytes (unix(7)), and its name and its sandbox's id come after the directory.
pub const RUN_DIR_BYTES_MAX: usize = 70;

/// Longest node key, in bytes.
pub const NODE_KEY_BYTES_MAX: usize = 4;

/// Longest time that an operator may allow, in milliseconds (ten years).
pub(crate) const TIMEOUT_MS_MAX: u64 = 3_650 * 24 * 3_600_000;

/// Whether callers over TCP need a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authentication {
    /// They need one as soon as there are keys, and addresses for other hosts need keys.
    Keys,
    /// They need none.
    Off,
}

/// A user or group that may use the Unix socket without a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccessRule {
    /// The users.
    pub who: Who,
    /// Their role.
    pub role: Role,
}

/// Programs of some users of this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// One user.
    User(u32),
    /// One group. Further groups of a user do not count.
    Group(u32),
}

impl FromStr for AccessRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || "a rule such as uid:1000=user or gid:100=viewer".to_owned();
        let (who, role) = text.split_once('=').ok_or_else(expected)?;
        let (kind, number) = who.split_once(':').ok_or_else(expected)?;
        let is_number = number.bytes().all(|byte| byte.is_ascii_digit());
        let number = number.parse().ok().filter(|_| is_number).ok_or_else(expected)?;
        let who = match kind {
            "uid" => Who::User(number),
            "gid" => Who::Group(number),
            _ => return Err(expected()),
        };
        Ok(Self { who, role: role.parse().map_err(|_| expected())? })
    }
}

impl fmt::Display for AccessRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, number) = match self.who {
            Who::User(uid) => ("uid", uid),
            Who::Group(gid) => ("gid", gid),
        };
        write!(f, "{kind}:{number}={}", self.role)
    }
}

/// The VMM that runs the sandboxes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum VmmChoice {
    /// Firecracker if it is installed and KVM is usable, else QEMU.
    Auto,
    /// Firecracker.
    Firecracker,
    /// QEMU.
    Qemu,
}

/// Whether each VMM runs in a jail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum JailChoice {
    /// A jail if the daemon is root and the host allows one.
    Auto,
    /// A jail; the daemon does not start without one.
    On,
    /// No jail.
    Off,
}

/// Whether a part of the daemon is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// In use.
    On,
    /// Not in use.
    Off,
}

/// Accelerator of the guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AccelChoice {
    /// KVM if it is usable, else software emulation.
    Auto,
    /// KVM.
    Kvm,
    /// Software emulation, by QEMU.
    Tcg,
}

/// Fate of the sandboxes of an earlier daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnStart {
    /// This daemon takes them over.
    Adopt,
    /// They are removed.
    Clean,
}

/// Fate of the sandboxes of a daemon that stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnStop {
    /// They are deleted.
    Delete,
    /// They run on, for the next daemon.
    Keep,
}

/// Whether the daemon keeps an audit journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AuditChoice {
    /// A journal. Requests go on while it takes no records.
    On,
    /// None.
    Off,
    /// A journal. Requests that it cannot take are refused.
    Required,
}

/// Format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// The values of a choice, with their descriptions.
pub(crate) fn possible<T: ValueEnum>() -> Vec<PossibleValue> {
    T::value_variants().iter().filter_map(ValueEnum::to_possible_value).collect()
}

/// The name of one value of a choice.
pub(crate) fn name<T: ValueEnum + Copy>(value: T) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}
