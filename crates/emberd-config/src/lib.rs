//! Every option of the daemon, once: flag, variable, TOML key, default, limit, documentation.
//!
//! ```text
//! DEFINITIONS ─▶ flags and variables ─┐
//!             ─▶ keys of the file ────┴▶ Given (as typed) ─▶ Config (as meant)
//!             ─▶ reference page
//! ```
//!
//! The daemon and `emberctl doctor` read the same files and apply the same checks.

mod config;
mod definition;
mod definitions;
pub mod duration;
mod file;
mod flags;
mod form;
mod given;
mod page;
mod print;
mod problem;
mod reader;
mod surroundings;
mod value;
mod web_origin;

pub use config::{
    AuditOptions, CgroupOption, Config, JailOptions, PoolOptions, SocketOption, TlsOptions,
};
pub use definition::{DefaultValue, Definition, Key};
pub use definitions::DEFINITIONS;
pub use flags::{AllKeys, Flags, Subset};
pub use form::Form;
pub use given::{Given, Origin};
pub use page::{PAGE_END, PAGE_START, options_page};
pub use print::Shown;
pub use problem::{Problem, Problems};
pub use reader::parse_mib;
pub use surroundings::Surroundings;
pub use value::{
    AccelChoice, AccessRule, AuditChoice, Authentication, JailChoice, LogFormat,
    NODE_KEY_BYTES_MAX, OnStart, OnStop, RUN_DIR_BYTES_MAX, Switch, VmmChoice, Who,
};
pub use web_origin::WebOrigin;
