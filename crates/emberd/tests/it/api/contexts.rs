//! Contexts over HTTP: both kinds of stream, and what is refused.

use emberd_api::{ContextRun, ContextSpec, ContextState, ErrorCode, RunEvent};

use super::{Api, refusal};

fn code(code: &str) -> ContextRun {
    ContextRun { code: code.into(), timeout_ms: None }
}

/// All events of a run, its output joined.
async fn run(api: &Api, id: &str, context: &str, run: &ContextRun) -> (String, Vec<RunEvent>) {
    let mut events = api.client.run_context(id, context, run).await.unwrap();
    let (mut text, mut others) = (String::new(), Vec::new());
    while let Some(event) = events.next().await.unwrap() {
        match event {
            RunEvent::Stdout { text: piece } | RunEvent::Stderr { text: piece } => {
                text.push_str(&piece);
            }
            event => others.push(event),
        }
    }
    (text, others)
}

#[tokio::test]
async fn a_context_from_its_opening_to_its_end() {
    let api = Api::start().await;
    let id = api.create().await;
    let context = api.client.open_context(&id, &ContextSpec::default()).await.unwrap();
    assert_eq!((context.state, context.execution_count), (ContextState::Idle, 0));
    run(&api, &id, &context.id, &code("x='é€'; cd /usr")).await;
    let (text, events) = run(&api, &id, &context.id, &code("echo $x $PWD; exit 3")).await;
    assert_eq!(text, "é€ /usr\n");
    assert_eq!(events[0], RunEvent::Started { execution_count: 2 });
    assert!(matches!(&events[1], RunEvent::Error { name, value, .. }
        if name == "ExitCode" && value == "3"));
    assert!(matches!(&events[2], RunEvent::End { execution_count: 2, timed_out: false, .. }));
    let (_, events) =
        run(&api, &id, &context.id, &ContextRun { timeout_ms: Some(50), ..code("sleep 99") }).await;
    assert!(matches!(events.last(), Some(RunEvent::End { timed_out: true, .. })), "{events:?}");
    let listed = api.client.contexts(&id).await.unwrap().contexts;
    assert_eq!((listed.len(), listed[0].execution_count), (1, 3));
    let restarted = api.client.restart_context(&id, &context.id).await.unwrap();
    assert_eq!((restarted.id.as_str(), restarted.execution_count), (context.id.as_str(), 0));
    assert_eq!(run(&api, &id, &context.id, &code("echo [$x]")).await.0, "[]\n");
    api.client.interrupt_context(&id, &context.id).await.unwrap();
    api.client.delete_context(&id, &context.id).await.unwrap();
    assert!(api.client.contexts(&id).await.unwrap().contexts.is_empty());
    api.stop().await;
}

#[tokio::test]
async fn hanging_up_interrupts_the_run() {
    let api = Api::start().await;
    let id = api.create().await;
    let context = api.client.open_context(&id, &ContextSpec::default()).await.unwrap().id;
    let endless = code("x=1; echo up; sleep 1000; x=2");
    let mut events = api.client.run_context(&id, &context, &endless).await.unwrap();
    while !matches!(events.next().await.unwrap(), Some(RunEvent::Stdout { .. })) {}
    drop(events);
    assert_eq!(run(&api, &id, &context, &code("echo $x")).await.0, "1\n");
    api.stop().await;
}

#[tokio::test]
async fn lines_of_json_are_the_rule() {
    let api = Api::start().await;
    let id = api.create().await;
    let context = api.client.open_context(&id, &ContextSpec::default()).await.unwrap().id;
    let path = format!("/sandboxes/{id}/contexts/{context}/run");
    let answer = api.raw("POST", &path, r#"{"code":"echo hi"}"#).await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-type: application/x-ndjson"), "{answer:?}");
    assert!(answer.body.contains(r#"{"event":"stdout","text":"hi\n"}"#), "{answer:?}");
    api.stop().await;
}

#[tokio::test]
async fn what_is_refused_and_how() {
    let api = Api::start().await;
    let id = api.create().await;
    let context = api.client.open_context(&id, &ContextSpec::default()).await.unwrap().id;
    let cobol = ContextSpec { language: Some("cobol".into()), ..ContextSpec::default() };
    let (status, body) = refusal(api.client.open_context(&id, &cobol).await);
    assert_eq!((status, body.code), (404, ErrorCode::NotFound));
    let (status, body) = refusal(api.client.restart_context(&id, "ctx_000000000000").await);
    assert_eq!((status, body.code), (404, ErrorCode::NotFound));
    let (status, body) = refusal(api.client.contexts("sb_000000000000").await);
    assert_eq!((status, body.code), (404, ErrorCode::UnknownSandbox));
    let late = ContextRun { timeout_ms: Some(0), ..code("") };
    let (status, body) = refusal(api.client.run_context(&id, &context, &late).await);
    assert_eq!((status, body.code), (400, ErrorCode::InvalidRequest));
    let (_, events) = run(&api, &id, &context, &code("exec false")).await;
    assert!(matches!(&events[1], RunEvent::Error { name, .. } if name == "ContextEnded"));
    let (status, body) = refusal(api.client.run_context(&id, &context, &code("1")).await);
    assert_eq!((status, body.code), (409, ErrorCode::ContextDead));
    assert_eq!(body.hint.as_deref(), Some("restart the context"));
    api.stop().await;
}
