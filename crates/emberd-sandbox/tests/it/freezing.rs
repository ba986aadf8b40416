//! Sandboxes that are frozen in the midst of what runs in them.

use std::path::PathBuf;
use std::time::Duration;

use emberd_proto::{ContextRun, ContextSpec, ExecSpec};
use emberd_sandbox::{
    IdlePolicy, InUse, PhaseKind, RunEvent, SandboxEvent, SandboxEventKind, SandboxId, SandboxSpec,
    Terms,
};
use futures::future::join_all;

use crate::fixture::{ById as _, Fixture, pass, until};

/// Time limit of what runs. It never passes by the clock of the double's guest, the host's.
const LIMIT: Duration = Duration::from_secs(600);

/// Waits for a file, and tells that it has come.
const UNTIL_RELEASED: &str =
    "echo > running; while ! [ -e release ]; do sleep 0.02; done; echo released";

impl Fixture {
    /// A sandbox that is frozen whatever runs in it, and its directory.
    async fn create_sleepy(&self) -> (SandboxId, PathBuf) {
        let idle = IdlePolicy { freeze: Some(Duration::from_millis(50)), ignore_programs: true };
        let terms = Terms { idle, ..Terms::default() };
        let spec = SandboxSpec { terms, ..SandboxSpec::default() };
        let id = self.create_as(spec).await.unwrap().id;
        (id, self.sandboxes.get(id).unwrap().view().dir)
    }

    fn phase(&self, id: SandboxId) -> PhaseKind {
        self.sandboxes.get(id).unwrap().view().state.phase()
    }

    /// Keeps the sandbox frozen for far longer than any limit, then has what runs in it end.
    async fn stand_still(&self, id: SandboxId) -> InUse {
        let handle = self.sandboxes.get(id).unwrap();
        let dir = handle.view().dir;
        let in_use = handle.enter().await.unwrap();
        until(|| dir.join("running").exists()).await;
        drop(in_use);
        until(|| handle.view().state.phase() == PhaseKind::Frozen).await;
        // The answer to the pause is not waited for by anybody else.
        handle.metrics().await.unwrap();
        pass(100 * LIMIT).await;
        std::fs::write(dir.join("release"), "").unwrap();
        let in_use = handle.enter().await.unwrap();
        assert!(in_use.thaw().is_some());
        in_use
    }
}

#[tokio::test]
async fn a_frozen_time_is_no_part_of_an_execs_time_limit() {
    let fixture = Fixture::with(|config| config.exec_grace = Duration::from_secs(1));
    let (id, dir) = fixture.create_sleepy().await;
    let timeout_ms = u64::try_from(LIMIT.as_millis()).unwrap();
    let cwd = Some(dir.display().to_string());
    let spec = ExecSpec { timeout_ms, cwd, ..ExecSpec::new(UNTIL_RELEASED) };
    let exec = fixture.sandboxes.exec(id, spec, b"");
    let (ran, _in_use) = tokio::join!(exec, fixture.stand_still(id));
    let outcome = ran.unwrap().outcome;
    assert_eq!((outcome.stdout.as_str(), outcome.exit.exit_code), ("released\n", 0));
    fixture.close().await;
}

#[tokio::test]
async fn a_frozen_time_is_no_part_of_the_time_limit_of_a_run() {
    let fixture = Fixture::new();
    let (id, dir) = fixture.create_sleepy().await;
    let cwd = Some(dir.display().to_string());
    let spec = ContextSpec { cwd, ..ContextSpec::default() };
    let contexts = fixture.sandboxes.contexts(id);
    let context = {
        let handle = fixture.sandboxes.get(id).unwrap();
        let _in_use = handle.enter().await.unwrap();
        contexts.open(spec).await.unwrap().id
    };
    let timeout_ms = Some(u64::try_from(LIMIT.as_millis()).unwrap());
    let run = ContextRun { code: UNTIL_RELEASED.to_owned(), timeout_ms, ..ContextRun::default() };
    let mut run = contexts.run(context, &run).unwrap();
    let ended = async {
        loop {
            if let RunEvent::End(end) = run.next().await.unwrap().event {
                break end;
            }
        }
    };
    let (end, _in_use) = tokio::join!(ended, fixture.stand_still(id));
    assert!(!end.timed_out, "{end:?}");
    fixture.close().await;
}

#[tokio::test]
async fn a_creation_is_a_use() {
    let fixture = Fixture::new();
    // Less than what a creation waits for its guest.
    let time = Duration::from_secs(5);
    let idle = IdlePolicy { freeze: Some(time), ignore_programs: true };
    let terms = Terms { idle, ..Terms::default() };
    let create = fixture.create_as(SandboxSpec { terms, ..SandboxSpec::default() });
    let passes = async {
        until(|| !fixture.sandboxes.list().is_empty()).await;
        pass(time).await;
    };
    let (created, ()) = tokio::join!(create, passes);
    let id = created.unwrap().id;
    let (sleepy, _) = fixture.create_sleepy().await;
    // All were looked at.
    until(|| fixture.phase(sleepy) == PhaseKind::Frozen).await;
    assert_eq!(fixture.phase(id), PhaseKind::Running);
    pass(time).await;
    until(|| fixture.phase(id) == PhaseKind::Frozen).await;
    fixture.close().await;
}

#[tokio::test]
async fn a_sandbox_is_told_to_be_frozen_only_once_that_is_recorded() {
    let fixture = Fixture::new();
    let (id, dir) = fixture.create_sleepy().await;
    let journal = dir.join("sandbox.jsonl");
    let last_line = || {
        let lines = std::fs::read_to_string(&journal).unwrap_or_default();
        lines.lines().last().unwrap_or_default().to_owned()
    };
    // A journal that cannot be written: a disk that is full, without one.
    std::fs::rename(&journal, dir.join("kept")).unwrap();
    std::fs::create_dir(&journal).unwrap();
    until(|| dir.join("sandbox.jsonl.new").exists()).await;
    assert_eq!(fixture.phase(id), PhaseKind::Running);
    std::fs::remove_dir(&journal).unwrap();
    until(|| last_line().contains(r#""stage":"running""#)).await;
    // The next attempt is made after ten minutes.
    pass(Duration::from_secs(600)).await;
    until(|| fixture.phase(id) == PhaseKind::Frozen).await;
    assert!(last_line().contains(r#""stage":"frozen""#));
    let events = fixture.sandboxes.events(None, usize::MAX, |event| event.id == id).events;
    let kinds: Vec<_> = events.iter().map(|event| event.kind).collect();
    let expect = [SandboxEventKind::Created, SandboxEventKind::Running, SandboxEventKind::Frozen];
    assert_eq!(kinds, expect);
    fixture.close().await;
}

#[tokio::test]
async fn a_freeze_that_is_raced_by_a_deletion_leaves_nothing() {
    const AT_ONCE: usize = 16;
    let fixture = Fixture::new();
    for _ in 0..3 {
        let after = fixture.sandboxes.events(None, 0, |_| false).next;
        let mut ids = Vec::new();
        for _ in 0..AT_ONCE {
            ids.push(fixture.create_sleepy().await.0);
        }
        // They become due together, and some of them are being frozen now.
        let frozen = |event: &SandboxEvent| event.kind == SandboxEventKind::Frozen;
        until(|| !fixture.sandboxes.events(Some(after), 1, frozen).events.is_empty()).await;
        for deleted in join_all(ids.iter().map(|id| fixture.sandboxes.delete(*id))).await {
            deleted.unwrap();
        }
        until(|| fixture.left().is_empty()).await;
        for id in ids {
            let page = fixture.sandboxes.events(None, usize::MAX, |event| event.id == id);
            let kinds: Vec<_> = page.events.iter().map(|event| event.kind).collect();
            let (first, rest) = kinds.split_at(2);
            assert_eq!(first, [SandboxEventKind::Created, SandboxEventKind::Running]);
            let ends = [
                &[SandboxEventKind::Deleted][..],
                &[SandboxEventKind::Frozen, SandboxEventKind::Deleted],
            ];
            assert!(ends.contains(&rest), "{kinds:?}");
        }
    }
    fixture.close().await;
}
