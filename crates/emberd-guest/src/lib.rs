//! The host's half of the guest wire: every byte a guest sends is parsed here.
//!
//! ```text
//! Guest ─┬─ exec, metrics, ping       Session ── Link ── frames ── any byte stream
//!        ├─ Files, Processes          idle links, permits,         (a driver's, or a
//!        └─ Contexts, Ports           and an end for every case     Unix socket)
//! ```
//!
//! The guest is hostile: every frame is checked against what may come next, every length, count
//! and duration has a limit here, and the first frame that breaks a rule ends the guest. The crate
//! imports `emberd-proto` only; a [`Host`] runs the guest.

mod contexts;
mod egress;
mod error;
mod exec;
mod files;
mod guest;
mod host;
mod line;
mod link;
mod note;
mod ports;
mod processes;
mod random;
mod recover;
pub mod renewal;
mod session;
mod tether;
mod wire;

pub use contexts::{
    CONTEXT_EVENTS_BYTES_MAX, CONTEXT_EVENTS_MAX, CONTEXT_LINES_BYTES_MAX, CONTEXTS_MAX,
    ContextError, ContextEvents, ContextId, ContextIdError, ContextState, ContextView, Contexts,
    NumberedEvent, Run, RunEnd, RunEvent,
};
pub use egress::{EgressLink, EgressStream};
pub use error::{ChannelError, GuestError, LimitsError};
pub use exec::{ExecTimes, Executed};
pub use files::{
    Answer, ArchiveUpload, FileContent, FileListing, FileUpload, FileWatch, Files,
    STREAM_BYTES_MAX, Upload,
};
pub use guest::Guest;
pub use host::{ByteStream, End, Host};
pub use link::{Link, Room};
pub use ports::{DialError, GuestTcp, Ports};
pub use processes::{
    ENDED_BYTES_MAX, ENDED_KEPT, ENDED_MAX, EVENT_BYTES_MAX, EVENTS_MAX, PROCESSES_MAX, Process,
    ProcessError, ProcessEvent, ProcessEventKind, ProcessEvents, ProcessStdin, ProcessView,
    Processes,
};
pub use recover::Recovered;
pub use session::PORT_CONNECTIONS_MAX;
