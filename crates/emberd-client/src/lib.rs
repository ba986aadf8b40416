//! Typed client of the emberd HTTP API, over TCP and Unix sockets.
//!
//! Connections are kept and reused. No call has a time limit of its own, for an exec
//! may take an hour: wrap a call in one where that is wanted. Dropping a call's future
//! drops the request, which ends a creation or a program under way.

mod attachment;
mod client;
mod contexts;
mod files;
mod lines;
mod link;
mod processes;
mod stream;
mod tunnel;

pub use attachment::Attachment;
pub use client::{Client, ClientError, Traced};
pub use contexts::RunEvents;
pub use files::{FileOptions, FileSpan, Watch, WatchError};
pub use lines::Lines;
pub use stream::{Download, Upload};
pub use tunnel::{Logs, Tunnel};
