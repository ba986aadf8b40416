//! End to end on real microVMs: the daemon's own binary, its real driver, a real kernel.
//!
//! `EMBERD_E2E` says how serious that is: `require` fails where no microVM can boot, `auto`
//! (default) and `off` skip. All other `EMBERD_*` variables reach the
//! daemon, so the same stories run on another driver, kernel or host.

mod adoption;
mod clients;
mod clones;
mod confinement;
mod contexts;
mod daemon;
mod disk;
mod egress;
mod faults;
mod freezing;
mod full_disk;
mod inside;
mod limits;
mod packs;
mod pool;
mod ports;
mod processes;
mod readme;
mod sizes;
mod story;

use daemon::Daemon;
use emberd_api::{CreateSandbox, ExecBody};
use emberd_proto::ExecSpec;

/// Time limit of every exec here, in milliseconds: far above what an emulated guest on a
/// busy host needs, so that a story fails for what it tells and not for being told slowly.
const TIMEOUT_MS: u64 = 300_000;

/// `code` with no arguments.
fn spec(code: impl Into<String>) -> ExecSpec {
    ExecSpec { timeout_ms: TIMEOUT_MS, ..ExecSpec::new(code) }
}

/// A sandbox of a language pack, else as the daemon likes it.
fn of_pack(pack: &str) -> CreateSandbox {
    CreateSandbox { language_pack: Some(pack.to_owned()), ..CreateSandbox::default() }
}

/// An exec body of `code` alone.
fn code(code: impl Into<String>) -> ExecBody {
    ExecBody { spec: spec(code), stdin: None, stdin_base64: None }
}
