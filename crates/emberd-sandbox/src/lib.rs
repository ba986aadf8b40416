//! Sandboxes: what a caller holds while a microVM runs.
//!
//! ```text
//! Sandboxes ─┬─ create ─▶ supply: pool, standby, template, cold boot ─▶ Running
//!            ├─ get ────▶ Handle: exec, files, processes, contexts, ports
//!            └─ delete ─▶ Gone, and reaped
//! ```
//!
//! `lifecycle` tracks the sandboxes and their phases; `supply` makes and removes microVMs.
//! This crate does not depend on HTTP or on one VMM; `emberd-guest` parses what guests send.

mod boot_path;
mod bounds;
mod config;
mod cpu;
mod egress;
mod error;
mod id;
mod lifecycle;
mod sandboxes;
mod shape;
mod supply;

pub use boot_path::{BootPath, BootTimes};
pub use bounds::ResourceError;
pub use config::{
    DiskConfig, EXEC_GRACE_DEFAULT, Pace, PoolConfig, Resources, SandboxSpec, SandboxesConfig,
};
pub use cpu::{Cpu, CpuChange, CpuError};
pub use egress::EgressState;
pub use emberd_guest::{
    Answer, CONTEXT_EVENTS_BYTES_MAX, CONTEXT_EVENTS_MAX, CONTEXT_LINES_BYTES_MAX, CONTEXTS_MAX,
    ChannelError, ContextError, ContextEvents, ContextId, ContextIdError, ContextState,
    ContextView, DialError, ENDED_BYTES_MAX, ENDED_KEPT, ENDED_MAX, EVENT_BYTES_MAX, EVENTS_MAX,
    ExecTimes, Executed, GuestError, GuestTcp, NumberedEvent, PORT_CONNECTIONS_MAX, PROCESSES_MAX,
    Process, ProcessError, ProcessEvent, ProcessEventKind, ProcessEvents, ProcessStdin,
    ProcessView, Run, RunEnd, RunEvent, STREAM_BYTES_MAX,
};
pub use error::{CreateError, OpenError, OperationError, RUN_DIR_BYTES_MAX, Unknown};
pub use id::{NodeKey, NodeKeyError, SandboxId, SandboxIdError};
pub use lifecycle::console::ConsoleLog;
pub use lifecycle::events::{
    SANDBOX_EVENTS_MAX, SandboxEvent, SandboxEventGap, SandboxEventKind, SandboxEventPage,
};
pub use lifecycle::freeze::InUse;
pub use lifecycle::handle::{
    Contexts, FileContent, FileListing, FileWatch, Files, Handle, Ports, Processes, Upload,
};
pub use lifecycle::holdings::{Held, Holdings, Quota, QuotaExceeded};
pub use lifecycle::lease::{Boottime, IdlePolicy, Terms, TermsChange};
pub use lifecycle::phase::PhaseKind;
pub use lifecycle::sandbox::{Created, SandboxView};
pub use lifecycle::state::SandboxState;
pub use lifecycle::url_key::UrlKey;
pub use lifecycle::urls::NotRecorded;
pub use sandboxes::Sandboxes;
pub use shape::{Shape, Size};
pub use supply::adopt::UnclaimedView;
pub use supply::create::FollowUp;
pub use supply::pool::PoolView;
pub use supply::templates::{BuildTemplateError, RemoveTemplateError, TemplateState, TemplateView};
