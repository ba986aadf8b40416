//! The paths of the HTTP API, as routes and as links.

/// `POST` creates a sandbox, `GET` lists all.
pub const SANDBOXES: &str = "/sandboxes";
/// `GET` shows one sandbox, `DELETE` throws it away.
pub const SANDBOX: &str = "/sandboxes/{id}";
/// `POST` runs code.
pub const EXEC: &str = "/sandboxes/{id}/exec";
/// `GET` shows what the daemon is.
pub const INFO: &str = "/info";
/// `GET` answers when the daemon is up.
pub const HEALTHZ: &str = "/healthz";
/// `GET` shows the OpenAPI document.
pub const OPENAPI: &str = "/openapi.json";

/// Path of one sandbox.
pub fn sandbox(id: &str) -> String {
    SANDBOX.replace("{id}", id)
}

/// Path that runs code in one sandbox.
pub fn exec(id: &str) -> String {
    EXEC.replace("{id}", id)
}
