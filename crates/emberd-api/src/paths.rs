//! The paths of the HTTP API, as routes and as links.

/// `POST` creates a sandbox, `GET` lists all.
pub const SANDBOXES: &str = "/sandboxes";
/// `GET` shows one sandbox, `DELETE` throws it away.
pub const SANDBOX: &str = "/sandboxes/{id}";
/// `POST` runs code.
pub const EXEC: &str = "/sandboxes/{id}/exec";
/// `POST` starts a process, `GET` lists all.
pub const PROCESSES: &str = "/sandboxes/{id}/processes";
/// `GET` shows one process, `DELETE` kills and forgets it.
pub const PROCESS: &str = "/sandboxes/{id}/processes/{pid}";
/// `GET` tells what happens to a process, and as a WebSocket takes what is said to it.
pub const PROCESS_EVENTS: &str = "/sandboxes/{id}/processes/{pid}/events";
/// `POST` writes to the standard input of a process.
pub const PROCESS_STDIN: &str = "/sandboxes/{id}/processes/{pid}/stdin";
/// `POST` sends a signal to a process.
pub const PROCESS_SIGNAL: &str = "/sandboxes/{id}/processes/{pid}/signal";
/// `POST` changes the size of a process's terminal.
pub const PROCESS_RESIZE: &str = "/sandboxes/{id}/processes/{pid}/resize";
/// `GET` lists the templates.
pub const TEMPLATES: &str = "/templates";
/// `POST` builds the template of a language pack, `DELETE` removes it.
pub const TEMPLATE: &str = "/templates/{pack}";
/// `GET` shows what the daemon is.
pub const INFO: &str = "/info";
/// `GET` answers when the daemon is up.
pub const HEALTHZ: &str = "/healthz";
/// `GET` shows the OpenAPI document.
pub const OPENAPI: &str = "/openapi.json";

/// Path of one sandbox.
pub fn sandbox(id: &str) -> String {
    SANDBOX.replace("{id}", &segment(id))
}

/// Path that runs code in one sandbox.
pub fn exec(id: &str) -> String {
    EXEC.replace("{id}", &segment(id))
}

/// Path of the processes of one sandbox.
pub fn processes(id: &str) -> String {
    PROCESSES.replace("{id}", &segment(id))
}

/// Path of one process, or of something of it: one of the constants of this module.
pub fn process(path: &str, id: &str, pid: u32) -> String {
    path.replace("{id}", &segment(id)).replace("{pid}", &pid.to_string())
}

/// Path of the template of one language pack.
pub fn template(pack: &str) -> String {
    TEMPLATE.replace("{pack}", &segment(pack))
}

/// `text` as one segment of a path: everything but unreserved characters (RFC 3986 §2.3) is
/// percent-encoded, so that no text becomes another path.
fn segment(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => char::from(byte).into(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_stand_as_they_are_and_hostile_text_stays_one_segment() {
        assert_eq!(exec("sb_00ff1234abcd"), "/sandboxes/sb_00ff1234abcd/exec");
        assert_eq!(process(PROCESS_STDIN, "x", 7), "/sandboxes/x/processes/7/stdin");
        assert_eq!(sandbox("../info?a b"), "/sandboxes/%2E%2E%2Finfo%3Fa%20b");
    }
}
