//! The emberd daemon: flags → configuration → HTTP over sandboxes → ordered shutdown.
//!
//! Everything but the choice of a driver, which is the binary's.

pub mod access;
pub mod args;
pub mod audit;
pub mod config;
pub mod daemon;
pub mod egress_file;
mod egress_log;
mod egress_record;
pub mod http;
pub mod log;
pub mod meters;
mod notify;
mod server;
mod traces;
