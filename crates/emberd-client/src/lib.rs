//! Typed client of the emberd HTTP API, over TCP, TLS and Unix sockets.
//!
//! Connections are kept and reused. Calls have no time limit, since an exec may take an hour: wrap
//! a call in a timeout where one is wanted. Dropping the future of a call drops the request, which
//! ends a creation or a program under way.

mod attachment;
mod audit;
mod client;
mod contexts;
mod creation;
mod egress;
mod events;
mod files;
mod follow;
mod key;
mod lines;
mod link;
mod local;
mod processes;
mod secured;
mod sse;
mod stream;
mod templates;
mod tls;
mod tunnel;
mod urls;
mod usage;

pub use attachment::Attachment;
pub use client::{Client, ClientError, Traced};
pub use contexts::RunEvents;
pub use files::{FileOptions, FileSpan, Watch, WatchError};
pub use follow::Events;
pub use key::ApiKeyError;
pub use lines::Lines;
pub use local::LocalBody;
pub use sse::{ServerEvent, ServerEventError, ServerEvents};
pub use stream::{Download, Upload};
pub use tls::{TlsFault, TlsFiles, TlsFilesError};
pub use tunnel::{Logs, Tunnel};
