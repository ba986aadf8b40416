//! The paths of the HTTP API, as routes and as links.

/// `POST` creates a sandbox, `GET` lists all.
pub const SANDBOXES: &str = "/sandboxes";
/// `GET` shows one sandbox, `DELETE` throws it away.
pub const SANDBOX: &str = "/sandboxes/{id}";
/// `POST` runs code.
pub const EXEC: &str = "/sandboxes/{id}/exec";
/// `POST` opens a context, `GET` lists all of a sandbox.
pub const CONTEXTS: &str = "/sandboxes/{id}/contexts";
/// `DELETE` closes a context.
pub const CONTEXT: &str = "/sandboxes/{id}/contexts/{context}";
/// `POST` runs code in a context.
pub const CONTEXT_RUN: &str = "/sandboxes/{id}/contexts/{context}/run";
/// `POST` interrupts what a context runs.
pub const CONTEXT_INTERRUPT: &str = "/sandboxes/{id}/contexts/{context}/interrupt";
/// `POST` gives a context a new interpreter.
pub const CONTEXT_RESTART: &str = "/sandboxes/{id}/contexts/{context}/restart";
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

/// Path of the contexts of one sandbox.
pub fn contexts(id: &str) -> String {
    CONTEXTS.replace("{id}", &segment(id))
}

/// Path of one context; `route` is [`CONTEXT`] or one below it.
pub fn context(route: &str, id: &str, context: &str) -> String {
    route.replace("{id}", &segment(id)).replace("{context}", &segment(context))
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
        assert_eq!(context(CONTEXT_RUN, "sb_1", "a/b"), "/sandboxes/sb_1/contexts/a%2Fb/run");
        assert_eq!(sandbox("../info?a b"), "/sandboxes/%2E%2E%2Finfo%3Fa%20b");
    }
}
