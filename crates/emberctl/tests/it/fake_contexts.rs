//! The contexts of the fake daemon, which run nothing: the code says what the run's events are.

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::{Condvar, Mutex};

use serde_json::{Value, json};

/// The only context there is.
pub const CONTEXT: &str = "ctx_000000000001";
/// Code that runs until it is interrupted.
pub const ENDLESS: &str = "endless";
/// Code whose events break off.
pub const CUT: &str = "cut";

/// See the module.
#[derive(Default)]
pub struct FakeContexts {
    interrupted: Mutex<bool>,
    on_interrupt: Condvar,
}

impl FakeContexts {
    /// Answers a request below `/sandboxes/{id}/contexts`.
    pub fn serve(&self, method: &str, path: &str, body: &[u8], stream: &mut TcpStream) {
        let route = path.split("/contexts").nth(1).unwrap();
        let action = route.strip_prefix(&format!("/{CONTEXT}"));
        match (method, route, action) {
            ("POST", "", _) => {
                let mut spec: Value = serde_json::from_slice(body).unwrap();
                spec.as_object_mut().unwrap().remove("user");
                whole(stream, 201, &context("idle", &spec));
            }
            ("GET", "", _) => {
                let mut dead = context("dead", &json!({"language": "javascript"}));
                dead["reason"] = json!("killed by signal 9");
                let all = json!({"contexts": [context("busy", &json!({})), dead]});
                whole(stream, 200, &all);
            }
            ("POST", _, Some("/run")) => {
                let run: Value = serde_json::from_slice(body).unwrap();
                self.run(run["code"].as_str().unwrap(), run["timeout_ms"].is_u64(), stream);
            }
            ("GET", _, Some("/events?from=0")) => events(stream),
            ("POST", _, Some("/interrupt")) => {
                *self.interrupted.lock().unwrap() = true;
                self.on_interrupt.notify_all();
                whole(stream, 204, &Value::Null);
            }
            ("POST", _, Some("/restart")) => whole(stream, 200, &context("idle", &json!({}))),
            ("DELETE", _, Some("")) => whole(stream, 204, &Value::Null),
            _ => {
                let error = json!({"error": "no such context", "code": "not_found"});
                whole(stream, 404, &error);
            }
        }
    }

    /// Tells the events that `code` is, a JSON array of them.
    fn run(&self, code: &str, has_limit: bool, stream: &mut TcpStream) {
        let head = "HTTP/1.1 200 -\r\nconnection: close\r\ncontent-type: application/x-ndjson\r\n";
        write!(stream, "{head}\r\n").unwrap();
        let mut id = 4;
        let mut tell = |mut event: Value| {
            id += 1;
            event["id"] = id.into();
            writeln!(stream, "{event}").unwrap();
        };
        tell(json!({"event": "started", "execution_count": 3}));
        if code == CUT {
            return;
        }
        if code == ENDLESS && !has_limit {
            let interrupted = self.interrupted.lock().unwrap();
            let ended = self.on_interrupt.wait_while(interrupted, |interrupted| !*interrupted);
            drop(ended.unwrap());
            tell(error("KeyboardInterrupt"));
        }
        if code != ENDLESS {
            serde_json::from_str::<Vec<Value>>(code).unwrap().into_iter().for_each(&mut tell);
        }
        tell(
            json!({"event": "end", "execution_count": 3, "timed_out": code == ENDLESS && has_limit,
            "truncated": code.contains("much"), "duration_us": 1}),
        );
    }
}

/// A run's error.
pub fn error(name: &str) -> Value {
    let traceback = format!("Traceback:\n{name}\n");
    json!({"event": "error", "name": name, "value": "", "traceback": traceback})
}

/// The events of two runs, the first without its beginning. They end with the connection.
fn events(stream: &mut TcpStream) {
    let head = "HTTP/1.1 200 -\r\nconnection: close\r\ncontent-type: text/event-stream\r\n";
    write!(stream, "{head}\r\n").unwrap();
    let end = |id: u64| {
        json!({"id": id, "event": "end", "execution_count": 3, "timed_out": false,
            "truncated": false, "duration_us": 1})
    };
    let mut failed = error("NameError");
    failed["id"] = json!(4);
    for event in [
        json!({"id": 3, "event": "gap", "first_missing": 0}),
        failed,
        end(5),
        json!({"id": 6, "event": "started", "execution_count": 4}),
        json!({"id": 7, "event": "stdout", "text": "rest\n"}),
        end(8),
    ] {
        write!(stream, "id: {}\ndata: {event}\n\n", event["id"]).unwrap();
    }
}

fn context(state: &str, spec: &Value) -> Value {
    let mut context = json!({
        "id": CONTEXT, "state": state, "execution_count": 2, "created_at_ms": 0, "next_event": 9,
    });
    context.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    context
}

fn whole(stream: &mut TcpStream, status: u16, answer: &Value) {
    let answer = if answer.is_null() { String::new() } else { answer.to_string() };
    let length = answer.len();
    let head =
        format!("HTTP/1.1 {status} -\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(format!("{head}{answer}").as_bytes()).unwrap();
}
