//! Isolation of VMMs from the host and from each other: separate users, resource limits, and for
//! VMMs without a jailer a separate root.

use std::path::PathBuf;
use std::str::FromStr;

pub(crate) mod ids;
pub(crate) mod plan;

pub use ids::IdRange;
pub(crate) use ids::{Ids, Lease};
pub(crate) use plan::{Access, Plan};

/// Whether to jail VMMs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum JailChoice {
    /// If the daemon is root and a jail is possible.
    #[default]
    Auto,
    /// Yes; an error if a jail is not possible.
    On,
    /// No.
    Off,
}

impl FromStr for JailChoice {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "auto" => Ok(Self::Auto),
            "on" => Ok(Self::On),
            "off" => Ok(Self::Off),
            _ => Err(format!("`{word}` is not auto, on or off")),
        }
    }
}

/// How microVMs are jailed.
#[derive(Debug, Clone)]
pub struct JailConfig {
    /// Whether microVMs are jailed.
    pub choice: JailChoice,
    /// Firecracker's jailer; looked for beside Firecracker, then in `PATH`, when absent.
    pub jailer: Option<PathBuf>,
    /// Users of which each microVM gets one for itself, as user and as group.
    pub ids: IdRange,
    /// Network namespace every VMM joins; without it Firecracker stays in the daemon's and
    /// QEMU joins one with nothing in it.
    pub netns: Option<PathBuf>,
    /// Directory the microVMs' directories are made in, where known: Firecracker's jail needs
    /// its devices and programs, which not every mount allows.
    pub run_dir: Option<PathBuf>,
}

impl Default for JailConfig {
    fn default() -> Self {
        Self {
            choice: JailChoice::Auto,
            jailer: None,
            ids: IdRange::default(),
            netns: None,
            run_dir: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_words() {
        assert_eq!("on".parse(), Ok(JailChoice::On));
        assert_eq!("auto".parse(), Ok(JailChoice::Auto));
        assert!("yes".parse::<JailChoice>().is_err());
    }
}
