//! The API: HTTP/1.1 on a Unix socket.
//!
//! [`server`] corresponds to firecracker's micro-http, and [`request`] to its `api_server/`.

pub mod request;
pub mod server;
