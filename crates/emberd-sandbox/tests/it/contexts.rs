//! Contexts: what runs bring, and every way an interpreter can fail.

use std::path::Path;

use emberd_proto::{ContextRun, ContextSpec, RefusalCode};
use emberd_sandbox::{
    CONTEXTS_MAX, ContextError, ContextId, ContextState, GuestError, Run, RunEnd, RunEvent,
    SandboxId, Unknown,
};
use futures::future::join_all;
use rustix::process::Signal;

use crate::fixture::{ById as _, Fixture, is_running, until};

/// The events of a run, collected.
#[derive(Debug, Default)]
struct Ran {
    text: String,
    events: Vec<RunEvent>,
    end: RunEnd,
}

impl Ran {
    /// Name and text of the error.
    fn error(&self) -> Option<(&str, &str)> {
        self.events.iter().find_map(|event| match event {
            RunEvent::Error { name, value, .. } => Some((name.as_str(), value.as_str())),
            _ => None,
        })
    }

    fn result(&self) -> Option<String> {
        self.events.iter().find_map(|event| match event {
            RunEvent::Result(data) => data.get("text/plain"),
            _ => None,
        })
    }
}

/// The next event of a run.
async fn next(run: &mut Run) -> RunEvent {
    run.next().await.unwrap().event
}

impl Fixture {
    async fn open(&self, id: SandboxId, language: &str) -> ContextId {
        let context = self.sandboxes.contexts(id).open(spec(language)).await.unwrap();
        assert_eq!((context.state, context.execution_count), (ContextState::Idle, 0));
        context.id
    }

    async fn run(&self, id: SandboxId, context: ContextId, code: &str) -> Ran {
        self.run_for(id, context, code, None).await
    }

    async fn run_for(
        &self,
        id: SandboxId,
        context: ContextId,
        code: &str,
        timeout_ms: Option<u64>,
    ) -> Ran {
        let run = ContextRun { code: code.to_owned(), timeout_ms, ..ContextRun::default() };
        let mut run = self.sandboxes.contexts(id).run(context, &run).unwrap();
        let mut ran = Ran::default();
        while let Some(event) = run.next().await {
            match event.event {
                RunEvent::Stdout(text) | RunEvent::Stderr(text) => {
                    ran.text.push_str(str::from_utf8(&text).unwrap());
                }
                RunEvent::End(end) => ran.end = end,
                event => ran.events.push(event),
            }
        }
        ran
    }

    fn state(&self, id: SandboxId, context: ContextId) -> ContextState {
        let contexts = self.sandboxes.contexts(id).list();
        contexts.into_iter().find(|view| view.id == context).unwrap().state
    }

    fn reason(&self, id: SandboxId, context: ContextId) -> String {
        match self.state(id, context) {
            ContextState::Dead(reason) => reason,
            state => panic!("it is {state:?}"),
        }
    }
}

fn spec(language: &str) -> ContextSpec {
    ContextSpec { language: Some(language.to_owned()), ..ContextSpec::default() }
}

fn have_python() -> bool {
    emberd_testing::needs(Path::new("/usr/bin/python3").exists(), "no python3 on this machine")
}

#[tokio::test]
async fn variables_stay_and_contexts_are_apart() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let [one, other] = [fixture.open(id, "shell").await, fixture.open(id, "shell").await];
    let ran = fixture.run(id, one, "x=1; cd /usr; echo set; echo oops >&2").await;
    assert!(ran.text.contains("set\n") && ran.text.contains("oops\n"), "{ran:?}");
    assert_eq!(ran.events, [RunEvent::Started { execution_count: 1 }]);
    assert_eq!((ran.end.execution_count, ran.end.timed_out), (1, false));
    assert_eq!(fixture.run(id, one, "echo $x $PWD").await.text, "1 /usr\n");
    assert_eq!(fixture.run(id, other, "echo [$x]").await.text, "[]\n");
    assert_eq!(fixture.run(id, one, "exit 3").await.error(), Some(("ExitCode", "3")));
    let views = fixture.sandboxes.contexts(id).list();
    assert_eq!(views.iter().map(|view| view.id).collect::<Vec<_>>(), [one, other]);
    assert_eq!(views[0].execution_count, 3);
    fixture.sandboxes.contexts(id).delete(one).await.unwrap();
    let again = fixture.sandboxes.contexts(id).delete(one).await;
    assert!(matches!(again, Err(ContextError::Unknown { .. })), "{again:?}");
    assert_eq!(fixture.sandboxes.contexts(id).list().len(), 1);
    fixture.close().await;
}

#[tokio::test]
async fn runs_of_one_context_take_turns_and_too_many_are_refused() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let context = fixture.open(id, "shell").await;
    let codes: Vec<_> = (0..8).map(|n| format!("y=$x; x={n}; sleep 0.01; echo $y $x")).collect();
    let ran = join_all(codes.iter().map(|code| fixture.run(id, context, code))).await;
    let texts: Vec<_> = ran.iter().map(|ran| ran.text.trim()).collect();
    assert_eq!(texts, ["0", "0 1", "1 2", "2 3", "3 4", "4 5", "5 6", "6 7"]);
    let run = ContextRun { code: "sleep 1000".into(), ..ContextRun::default() };
    let mut runs = Vec::new();
    let refused = loop {
        match fixture.sandboxes.contexts(id).run(context, &run) {
            Ok(run) => runs.push(run),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, ContextError::Busy(_)) && runs.len() >= 16, "{refused:?}");
    // A run whose caller hangs up while it waits is never started.
    drop(runs);
    let idle = ContextRun { code: String::new(), ..ContextRun::default() };
    until(|| fixture.sandboxes.contexts(id).run(context, &idle).is_ok()).await;
    assert_eq!(fixture.run(id, context, "echo $x").await.text, "7\n");
    fixture.close().await;
}

#[tokio::test]
async fn interrupt_and_hang_up_end_the_run_and_not_the_context() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let context = fixture.open(id, "shell").await;
    // Nothing runs.
    fixture.sandboxes.contexts(id).interrupt(context).unwrap();
    let (ran, ()) = tokio::join!(fixture.run(id, context, "x=1; sleep 1000"), async {
        until(|| fixture.state(id, context) == ContextState::Busy).await;
        fixture.sandboxes.contexts(id).interrupt(context).unwrap();
    });
    assert_eq!(ran.error(), Some(("KeyboardInterrupt", "")), "{ran:?}");
    let run = ContextRun { code: "x=2; echo up; sleep 1000".into(), ..ContextRun::default() };
    let mut run = fixture.sandboxes.contexts(id).run(context, &run).unwrap();
    assert!(matches!(next(&mut run).await, RunEvent::Started { execution_count: 2 }));
    assert!(matches!(next(&mut run).await, RunEvent::Stdout { .. }));
    drop(run);
    assert_eq!(fixture.run(id, context, "echo $x").await.text, "2\n");
    let ran = fixture.run_for(id, context, "sleep 1000", Some(50)).await;
    assert!(ran.end.timed_out && ran.error().is_some(), "{ran:?}");
    assert_eq!(fixture.run(id, context, "echo $x").await.text, "2\n");
    fixture.close().await;
}

#[tokio::test]
async fn code_that_hears_no_interrupt_is_ended_by_a_restart_or_its_time_limit() {
    if !have_python() {
        return;
    }
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let context = fixture.open(id, "python").await;
    // Python acts on signals between its own steps, and this is one step in C.
    let stuck = "import os; print(os.getpid(), flush=True); sum(range(10 ** 18))".to_owned();
    let run = ContextRun { code: stuck, ..ContextRun::default() };
    let mut run = fixture.sandboxes.contexts(id).run(context, &run).unwrap();
    assert!(matches!(next(&mut run).await, RunEvent::Started { .. }));
    let RunEvent::Stdout(pid) = next(&mut run).await else { panic!("no pid") };
    let pid = str::from_utf8(&pid).unwrap().trim().parse().unwrap();
    let waits = fixture.run(id, context, "1");
    let restart = async {
        let view = fixture.sandboxes.contexts(id).restart(context).await.unwrap();
        assert_eq!((view.state, view.execution_count), (ContextState::Idle, 0));
    };
    let (waited, ()) = tokio::join!(waits, restart);
    assert_eq!(waited.error(), Some(("ContextEnded", "it was restarted")));
    let lost = next(&mut run).await;
    assert!(matches!(&lost, RunEvent::Error { name, .. } if name == "ContextEnded"));
    assert!(matches!(next(&mut run).await, RunEvent::End(_)));
    assert!(run.next().await.is_none());
    until(|| !is_running(pid)).await;
    assert_eq!(fixture.run(id, context, "6 * 7").await.result().as_deref(), Some("42"));
    let ran = fixture.run_for(id, context, "sum(range(10 ** 18))", Some(50)).await;
    assert_eq!(ran.error().map(|error| error.0), Some("ContextEnded"), "{ran:?}");
    assert!(ran.end.timed_out);
    assert!(fixture.reason(id, context).contains("time limit"));
    fixture.close().await;
}

#[tokio::test]
async fn crash_is_told_and_a_restart_mends_it() {
    if !have_python() {
        return;
    }
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let context = fixture.open(id, "python").await;
    for (code, reason) in [
        ("print('last', flush=True); import os; os._exit(7)", "exit code 7"),
        ("print('last', flush=True); import os; os.kill(os.getpid(), 11)", "signal 11"),
    ] {
        let ran = fixture.run(id, context, code).await;
        assert_eq!(ran.text, "last\n");
        let (name, value) = ran.error().unwrap();
        assert!(name == "ContextEnded" && value.contains(reason), "{value}");
        assert!(fixture.reason(id, context).contains(reason));
        let run = ContextRun { code: "1".into(), ..ContextRun::default() };
        let refused = fixture.sandboxes.contexts(id).run(context, &run).map(drop);
        assert!(matches!(refused, Err(ContextError::Dead { .. })), "{refused:?}");
        fixture.sandboxes.contexts(id).restart(context).await.unwrap();
        assert_eq!(fixture.run(id, context, "1 + 1").await.result().as_deref(), Some("2"));
    }
    fixture.close().await;
}

#[tokio::test]
async fn interpreters_that_talk_nonsense_or_without_end_are_ended() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    for language in ["nonsense", "endless"] {
        let context = fixture.open(id, language).await;
        let ran = fixture.run(id, context, "").await;
        assert_eq!(ran.error().map(|error| error.0), Some("ContextEnded"), "{language}: {ran:?}");
        assert!(fixture.reason(id, context).contains("malformed event"), "{language}");
    }
    // The sandbox is none the worse for it.
    assert_eq!(fixture.exec(id, "echo fine").await.unwrap().stdout, "fine\n");
    fixture.close().await;
}

#[tokio::test]
async fn large_output_comes_whole_and_in_front_of_the_end() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let context = fixture.open(id, "shell").await;
    let ran = fixture.run(id, context, "head -c 1048576 /dev/zero | tr '\\0' x").await;
    assert_eq!((ran.text.len(), ran.end.truncated), (1 << 20, false));
    let ran = fixture.run(id, context, "head -c 70000000 /dev/zero | tr '\\0' x; echo no").await;
    assert!(ran.text.len() <= 64 << 20 && ran.end.truncated, "{}", ran.text.len());
    fixture.close().await;
}

#[tokio::test]
async fn what_cannot_be_opened_is_told() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let refused = |error: ContextError| match error {
        ContextError::Guest(GuestError::Refused(refusal)) => refusal.code,
        error => panic!("{error:?}"),
    };
    let open = async |spec| fixture.sandboxes.contexts(id).open(spec).await.map(drop).unwrap_err();
    assert_eq!(refused(open(spec("cobol")).await), RefusalCode::NotFound);
    let nowhere = ContextSpec { cwd: Some("/nope".into()), ..spec("shell") };
    assert_eq!(refused(open(nowhere).await), RefusalCode::NotFound);
    let error = open(spec("stillborn")).await.to_string();
    assert!(error.contains("exit code 3") && error.contains("no such library"), "{error}");
    let stranger = fixture.sandboxes.get(SandboxId::random()).map(drop);
    assert!(matches!(stranger, Err(Unknown(_))));
    // None of them took a place.
    for _ in 0..CONTEXTS_MAX {
        fixture.open(id, "shell").await;
    }
    assert!(matches!(open(spec("shell")).await, ContextError::TooMany(_)));
    fixture.close().await;
}

#[tokio::test]
async fn contexts_end_with_their_sandbox() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let context = fixture.open(id, "shell").await;
    let (ran, ()) = tokio::join!(fixture.run(id, context, "sleep 1000"), async {
        until(|| fixture.state(id, context) == ContextState::Busy).await;
        fixture.signal(id, Signal::KILL);
    });
    assert!(ran.error().unwrap().1.contains("gone"), "{ran:?}");
    assert!(matches!(fixture.state(id, context), ContextState::Dead(_)));
    fixture.sandboxes.delete(id).await.unwrap();
    fixture.close().await;
}
