//! How a request says that it is for a port inside a sandbox.

/// Request header that names a sandbox; together with [`PORT_HEADER`], the request goes to that
/// port inside the sandbox.
pub const SANDBOX_HEADER: &str = "x-emberd-sandbox";

/// Request header that names the port inside the sandbox of [`SANDBOX_HEADER`].
pub const PORT_HEADER: &str = "x-emberd-port";

/// Name of the protocol (`Upgrade`) of a connection to a port inside a sandbox: its bytes are
/// passed on unchanged.
pub const TUNNEL_PROTOCOL: &str = "tcp";
