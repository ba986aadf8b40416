//! Environment variables that a sandbox is created with.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;

use emberd_api::exec::{WORDS_BYTES_MAX, WORDS_MAX};
use emberd_api::{
    ContextRun, ContextSpec, ErrorCode, ProcessEventKind, ProcessSpec, RunEvent, Sandbox,
};
use serde_json::json;

use super::{Api, body, refusal};

const ECHO: &str = "echo $ONE-$TWO";

async fn said_by_process(api: &Api, id: &str, spec: &ProcessSpec) -> String {
    let started = api.client.start_process(id, spec).await.unwrap();
    let mut attachment = api.client.attach(id, started.pid, 0).await.unwrap();
    let mut text = String::new();
    while let Some(event) = attachment.event().await.unwrap() {
        if let ProcessEventKind::Stdout(said) = event.kind {
            text += &said.text;
        }
    }
    text
}

async fn said_by_context(api: &Api, id: &str, env: BTreeMap<String, String>) -> String {
    let spec = ContextSpec { env, ..ContextSpec::default() };
    let context = api.client.open_context(id, &spec).await.unwrap();
    let run = ContextRun { code: ECHO.into(), ..ContextRun::default() };
    let mut events = api.client.run_context(id, &context.id, &run).await.unwrap();
    let mut said = String::new();
    while let Some(event) = events.next().await.unwrap() {
        if let RunEvent::Stdout { text } = event {
            said += &text;
        }
    }
    said
}

#[tokio::test]
async fn every_program_has_the_variables_of_its_sandbox_and_may_set_them_itself() {
    let api = Api::start().await;
    let id = api.create_as(json!({"env": {"ONE": "1", "TWO": "2"}})).await.unwrap();
    let own = BTreeMap::from([("TWO".to_owned(), "own".to_owned())]);
    let mut exec = body(ECHO);
    assert_eq!(api.client.exec(&id, &exec).await.unwrap().stdout, "1-2\n");
    exec.spec.env.clone_from(&own);
    assert_eq!(api.client.exec(&id, &exec).await.unwrap().stdout, "1-own\n");
    let mut process = ProcessSpec::of_argv(["sh", "-c", ECHO]);
    assert_eq!(said_by_process(&api, &id, &process).await, "1-2\n");
    process.env.clone_from(&own);
    assert_eq!(said_by_process(&api, &id, &process).await, "1-own\n");
    assert_eq!(said_by_context(&api, &id, BTreeMap::new()).await, "1-2\n");
    assert_eq!(said_by_context(&api, &id, own).await, "1-own\n");
    let other = api.create().await;
    assert_eq!(api.exec(&other, ECHO).await.unwrap().stdout, "-\n");
    api.stop().await;
}

#[tokio::test]
async fn values_are_never_shown() {
    let api = Api::start().await;
    let id = api.create_as(json!({"env": {"TOKEN": "s3cret", "A": ""}})).await.unwrap();
    let shown: Sandbox = api.client.get(&id).await.unwrap();
    assert_eq!(shown.env, ["A", "TOKEN"]);
    for path in ["/sandboxes".to_owned(), format!("/sandboxes/{id}")] {
        let answer = api.raw("GET", &path, "").await;
        assert!(!answer.body.contains("s3cret"), "{}", answer.body);
    }
    // The next daemon needs them; nobody else reads them.
    let record = api.run_dir.join(&id).join("sandbox.jsonl");
    assert!(std::fs::read_to_string(&record).unwrap().contains("s3cret"));
    assert_eq!(record.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    api.stop().await;
}

#[tokio::test]
async fn variables_have_limits_that_count_those_of_the_program_too() {
    let api = Api::start().await;
    let many: BTreeMap<_, _> = (0..WORDS_MAX).map(|n| (format!("V{n}"), "")).collect();
    let mut over = many.clone();
    over.insert("MORE".to_owned(), "");
    for (env, expect) in [
        (json!({"": "x"}), "`` is not a valid name"),
        (json!({"A=B": "x"}), "`A=B` is not a valid name"),
        (json!({"A": "x\0"}), "value contains a NUL byte"),
        (json!({"A": "x".repeat(WORDS_BYTES_MAX)}), "env, in bytes, is 131073, over the limit"),
        (json!(over), "number of env variables is 1025, over the limit of 1024"),
    ] {
        let (status, body) = refusal(api.create_as(json!({"env": env})).await);
        assert_eq!((status, body.code), (400, ErrorCode::InvalidRequest));
        assert!(body.error.contains(expect), "{}", body.error);
    }
    assert_eq!(api.sandboxes.count(), 0);
    let id = api.create_as(json!({"env": many})).await.unwrap();
    let mut exec = body("echo $V1");
    exec.spec.env.insert("V1".to_owned(), "own".to_owned());
    assert_eq!(api.client.exec(&id, &exec).await.unwrap().stdout, "own\n");
    exec.spec.env.insert("MORE".to_owned(), String::new());
    let (_, body) = refusal(api.client.exec(&id, &exec).await);
    assert!(body.error.contains("1025"), "{}", body.error);
    api.stop().await;
}
