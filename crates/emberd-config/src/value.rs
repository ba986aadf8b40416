//! Values that options take: the choices, and limits that other crates share.

use clap::ValueEnum;
use clap::builder::PossibleValue;

/// Longest path of the run directory, in bytes, without a node key. A Unix socket's path has
/// at most 107 bytes (unix(7)), and its name and its sandbox's id come after the directory.
pub const RUN_DIR_BYTES_MAX: usize = 70;

/// Longest node key, in bytes.
pub const NODE_KEY_BYTES_MAX: usize = 4;

/// Longest time that an operator may allow, in milliseconds (ten years).
pub(crate) const TIMEOUT_MS_MAX: u64 = 3_650 * 24 * 3_600_000;

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
