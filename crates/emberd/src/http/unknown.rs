//! Unknown fields of JSON bodies: accepted, but named in a header of the response and in the log,
//! since a mistyped limit is a limit that does not hold.

use std::sync::{Arc, OnceLock};

use axum::extract::Request;
use axum::http::HeaderValue;
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use emberd_api::UNKNOWN_FIELDS_HEADER;
use serde_ignored::Path;
use utoipa::PartialSchema as _;
use utoipa::openapi::{HeaderBuilder, OpenApi, RefOr};

use super::operations::operations;

/// Most fields that are named; `...` stands for the others.
const FIELDS_MAX: usize = 16;

/// Longest name of a field, in characters; it is cut with `...`.
const NAME_CHARS_MAX: usize = 64;

/// The unknown fields of one request, once its body is read. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct UnknownFields(Arc<OnceLock<Names>>);

/// Names of unknown fields, within the limits.
#[derive(Debug, Default)]
pub struct Names {
    names: Vec<String>,
    cut: bool,
}

impl UnknownFields {
    /// The unknown fields that the response to a request names.
    pub fn of(parts: &Parts) -> Self {
        parts.extensions.get().cloned().unwrap_or_default()
    }

    /// Keeps the names for the response. A request has one body: the first call counts.
    pub fn keep(&self, names: Names) {
        self.0.set(names).ok();
    }
}

impl Names {
    /// Adds the field at `path`.
    pub fn add(&mut self, path: &Path<'_>) {
        let mut name = String::new();
        write(path, &mut name);
        if name.len() > NAME_CHARS_MAX {
            name.truncate(NAME_CHARS_MAX);
            name.push_str("...");
        }
        if self.names.contains(&name) {
            return;
        }
        if self.names.len() < FIELDS_MAX {
            self.names.push(name);
        } else {
            self.cut = true;
        }
    }

    /// The names in one line; none if there are none.
    fn line(&self) -> Option<String> {
        let more = self.cut.then_some("...");
        let names = self.names.iter().map(String::as_str).chain(more);
        (!self.names.is_empty()).then(|| names.collect::<Vec<_>>().join(", "))
    }
}

/// Adds the header to the response, and a line to the log, if the request had unknown fields.
pub async fn name_unknown_fields(mut request: Request, next: Next) -> Response {
    let unknown = UnknownFields::default();
    request.extensions_mut().insert(unknown.clone());
    let mut response = next.run(request).await;
    if let Some(fields) = unknown.0.get().and_then(Names::line) {
        tracing::warn!(fields, "ignored the unknown fields of a request");
        let value = HeaderValue::try_from(fields).expect("letters, digits and punctuation");
        response.headers_mut().insert(UNKNOWN_FIELDS_HEADER, value);
    }
    response
}

/// Adds the header to every response of an operation that takes JSON.
pub fn describe(document: &mut OpenApi) {
    let header = HeaderBuilder::new().schema(Some(String::schema())).description(Some(
        "Fields of the body that the daemon does not know and ignored, separated by commas. \
         Absent if it knows all fields.",
    ));
    let header = header.build();
    for (_, _, operation) in operations(document) {
        let Some(RefOr::T(body)) = &operation.request_body else { continue };
        if !body.content.contains_key("application/json") {
            continue;
        }
        for response in operation.responses.responses.values_mut() {
            if let RefOr::T(response) = response {
                let header = RefOr::T(header.clone());
                response.headers.insert(UNKNOWN_FIELDS_HEADER.to_owned(), header);
            }
        }
    }
}

/// Writes the name of a field, those of nested fields with dots, in the characters of a header.
fn write(path: &Path<'_>, name: &mut String) {
    let (parent, part) = match path {
        Path::Root => return,
        Path::Seq { parent, index } => (parent, &index.to_string()),
        Path::Map { parent, key } => (parent, key),
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => return write(parent, name),
    };
    write(parent, name);
    if !name.is_empty() {
        name.push('.');
    }
    let plain = |c: char| if c.is_ascii_alphanumeric() || "_-".contains(c) { c } else { '?' };
    let part = if part.is_empty() { "?" } else { part };
    // One character more than fits shows that the name was cut.
    name.extend(part.chars().map(plain).take(NAME_CHARS_MAX + 1));
}

#[cfg(test)]
mod tests {
    use emberd_api::{CreateSandbox, ExecBody, ProcessSpec};
    use serde::de::DeserializeOwned;

    use super::super::json;
    use super::*;

    #[track_caller]
    fn check<T: DeserializeOwned>(body: &str, expect: Option<&str>) {
        let mut names = Names::default();
        json::parse_noting::<T>(body.as_bytes(), |path| names.add(&path)).unwrap();
        assert_eq!(names.line().as_deref(), expect, "{body:.80}");
    }

    #[test]
    fn unknown_fields_are_named_at_every_depth() {
        check::<CreateSandbox>("{}", None);
        check::<ExecBody>(
            r#"{"code":"","args":["x"],"env":{"ANY":"x"},"cwd":"/","user":"u","timeout_ms":7,
                "limits":{"pids":7},"fresh":true,"stdin":"x"}"#,
            None,
        );
        check::<ExecBody>(r#"{"code":"","timeuot_ms":7}"#, Some("timeuot_ms"));
        check::<ExecBody>(
            r#"{"code":"","limits":{"memroy_mib":7,"pids":7},"x":{"y":1}}"#,
            Some("limits.memroy_mib, x"),
        );
        check::<ProcessSpec>(
            r#"{"argv":["x"],"tty":{"cols":1,"rows":1,"color":1}}"#,
            Some("tty.color"),
        );
    }

    #[test]
    fn names_are_cut_and_cannot_leave_the_header() {
        check::<CreateSandbox>(r#"{"a,b\r\n: é":0,"":0,"a.b":0}"#, Some("a?b?????, ?, a?b"));
        let (long, cut) = ("x".repeat(65), "x".repeat(64));
        check::<CreateSandbox>(&format!(r#"{{"{cut}":0}}"#), Some(&cut));
        check::<CreateSandbox>(&format!(r#"{{"{long}":0}}"#), Some(&format!("{cut}...")));
        let fields = (0..17).map(|n| format!(r#""f{n:02}":0"#)).collect::<Vec<_>>().join(",");
        let names = (0..16).map(|n| format!("f{n:02}")).collect::<Vec<_>>().join(", ") + ", ...";
        check::<CreateSandbox>(&format!("{{{fields}}}"), Some(&names));
    }
}
