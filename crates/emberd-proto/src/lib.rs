//! The protocol between host and guest. This crate does no I/O. A connection carries one operation
//! at a time:
//!
//! ```text
//! connect ─ Hello ▶ Welcome ─▶ idle ─ Ping, Renew, … ▶ Pong, Renewed, … ──────▶ idle
//!                                ├── Exec, Stdin*, StdinEnd ▶ (Stdout|Stderr)*, Exited ▶ idle
//!                                ├── Start or Attach, … ▶ Attached, …, Exited ──────────▶ idle
//!                                ├── Context, (Data|Signal)* ▶ Attached, …, Exited ──────▶ idle
//!                                ├── File, Data*, DataEnd ▶ File or Done ───────────────▶ idle
//!                                ├── Dial ▶ Dialed, Data* and DataEnd both ways, Done ──▶ idle
//!                                └── Egress ▶ Egress, then the session of `egress`
//! ```

mod chain;
mod characters;
pub mod context;
pub mod egress;
pub mod exec;
pub mod file;
pub mod forms;
pub mod frame;
pub mod json;
pub mod limits;
pub mod message;
pub mod metrics;
pub mod mux;
pub mod pack;
pub mod policy;
pub mod process;
pub mod renewal;
mod ring;

pub use chain::chain;
pub use characters::Characters;
pub use context::{ContextCall, ContextEvent, ContextRun, ContextSpec, InterruptedBy, LineError};
pub use egress::{
    EgressAnswer, EgressCapture, EgressDenials, EgressDenied, EgressFamily, EgressReason,
    EgressRequest,
};
pub use exec::{ExecExit, ExecOutcome, ExecSpec, SpecError, StartedBy};
pub use file::{FileChange, FileEntry, FileOp, FileRequest, FileType, GuestPath};
pub use forms::{Forms, FormsError};
pub use frame::{Decoder, Frame, FrameError, Kind};
pub use limits::{GuestLimits, GuestLimitsError};
pub use message::{
    Attached, GuestMessage, HostMessage, Program, Refusal, RefusalCode, Renewed, Settled, Welcome,
};
pub use metrics::Metrics;
pub use pack::{ContextProgram, PackSpec, ZygoteSpec};
pub use policy::{EntryFields, EntrySpec, PolicySpec};
pub use process::{Limits, ProcessSpec, SignalName, TtySize};
pub use renewal::{Renewal, RenewalError};
pub use ring::Ring;
