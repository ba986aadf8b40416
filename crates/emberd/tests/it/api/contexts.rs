//! Contexts over HTTP: both kinds of stream, and what is refused.

use emberd_api::{
    BODY_BYTES_MAX, ContextEvent, ContextRun, ContextSpec, ContextState, ErrorCode, RunEvent,
};
use emberd_proto::exec::CODE_BYTES_MAX;
use emberd_proto::process::USER_BYTES_MAX;
use emberd_sandbox::CONTEXTS_MAX;
use futures::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Api, refusal};
use crate::raw;

fn code(code: &str) -> ContextRun {
    ContextRun { code: code.into(), ..ContextRun::default() }
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
    let events: Vec<ContextEvent> =
        answer.body.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let ids: Vec<_> = events.iter().map(|event| event.id).collect();
    assert!(ids.len() == 3 && ids.is_sorted_by(|one, next| one < next), "{answer:?}");
    let said = format!(r#"{{"id":{},"event":"stdout","text":"hi\n"}}"#, ids[1]);
    assert!(answer.body.contains(&said), "{answer:?}");
    let path = format!("/sandboxes/{id}/contexts/{context}/events");
    for (query, fields) in [
        (format!("?from={}", ids[1]), String::new()),
        ("?from=0".to_owned(), format!("Last-Event-ID: {}\r\n", ids[0])),
    ] {
        let head = format!("GET {path}{query} HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
        let mut stream = TcpStream::connect(&api.authority).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut got = String::new();
        while !got.contains("event: end") {
            let mut piece = [0; 1024];
            let bytes = stream.read(&mut piece).await.unwrap();
            assert!(bytes > 0, "{got}");
            got += str::from_utf8(&piece[..bytes]).unwrap();
        }
        let numbers = got.lines().filter_map(|line| line.strip_prefix("id: "));
        assert!(numbers.eq([ids[1].to_string(), ids[2].to_string()]), "{got}");
        assert!(got.contains(&format!("data: {said}")), "{got}");
    }
    api.stop().await;
}

#[tokio::test]
async fn who_accepts_server_sent_events_gets_those() {
    let api = Api::start().await;
    let id = api.create().await;
    let context = api.client.open_context(&id, &ContextSpec::default()).await.unwrap().id;
    let body = r#"{"code":"echo hi; exit 3"}"#;
    let head = format!("POST /sandboxes/{id}/contexts/{context}/run HTTP/1.1\r\nHost: x\r\n");
    for accept in ["text/event-stream", "application/json;q=0.1, text/event-stream"] {
        let fields = format!("Accept: {accept}\r\nContent-Length: {}\r\n", body.len());
        let request = format!("{head}{fields}Connection: close\r\n\r\n{body}");
        let answer = raw::send(&api.authority, request.into_bytes()).await;
        assert_eq!(answer.status, 200);
        assert!(answer.head.contains("content-type: text/event-stream"), "{answer:?}");
        assert!(answer.head.contains("cache-control: no-cache"), "{answer:?}");
        let lines = answer.body.lines().filter(|line| line.starts_with("event: "));
        let names: Vec<_> = lines.map(|line| &line["event: ".len()..]).collect();
        assert_eq!(names, ["started", "stdout", "error", "end"], "{answer:?}");
        let lines = answer.body.lines().filter_map(|line| line.strip_prefix("data: "));
        let told: Vec<RunEvent> = lines.map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(told[1], RunEvent::Stdout { text: "hi\n".into() });
        assert!(matches!(&told[2], RunEvent::Error { name, .. } if name == "ExitCode"));
        assert!(matches!(told[3], RunEvent::End { timed_out: false, truncated: false, .. }));
        assert_eq!(answer.body.matches("}\n\n").count(), 4, "an empty line ends each: {answer:?}");
    }
    api.stop().await;
}

#[tokio::test]
async fn garbage_is_refused() {
    use ErrorCode::{
        BodyTooLarge, InvalidJson, InvalidRequest, MethodNotAllowed, NotFound, UnknownRoute,
        UnknownSandbox,
    };
    let api = Api::start().await;
    let id = api.create().await;
    let context = api.client.open_context(&id, &ContextSpec::default()).await.unwrap().id;
    let all = format!("/sandboxes/{id}/contexts");
    let one = format!("{all}/{context}");
    let run = format!("{one}/run");
    let unknown = format!("{all}/ctx_000000000000");
    let too_long = format!(r#"{{"code":"{}"}}"#, "#".repeat(CODE_BYTES_MAX + 1));
    let too_large = " ".repeat(BODY_BYTES_MAX + 1);
    let long_name = format!(r#"{{"user":"{}"}}"#, "u".repeat(USER_BYTES_MAX + 1));
    let cases: &[(&str, &str, &str, u16, ErrorCode)] = &[
        ("POST", &all, "{", 400, InvalidJson),
        ("POST", &all, r#"{"language":7}"#, 400, InvalidJson),
        ("POST", &all, r#"{"env":["A"]}"#, 400, InvalidJson),
        ("POST", &all, r#"{"env":{"A=B":""}}"#, 400, InvalidRequest),
        ("POST", &all, r#"{"language":"\u0000"}"#, 400, InvalidRequest),
        ("POST", &all, &long_name, 400, InvalidRequest),
        ("POST", &all, r#"{"cwd":"/nonexistent"}"#, 404, NotFound),
        ("POST", &all, r#"{"language":"../shell"}"#, 404, NotFound),
        ("PUT", &all, "", 405, MethodNotAllowed),
        ("POST", &run, "", 400, InvalidJson),
        ("POST", &run, "{}", 400, InvalidJson),
        ("POST", &run, r#"{"code":7}"#, 400, InvalidJson),
        ("POST", &run, r#"{"code":"","timeout_ms":-1}"#, 400, InvalidJson),
        ("POST", &run, r#"{"code":"","timeout_ms":3600001}"#, 400, InvalidRequest),
        ("POST", &run, &too_long, 400, InvalidRequest),
        ("POST", &run, &too_large, 413, BodyTooLarge),
        ("GET", &run, "", 405, MethodNotAllowed),
        ("POST", &format!("{unknown}/run"), r#"{"code":""}"#, 404, NotFound),
        ("POST", &format!("{all}/x/run"), r#"{"code":""}"#, 404, NotFound),
        ("POST", &format!("{all}/%ff/run"), r#"{"code":""}"#, 404, UnknownSandbox),
        ("POST", &format!("{unknown}/interrupt"), "", 404, NotFound),
        ("POST", &format!("{unknown}/restart"), "", 404, NotFound),
        ("DELETE", &unknown, "", 404, NotFound),
        ("DELETE", "/sandboxes/x/contexts/x", "", 404, UnknownSandbox),
        ("POST", &format!("{one}/sing"), "", 404, UnknownRoute),
    ];
    for (method, path, body, status, code) in cases {
        let answer = api.raw(method, path, body).await;
        let what = format!("{method} {path} {body:.60}: {answer:?}");
        assert_eq!((answer.status, answer.error().code), (*status, *code), "{what}");
    }
    let listed = api.client.contexts(&id).await.unwrap().contexts;
    assert_eq!((listed.len(), listed[0].execution_count), (1, 0), "none of that ran");
    api.stop().await;
}

#[tokio::test]
async fn more_contexts_than_one_sandbox_may_have_are_refused() {
    let api = Api::start().await;
    let id = api.create().await;
    let spec = ContextSpec::default();
    let opened = join_all((0..CONTEXTS_MAX).map(|_| api.client.open_context(&id, &spec))).await;
    let opened: Vec<_> = opened.into_iter().map(|context| context.unwrap().id).collect();
    let (status, body) = refusal(api.client.open_context(&id, &spec).await);
    assert_eq!((status, body.code), (429, ErrorCode::TooManyContexts));
    api.client.delete_context(&id, &opened[0]).await.unwrap();
    api.client.open_context(&id, &spec).await.unwrap();
    api.stop().await;
}

#[tokio::test]
async fn more_runs_than_may_wait_are_refused() {
    let api = Api::start().await;
    let id = api.create().await;
    let context = api.client.open_context(&id, &ContextSpec::default()).await.unwrap().id;
    let endless = code("echo up; sleep 1000");
    let mut first = api.client.run_context(&id, &context, &endless).await.unwrap();
    while !matches!(first.next().await.unwrap(), Some(RunEvent::Stdout { .. })) {}
    let mut waiting = Vec::new();
    let refused = loop {
        match api.client.run_context(&id, &context, &code("echo turn")).await {
            Ok(events) => waiting.push(events),
            Err(error) => break refusal::<()>(Err(error)),
        }
    };
    assert_eq!((refused.0, refused.1.code), (429, ErrorCode::ContextBusy));
    assert_eq!(waiting.len(), 16);
    api.client.interrupt_context(&id, &context).await.unwrap();
    while first.next().await.unwrap().is_some() {}
    for (number, mut events) in waiting.into_iter().enumerate() {
        let started = events.next().await.unwrap();
        assert_eq!(started, Some(RunEvent::Started { execution_count: 2 + number as u64 }));
        while events.next().await.unwrap().is_some() {}
    }
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
    let (_, events) = run(&api, &id, &context, &code("kill -9 $$")).await;
    assert!(matches!(&events[1], RunEvent::Error { name, .. } if name == "ContextEnded"));
    let (status, body) = refusal(api.client.run_context(&id, &context, &code("1")).await);
    assert_eq!((status, body.code), (409, ErrorCode::ContextDead));
    assert_eq!(body.hint.as_deref(), Some("restart the context"));
    api.stop().await;
}
