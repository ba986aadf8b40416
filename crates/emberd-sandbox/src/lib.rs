//! Sandboxes: what a caller holds while a microVM runs.
//!
//! ```text
//!            create                   guest answers            VMM ends by itself
//! nothing ──────────▶ Creating ───────────────────▶ Ready ───────────────────────▶ Gone
//!    ▲                   │ failed, cut off            │ delete, shutdown             │ delete
//!    └───────────────────┴────────────────────────────┴──────────────────────────────┘
//! ```
//!
//! This crate knows no HTTP and no VMM by name.

mod channel;
mod create;
mod exec;
mod id;
mod record;
mod run_dir;
mod sandbox;
mod sandboxes;

pub use channel::ChannelError;
pub use create::CreateError;
pub use exec::{EXEC_GRACE_DEFAULT, ExecError};
pub use id::{SandboxId, SandboxIdError};
pub use run_dir::RUN_DIR_BYTES_MAX;
pub use sandbox::{BOOT_PATH, BootTimes, SandboxState, SandboxView};
pub use sandboxes::{
    BOOT_TIMEOUT_DEFAULT, DeleteError, OpenError, SANDBOXES_MAX_DEFAULT, Sandboxes, SandboxesConfig,
};
