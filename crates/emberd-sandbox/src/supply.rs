//! How microVMs are made and removed.
//!
//! ```text
//! create ─┬─ pool ────── a restored, warmed microVM that waits
//!         ├─ standby ─── a VMM that stands by: load ─▶ answer ─▶ renew
//!         ├─ template ── stand by ─▶ load ─▶ answer ─▶ renew
//!         └─ cold boot ─ boot ─▶ answer
//! ```

pub(crate) mod adopt;
pub(crate) mod answer;
pub(crate) mod base;
pub(crate) mod boot;
pub(crate) mod create;
pub(crate) mod disks;
pub(crate) mod expiry;
pub(crate) mod health;
pub(crate) mod idle;
pub(crate) mod journals;
pub(crate) mod keeper;
pub(crate) mod limit;
pub(crate) mod pins;
pub(crate) mod pool;
pub(crate) mod pressure;
pub(crate) mod reaper;
pub(crate) mod rejoin;
pub(crate) mod restore;
pub(crate) mod run_dir;
pub(crate) mod sources;
pub(crate) mod templates;
pub(crate) mod turns;
