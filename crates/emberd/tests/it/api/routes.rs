//! What each route does when all goes well.

use emberd_api::{ErrorCode, ExecBody, Health, SandboxState, ServerTiming};
use emberd_proto::ExecSpec;
use futures::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Api, body, refusal};
use crate::wait;

#[tokio::test]
async fn create_exec_delete() {
    let api = Api::start().await;
    let id = api.create().await;
    let outcome = api.exec(&id, "echo $((6 * 7)); echo oops >&2; exit 7").await.unwrap();
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("42\n", "oops\n"));
    assert_eq!((outcome.exit.exit_code, outcome.exit.error), (7, None));
    let pid = api.client.get(&id).await.unwrap().vmm_pid.unwrap();
    api.client.delete(&id).await.unwrap();
    wait::until(async || !wait::is_running(pid)).await;
    wait::until(async || wait::left_in(&api.run_dir).is_empty()).await;
    api.stop().await;
}

#[tokio::test]
async fn a_drained_daemon_creates_no_sandbox_and_goes_on_with_those_it_has() {
    let api = Api::start().await;
    let id = api.create().await;
    assert!(!api.client.info().await.unwrap().draining);
    api.client.drain().await.unwrap();
    api.client.drain().await.unwrap();
    assert!(api.client.info().await.unwrap().draining);
    let (status, refused) = refusal(api.client.create(Some("shell")).await);
    assert_eq!((status, refused.code), (503, ErrorCode::Draining));
    assert_eq!(api.exec(&id, "echo on").await.unwrap().stdout, "on\n");
    api.client.delete(&id).await.unwrap();
    // Room for one more changes nothing.
    assert_eq!(refusal(api.client.create(Some("shell")).await).0, 503);
    api.stop().await;
}

#[tokio::test]
async fn where_the_time_went_is_told() {
    let api = Api::start().await;
    let stages = |timing: &ServerTiming| {
        timing.stages.iter().map(|stage| stage.name.to_string()).collect::<Vec<_>>()
    };
    let created = api.client.create_traced(Some("shell")).await.unwrap();
    assert_eq!(stages(&created.timing), ["boot-path", "vmm", "guest", "total"]);
    assert_eq!(created.timing.stages[0].description.as_deref(), Some("cold-boot"));
    let id = created.answer.id;
    let ran = api.client.exec_traced(&id, &body("sleep 0.01")).await.unwrap();
    let expect = ["turn", "connect", "launch", "run", "channel", "total"];
    assert_eq!(stages(&ran.timing), expect);
    let [total, launch, run] =
        ["total", "launch", "run"].map(|name| ran.timing.duration(name).unwrap());
    // A program may be well under way before whoever launched it goes on.
    let slept = launch + run;
    assert!(ran.round_trip >= total && total >= slept && slept.as_millis() >= 10, "{ran:?}");
    let deleted = api.client.delete_traced(&id).await.unwrap();
    assert_eq!(stages(&deleted.timing), ["total"]);
    let answer = api.raw("GET", "/healthz", "").await;
    assert!(!answer.head.contains("server-timing"), "{answer:?}");
    api.stop().await;
}

#[tokio::test]
async fn body_of_a_creation_may_be_empty() {
    let api = Api::start().await;
    for body in ["", " \n", "{}", r#"{"language_pack":null}"#, r#"{"colour":"red"}"#] {
        let answer = api.raw("POST", "/sandboxes", body).await;
        assert_eq!(answer.status, 201, "{body:?}: {answer:?}");
        let created: emberd_api::CreatedSandbox = serde_json::from_str(&answer.body).unwrap();
        let sandbox = api.client.get(&created.id).await.unwrap();
        assert_eq!(sandbox.language_pack, "python");
        api.client.delete(&created.id).await.unwrap();
    }
    api.stop().await;
}

#[tokio::test]
async fn everything_of_an_exec_reaches_the_program() {
    let api = Api::start().await;
    let id = api.create().await;
    let spec = ExecSpec {
        args: vec!["one".into(), "zwei ü".into()],
        env: [("COLOUR".into(), "red".into())].into(),
        cwd: Some("/".into()),
        ..ExecSpec::new("echo \"$1 $2 $COLOUR $PWD\"; cat")
    };
    let body = ExecBody { spec: spec.clone(), stdin: Some("text".into()), stdin_base64: None };
    let outcome = api.client.exec(&id, &body).await.unwrap();
    assert_eq!(outcome.stdout, "one zwei ü red /\ntext");
    let body = ExecBody { spec, stdin: None, stdin_base64: Some("/wA=".into()) };
    let outcome = api.client.exec(&id, &body).await.unwrap();
    assert_eq!(outcome.stdout_bytes(), b"one zwei \xc3\xbc red /\n\xff\0");
    api.stop().await;
}

#[tokio::test]
async fn time_limit_is_an_outcome() {
    let api = Api::start().await;
    let id = api.create().await;
    let spec = ExecSpec { timeout_ms: 50, ..ExecSpec::new("sleep 1000") };
    let body = ExecBody { spec, stdin: None, stdin_base64: None };
    let outcome = api.client.exec(&id, &body).await.unwrap();
    assert_eq!(outcome.exit.error.as_deref(), Some("execution timed out"));
    assert_eq!(outcome.exit.exit_code, -1);
    api.stop().await;
}

#[tokio::test]
async fn sandboxes_are_shown_oldest_first() {
    let api = Api::start().await;
    let ids = [api.create().await, api.create().await];
    let shown = api.client.list().await.unwrap().sandboxes;
    assert_eq!(shown.iter().map(|sandbox| &sandbox.id).collect::<Vec<_>>(), [&ids[0], &ids[1]]);
    let one = api.client.get(&ids[0]).await.unwrap();
    assert_eq!(one, shown[0]);
    assert_eq!((one.state, one.language_pack.as_str()), (SandboxState::Ready, "shell"));
    assert_eq!((one.boot_path.as_deref(), one.reason), (Some("cold-boot"), None));
    assert!(one.boot.is_some() && one.created_at_ms > 0 && wait::is_running(one.vmm_pid.unwrap()));
    assert!(std::path::Path::new(&one.dir).join("sandbox.jsonl").exists());
    api.stop().await;
}

#[tokio::test]
async fn daemon_tells_what_it_is() {
    let api = Api::start().await;
    api.create().await;
    let info = api.client.info().await.unwrap();
    assert_eq!(info.packs, ["python", "shell"]);
    assert_eq!((info.guest_ram_mib, info.guest_vcpus), (64, 1));
    assert_eq!((info.sandboxes, info.sandboxes_max), (1, 4));
    assert_eq!((info.vmm.driver.as_str(), info.boot_path.as_str()), ("firecracker", "cold-boot"));
    assert_eq!(info.vmm.reason.split(';').next(), Some("tests ask for it"));
    assert_eq!(info.work_dir, api.run_dir.display().to_string());
    assert_eq!(api.client.healthz().await.unwrap(), Health { status: "ok".into() });
    api.stop().await;
}

#[tokio::test]
async fn two_hundred_execs_at_once() {
    let api = Api::start().await;
    let id = api.create().await;
    let bodies: Vec<_> = (0..200).map(|n| body(&format!("echo {n}"))).collect();
    let outcomes = join_all(bodies.iter().map(|body| api.client.exec(&id, body))).await;
    for (n, outcome) in outcomes.into_iter().enumerate() {
        assert_eq!(outcome.unwrap().stdout, format!("{n}\n"));
    }
    api.stop().await;
}

#[tokio::test]
async fn every_answer_has_a_request_id_of_its_own() {
    let api = Api::start().await;
    let mut seen = std::collections::BTreeSet::new();
    for path in ["/healthz", "/healthz", "/nowhere", "/sandboxes/x"] {
        let answer = api.raw("GET", path, "").await;
        let id = answer.head.lines().find_map(|line| line.strip_prefix("x-request-id: "));
        assert!(seen.insert(id.unwrap_or_else(|| panic!("{answer:?}")).to_owned()));
    }
    api.stop().await;
}

#[tokio::test]
async fn outputs_that_nobody_takes_leave_less_room_for_others() {
    let api = Api::start().await;
    let id = api.create().await;
    // In JSON each byte of these becomes six: two outputs are most of what a caller may have.
    let code = "head -c 8388608 /dev/zero";
    let body = format!(r#"{{"code": "{code}"}}"#);
    let mut answers = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(&api.authority).await.unwrap();
        let length = body.len();
        let head = format!("POST /sandboxes/{id}/exec HTTP/1.1\r\nHost: localhost\r\n");
        let request = format!("{head}Content-Length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).await.unwrap();
        assert_eq!(&status, b"HTTP/1.1 200");
        answers.push(stream);
    }
    let cut = api.exec(&id, &format!("{code}; echo ended >&2")).await.unwrap();
    assert_eq!((cut.exit.exit_code, cut.stderr.as_str()), (0, "ended\n"));
    assert!(cut.exit.stdout_truncated && !cut.exit.stderr_truncated);
    assert!(cut.stdout.len() < 8 << 20 && cut.stdout.bytes().all(|byte| byte == 0));
    drop(answers);
    wait::until(async || !api.exec(&id, code).await.unwrap().exit.stdout_truncated).await;
    api.stop().await;
}
