//! `traceparent` of a request in the environment of the program that it starts.

use emberd_api::{Context, ExecOutcome, Process, ProcessEventKind};
use serde_json::{Value, json};

use super::Api;
use crate::raw;

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01";
const CODE: &str = "echo \"<$TRACEPARENT>\"";

impl Api {
    /// Sends `body` with the header lines `headers`.
    async fn post(&self, path: &str, headers: &str, body: &Value) -> raw::Answer {
        let body = body.to_string();
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
        let length = format!("Content-Length: {}\r\n", body.len());
        let request = format!("{head}{headers}{length}\r\n{body}");
        let answer = raw::send(&self.authority, request.into_bytes()).await;
        assert!(answer.status < 300, "{answer:?}");
        answer
    }

    /// Returns the variable's value in an exec of `spec`.
    async fn found(&self, id: &str, headers: &str, mut spec: Value) -> String {
        spec["code"] = CODE.into();
        let answer = self.post(&format!("/sandboxes/{id}/exec"), headers, &spec).await;
        let outcome: ExecOutcome = serde_json::from_str(&answer.body).unwrap();
        outcome.stdout.trim().trim_matches(['<', '>']).to_owned()
    }
}

fn header(value: &str) -> String {
    format!("traceparent: {value}\r\n")
}

#[tokio::test]
async fn programs_have_the_span_that_their_request_belongs_to() {
    let api = Api::start().await;
    let id = api.create().await;
    assert_eq!(api.found(&id, &header(PARENT), json!({})).await, PARENT);
    assert_eq!(api.found(&id, "", json!({})).await, "");
    // The caller's own wins, and what is no `traceparent` is ignored.
    let own = json!({"env": {"TRACEPARENT": "own"}});
    assert_eq!(api.found(&id, &header(PARENT), own).await, "own");
    for bad in ["", "00", &PARENT.to_uppercase(), &format!("{PARENT}-x"), &PARENT.replace('7', "g")]
    {
        assert_eq!(api.found(&id, &header(bad), json!({})).await, "", "{bad}");
    }
    let twice = header(PARENT) + &header(PARENT);
    assert_eq!(api.found(&id, &twice, json!({})).await, "");
    let with_own = api.create_as(json!({"env": {"TRACEPARENT": "sandbox"}})).await.unwrap();
    assert_eq!(api.found(&with_own, &header(PARENT), json!({})).await, "sandbox");
    api.stop().await;
}

#[tokio::test]
async fn a_process_has_it_too() {
    let api = Api::start().await;
    let id = api.create().await;
    let spec = json!({"argv": ["sh", "-c", CODE]});
    let path = format!("/sandboxes/{id}/processes");
    let answer = api.post(&path, &header(PARENT), &spec).await;
    let started: Process = serde_json::from_str(&answer.body).unwrap();
    let mut attachment = api.client.attach(&id, started.pid, 0).await.unwrap();
    let mut said = String::new();
    while let Some(event) = attachment.event().await.unwrap() {
        if let ProcessEventKind::Stdout(text) = event.kind {
            said += &text.text;
        }
    }
    assert_eq!(said, format!("<{PARENT}>\n"));
    api.stop().await;
}

#[tokio::test]
async fn a_run_of_a_context_has_it_and_the_next_one_does_not() {
    let api = Api::start().await;
    let id = api.create().await;
    let contexts = format!("/sandboxes/{id}/contexts");
    let answer = api.post(&contexts, &header(PARENT), &json!({})).await;
    let context: Context = serde_json::from_str(&answer.body).unwrap();
    let path = format!("{contexts}/{}/run", context.id);
    for (headers, expect) in [(header(PARENT), PARENT), (String::new(), "")] {
        let answer = api.post(&path, &headers, &json!({"code": CODE})).await;
        let said = format!("<{expect}>\\n");
        assert!(answer.body.contains(&said), "{said} is not in {}", answer.body);
    }
    api.stop().await;
}
