//! Sandboxes that nobody uses, over HTTP: they are frozen, and the next request thaws them.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use emberd_api::{
    CreateSandbox, ErrorCode, ProcessEventKind, ProcessSpec, SandboxPhase, SandboxState,
    TouchSandbox, UpdateSandbox,
};
use emberd_client::ClientError;
use emberd_sandbox::SandboxEventKind;
use fake_firecracker::Double;
use futures::future::{BoxFuture, FutureExt as _, join_all};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::{Api, body, refusal};
use crate::wait;

impl Api {
    /// A sandbox that is frozen after a second without use.
    async fn create_idle(&self, more: Value) -> String {
        let mut wanted = json!({"language_pack": "shell", "idle": {"freeze_ms": 1_000}});
        merge(&mut wanted, more);
        let wanted: CreateSandbox = serde_json::from_value(wanted).unwrap();
        self.client.create_with(&wanted).await.unwrap().answer.id
    }

    async fn phase(&self, id: &str) -> SandboxPhase {
        self.client.get(id).await.unwrap().phase
    }

    async fn frozen(&self, id: &str) {
        wait::until(async || self.phase(id).await == SandboxPhase::Frozen).await;
    }

    async fn touch_it(&self, id: &str) {
        self.client.touch(id, &TouchSandbox::default()).await.unwrap();
    }

    async fn signal_vmm(&self, id: &str, signal: Signal) {
        let pid = self.client.get(id).await.unwrap().vmm_pid.unwrap();
        kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
    }

    /// Deletes a sandbox `later` short requests after others have begun to thaw, use and change
    /// it. Returns how many of these it let come to their end.
    async fn delete_amid_requests(&self, id: &str, later: usize) -> usize {
        let change = UpdateSandbox { auto_resume: Some(true), ..UpdateSandbox::default() };
        let exec = async || {
            let ran = self.exec(id, "echo ran").await?;
            assert_eq!((ran.stdout.as_str(), ran.exit.exit_code), ("ran\n", 0));
            Ok::<(), ClientError>(())
        };
        let deletion = async {
            for _ in 0..later {
                self.client.healthz().await.unwrap();
            }
            self.client.delete(id).await.unwrap();
        };
        let requests: [BoxFuture<Result<(), ClientError>>; 5] = [
            exec().boxed(),
            async { self.client.touch(id, &TouchSandbox::default()).await.map(drop) }.boxed(),
            async { self.client.update(id, &change).await.map(drop) }.boxed(),
            async { self.client.metrics(id).await.map(drop) }.boxed(),
            exec().boxed(),
        ];
        let all = async { tokio::join!(join_all(requests), deletion) };
        let (answers, ()) = timeout(wait::PATIENCE, all).await.expect("no request hangs");
        let (done, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
        for error in refused {
            let (status, body) = refusal(error);
            let deleted = [(404, ErrorCode::UnknownSandbox), (410, ErrorCode::SandboxGone)];
            assert!(deleted.contains(&(status, body.code)), "{status} {body:?}");
            assert!(body.error.contains(id), "{body:?}");
        }
        done.len()
    }

    /// The process ids of all VMMs.
    async fn vmms(&self) -> Vec<u32> {
        let sandboxes = self.client.list().await.unwrap().sandboxes;
        sandboxes.into_iter().map(|sandbox| sandbox.vmm_pid.unwrap()).collect()
    }

    /// Nothing of deleted sandboxes is left: neither their entries, memory, files nor `vmms`.
    async fn nothing_left(&self, vmms: &[u32]) {
        assert_eq!(self.client.list().await.unwrap().sandboxes, []);
        assert_eq!((self.sandboxes.count(), self.sandboxes.memory_mib()), (0, 0));
        wait::until(async || self.sandboxes.reaping() == 0).await;
        assert_eq!(wait::left_in(&self.run_dir), Vec::<PathBuf>::new());
        assert!(!vmms.iter().any(|pid| wait::is_running(*pid)), "{vmms:?}");
        // What the double had as the guest's programs ends after it.
        wait::until(async || Double::processes_in(&self.run_dir).is_empty()).await;
    }

    /// How often the VMM has continued a guest that was stopped.
    fn resumes(&self, id: &str) -> usize {
        fs::read(self.run_dir.join(id).join("resumed")).map_or(0, |marks| marks.len())
    }

    /// Whether a process of the sandbox is stopped.
    fn stands_still(&self, id: &str) -> bool {
        Double::processes_in(&self.run_dir.join(id)).iter().any(|process| {
            let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T'))
        })
    }
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

#[tokio::test]
async fn an_unused_sandbox_is_frozen_and_the_next_request_thaws_it() {
    let api = Api::start().await;
    let id = api.create_idle(json!({})).await;
    api.exec(&id, "echo kept > file").await.unwrap();
    for round in 1..=2 {
        api.frozen(&id).await;
        wait::until(async || api.stands_still(&id)).await;
        let sandbox = api.client.get(&id).await.unwrap();
        assert_eq!((sandbox.state, sandbox.idle.freeze_ms), (SandboxState::Ready, Some(1_000)));
        let ran = api.client.exec_traced(&id, &body("cat file")).await.unwrap();
        assert_eq!(ran.answer.stdout, "kept\n");
        assert!(ran.timing.duration("thaw").is_some(), "{}", ran.timing);
        assert_eq!(api.resumes(&id), round);
        let again = api.client.exec_traced(&id, &body(":")).await.unwrap();
        assert_eq!(again.timing.duration("thaw"), None);
    }
    api.stop().await;
}

#[tokio::test]
async fn looking_at_a_frozen_sandbox_leaves_it_frozen() {
    let api = Api::start().await;
    let id = api.create_idle(json!({})).await;
    let before = api.client.metrics(&id).await.unwrap();
    api.frozen(&id).await;
    let [first, second] =
        [api.client.metrics(&id).await.unwrap(), api.client.metrics(&id).await.unwrap()];
    assert_eq!(first, second);
    assert!(first.time_ms >= before.time_ms && first.program_count == Some(0), "{first:?}");
    api.client.logs(&id, None, false).await.unwrap();
    api.client.list().await.unwrap();
    let change = UpdateSandbox { timeout_ms: Some(Some(60_000)), ..UpdateSandbox::default() };
    let sandbox = api.client.update(&id, &change).await.unwrap();
    assert_eq!((sandbox.phase, sandbox.timeout_ms), (SandboxPhase::Frozen, Some(60_000)));
    assert_eq!(api.resumes(&id), 0);
    api.stop().await;
}

#[tokio::test]
async fn many_requests_at_once_cause_one_thaw() {
    let api = Api::start().await;
    let id = api.create_idle(json!({})).await;
    api.frozen(&id).await;
    let requests = (0..64).map(|n| {
        let (api, id) = (&api, &id);
        async move { api.exec(id, &format!("echo {n}")).await.unwrap().stdout }
    });
    for (n, answer) in join_all(requests).await.into_iter().enumerate() {
        assert_eq!(answer, format!("{n}\n"));
    }
    assert_eq!(api.resumes(&id), 1);
    api.stop().await;
}

#[tokio::test]
async fn a_program_keeps_its_sandbox_awake_unless_told_otherwise() {
    let api = Api::start().await;
    let busy = api.create_idle(json!({})).await;
    let program = ProcessSpec::of_argv(["sleep", "1000"]);
    let pid = api.client.start_process(&busy, &program).await.unwrap().pid;
    let left_behind = api.create_idle(json!({})).await;
    api.exec(&left_behind, "setsid sleep 1000 > /dev/null 2>&1 &").await.unwrap();
    let ignoring = api.create_idle(json!({"idle": {"ignore_programs": true}})).await;
    api.client.start_process(&ignoring, &program).await.unwrap();
    // It was due after the others.
    api.frozen(&ignoring).await;
    assert_eq!(api.phase(&busy).await, SandboxPhase::Running);
    assert_eq!(api.phase(&left_behind).await, SandboxPhase::Running);
    api.client.delete_process(&busy, pid).await.unwrap();
    api.frozen(&busy).await;
    api.stop().await;
}

#[tokio::test]
async fn an_open_stream_neither_keeps_awake_nor_ends_and_goes_on_after_a_thaw() {
    let api = Api::start().await;
    let id = api.create_idle(json!({"idle": {"ignore_programs": true}})).await;
    let program = ProcessSpec::of_argv(["sh", "-c", "while read x; do echo got $x; done"]);
    let pid = api.client.start_process(&id, &program).await.unwrap().pid;
    let mut attachment = api.client.attach(&id, pid, 0).await.unwrap();
    attachment.event().await.unwrap().unwrap();
    for round in 1..=3 {
        api.frozen(&id).await;
        // Input of the terminal is a use.
        attachment.write(format!("{round}\n").as_bytes()).await.unwrap();
        let event = attachment.event().await.unwrap().unwrap();
        assert_eq!(event.id, round);
        let ProcessEventKind::Stdout(text) = event.kind else { panic!("{event:?}") };
        assert_eq!(text.text, format!("got {round}\n"));
        // The guest goes on a moment before its clock is set and the phase tells so.
        wait::until(async || api.phase(&id).await == SandboxPhase::Running).await;
    }
    api.stop().await;
}

#[tokio::test]
async fn bytes_of_a_caller_thaw_an_open_connection() {
    let api = Api::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let id = api.create_idle(json!({})).await;
    let mut tunnel = api.client.connect_port(&id, port).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    let echo = tokio::spawn(async move {
        let (mut from, mut to) = server.split();
        tokio::io::copy(&mut from, &mut to).await
    });
    for _ in 0..2 {
        api.frozen(&id).await;
        tunnel.write_all(b"ping").await.unwrap();
        let mut text = [0; 4];
        tunnel.read_exact(&mut text).await.unwrap();
        assert_eq!(&text, b"ping");
    }
    drop(tunnel);
    echo.await.unwrap().unwrap();
    api.stop().await;
}

#[tokio::test]
async fn without_auto_resume_only_a_touch_thaws() {
    let api = Api::start().await;
    let id = api.create_idle(json!({"auto_resume": false})).await;
    api.exec(&id, ":").await.unwrap();
    api.frozen(&id).await;
    let (status, refused) = refusal(api.exec(&id, ":").await);
    assert_eq!((status, refused.code), (409, ErrorCode::SandboxFrozen));
    assert!(refused.hint.unwrap().contains("touch"));
    let (status, refused) = refusal(api.client.connect_port(&id, 80).await.map(drop));
    assert_eq!((status, refused.code), (409, ErrorCode::SandboxFrozen));
    assert_eq!((api.phase(&id).await, api.resumes(&id)), (SandboxPhase::Frozen, 0));
    api.touch_it(&id).await;
    api.exec(&id, ":").await.unwrap();
    api.frozen(&id).await;
    let change = UpdateSandbox { auto_resume: Some(true), ..UpdateSandbox::default() };
    api.client.update(&id, &change).await.unwrap();
    api.exec(&id, ":").await.unwrap();
    api.stop().await;
}

#[tokio::test]
async fn touches_keep_a_sandbox_awake_and_a_change_of_the_policy_holds() {
    let api = Api::start().await;
    let touched = api.create_idle(json!({})).await;
    let other = api.create_idle(json!({})).await;
    while api.phase(&other).await != SandboxPhase::Frozen {
        api.touch_it(&touched).await;
    }
    assert_eq!((api.phase(&touched).await, api.resumes(&touched)), (SandboxPhase::Running, 0));
    let change = |idle: Value| {
        let change: UpdateSandbox = serde_json::from_value(json!({ "idle": idle })).unwrap();
        let (api, touched) = (&api, &touched);
        async move { api.client.update(touched, &change).await.unwrap().idle }
    };
    let never = change(json!({"freeze_ms": null, "ignore_programs": true})).await;
    assert_eq!((never.freeze_ms, never.ignore_programs), (None, true));
    let soon = change(json!({"freeze_ms": 1_000})).await;
    assert_eq!((soon.freeze_ms, soon.ignore_programs), (Some(1_000), true));
    api.frozen(&touched).await;
    api.stop().await;
}

#[tokio::test]
async fn a_frozen_sandbox_can_be_deleted_and_expires() {
    let api = Api::start().await;
    let deleted = api.create_idle(json!({})).await;
    let expires = api.create_idle(json!({})).await;
    api.frozen(&deleted).await;
    api.frozen(&expires).await;
    let soon = UpdateSandbox { timeout_ms: Some(Some(1_000)), ..UpdateSandbox::default() };
    assert_eq!(api.client.update(&expires, &soon).await.unwrap().phase, SandboxPhase::Frozen);
    api.client.delete(&deleted).await.unwrap();
    wait::until(async || api.client.get(&expires).await.is_err()).await;
    wait::until(async || api.sandboxes.reaping() == 0).await;
    assert_eq!(wait::left_in(&api.run_dir).len(), 0);
    // One that is frozen at the end is removed as others are.
    let left = api.create_idle(json!({})).await;
    api.frozen(&left).await;
    api.stop().await;
}

#[tokio::test]
async fn a_vmm_that_ends_while_frozen_is_told() {
    let api = Api::start().await;
    let id = api.create_idle(json!({})).await;
    api.frozen(&id).await;
    api.signal_vmm(&id, Signal::KILL).await;
    wait::until(async || api.phase(&id).await == SandboxPhase::Gone).await;
    let (_, gone) = refusal(api.exec(&id, ":").await);
    assert_eq!(gone.code, ErrorCode::SandboxGone);
    api.client.delete(&id).await.unwrap();
    api.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thaw_that_is_raced_by_a_deletion_leaves_nothing() {
    const ROUNDS: usize = 20;
    const AT_ONCE: usize = 10;
    let api = Api::with(|config| {
        config.idle_freeze = Some(Duration::from_millis(50));
        // Each round needs all that the one before has to give back.
        config.sandboxes_max = AT_ONCE;
        config.memory_mib_total = u64::from(config.size.memory_mib) * AT_ONCE as u64;
    })
    .await;
    let mut done = [0; AT_ONCE];
    for round in 0..ROUNDS {
        let ids = join_all((0..AT_ONCE).map(|_| api.create())).await;
        // In every other round most of them are not frozen yet, and some are being frozen.
        let awaited = if round % 2 == 0 { AT_ONCE } else { 1 };
        for id in &ids[..awaited] {
            api.frozen(id).await;
        }
        let vmms = api.vmms().await;
        let races = ids.iter().enumerate().map(|(later, id)| api.delete_amid_requests(id, later));
        for (done, more) in done.iter_mut().zip(join_all(races).await) {
            *done += more;
        }
        api.nothing_left(&vmms).await;
        for id in ids {
            let page = api.sandboxes.events(None, usize::MAX, |event| event.id.to_string() == id);
            let last = page.events.last().map(|event| event.kind);
            assert_eq!(last, Some(SandboxEventKind::Deleted), "{:?}", page.events);
        }
    }
    println!("requests that were done, by the moment of the deletion: {done:?}");
    api.stop().await;
}

#[tokio::test]
async fn a_deletion_ends_a_thaw_that_hangs() {
    let api = Api::start().await;
    let id = api.create_idle(json!({})).await;
    api.frozen(&id).await;
    // The answer to the pause has come.
    api.client.metrics(&id).await.unwrap();
    let vmms = api.vmms().await;
    api.signal_vmm(&id, Signal::STOP).await;
    let done = api.delete_amid_requests(&id, 32).await;
    assert!(done <= 2, "only the change and the metrics of before need no VMM: {done}");
    api.nothing_left(&vmms).await;
    api.stop().await;
}
