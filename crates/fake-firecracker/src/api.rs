//! The API: HTTP/1.1 on a Unix socket.
//!
//! [`server`] is what firecracker's micro-http is, [`request`] what its `api_server/` is.

pub mod request;
pub mod server;
