//! Everything a request can do wrong, and every way a guest can fail it.

use std::path::PathBuf;
use std::time::Duration;

use emberd_api::{
    BODY_BYTES_MAX, ContextSpec, ErrorCode, ExecBody, SandboxState, UNKNOWN_FIELDS_HEADER,
};
use emberd_proto::ExecSpec;
use fake_firecracker::{Double, Then};
use futures::future::join_all;
use rustix::process::{Pid, Signal, kill_process};

use super::{Api, body, refusal};
use crate::{raw, wait};

const UNKNOWN_ID: &str = "sb_000000000000";

#[tokio::test]
async fn web_pages_are_refused() {
    let api = Api::start().await;
    for origin in ["https://example.com", "null", "http://127.0.0.1:7777"] {
        let head = "POST /sandboxes HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n";
        let request = format!("{head}Origin: {origin}\r\nConnection: close\r\n\r\n");
        let answer = raw::send(&api.authority, request.into_bytes()).await;
        assert_eq!((answer.status, answer.error().code), (403, ErrorCode::ForeignOrigin));
    }
    assert_eq!(api.client.list().await.unwrap().sandboxes, []);
    // The daemon's own origin, of a name that is the daemon's and of one that is not.
    for (host, status) in [("localhost:1", 400), (api.authority.as_str(), 400), ("e.example", 421)]
    {
        let head = format!("POST /sandboxes HTTP/1.1\r\nHost: {host}\r\nContent-Length: 1\r\n");
        let request = format!("{head}Origin: http://{host}\r\nConnection: close\r\n\r\n{{");
        let answer = raw::send(&api.authority, request.into_bytes()).await;
        assert_eq!(answer.status, status, "{host}: {answer:?}");
    }
    api.stop().await;
}

/// As a page does whose name was made to resolve to this machine.
#[tokio::test]
async fn names_of_others_are_refused() {
    let api = Api::start().await;
    let answer = async |line: &str, hosts: &str| {
        let request = format!("{line} HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n");
        raw::send(&api.authority, request.into_bytes()).await
    };
    for (line, hosts) in [
        ("GET /sandboxes", "Host: evil.example\r\n"),
        ("GET /healthz", "Host: evil.example:7777\r\n"),
        ("GET /openapi.json", "Host: localhost.evil.example\r\n"),
        ("GET /nothing", "Host: \u{e9}\r\n"),
        ("GET http://evil.example/info", "Host: localhost\r\n"),
        ("GET http://localhost/info", "Host: evil.example\r\n"),
    ] {
        let answer = answer(line, hosts).await;
        let error = answer.error();
        assert_eq!((answer.status, error.code), (421, ErrorCode::ForeignHost), "{line} {hosts}");
        assert!(error.hint.unwrap().contains("--allowed-host"));
    }
    let named = format!("Host: {}\r\n", api.authority);
    for hosts in [&named, "Host: LOCALHOST:1\r\n", "Host: [::1]\r\n", "Host: x\r\n", "Host:\r\n"] {
        assert_eq!(answer("GET /info", hosts).await.status, 200, "{hosts}");
    }
    let no_host = b"GET /info HTTP/1.0\r\n\r\n".to_vec();
    assert_eq!(raw::send(&api.authority, no_host).await.status, 200);
    api.stop().await;
}

#[tokio::test]
async fn refusals() {
    use ErrorCode::{
        InvalidJson, InvalidRequest, MethodNotAllowed, UnknownPack, UnknownRoute, UnknownSandbox,
    };
    let api = Api::start().await;
    let id = api.create().await;
    let exec = format!("/sandboxes/{id}/exec");
    let unknown = format!("/sandboxes/{UNKNOWN_ID}");
    let unknown_exec = format!("{unknown}/exec");
    let nested = format!("{}{}", r#"{"x":"#.repeat(1000), "}".repeat(1000));
    let wide = format!(r#"{{"x":[{}0]}}"#, "{},".repeat(1 << 20));
    let long = format!(r#"{{"code":"","x":{}}}"#, "9".repeat(1_000_000));
    let cases: &[(&str, &str, &str, u16, ErrorCode)] = &[
        ("POST", "/sandboxes", "{", 400, InvalidJson),
        ("POST", "/sandboxes", "[]x", 400, InvalidJson),
        ("POST", "/sandboxes", &nested, 400, InvalidJson),
        ("POST", "/sandboxes", &wide, 400, InvalidJson),
        ("POST", &exec, &long, 400, InvalidJson),
        ("POST", "/sandboxes", r#"{"language_pack":7}"#, 400, InvalidJson),
        ("POST", "/sandboxes", r#"{"language_pack":"cobol"}"#, 400, UnknownPack),
        ("POST", "/sandboxes", r#"{"language_pack":"../shell"}"#, 400, UnknownPack),
        ("POST", &exec, "", 400, InvalidJson),
        ("POST", &exec, "{}", 400, InvalidJson),
        ("POST", &exec, r#"{"code":7}"#, 400, InvalidJson),
        ("POST", &exec, r#"{"code":"","args":"x"}"#, 400, InvalidJson),
        ("POST", &exec, r#"{"code":"","env":{"A":1}}"#, 400, InvalidJson),
        ("POST", &exec, r#"{"code":"","timeout_ms":-1}"#, 400, InvalidJson),
        ("POST", &exec, r#"{"code":"","timeout_ms":1.5}"#, 400, InvalidJson),
        ("POST", &exec, r#"{"code":"","timeout_ms":1e99}"#, 400, InvalidJson),
        ("POST", &exec, r#"{"code":"","timeout_ms":0}"#, 400, InvalidRequest),
        ("POST", &exec, r#"{"code":"","timeout_ms":99999999999}"#, 400, InvalidRequest),
        ("POST", &exec, r#"{"code":"","env":{"A=B":""}}"#, 400, InvalidRequest),
        ("POST", &exec, r#"{"code":"","args":["\u0000"]}"#, 400, InvalidRequest),
        ("POST", &exec, r#"{"code":"","stdin_base64":"%"}"#, 400, InvalidRequest),
        ("POST", &exec, r#"{"code":"","stdin":"","stdin_base64":""}"#, 400, InvalidRequest),
        ("POST", "/templates/cobol", "", 400, UnknownPack),
        ("POST", "/templates/%2e%2e%2fshell", "", 400, UnknownPack),
        ("POST", "/templates/%ff", "", 400, UnknownPack),
        ("DELETE", "/templates/Shell", "", 400, UnknownPack),
        ("POST", "/templates/", "", 404, UnknownRoute),
        ("GET", "/templates/shell", "", 405, MethodNotAllowed),
        ("PUT", "/templates", "", 405, MethodNotAllowed),
        ("POST", &unknown_exec, r#"{"code":""}"#, 404, UnknownSandbox),
        ("POST", "/sandboxes/x/exec", r#"{"code":""}"#, 404, UnknownSandbox),
        ("GET", &unknown, "", 404, UnknownSandbox),
        ("GET", "/sandboxes/sb_../../..", "", 404, UnknownRoute),
        ("GET", "/sandboxes/%2e%2e%2finfo", "", 404, UnknownSandbox),
        ("GET", "/sandboxes/%ff", "", 404, UnknownSandbox),
        ("DELETE", &unknown, "", 404, UnknownSandbox),
        ("DELETE", "/sandboxes/SB_000000000000", "", 404, UnknownSandbox),
        ("GET", "/", "", 404, UnknownRoute),
        ("GET", "/sandboxes/", "", 404, UnknownRoute),
        ("PUT", "/sandboxes", "", 405, MethodNotAllowed),
        ("GET", &exec, "", 405, MethodNotAllowed),
    ];
    for (method, path, body, status, code) in cases {
        let answer = api.raw(method, path, body).await;
        let what = format!("{method} {path} {body:.60}: {answer:?}");
        assert_eq!((answer.status, answer.error().code), (*status, *code), "{what}");
        assert!(answer.head.contains("content-type: application/json"), "{what}");
    }
    api.stop().await;
}

#[tokio::test]
async fn messages_say_where_and_what_to_do() {
    let api = Api::start().await;
    let answer = api.raw("POST", "/sandboxes", "{\n  \"language_pack\": 7}").await;
    assert!(answer.error().error.contains("at line 2 column"), "{answer:?}");
    let answer = api.raw("POST", "/sandboxes", r#"{"language_pack":"cobol"}"#).await;
    assert_eq!(answer.error().error, "unknown language pack `cobol`");
    assert_eq!(answer.error().hint.unwrap(), "installed packs: python, shell");
    api.stop().await;
}

#[tokio::test]
async fn unknown_fields_are_ignored_and_named() {
    let api = Api::start().await;
    let id = api.create().await;
    let below = |path: &str| format!("/sandboxes/{id}/{path}");
    let context = api.client.open_context(&id, &ContextSpec::default()).await.unwrap().id;
    for (path, body, status, named) in [
        ("/sandboxes".to_owned(), r#"{"languagepack":"shell"}"#, 201, "languagepack"),
        (
            below("exec"),
            r#"{"code":"echo ok","timeuot_ms":7,"depth":[{"x":null}]}"#,
            200,
            "timeuot_ms, depth",
        ),
        (below("exec"), r#"{"cod":"echo ok"}"#, 400, "cod"),
        (below("processes"), r#"{"argv":["true"],"limits":{"pid":7}}"#, 201, "limits.pid"),
        (below("contexts"), r#"{"lang":"x\r\n"}"#, 201, "lang"),
        (below(&format!("contexts/{context}/run")), r#"{"code":"","x":1}"#, 200, "x"),
    ] {
        let answer = api.raw("POST", &path, body).await;
        assert_eq!(answer.status, status, "{answer:?}");
        let header = format!("\r\n{UNKNOWN_FIELDS_HEADER}: {named}\r\n");
        assert!((answer.head.clone() + "\r\n").contains(&header), "{body}: {answer:?}");
    }
    let answer = api.raw("POST", &below("exec"), r#"{"code":"true","timeout_ms":9000}"#).await;
    assert!(!answer.head.contains(UNKNOWN_FIELDS_HEADER), "{answer:?}");
    api.stop().await;
}

#[tokio::test]
async fn body_over_the_limit() {
    let api = Api::start().await;
    let id = api.create().await;
    let body = ExecBody { stdin: Some("x".repeat(BODY_BYTES_MAX)), ..body("") };
    let (status, error) = refusal(api.client.exec(&id, &body).await);
    assert_eq!((status, error.code), (413, ErrorCode::BodyTooLarge));

    // Without a length given beforehand.
    let mut request = format!("POST /sandboxes/{id}/exec HTTP/1.1\r\nHost: x\r\n").into_bytes();
    request.extend_from_slice(b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n");
    let chunk = vec![b' '; 1 << 20];
    for _ in 0..=BODY_BYTES_MAX >> 20 {
        request.extend_from_slice(b"100000\r\n");
        request.extend_from_slice(&chunk);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    let answer = raw::send(&api.authority, request).await;
    assert_eq!((answer.status, answer.error().code), (413, ErrorCode::BodyTooLarge));
    api.stop().await;
}

#[tokio::test]
async fn input_over_its_own_limit() {
    let api = Api::start().await;
    let id = api.create().await;
    let stdin = Some("x".repeat(emberd_proto::exec::STDIN_BYTES_MAX + 1));
    let body = ExecBody { stdin, ..body("") };
    let (status, error) = refusal(api.client.exec(&id, &body).await);
    assert_eq!((status, error.code), (400, ErrorCode::InvalidRequest));
    api.stop().await;
}

#[tokio::test]
async fn one_sandbox_too_many() {
    let api = Api::with(|config| config.sandboxes_max = 1).await;
    let id = api.create().await;
    let (status, error) = refusal(api.client.create(None).await);
    assert_eq!((status, error.code), (429, ErrorCode::TooManySandboxes));
    assert!(error.hint.unwrap().contains("--max-sandboxes"));
    api.client.delete(&id).await.unwrap();
    api.create().await;
    api.stop().await;
}

#[tokio::test]
async fn guests_that_do_not_boot() {
    type Misbehaviour = fn(&Double);
    let cases: [(Misbehaviour, &str); 5] = [
        (
            |double| double.first("echo 'cannot set up guest memory'; exit 1"),
            "cannot set up guest memory",
        ),
        (
            |double| double.first("echo Kernel panic; set -- \"$@\" --fault die-at-boot"),
            "Kernel panic",
        ),
        (|double| double.misbehave("refuse-at=PUT /vsock"), "PUT /vsock"),
        (|double| double.misbehave("die-at=PUT /actions=148"), "seccomp violation"),
        (|double| double.answer(b"HTTP/1.1 200\r\n", Then::Close), "malformed frame"),
    ];
    for (misbehave, expect) in cases {
        let api = Api::start().await;
        misbehave(&api.double);
        boot_fails(&api, expect).await;
        // One guest's trouble is not the next one's.
        api.double.behave();
        api.create().await;
        api.stop().await;
    }
}

async fn boot_fails(api: &Api, expect: &str) {
    let (status, error) = refusal(api.client.create(None).await);
    assert_eq!((status, error.code), (503, ErrorCode::BootFailed));
    assert!(error.error.contains(expect), "{error:?}");
    assert_eq!(wait::left_in(&api.run_dir), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn guest_that_never_answers_is_given_up_in_time() {
    let limit = Duration::from_secs(3600);
    let api = Api::with(|config| config.boot_timeout = limit).await;
    api.double.misbehave("never-ready");
    tokio::join!(boot_fails(&api, "did not answer within 3600s; its console"), async {
        // Recorded once the VM has started; its guest is waited for from then on.
        let recorded = |dir: PathBuf| dir.join("sandbox.jsonl").exists();
        wait::until(async || wait::left_in(&api.run_dir).into_iter().any(recorded)).await;
        wait::pass(limit).await;
    });
    api.stop().await;
}

#[tokio::test]
async fn killed_microvm_is_gone_and_can_be_deleted() {
    let api = Api::start().await;
    let id = api.create().await;
    let pid = api.client.get(&id).await.unwrap().vmm_pid.unwrap();
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
    wait::until(async || api.client.get(&id).await.unwrap().state == SandboxState::Gone).await;
    let (status, error) = refusal(api.exec(&id, "").await);
    assert_eq!((status, error.code), (410, ErrorCode::SandboxGone));
    assert!(error.error.contains("was killed by signal 9"), "{error:?}");
    let sandbox = api.client.get(&id).await.unwrap();
    assert_eq!(sandbox.reason.as_deref(), Some("its VMM was killed by signal 9"));
    api.client.delete(&id).await.unwrap();
    assert_eq!(refusal(api.client.delete(&id).await).0, 404);
    api.stop().await;
}

#[tokio::test]
async fn guest_that_stops_answering() {
    let api = Api::with(|config| config.exec_grace = Duration::from_millis(100)).await;
    let id = api.create().await;
    let pid = api.client.get(&id).await.unwrap().vmm_pid.unwrap();
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::STOP).unwrap();
    let spec = ExecSpec { timeout_ms: 1, ..ExecSpec::new("") };
    let body = ExecBody { spec, stdin: None, stdin_base64: None };
    let (status, error) = refusal(api.client.exec(&id, &body).await);
    assert_eq!((status, error.code), (502, ErrorCode::GuestFailed));
    api.client.delete(&id).await.unwrap();
    api.stop().await;
}

#[tokio::test]
async fn sandbox_that_is_still_being_created() {
    let api = Api::start().await;
    api.double.misbehave("never-ready");
    let client = api.client.clone();
    let creation = tokio::spawn(async move { client.create(None).await });
    wait::until(async || api.sandboxes.count() == 1).await;
    let sandbox = &api.client.list().await.unwrap().sandboxes[0];
    assert_eq!((sandbox.state, sandbox.vmm_pid), (SandboxState::Creating, None));
    let (status, error) = refusal(api.exec(&sandbox.id, "").await);
    assert_eq!((status, error.code), (409, ErrorCode::SandboxNotReady));
    api.client.delete(&sandbox.id).await.unwrap();
    let (status, error) = refusal(creation.await.unwrap());
    assert_eq!((status, error.code), (410, ErrorCode::SandboxGone));
    api.stop().await;
}

#[tokio::test]
async fn of_many_deletions_at_once_one_succeeds() {
    let api = Api::start().await;
    let id = api.create().await;
    let outcomes = join_all((0..16).map(|_| api.client.delete(&id))).await;
    let (deleted, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!(deleted.len(), 1);
    for outcome in refused {
        let (status, error) = refusal(outcome);
        assert_eq!((status, error.code), (404, ErrorCode::UnknownSandbox));
    }
    api.stop().await;
}

#[tokio::test]
async fn deletion_during_an_exec() {
    let api = Api::start().await;
    let id = api.create().await;
    let dir = PathBuf::from(api.client.get(&id).await.unwrap().dir);
    let code = "echo running > running; while kill -0 $PPID 2>/dev/null; do sleep 0.02; done";
    let spec = ExecSpec { cwd: Some(dir.display().to_string()), ..ExecSpec::new(code) };
    let body = ExecBody { spec, stdin: None, stdin_base64: None };
    let exec = api.client.exec(&id, &body);
    let delete = async {
        wait::until(async || dir.join("running").exists()).await;
        api.client.delete(&id).await.unwrap();
    };
    let (outcome, ()) = tokio::join!(exec, delete);
    let (status, error) = refusal(outcome);
    assert_eq!((status, error.code), (410, ErrorCode::SandboxGone));
    assert!(error.error.contains("was deleted during the operation"), "{error:?}");
    api.stop().await;
}

#[tokio::test]
async fn daemon_that_shuts_down() {
    let api = Api::start().await;
    api.sandboxes.close();
    let (status, error) = refusal(api.client.create(None).await);
    assert_eq!((status, error.code), (503, ErrorCode::ShuttingDown));
    api.stop().await;
}
