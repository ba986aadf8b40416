//! What host and guest say to each other. No I/O happens here.
//!
//! [`frame`] cuts a byte stream into frames, [`message`] is the JSON inside the
//! control frames, [`exec`] says what to run and how it ended, [`renewal`] what a restored
//! guest takes over. One operation at a time runs on a connection:
//!
//! ```text
//! connect ── Hello ▶ Welcome ──▶ idle ── Ping ▶ Pong ─────────────────────▶ idle
//!                                  ├─── Renew ▶ Renewed ──────────────────▶ idle
//!                                  └─── Exec, Stdin*, StdinEnd ▶
//!                                       (Stdout | Stderr)*, Exited ───────▶ idle
//! ```

pub mod exec;
pub mod frame;
pub mod message;
pub mod pack;
pub mod renewal;

pub use exec::{ExecExit, ExecOutcome, ExecSpec, SpecError, StartedBy};
pub use frame::{Decoder, Frame, FrameError, Kind};
pub use message::{GuestMessage, HostMessage, Refusal, RefusalCode, Renewed, Settled, Welcome};
pub use pack::{PackSpec, ZygoteSpec};
pub use renewal::{Renewal, RenewalError};
