//! Others can generate from the OpenAPI document, and the client and the book have every operation.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use emberd_api::{
    ADDR_DEFAULT, CheckEgress, ContextRun, ContextSpec, CreateUrl, EgressPatch, ErrorCode,
    PolicySpec, ProcessSpec, ReadAudit, SignalName, TouchSandbox, TtySize, UpdateSandbox,
};
use emberd_client::{Client, FileOptions, FileSpan, Upload};
use futures::future::{BoxFuture, FutureExt as _};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::body;

/// The verbs that operation ids begin with.
const VERBS: [&str; 25] = [
    "build",
    "change",
    "check",
    "connect",
    "create",
    "delete",
    "drain",
    "exec",
    "extend",
    "follow",
    "get",
    "interrupt",
    "list",
    "make",
    "move",
    "read",
    "replace",
    "resize",
    "restart",
    "run",
    "signal",
    "start",
    "stat",
    "watch",
    "write",
];

/// The tags of operations.
const TAGS: [&str; 8] =
    ["sandboxes", "processes", "contexts", "files", "ports", "egress", "templates", "daemon"];

/// One operation of the document.
struct Operation {
    id: String,
    method: String,
    path: String,
    json: Value,
}

fn document() -> Value {
    serde_json::to_value(emberd::http::document()).unwrap()
}

fn operations() -> Vec<Operation> {
    let document = document();
    let paths = document["paths"].as_object().unwrap().iter();
    let operations = paths.flat_map(|(path, item)| {
        item.as_object().unwrap().iter().map(|(method, json)| Operation {
            id: json["operationId"].as_str().unwrap().to_owned(),
            method: method.to_uppercase(),
            path: path.clone(),
            json: json.clone(),
        })
    });
    operations.collect()
}

#[test]
fn document_names_its_version_its_server_and_its_tags() {
    let document = document();
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(document["info"]["license"]["identifier"], "MIT");
    let servers = document["servers"].as_array().unwrap();
    assert_eq!(servers[0]["url"], format!("http://{ADDR_DEFAULT}"));
    let tags = document["tags"].as_array().unwrap();
    let names: Vec<_> = tags.iter().map(|tag| tag["name"].as_str().unwrap()).collect();
    assert_eq!(names, TAGS);
    assert!(tags.iter().all(|tag| tag["description"].is_string()));
    let codes = document["components"]["schemas"]["ErrorCode"]["enum"].as_array().unwrap();
    let codes: Vec<_> = codes.iter().map(|code| code.as_str().unwrap().to_owned()).collect();
    let known: Vec<_> = ErrorCode::ALL.iter().map(|code| code.name()).collect();
    assert_eq!(codes, known);
}

#[test]
fn operations_have_an_id_of_verb_and_noun_a_tag_and_their_errors() {
    let mut ids = BTreeSet::new();
    for Operation { id, method, path, json } in operations() {
        let words: Vec<_> = id.split('_').collect();
        assert!(words.len() >= 2 && VERBS.contains(&words[0]), "{method} {path}: {id}");
        assert!(
            words.iter().all(|word| word.bytes().all(|byte| byte.is_ascii_lowercase())),
            "{id}"
        );
        assert!(ids.insert(id.clone()), "{id} stands twice");
        let tags = json["tags"].as_array().unwrap();
        assert!(tags.len() == 1 && TAGS.contains(&tags[0].as_str().unwrap()), "{id}: {tags:?}");
        let summary = json["summary"].as_str().unwrap();
        assert!(summary.ends_with('.') && !summary.contains(". "), "{id}: {summary}");
        let responses = json["responses"].as_object().unwrap();
        assert!(responses.keys().any(|status| status.as_str() < "400"), "{id}");
        // Any operation can meet a defect of the daemon.
        assert_eq!(responses["500"]["x-error-codes"], serde_json::json!(["internal"]), "{id}");
        for (status, response) in responses.iter().filter(|(status, _)| status.as_str() >= "400") {
            let schema = &response["content"]["application/json"]["schema"]["$ref"];
            assert_eq!(schema, "#/components/schemas/ErrorBody", "{id} {status}");
            assert!(!response["x-error-codes"].as_array().unwrap().is_empty(), "{id} {status}");
        }
    }
}

#[test]
fn json_bodies_are_answered_with_the_fields_that_are_unknown() {
    for Operation { id, json, .. } in operations() {
        let takes_json = !json["requestBody"]["content"]["application/json"].is_null();
        for (status, response) in json["responses"].as_object().unwrap() {
            let named = !response["headers"]["x-emberd-unknown-fields"].is_null();
            assert_eq!(named, takes_json, "{id} {status}");
        }
    }
}

#[test]
fn each_code_has_one_status_and_a_row_in_the_book() {
    let mut statuses = BTreeMap::<String, BTreeSet<String>>::new();
    for Operation { json, .. } in operations() {
        for (status, response) in json["responses"].as_object().unwrap() {
            for code in response["x-error-codes"].as_array().into_iter().flatten() {
                let code = code.as_str().unwrap().to_owned();
                statuses.entry(code).or_default().insert(status.clone());
            }
        }
    }
    let book = book("reference/errors.md");
    for code in ErrorCode::ALL {
        let name = code.name();
        let row = book.lines().find(|line| line.contains(&format!("| `{name}` |")));
        let row = row.unwrap_or_else(|| panic!("no row for `{name}`"));
        let Some(documented) = statuses.get(&name) else {
            // No operation answers where there is none.
            assert!(
                matches!(
                    code,
                    ErrorCode::UnknownRoute
                        | ErrorCode::MethodNotAllowed
                        | ErrorCode::PortFailed
                        | ErrorCode::PortTimeout
                ),
                "{name}"
            );
            continue;
        };
        assert_eq!(documented.len(), 1, "{name}: {documented:?}");
        let status = documented.first().unwrap();
        assert!(row.starts_with(&format!("| {status} | `{name}` |")), "{row}");
    }
}

#[test]
fn every_operation_has_a_line_in_the_book() {
    let book = book("guides/http-api.md");
    let lines: BTreeSet<_> = book.lines().filter(|line| line.starts_with("| `")).collect();
    for Operation { id, method, path, .. } in operations() {
        let start = format!("| `{id}` | `{method} {path}` | ");
        let count = lines.iter().filter(|line| line.starts_with(&start)).count();
        assert_eq!(count, 1, "{start}");
    }
}

/// A page of the book.
fn book(page: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/src").join(page))
        .unwrap()
}

/// Descriptions name their subject and speak plainly.
#[test]
fn descriptions_are_plain() {
    fn texts(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                for (name, value) in members {
                    if let (true, Value::String(text)) =
                        (["description", "summary"].contains(&name.as_str()), value)
                    {
                        found.push(text.clone());
                    } else {
                        texts(value, found);
                    }
                }
            }
            Value::Array(values) => values.iter().for_each(|value| texts(value, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    texts(&document(), &mut found);
    assert!(found.len() > 200, "{}", found.len());
    for text in found {
        let opening = text.split([' ', ';', ',', '.']).next().unwrap_or_default();
        assert!(
            !["It", "Those", "That", "What", "Who", "Whose", "Whom"].contains(&opening),
            "{text}"
        );
        for phrase in [" is no ", "for ever", "anew", "himself", "whoever", "is to be"] {
            assert!(!text.contains(phrase), "{text}");
        }
        assert!(text.ends_with(['.', '`']), "{text}");
    }
}

/// Calls the client's method of each operation.
macro_rules! calls {
    ($($operation:literal => $call:expr,)+) => {
        [$(($operation, async move { drop($call.await) }.boxed())),+]
    };
}

fn destination() -> CheckEgress {
    CheckEgress { host: "a.example".to_owned(), port: 443 }
}

/// No user, and no mode.
static OPTIONS: FileOptions = FileOptions { user: None, mode: None };

fn calls(client: &Client) -> impl IntoIterator<Item = (&'static str, BoxFuture<'_, ()>)> {
    let (id, pid, context, path, pack) = ("sb_0", 7, "ctx_0", Path::new("/x"), "python");
    let upload = || Upload::bytes("x");
    calls! {
        "create_sandbox" => client.create(None),
        "list_sandboxes" => client.list(),
        "get_sandbox" => client.get(id),
        "change_sandbox" => async { client.update(id, &UpdateSandbox::default()).await },
        "extend_sandbox" => async { client.touch(id, &TouchSandbox::default()).await },
        "delete_sandbox" => client.delete(id),
        "exec_code" => async { client.exec(id, &body("")).await },
        "get_metrics" => client.metrics(id),
        "get_logs" => client.logs(id, None, false),
        "create_url" => async { client.create_url(id, &CreateUrl::default()).await },
        "delete_urls" => client.revoke_urls(id),
        "connect_port" => client.connect_port(id, 80),
        "read_file" => client.file_read(id, path, FileSpan::default(), &OPTIONS),
        "write_file" => client.file_write(id, path, upload(), &OPTIONS),
        "delete_file" => client.file_remove(id, path, &OPTIONS),
        "stat_file" => client.file_stat(id, path, &OPTIONS),
        "list_files" => client.file_list(id, path, 1, &OPTIONS),
        "make_directory" => client.file_make_dir(id, path, &OPTIONS),
        "move_file" => client.file_move(id, path, path, &OPTIONS),
        "watch_files" => client.file_watch(id, path, false, &OPTIONS),
        "read_archive" => client.file_pack(id, path, &OPTIONS),
        "write_archive" => client.file_unpack(id, path, upload(), &OPTIONS),
        "start_process" => async { client.start_process(id, &ProcessSpec::default()).await },
        "list_processes" => client.processes(id),
        "get_process" => client.process(id, pid),
        "delete_process" => client.delete_process(id, pid),
        "follow_process" => client.attach(id, pid, 0),
        "write_stdin" => client.write_stdin(id, pid, "x", true),
        "signal_process" => client.signal_process(id, pid, SignalName::SigTerm),
        "resize_process" => client.resize_process(id, pid, TtySize { cols: 1, rows: 1 }),
        "create_context" => async { client.open_context(id, &ContextSpec::default()).await },
        "list_contexts" => client.contexts(id),
        "delete_context" => client.delete_context(id, context),
        "run_context" => async { client.run_context(id, context, &ContextRun::default()).await },
        "follow_context" => client.context_events(id, context, 0),
        "interrupt_context" => client.interrupt_context(id, context),
        "restart_context" => client.restart_context(id, context),
        "get_egress" => client.egress(id),
        "replace_egress" => async { client.set_egress(id, &PolicySpec::default()).await },
        "change_egress" => async { client.patch_egress(id, &EgressPatch::default()).await },
        "check_egress" => async { client.check_egress(id, &destination()).await },
        "get_egress_log" => client.egress_log(id, 0, None, None),
        "list_egress_profiles" => client.egress_profiles(),
        "list_templates" => client.templates(),
        "build_template" => client.build_template(pack),
        "delete_template" => client.delete_template(pack),
        "follow_events" => client.events(&[], None, false),
        "get_info" => client.info(),
        "read_audit" => async { client.audit(&ReadAudit::default()).await },
        "get_daemon_metrics" => client.daemon_metrics(),
        "get_usage" => client.usage(false),
        "drain_daemon" => client.drain(),
        "check_health" => client.healthz(),
        "get_openapi" => client.openapi(),
    }
}

#[tokio::test]
async fn every_operation_has_a_method_of_the_client() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Client::new(&listener.local_addr().unwrap().to_string()).unwrap();
    let mut operations: BTreeMap<_, _> =
        operations().into_iter().map(|operation| (operation.id.clone(), operation)).collect();
    for (id, call) in calls(&client) {
        let (line, ()) = tokio::join!(request_line(&listener), call);
        let mut words = line.split([' ', '?']);
        let (method, path) = (words.next().unwrap(), words.next().unwrap());
        let operation = operations.remove(id).unwrap_or_else(|| panic!("no operation {id}"));
        assert_eq!(method, operation.method, "{id}: {line}");
        let segments = path.split('/').count();
        assert_eq!(segments, operation.path.split('/').count(), "{id}: {line}");
        for (sent, known) in path.split('/').zip(operation.path.split('/')) {
            assert!(sent == known || known.starts_with('{'), "{id}: {line}");
        }
    }
    let missing: Vec<_> = operations.keys().collect();
    assert!(missing.is_empty(), "operations without a method of the client: {missing:?}");
}

/// Refuses the next request and returns its first line.
async fn request_line(listener: &TcpListener) -> String {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut head).await.unwrap(), 0, "the head of a request");
    }
    let body = r#"{"error":"refused","code":"internal"}"#;
    let length = body.len();
    let answer =
        format!("HTTP/1.1 500 -\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.write_all(answer.as_bytes()).await.unwrap();
    let head = String::from_utf8(head).unwrap();
    head.lines().next().unwrap().to_owned()
}
