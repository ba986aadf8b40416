//! Sandboxes: what a caller holds while a microVM runs.
//!
//! ```text
//!            create: boot, restore    guest answers            VMM ends by itself
//! nothing ──────────▶ Creating ───────────────────▶ Ready ───────────────────────▶ Gone
//!    ▲                   │ failed, cut off          ▲ │ delete, shutdown             │ delete
//!    └───────────────────┴──────────────────────────│─┴──────────────────────────────┘
//!                                 warm pool ────────┘ create
//! ```
//!
//! This crate knows no HTTP and no VMM by name.

mod activity;
mod answer;
mod base;
mod boot_path;
mod chain;
mod channel;
mod characters;
mod config;
mod console;
mod contexts;
mod create;
mod exec;
mod files;
mod id;
mod metrics;
mod operation;
mod pool;
mod ports;
mod processes;
mod reaper;
mod record;
mod renewal;
mod restore;
mod run_dir;
mod sandbox;
mod sandboxes;
mod shared;
mod table;
mod templates;

pub use boot_path::{BootPath, BootTimes};
pub use channel::ChannelError;
pub use config::{Pace, PoolConfig, SandboxesConfig};
pub use console::ConsoleLog;
pub use contexts::{
    CONTEXT_LINES_BYTES_MAX, CONTEXTS_MAX, ContextError, ContextState, ContextView, Run, RunEnd,
    RunEvent,
};
pub use create::{CreateError, Created};
pub use exec::{EXEC_GRACE_DEFAULT, ExecTimes, Executed};
pub use files::{ArchiveUpload, FileContent, FileListing, FileUpload, FileWatch, STREAM_BYTES_MAX};
pub use id::{ContextId, ContextIdError, NodeKey, NodeKeyError, SandboxId, SandboxIdError};
pub use operation::OperationError;
pub use pool::PoolView;
pub use ports::{DialError, GuestTcp, PORT_CONNECTIONS_MAX};
pub use processes::{
    ENDED_BYTES_MAX, ENDED_KEPT, ENDED_MAX, EVENT_BYTES_MAX, EVENTS_MAX, PROCESSES_MAX, Process,
    ProcessError, ProcessEvent, ProcessEventKind, ProcessEvents, ProcessStdin, ProcessView,
};
pub use run_dir::RUN_DIR_BYTES_MAX;
pub use sandbox::{SandboxState, SandboxView};
pub use sandboxes::{DeleteError, Sandboxes};
pub use shared::OpenError;
pub use templates::{BuildTemplateError, RemoveTemplateError, TemplateState, TemplateView};
