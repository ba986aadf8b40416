//! Sandboxes that outlive their daemon, and those that do not.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use emberd_api::{
    BuildTemplate, CreateSandbox, DaemonEvent, ErrorCode, ExecBody, IdleOptions, PolicySpec,
    Resources, Sandbox, SandboxEventKind, SandboxPhase, SandboxState, UpdateSandbox,
};
use emberd_proto::ExecSpec;
use fake_firecracker::Double;
use futures::future::join_all;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{Daemon, Room};
use crate::api::refusal;
use crate::wait;

/// MicroVMs of each of the two packs in pools.
const POOL: usize = 2;

impl Daemon {
    /// Kills it as a crash would.
    pub async fn crash(mut self) {
        self.signal(Signal::KILL);
        assert_eq!(self.exit_code().await, None);
    }
}

impl Room {
    fn dir(&self, id: &str) -> PathBuf {
        self.run_dir().join(id)
    }

    /// Changes a JSON file of a sandbox.
    fn edit(&self, id: &str, file: &str, edit: impl FnOnce(&mut Value)) {
        let path = self.dir(id).join(file);
        let mut document: Value = serde_json::from_str(&last_line(&path)).unwrap();
        edit(&mut document);
        fs::write(&path, format!("{document}\n")).unwrap();
    }

    /// The daemon, keeping its sandboxes at SIGTERM.
    pub fn keeping(&self) -> Daemon {
        let mut command = self.command();
        command.args(["--on-stop", "keep"]);
        Daemon::spawn(command)
    }

    /// The daemon, removing what the one before left.
    fn clean(&self) -> Daemon {
        let mut command = self.command();
        command.args(["--on-start", "clean"]);
        Daemon::spawn(command)
    }

    pub async fn finish(self, daemon: Daemon) {
        daemon.stop(Signal::TERM).await;
        self.close().await;
    }
}

impl Room {
    /// A program that runs in the directory of its sandbox: the double's guests have no files of
    /// their own.
    fn shell(&self, id: &str, code: &str) -> ExecBody {
        let cwd = Some(self.dir(id).display().to_string());
        let spec = ExecSpec { cwd, ..ExecSpec::new(code) };
        ExecBody { spec, stdin: None, stdin_base64: None }
    }

    async fn output(&self, daemon: &Daemon, id: &str, code: &str) -> String {
        daemon.client.exec(id, &self.shell(id, code)).await.unwrap().stdout
    }
}

/// Everything of a sandbox that a restart must not change.
fn lasting(sandbox: Sandbox) -> Sandbox {
    Sandbox { expires_at_ms: sandbox.expires_at_ms.map(|ms| ms / 60_000), ..sandbox }
}

fn send(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

fn wanted() -> CreateSandbox {
    let egress: PolicySpec = serde_json::from_value(json!({"allow": ["a.example"]})).unwrap();
    CreateSandbox {
        language_pack: Some("shell".to_owned()),
        timeout_ms: Some(Some(3_600_000)),
        env: BTreeMap::from([("TOKEN".to_owned(), "s3cret".to_owned())]),
        metadata: BTreeMap::from([("job".to_owned(), "7".to_owned())]),
        egress: Some(egress),
        resources: Resources { pids: Some(512), disk_mib: Some(4096), ..Resources::default() },
        ..CreateSandbox::default()
    }
}

#[tokio::test]
async fn a_killed_daemons_sandboxes_go_on_with_every_next_one() {
    let room = Room::new();
    let mut daemon = room.start();
    let first = daemon.client.create_with(&wanted()).await.unwrap().answer.id;
    let (second, _) = daemon.create().await;
    assert_eq!(room.output(&daemon, &first, "echo kept > file").await, "");
    let change = UpdateSandbox {
        metadata: BTreeMap::from([("later".to_owned(), Some("yes".to_owned()))]),
        auto_resume: Some(false),
        ..UpdateSandbox::default()
    };
    daemon.client.update(&first, &change).await.unwrap();
    // The double's guests can be denied more, and allowed nothing.
    let policy: PolicySpec = serde_json::from_value(json!({"deny": ["b.example"]})).unwrap();
    let denied = daemon.client.set_egress(&second, &policy).await.unwrap().policy;
    let allowed = daemon.client.egress(&first).await.unwrap().in_force;
    assert_eq!(allowed.len(), 1);
    let before = lasting(daemon.client.get(&first).await.unwrap());
    for _ in 0..2 {
        daemon.crash().await;
        daemon = room.start();
        let listed = daemon.client.list().await.unwrap().sandboxes;
        let ids: Vec<_> = listed.iter().map(|sandbox| sandbox.id.as_str()).collect();
        assert_eq!(ids, [&*first, &*second], "in the order of their creation");
        assert_eq!(room.output(&daemon, &first, "cat file; echo $TOKEN").await, "kept\ns3cret\n");
        assert_eq!(lasting(daemon.client.get(&first).await.unwrap()), before);
        assert_eq!(before.metadata.len(), 2);
        assert_eq!(daemon.client.egress(&first).await.unwrap().in_force, allowed);
        assert_eq!(daemon.client.egress(&second).await.unwrap().policy, denied);
        assert_eq!(daemon.client.info().await.unwrap().unclaimed, []);
    }
    let pid = daemon.client.get(&first).await.unwrap().vmm_pid.unwrap();
    daemon.client.delete(&first).await.unwrap();
    wait::until(async || !wait::is_running(pid) && !room.dir(&first).exists()).await;
    daemon.crash().await;
    let daemon = room.start();
    let listed = daemon.client.list().await.unwrap().sandboxes;
    assert_eq!(listed.len(), 1);
    // The end of a VMM that is nobody's child is noticed, too.
    send(listed[0].vmm_pid.unwrap(), Signal::KILL);
    let gone = async || daemon.client.get(&second).await.unwrap().state == SandboxState::Gone;
    wait::until(gone).await;
    room.finish(daemon).await;
}

#[tokio::test]
async fn sandboxes_are_kept_at_sigterm_if_that_is_asked_for_and_never_at_sigint() {
    let room = Room::new();
    let daemon = room.keeping();
    let (id, pid) = daemon.create().await;
    assert_eq!(room.output(&daemon, &id, "echo kept > file").await, "");
    daemon.stop(Signal::TERM).await;
    assert!(wait::is_running(pid));
    let daemon = room.keeping();
    assert_eq!(room.output(&daemon, &id, "cat file").await, "kept\n");
    daemon.stop(Signal::INT).await;
    assert!(!wait::is_running(pid));
    room.close().await;
}

#[tokio::test]
async fn what_is_left_is_removed_by_a_daemon_that_is_to_start_clean() {
    let room = Room::new();
    let daemon = room.start();
    let (id, pid) = daemon.create().await;
    daemon.crash().await;
    assert!(room.dir(&id).exists());
    let daemon = room.clean();
    assert!(!wait::is_running(pid) && !room.dir(&id).exists());
    assert!(daemon.client.list().await.unwrap().sandboxes.is_empty());
    room.finish(daemon).await;
}

#[tokio::test]
async fn a_microvm_with_unreadable_records_is_listed_and_left_alone() {
    let room = Room::new();
    let daemon = room.start();
    let [(torn, _), (other, _), (whole, _)] =
        [daemon.create().await, daemon.create().await, daemon.create().await];
    let pid = async |id: &str| daemon.client.get(id).await.unwrap().vmm_pid.unwrap();
    let mut pids = [pid(&torn).await, pid(&other).await];
    pids.sort_unstable();
    daemon.crash().await;
    let journal = room.dir(&torn).join("sandbox.jsonl");
    let line = last_line(&journal);
    fs::write(&journal, format!("{}\n", &line[..line.len() / 2])).unwrap();
    room.edit(&other, "vmm.json", |record| record["site"]["driver"] = "other".into());
    for _ in 0..2 {
        let daemon = room.start();
        let listed = daemon.client.list().await.unwrap().sandboxes;
        assert_eq!(listed.iter().map(|sandbox| &sandbox.id).collect::<Vec<_>>(), [&whole]);
        let mut unclaimed = daemon.client.info().await.unwrap().unclaimed;
        unclaimed.sort_by_key(|microvm| microvm.vmm_pid);
        assert_eq!(unclaimed.iter().map(|microvm| microvm.vmm_pid).collect::<Vec<_>>(), pids);
        let by_dir = |id: &str| {
            let dir = room.dir(id).display().to_string();
            unclaimed.iter().find(|microvm| microvm.dir == dir).unwrap().why.clone()
        };
        assert!(by_dir(&torn).contains("sandbox.jsonl"), "{unclaimed:?}");
        assert!(by_dir(&other).contains("its VMM is other"), "{unclaimed:?}");
        daemon.crash().await;
        assert!(pids.iter().all(|pid| wait::is_running(*pid)));
    }
    let daemon = room.clean();
    assert!(pids.iter().all(|pid| !wait::is_running(*pid)));
    room.finish(daemon).await;
}

#[tokio::test]
async fn what_ended_while_no_daemon_ran_is_gone_until_it_is_deleted_or_expires() {
    let room = Room::new();
    let daemon = room.start();
    let [(ended, ended_pid), (reused, stranger)] = [daemon.create().await, daemon.create().await];
    let late = daemon.client.create_with(&wanted()).await.unwrap().answer.id;
    let late_pid = daemon.client.get(&late).await.unwrap().vmm_pid.unwrap();
    daemon.crash().await;
    for pid in [ended_pid, late_pid] {
        send(pid, Signal::KILL);
        wait::until(async || !wait::is_running(pid)).await;
    }
    // The process that now has the id of the VMM is another one.
    let next = |record: &mut Value| {
        record["start_time_ticks"] = (record["start_time_ticks"].as_u64().unwrap() + 1).into();
    };
    room.edit(&reused, "vmm.json", next);
    for orderly in [false, true] {
        let daemon = room.keeping();
        for id in [&ended, &reused, &late] {
            let sandbox = daemon.client.get(id).await.unwrap();
            assert_eq!((sandbox.state, sandbox.vmm_pid), (SandboxState::Gone, None));
            assert!(sandbox.reason.unwrap().starts_with("its VMM ended"));
            let (status, body) = refusal(daemon.client.exec(id, &room.shell(id, "true")).await);
            assert_eq!((status, body.code), (410, ErrorCode::SandboxGone));
            let mut told =
                daemon.client.events(std::slice::from_ref(id), None, false).await.unwrap();
            let Some(DaemonEvent::Sandbox(event)) = told.next().await.unwrap() else { panic!() };
            assert_eq!(event.event, SandboxEventKind::Gone);
            assert!(event.reason.is_some());
        }
        if orderly {
            daemon.stop(Signal::TERM).await;
        } else {
            daemon.crash().await;
        }
    }
    room.edit(&late, "sandbox.jsonl", |journal| journal["lease"]["deadline_us"] = 1.into());
    let daemon = room.start();
    for id in [&ended, &reused] {
        daemon.client.delete(id).await.unwrap();
    }
    for id in [&ended, &reused, &late] {
        wait::until(async || refusal_of(&daemon, id).await == Some(404)).await;
        wait::until(async || !room.dir(id).exists()).await;
    }
    assert!(wait::is_running(stranger), "a process was killed by its id alone");
    send(stranger, Signal::KILL);
    room.finish(daemon).await;
}

#[tokio::test]
async fn directories_of_another_host_leave_no_sandbox() {
    let room = Room::new();
    let daemon = room.start();
    let (id, pid) = daemon.create().await;
    daemon.crash().await;
    let other = "00000000-0000-0000-0000-000000000000";
    room.edit(&id, "vmm.json", |record| record["boot_id"] = other.into());
    let daemon = room.start();
    assert!(daemon.client.list().await.unwrap().sandboxes.is_empty());
    assert!(!room.dir(&id).exists());
    assert!(wait::is_running(pid), "the process is one of this host");
    send(pid, Signal::KILL);
    room.finish(daemon).await;
}

#[tokio::test]
async fn what_nobody_was_promised_is_removed() {
    let room = Room::new();
    let daemon = room.start();
    let [(making, _), (bare, _), (deleted, _)] =
        [daemon.create().await, daemon.create().await, daemon.create().await];
    daemon.crash().await;
    room.edit(&making, "sandbox.jsonl", |journal| journal["stage"] = "making".into());
    fs::remove_file(room.dir(&bare).join("sandbox.jsonl")).unwrap();
    fs::rename(
        room.dir(&deleted).join("sandbox.jsonl"),
        room.dir(&deleted).join("sandbox.deleted"),
    )
    .unwrap();
    let daemon = room.start();
    assert!(daemon.client.list().await.unwrap().sandboxes.is_empty());
    assert_eq!(wait::left_in(&room.run_dir()), Vec::<PathBuf>::new());
    wait::until(async || Double::processes_in(&room.run_dir()).is_empty()).await;
    room.finish(daemon).await;
}

#[tokio::test]
async fn time_goes_on_without_a_daemon() {
    let room = Room::new();
    let daemon = room.start();
    let id = daemon.client.create_with(&wanted()).await.unwrap().answer.id;
    daemon.crash().await;
    room.edit(&id, "sandbox.jsonl", |journal| journal["lease"]["deadline_us"] = 1.into());
    let daemon = room.start();
    wait::until(async || refusal_of(&daemon, &id).await == Some(404)).await;
    wait::until(async || !room.dir(&id).exists()).await;
    room.finish(daemon).await;
}

async fn refusal_of(daemon: &Daemon, id: &str) -> Option<u16> {
    match daemon.client.get(id).await {
        Ok(_) => None,
        refused => Some(refusal(refused).0),
    }
}

#[tokio::test]
async fn a_frozen_sandbox_stays_frozen_until_it_is_used() {
    let room = Room::new();
    let daemon = room.start();
    let idle = Some(IdleOptions { freeze_ms: Some(Some(1_000)), ..IdleOptions::default() });
    let wanted = CreateSandbox { idle, ..wanted() };
    let id = daemon.client.create_with(&wanted).await.unwrap().answer.id;
    assert_eq!(room.output(&daemon, &id, "echo kept > file").await, "");
    let phase = async |daemon: &Daemon| daemon.client.get(&id).await.unwrap().phase;
    wait::until(async || phase(&daemon).await == SandboxPhase::Frozen).await;
    let metrics = daemon.client.metrics(&id).await.unwrap();
    daemon.crash().await;
    let daemon = room.start();
    assert_eq!(phase(&daemon).await, SandboxPhase::Frozen);
    assert_eq!(daemon.client.metrics(&id).await.unwrap(), metrics);
    let ran = daemon.client.exec_traced(&id, &room.shell(&id, "cat file")).await.unwrap();
    assert_eq!(ran.answer.stdout, "kept\n");
    assert!(ran.timing.duration("thaw").is_some());
    daemon.crash().await;
    let daemon = room.start();
    assert_eq!(room.output(&daemon, &id, "cat file").await, "kept\n");
    room.finish(daemon).await;
}

#[tokio::test]
async fn a_daemon_killed_between_the_journal_and_the_vmm_leaves_a_sandbox_that_works() {
    let room = Room::new();
    let mut daemon = room.start();
    let (id, _) = daemon.create().await;
    assert_eq!(room.output(&daemon, &id, "echo kept > file").await, "");
    // Noted as frozen, and not paused; or resumed, and not noted as running.
    for _ in 0..2 {
        daemon.crash().await;
        room.edit(&id, "sandbox.jsonl", |journal| journal["stage"] = "frozen".into());
        daemon = room.start();
        assert_eq!(daemon.client.get(&id).await.unwrap().phase, SandboxPhase::Frozen);
        assert_eq!(room.output(&daemon, &id, "cat file").await, "kept\n");
        assert_eq!(daemon.client.get(&id).await.unwrap().phase, SandboxPhase::Running);
    }
    room.finish(daemon).await;
}

#[tokio::test]
async fn a_guest_that_does_not_answer_is_waited_for_and_not_ended() {
    let room = Room::new();
    let daemon = room.start();
    let (id, pid) = daemon.create().await;
    // Before the end of its parent, at which the kernel hangs up on stopped processes of a session.
    send(pid, Signal::STOP);
    daemon.crash().await;
    let daemon = room.start();
    let sandbox = daemon.client.get(&id).await.unwrap();
    assert_eq!(sandbox.state, SandboxState::Ready);
    assert!(sandbox.reason.unwrap().contains("has not answered"));
    let (status, body) = refusal(daemon.client.exec(&id, &room.shell(&id, "true")).await);
    assert_eq!((status, body.code), (503, ErrorCode::SandboxUnreachable));
    let (answered, ()) = tokio::join!(room.output(&daemon, &id, "echo late"), async {
        send(pid, Signal::CONT);
    });
    assert_eq!(answered, "late\n");
    assert_eq!(daemon.client.get(&id).await.unwrap().reason, None);
    room.finish(daemon).await;
}

/// The line of a journal that holds.
fn last_line(path: &Path) -> String {
    fs::read_to_string(path).unwrap().lines().last().unwrap_or_default().to_owned()
}

/// Makes the journal of a sandbox one that cannot be written: a disk that is full, without one.
/// Returns the directory that stands in its place.
fn obstruct(dir: &Path) -> PathBuf {
    let journal = dir.join("sandbox.jsonl");
    fs::copy(&journal, dir.join("kept")).unwrap();
    fs::remove_file(&journal).unwrap();
    fs::create_dir(&journal).unwrap();
    journal
}

#[tokio::test]
async fn a_change_that_cannot_be_recorded_is_made_and_recorded_later() {
    let room = Room::new();
    let daemon = room.start();
    let (id, _) = daemon.create().await;
    let journal = obstruct(&room.dir(&id));
    let metadata = BTreeMap::from([("a".to_owned(), Some("b".to_owned()))]);
    let change = UpdateSandbox { metadata, ..UpdateSandbox::default() };
    let changed = daemon.client.update(&id, &change).await.unwrap();
    assert_eq!(changed.metadata["a"], "b");
    fs::remove_dir(&journal).unwrap();
    fs::rename(room.dir(&id).join("kept"), &journal).unwrap();
    assert!(!last_line(&journal).contains(r#""a":"b""#));
    wait::until(async || last_line(&journal).contains(r#""a":"b""#)).await;
    daemon.crash().await;
    let daemon = room.start();
    assert_eq!(daemon.client.get(&id).await.unwrap().metadata, changed.metadata);
    room.finish(daemon).await;
}

#[tokio::test]
async fn a_sandbox_that_cannot_be_recorded_is_not_handed_out() {
    let room = Room::new();
    let daemon = Daemon::spawn(room.command_with_pools(1));
    daemon.comes_to_rest().await;
    for dir in wait::left_in(&room.run_dir()) {
        obstruct(&dir);
    }
    let (status, body) = refusal(daemon.client.create(Some("shell")).await);
    assert_eq!((status, body.code), (500, ErrorCode::Internal));
    assert!(daemon.client.list().await.unwrap().sandboxes.is_empty());
    // Another takes its place in the pool.
    daemon.comes_to_rest().await;
    daemon.stop(Signal::TERM).await;
    room.close().await;
}

#[tokio::test]
async fn pools_are_adopted_and_standbys_are_not() {
    let room = Room::new();
    let start = || Daemon::spawn(room.command_with_pools(POOL));
    let daemon = start();
    daemon.comes_to_rest().await;
    let pooled = |room: &Room| {
        let mut dirs = wait::left_in(&room.run_dir());
        dirs.retain(|dir| last_line(&dir.join("sandbox.jsonl")).contains(r#""stage":"pooled""#));
        dirs.sort();
        dirs
    };
    let before = pooled(&room);
    assert_eq!(before.len(), 2 * POOL);
    daemon.crash().await;
    let daemon = start();
    daemon.comes_to_rest().await;
    assert_eq!(pooled(&room), before);
    // The disk of one that was adopted can grow.
    let wanted = CreateSandbox {
        language_pack: Some("shell".to_owned()),
        resources: Resources { disk_mib: Some(4096), ..Resources::default() },
        ..CreateSandbox::default()
    };
    let id = daemon.client.create_with(&wanted).await.unwrap().answer.id;
    assert!(before.contains(&room.dir(&id)));
    assert_eq!(daemon.client.get(&id).await.unwrap().resources.disk_mib, Some(4096));
    assert_eq!(room.output(&daemon, &id, "echo warm").await, "warm\n");
    daemon.crash().await;
    // Without pools nobody is waiting for the rest.
    let daemon = room.start();
    let only = async || wait::left_in(&room.run_dir()) == [room.dir(&id)];
    wait::until(only).await;
    assert_eq!(room.output(&daemon, &id, "echo warm").await, "warm\n");
    room.finish(daemon).await;
}

/// Memory of the pinned shape.
const PINNED_MIB: u32 = 64;

#[tokio::test]
async fn pinned_shapes_and_their_pools_are_there_with_the_next_daemon() {
    let room = Room::new();
    let start = || Daemon::spawn(room.command_with_pools(1));
    let daemon = start();
    daemon.comes_to_rest().await;
    let memory_mib = Some(PINNED_MIB.into());
    let pinned = BuildTemplate { memory_mib, pool_size: Some(2), ..BuildTemplate::default() };
    daemon.client.build_template_of("shell", &pinned).await.unwrap();
    let pool = async |daemon: &Daemon| {
        let pools = daemon.client.info().await.unwrap().pools;
        pools.into_iter().find(|pool| pool.memory_mib == PINNED_MIB)
    };
    let full = async |daemon: &Daemon| pool(daemon).await.is_some_and(|pool| pool.ready == 2);
    wait::until(async || full(&daemon).await).await;
    let before = wait::left_in(&room.run_dir());
    daemon.crash().await;
    let daemon = start();
    wait::until(async || full(&daemon).await).await;
    let known = daemon.client.templates().await.unwrap().templates;
    assert!(known.iter().any(|template| template.memory_mib == PINNED_MIB && template.pinned));
    let wanted =
        CreateSandbox { resources: Resources { memory_mib, ..Resources::default() }, ..wanted() };
    let id = daemon.client.create_with(&wanted).await.unwrap().answer.id;
    assert!(before.contains(&room.dir(&id)), "it waited for this");
    let size = Resources { memory_mib, ..Resources::default() };
    daemon.client.delete_template_of("shell", &size).await.unwrap();
    room.finish(daemon).await;
}

#[tokio::test]
async fn a_pool_of_another_template_is_not_adopted() {
    let room = Room::new();
    let daemon = Daemon::spawn(room.command_with_pools(1));
    daemon.comes_to_rest().await;
    daemon.crash().await;
    let before = wait::left_in(&room.run_dir());
    for dir in &before {
        let name = dir.file_name().unwrap().to_str().unwrap();
        room.edit(name, "sandbox.jsonl", |journal| journal["template"] = "other".into());
    }
    let daemon = Daemon::spawn(room.command_with_pools(1));
    wait::until(async || before.iter().all(|dir| !dir.exists())).await;
    daemon.comes_to_rest().await;
    room.finish(daemon).await;
}

#[tokio::test]
async fn a_creation_that_is_repeated_after_a_crash_creates_nothing() {
    let room = Room::new();
    let daemon = room.start();
    let create = async |daemon: &Daemon| {
        let created = daemon.client.create_once(&wanted(), Some("job-7")).await.unwrap();
        created.answer.id
    };
    let id = create(&daemon).await;
    daemon.crash().await;
    let daemon = room.start();
    assert_eq!(create(&daemon).await, id);
    assert_eq!(daemon.client.list().await.unwrap().sandboxes.len(), 1);
    room.finish(daemon).await;
}

/// Sandboxes of one daemon, unless `EMBERD_TEST_ADOPTED` says otherwise.
const MANY: usize = 16;

#[tokio::test]
async fn many_are_adopted_together_while_the_daemon_serves() {
    let room = Room::new();
    let many = std::env::var("EMBERD_TEST_ADOPTED").map_or(MANY, |text| text.parse().unwrap());
    let start = || {
        let mut command = room.command();
        command.args(["--guest-ram-mib", "64"]);
        Daemon::spawn(command)
    };
    let daemon = start();
    let created = join_all((0..many).map(|_| daemon.create())).await;
    daemon.crash().await;
    let begun = Instant::now();
    let daemon = start();
    daemon.client.healthz().await.unwrap();
    let serving = begun.elapsed();
    let run = async |(id, _): &(String, u32)| room.output(&daemon, id, "echo adopted").await;
    let said = join_all(created.iter().map(run)).await;
    println!("{many} adopted: serving after {serving:?}, all answer after {:?}", begun.elapsed());
    assert!(said.iter().all(|said| said == "adopted\n"), "{said:?}");
    room.finish(daemon).await;
}
