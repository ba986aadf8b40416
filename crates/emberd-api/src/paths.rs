//! The paths of the HTTP API, as routes and as links.

use crate::{ListSandboxes, ReadAudit, Resources};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, percent_encode};

/// ASCII characters that are encoded in a path.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'~');

/// `POST` creates a sandbox, `GET` lists all sandboxes.
pub const SANDBOXES: &str = "/sandboxes";
/// `GET` shows one sandbox, `PATCH` changes it, `DELETE` deletes it.
pub const SANDBOX: &str = "/sandboxes/{id}";
/// `POST` extends the time that a sandbox may live.
pub const SANDBOX_TOUCH: &str = "/sandboxes/{id}/touch";
/// `POST` runs code.
pub const EXEC: &str = "/sandboxes/{id}/exec";
/// `GET` shows what a sandbox uses of its machine.
pub const METRICS: &str = "/sandboxes/{id}/metrics";
/// `GET` reads a sandbox's console log.
pub const LOGS: &str = "/sandboxes/{id}/logs";
/// `GET` with an upgrade connects to a port inside a sandbox.
pub const PORT: &str = "/sandboxes/{id}/ports/{port}";
/// `POST` makes a URL of a port for browsers, `DELETE` revokes all of a sandbox.
pub const URLS: &str = "/sandboxes/{id}/urls";
/// `GET` reads a file, `PUT` writes a file, `DELETE` deletes a file or a directory.
pub const FILES: &str = "/sandboxes/{id}/files";
/// `GET` shows the type, size and owner of a file.
pub const FILES_STAT: &str = "/sandboxes/{id}/files/stat";
/// `GET` lists a directory.
pub const FILES_LIST: &str = "/sandboxes/{id}/files/list";
/// `POST` makes a directory.
pub const FILES_DIR: &str = "/sandboxes/{id}/files/dir";
/// `POST` moves a file or a directory.
pub const FILES_MOVE: &str = "/sandboxes/{id}/files/move";
/// `GET` follows changes of files.
pub const FILES_WATCH: &str = "/sandboxes/{id}/files/watch";
/// `GET` reads a directory as a tar archive, `PUT` unpacks a tar archive.
pub const FILES_ARCHIVE: &str = "/sandboxes/{id}/files/archive";
/// `POST` starts a process, `GET` lists the processes.
pub const PROCESSES: &str = "/sandboxes/{id}/processes";
/// `GET` shows one process, `DELETE` kills it and forgets it.
pub const PROCESS: &str = "/sandboxes/{id}/processes/{pid}";
/// `GET` follows the events of a process; as a WebSocket, it also takes messages to it.
pub const PROCESS_EVENTS: &str = "/sandboxes/{id}/processes/{pid}/events";
/// `POST` writes to the standard input of a process.
pub const PROCESS_STDIN: &str = "/sandboxes/{id}/processes/{pid}/stdin";
/// `POST` sends a signal to a process.
pub const PROCESS_SIGNAL: &str = "/sandboxes/{id}/processes/{pid}/signal";
/// `POST` changes the size of a process's terminal.
pub const PROCESS_RESIZE: &str = "/sandboxes/{id}/processes/{pid}/resize";
/// `POST` creates a context, `GET` lists the contexts.
pub const CONTEXTS: &str = "/sandboxes/{id}/contexts";
/// `DELETE` deletes a context.
pub const CONTEXT: &str = "/sandboxes/{id}/contexts/{context}";
/// `POST` runs code in a context.
pub const CONTEXT_RUN: &str = "/sandboxes/{id}/contexts/{context}/run";
/// `POST` interrupts the run of a context.
pub const CONTEXT_INTERRUPT: &str = "/sandboxes/{id}/contexts/{context}/interrupt";
/// `POST` gives a context a new interpreter.
pub const CONTEXT_RESTART: &str = "/sandboxes/{id}/contexts/{context}/restart";
/// Path of the events of a context's runs.
pub const CONTEXT_EVENTS: &str = "/sandboxes/{id}/contexts/{context}/events";
/// `GET` shows the network access of a sandbox, `PUT` replaces its policy, `PATCH` changes it.
pub const EGRESS: &str = "/sandboxes/{id}/egress";
/// `POST` shows what would happen to a connection.
pub const EGRESS_CHECK: &str = "/sandboxes/{id}/egress/check";
/// `GET` reads or follows the log of a sandbox's connections.
pub const EGRESS_LOG: &str = "/sandboxes/{id}/egress/log";
/// `GET` lists the profiles of policies.
pub const EGRESS_PROFILES: &str = "/egress/profiles";
/// `GET` lists the templates.
pub const TEMPLATES: &str = "/templates";
/// `POST` builds the template of a language pack, `DELETE` removes it.
pub const TEMPLATE: &str = "/templates/{pack}";
/// `GET` follows what becomes of the sandboxes.
pub const EVENTS: &str = "/events";
/// `GET` reads or follows the audit journal.
pub const AUDIT: &str = "/audit";
/// `GET` shows what the caller uses and may use.
pub const USAGE: &str = "/usage";
/// `GET` shows what the daemon counts, for Prometheus.
pub const DAEMON_METRICS: &str = "/metrics";
/// `GET` shows version, VMM, limits and use of the daemon.
pub const INFO: &str = "/info";
/// `POST` has the daemon refuse to create sandboxes from then on.
pub const DRAIN: &str = "/drain";
/// `POST` calls tools over MCP.
pub const MCP: &str = "/mcp";
/// `GET` answers when the daemon is up.
pub const HEALTHZ: &str = "/healthz";
/// `GET` reads the OpenAPI document.
pub const OPENAPI: &str = "/openapi.json";

/// Path of one sandbox.
pub fn sandbox(id: &str) -> String {
    SANDBOX.replace("{id}", &segment(id))
}

/// Path that lists the sandboxes that `list` asks for.
pub fn sandboxes(list: &ListSandboxes) -> String {
    let ListSandboxes { phases, metadata, limit, after } = list;
    let phases = phases.iter().map(|phase| format!("phase={}", phase.name()));
    let metadata = metadata.iter().map(|(name, value)| {
        format!("metadata={}%3D{}", encoded(name.as_bytes()), encoded(value.as_bytes()))
    });
    let (limit, after) =
        (limit.map(|limit| format!("limit={limit}")), after.map(|after| format!("after={after}")));
    let query: Vec<_> = phases.chain(metadata).chain(limit).chain(after).collect();
    if query.is_empty() { SANDBOXES.to_owned() } else { format!("{SANDBOXES}?{}", query.join("&")) }
}

/// Path that extends the time that one sandbox may live.
pub fn touch(id: &str) -> String {
    SANDBOX_TOUCH.replace("{id}", &segment(id))
}

/// Path that runs code in one sandbox.
pub fn exec(id: &str) -> String {
    EXEC.replace("{id}", &segment(id))
}

/// Path of the metrics of one sandbox.
pub fn metrics(id: &str) -> String {
    METRICS.replace("{id}", &segment(id))
}

/// Path of one sandbox's console log: the last `tail` lines, or all that are kept, and with
/// `follow` the lines that are added.
pub fn logs(id: &str, tail: Option<usize>, follow: bool) -> String {
    let path = LOGS.replace("{id}", &segment(id));
    match tail {
        Some(tail) => format!("{path}?follow={follow}&tail={tail}"),
        None => format!("{path}?follow={follow}"),
    }
}

/// Path that connects to a port of one sandbox, with an upgrade.
pub fn port(id: &str, port: u16) -> String {
    PORT.replace("{id}", &segment(id)).replace("{port}", &port.to_string())
}

/// Path of the processes of one sandbox.
pub fn processes(id: &str) -> String {
    PROCESSES.replace("{id}", &segment(id))
}

/// Path of one process; `path` is [`PROCESS`] or a constant below it.
pub fn process(path: &str, id: &str, pid: u32) -> String {
    path.replace("{id}", &segment(id)).replace("{pid}", &pid.to_string())
}

/// Path of the contexts of one sandbox.
pub fn contexts(id: &str) -> String {
    CONTEXTS.replace("{id}", &segment(id))
}

/// Path of one context; `route` is [`CONTEXT`] or a constant below it.
pub fn context(route: &str, id: &str, context: &str) -> String {
    route.replace("{id}", &segment(id)).replace("{context}", &segment(context))
}

/// Path of the network access of one sandbox; `route` is [`EGRESS`] or [`EGRESS_CHECK`].
pub fn egress(route: &str, id: &str) -> String {
    route.replace("{id}", &segment(id))
}

/// Path of the log of one sandbox's connections: at most `limit` records after number `after`, of
/// one decision if given, and with `follow` the records that are added.
pub fn egress_log(
    id: &str,
    after: u64,
    decision: Option<&str>,
    limit: Option<usize>,
    follow: bool,
) -> String {
    let path = EGRESS_LOG.replace("{id}", &segment(id));
    let decision = decision.map(|name| format!("&decision={}", segment(name)));
    let limit = limit.map(|limit| format!("&limit={limit}"));
    let (decision, limit) = (decision.unwrap_or_default(), limit.unwrap_or_default());
    format!("{path}?after={after}{decision}{limit}&follow={follow}")
}

/// Path of the events of all sandboxes, or of these: those after number `after`, or all that are
/// kept, and with `follow` those that come.
pub fn events(sandboxes: &[String], after: Option<u64>, follow: bool) -> String {
    let sandboxes = sandboxes.iter().map(|id| format!("&sandbox={}", segment(id)));
    let after = after.map(|after| format!("&after={after}"));
    let query: String = sandboxes.chain(after).collect();
    format!("{EVENTS}?follow={follow}{query}")
}

/// Path of the records of the audit journal that `read` asks for, and with `follow` those that
/// come.
pub fn audit(read: &ReadAudit, follow: bool) -> String {
    let ReadAudit { after, since, action, sandbox, limit } = read;
    let texts = [("since", since), ("action", action), ("sandbox", sandbox)];
    let texts = texts.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
    let query = texts.fold(format!("{AUDIT}?after={after}"), |query, (name, value)| {
        format!("{query}&{name}={}", encoded(value.as_bytes()))
    });
    let limit = limit.map(|limit| format!("&limit={limit}")).unwrap_or_default();
    format!("{query}{limit}&follow={follow}")
}

/// Path of the URLs of one sandbox's ports.
pub fn urls(id: &str) -> String {
    URLS.replace("{id}", &segment(id))
}

/// Path of what the caller, or everybody, uses.
pub fn usage(all: bool) -> String {
    if all { format!("{USAGE}?all=true") } else { USAGE.to_owned() }
}

/// Path of the template of one language pack.
pub fn template(pack: &str) -> String {
    TEMPLATE.replace("{pack}", &segment(pack))
}

/// Path of one template of a language pack; the default size where `size` has none.
pub fn template_of(pack: &str, size: &Resources) -> String {
    let fields = [("vcpus", size.vcpus), ("memory_mib", size.memory_mib)];
    let fields = fields.into_iter().filter_map(|(name, value)| Some((name, value?)));
    fields.fold(template(pack), |path, (name, value)| {
        let mark = if path.contains('?') { '&' } else { '?' };
        format!("{path}{mark}{name}={value}")
    })
}

/// Path of an operation on the files of one sandbox, with its query; `route` is [`FILES`] or a
/// constant below it.
pub fn files(route: &str, id: &str, query: &[(&str, &[u8])]) -> String {
    let mut path = route.replace("{id}", &segment(id));
    for (number, (name, value)) in query.iter().enumerate() {
        path.push(if number == 0 { '?' } else { '&' });
        path.push_str(name);
        path.push('=');
        path.extend(encoded(value));
    }
    path
}

/// Encodes `text` as one segment of a path.
fn segment(text: &str) -> String {
    encoded(text.as_bytes()).to_string()
}

/// Percent-encodes all but unreserved characters (RFC 3986 §2.3), and `.`: no id is a step up.
fn encoded(bytes: &[u8]) -> PercentEncode<'_> {
    percent_encode(bytes, ENCODED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SandboxPhase;

    #[test]
    fn ids_stand_as_they_are_and_hostile_text_stays_one_segment() {
        assert_eq!(exec("sb_00ff1234abcd"), "/sandboxes/sb_00ff1234abcd/exec");
        assert_eq!(process(PROCESS_STDIN, "x", 7), "/sandboxes/x/processes/7/stdin");
        assert_eq!(context(CONTEXT_RUN, "sb_1", "a/b"), "/sandboxes/sb_1/contexts/a%2Fb/run");
        assert_eq!(sandbox("../info?a b"), "/sandboxes/%2E%2E%2Finfo%3Fa%20b");
        assert_eq!(port("a/b", 80), "/sandboxes/a%2Fb/ports/80");
        assert_eq!(logs("a", Some(3), true), "/sandboxes/a/logs?follow=true&tail=3");
        assert_eq!(logs("a", None, false), "/sandboxes/a/logs?follow=false");
        assert_eq!(egress(EGRESS_CHECK, "a/b"), "/sandboxes/a%2Fb/egress/check");
        assert_eq!(
            egress_log("a", 7, Some("denied"), Some(9), true),
            "/sandboxes/a/egress/log?after=7&decision=denied&limit=9&follow=true"
        );
        assert_eq!(sandboxes(&ListSandboxes::default()), "/sandboxes");
        let list = ListSandboxes {
            phases: vec![SandboxPhase::Running, SandboxPhase::Frozen],
            metadata: vec![("a b".to_owned(), "1=2".to_owned())],
            limit: Some(9),
            after: Some(7),
        };
        let expect = "/sandboxes?phase=running&phase=frozen&metadata=a%20b%3D1%3D2&limit=9&after=7";
        assert_eq!(sandboxes(&list), expect);
        assert_eq!(events(&[], None, true), "/events?follow=true");
        let since = Some("2026-11-29T00:00:00+00:00".to_owned());
        let read = ReadAudit { after: 7, since, limit: Some(9), ..ReadAudit::default() };
        let expect = "/audit?after=7&since=2026-11-29T00%3A00%3A00%2B00%3A00&limit=9&follow=false";
        assert_eq!(audit(&read, false), expect);
        let two = ["sb_1".to_owned(), "a&b".to_owned()];
        let expect = "/events?follow=false&sandbox=sb_1&sandbox=a%26b&after=7";
        assert_eq!(events(&two, Some(7), false), expect);
        assert_eq!(
            files(FILES_STAT, "x", &[("path", b"a+b&\xff"), ("user", b"u")]),
            "/sandboxes/x/files/stat?path=a%2Bb%26%FF&user=u"
        );
    }
}
