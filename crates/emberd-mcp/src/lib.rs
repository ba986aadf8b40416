//! MCP server of emberd: sandboxes as tools of an agent, over the HTTP API and nothing else.
//!
//! ```text
//! agent ─stdio─▶ emberctl mcp ─▶ Server ─▶ Client ─connection─▶ daemon
//! agent ─HTTP──▶ daemon ───────▶ Server ─▶ Client ─in process─▶ the daemon's own router
//! ```
//! Both ways are the same code, and each call is one request of the API or several, made with the
//! caller's own key: scopes, owners and the audit journal hold as everywhere.

mod answer;
mod call;
mod calls;
mod contexts;
mod failure;
mod follow;
mod http;
mod life;
mod outputs;
mod progress;
mod resources;
mod server;
mod state;
mod stdio;
mod text;
mod tools;

pub use rmcp::transport::io::stdio_pipes;

pub use http::{BODY_BYTES_MAX, HttpRoute, over_http};
pub use server::{CALLS_MAX, Options, Server, ToolsError};
pub use state::Daemon;
pub use stdio::{StdioError, over_stdio};
