//! How values of options are written, and their limits.

use clap::builder::PossibleValue;

/// How a value is written, and its limits.
#[derive(Debug)]
pub enum Form {
    /// `HOST:PORT` or `unix:PATH`.
    Address,
    /// `auto`, `off` or a path.
    PathOrNot,
    /// Names of hosts: a list, at most this many.
    HostNames {
        /// The most names.
        most: usize,
        /// The longest name, in bytes.
        bytes_max: usize,
    },
    /// Origins of web pages: a list, at most this many.
    WebOrigins {
        /// The most origins.
        most: usize,
        /// The longest origin, in bytes.
        bytes_max: usize,
    },
    /// Users of the Unix socket: a list of `uid:NUMBER=ROLE` and `gid:NUMBER=ROLE`.
    AccessRules {
        /// The most rules.
        most: usize,
    },
    /// A path; a relative one starts at the working directory.
    Path,
    /// One of these words.
    Choice(fn() -> Vec<PossibleValue>),
    /// A whole number.
    Count {
        /// The least.
        least: u64,
        /// The most.
        most: u64,
    },
    /// A whole number, or `off`, which is 0.
    CountOrOff {
        /// The most.
        most: u64,
    },
    /// A size of memory, in MiB unless a unit is given.
    SizeMib {
        /// The least, in MiB.
        least: u64,
        /// The most, in MiB.
        most: u64,
    },
    /// A size in MiB unless a unit is given, or `off`, which is 0.
    SizeMibOrOff {
        /// The least, in MiB.
        least: u64,
        /// The most, in MiB.
        most: u64,
    },
    /// A duration, in seconds unless a unit is given.
    Duration {
        /// The least, in milliseconds.
        least_ms: u64,
        /// The most, in milliseconds.
        most_ms: u64,
    },
    /// A duration, or `never`, which is 0.
    DurationOrNever {
        /// The least, in milliseconds.
        least_ms: u64,
        /// The most, in milliseconds.
        most_ms: u64,
    },
    /// A range of user ids, `FIRST-LAST`.
    UserIds {
        /// The least id.
        least: u32,
        /// The most.
        most: u32,
    },
    /// At most this many bytes of `a-z` and `0-9`.
    NodeKey {
        /// The most bytes.
        bytes_max: usize,
    },
    /// Words, separated by spaces.
    Words,
    /// `true` or `false`; the flag alone means `true`.
    Flag,
}

impl Form {
    /// The values of a choice; empty for other forms.
    pub fn possible(&self) -> Vec<PossibleValue> {
        match self {
            Self::Choice(values) => values(),
            _ => Vec::new(),
        }
    }

    /// The values an option takes, for the reference page.
    pub fn limits(&self) -> String {
        match self {
            Self::Address => "`HOST:PORT` or `unix:PATH`".to_owned(),
            Self::PathOrNot => "`auto`, `off` or a path".to_owned(),
            Self::HostNames { most, bytes_max } => {
                format!("up to {most} names of at most {bytes_max} bytes")
            }
            Self::WebOrigins { most, bytes_max } => {
                format!("up to {most} of `https://HOST[:PORT]`, of at most {bytes_max} bytes")
            }
            Self::AccessRules { most } => {
                format!("up to {most} of `uid:NUMBER=ROLE` or `gid:NUMBER=ROLE`")
            }
            Self::Path => "a path".to_owned(),
            Self::Choice(values) => {
                let names: Vec<_> =
                    values().iter().map(|value| format!("`{}`", value.get_name())).collect();
                names.join(", ")
            }
            Self::Count { least, most } => format!("{least} to {most}"),
            Self::CountOrOff { most } => format!("0 to {most}, or `off`"),
            Self::SizeMib { least, most } => format!("{least} to {most} MiB"),
            Self::SizeMibOrOff { least, most } => format!("{least} to {most} MiB, or `off`"),
            Self::Duration { least_ms, most_ms } => durations(*least_ms, *most_ms),
            Self::DurationOrNever { least_ms, most_ms } => {
                format!("{}, or `never`", durations(*least_ms, *most_ms))
            }
            Self::UserIds { least, most } => format!("`FIRST-LAST`, from {least} to {most}"),
            Self::NodeKey { bytes_max } => format!("0 to {bytes_max} of `a-z0-9`"),
            Self::Words => "words, separated by spaces".to_owned(),
            Self::Flag => "`true` or `false`".to_owned(),
        }
    }

    /// How a TOML value of this form is written.
    pub(crate) fn toml(&self) -> &'static str {
        match self {
            Self::HostNames { .. } => "a list of texts, such as ['a.example', 'b.example']",
            Self::WebOrigins { .. } => "a list of texts, such as ['https://console.example']",
            Self::AccessRules { .. } => "[[access]] with uid or gid, and role",
            Self::Count { .. } | Self::CountOrOff { .. } => "a whole number, such as 2",
            Self::SizeMib { .. } | Self::SizeMibOrOff { .. } => {
                "a number of MiB or a text, such as 512 or '2GiB'"
            }
            Self::Duration { .. } | Self::DurationOrNever { .. } => {
                "a text such as '90s', or a number of seconds"
            }
            Self::Flag => "true or false",
            _ => "a text in quotes",
        }
    }

    /// Whether a TOML number stands for a value of this form.
    pub(crate) fn takes_numbers(&self) -> bool {
        matches!(
            self,
            Self::Count { .. }
                | Self::CountOrOff { .. }
                | Self::SizeMib { .. }
                | Self::SizeMibOrOff { .. }
                | Self::Duration { .. }
                | Self::DurationOrNever { .. }
        )
    }
}

fn durations(least_ms: u64, most_ms: u64) -> String {
    let text = |ms| crate::duration::text(std::time::Duration::from_millis(ms));
    format!("{} to {}", text(least_ms), text(most_ms))
}
