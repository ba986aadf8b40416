//! A run directory without a byte, or without an inode, left: on a file system of its own, in a
//! mount namespace of the test's.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use emberd_api::{
    CreateSandbox, ErrorCode, ExecBody, ProcessEventKind, ProcessSpec, SandboxPhase, UpdateSandbox,
};
use emberd_client::Attachment;
use emberd_proto::ExecSpec;
use emberd_testing::with_mounts;
use fake_firecracker::Double;
use rustix::process::Signal;

use super::{Daemon, Room};
use crate::api::refusal;
use crate::filled::{self, Lack};
use crate::wait;

/// Runs `story` on a thread whose room has a small file system for its run directory. Nothing
/// happens, which is a skip, where that cannot be.
fn tell<F: Future<Output = ()>>(story: impl FnOnce(Room) -> F + Send + 'static) {
    with_mounts(move || {
        let room = Room::new();
        filled::mount(&room.run_dir());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(story(room));
    });
}

impl Room {
    /// Has guests keep the code of their execs elsewhere: a real guest has files of its own.
    fn guests_have_room(&self) {
        let agent = PathBuf::from(env!("CARGO_BIN_EXE_emberd")).with_file_name("emberd-init");
        let scratch = self.path("scratch");
        fs::create_dir(&scratch).unwrap();
        let [scratch, agent] = [scratch.display(), agent.display()];
        self.double.replace_agent(&format!("exec '{agent}' \"$@\" --scratch '{scratch}'/$$"));
    }

    /// Looks for anything left behind.
    async fn end(self) {
        assert_eq!(self.sandbox_dirs(), Vec::<PathBuf>::new());
        wait::until(async || processes_in(&self.run_dir()) == 0).await;
        filled::unmount(&self.run_dir());
        self.close().await;
    }

    fn sandbox_dirs(&self) -> Vec<PathBuf> {
        let mut dirs = wait::left_in(&self.run_dir());
        dirs.retain(|dir| !dir.ends_with(filled::FILLING));
        dirs.sort();
        dirs
    }
}

/// Runs `code`, which needs no file.
async fn output(daemon: &Daemon, id: &str, code: &str) -> String {
    let body = ExecBody { spec: ExecSpec::new(code), stdin: None, stdin_base64: None };
    daemon.client.exec(id, &body).await.unwrap().stdout
}

/// Gives a line to `cat`, and waits for it.
async fn echo(attachment: &mut Attachment, line: &str) {
    attachment.write(line.as_bytes()).await.unwrap();
    let event = attachment.event().await.unwrap().unwrap();
    let ProcessEventKind::Stdout(said) = event.kind else { panic!("{event:?}") };
    assert_eq!(said.text, line);
}

fn processes_in(dir: &Path) -> usize {
    Double::processes_in(dir).len()
}

/// Sandboxes that were there before: they go on, end, and are adopted; and no other is made.
async fn in_want_of(lack: Lack, room: Room) {
    room.guests_have_room();
    let mut daemon = room.start();
    let [(kept, _), (deleted, _)] = [daemon.create().await, daemon.create().await];
    let cat = ProcessSpec::of_argv(["cat"]);
    let pid = daemon.client.start_process(&kept, &cat).await.unwrap().pid;
    let mut attachment = daemon.client.attach(&kept, pid, 1).await.unwrap();
    let language_pack = Some("shell".to_owned());
    let wanted = CreateSandbox { language_pack, ..CreateSandbox::default() };
    let (before, processes) = (room.sandbox_dirs(), processes_in(&room.run_dir()));
    filled::fill(&room.run_dir(), lack);
    for round in 0..3 {
        let (status, body) = refusal(daemon.client.create_once(&wanted, Some("key")).await);
        assert_eq!((status, body.code), (507, ErrorCode::HostFull), "{body:?}");
        assert!(body.error.contains("No space left on device"), "{body:?}");
        assert!(body.hint.unwrap().contains("--run-dir"));
        wait::until(async || room.sandbox_dirs() == before).await;
        wait::until(async || processes_in(&room.run_dir()) == processes).await;
        assert_eq!(daemon.client.list().await.unwrap().sandboxes.len(), 2);
        // What runs goes on, also with the next daemon.
        echo(&mut attachment, &format!("{round}\n")).await;
        assert_eq!(output(&daemon, &kept, "echo $((6*7))").await, "42\n");
        drop(attachment);
        daemon.crash().await;
        daemon = room.start();
        assert_eq!(daemon.client.info().await.unwrap().unclaimed, []);
        attachment = daemon.client.attach(&kept, pid, round + 2).await.unwrap();
    }
    // More than the rest of the journal's last page holds.
    let metadata = BTreeMap::from([("long".to_owned(), Some("x".repeat(6_000)))]);
    let change = UpdateSandbox { metadata, ..UpdateSandbox::default() };
    let changed = daemon.client.update(&kept, &change).await.unwrap().metadata;
    daemon.client.delete(&deleted).await.unwrap();
    wait::until(async || room.sandbox_dirs().len() == 1).await;
    daemon.crash().await;
    daemon = room.start();
    let listed = daemon.client.list().await.unwrap().sandboxes;
    assert_eq!(listed.iter().map(|sandbox| &sandbox.id).collect::<Vec<_>>(), [&kept]);
    assert_eq!(listed[0].phase, SandboxPhase::Running);

    filled::make_room(&room.run_dir());
    let id = daemon.client.create_once(&wanted, Some("key")).await.unwrap().answer.id;
    let again = daemon.client.create_once(&wanted, Some("key")).await.unwrap().answer.id;
    assert_eq!((output(&daemon, &id, "echo new").await.as_str(), again), ("new\n", id.clone()));
    let changed_again = daemon.client.update(&kept, &change).await.unwrap().metadata;
    assert_eq!(changed_again, changed);
    daemon.crash().await;
    daemon = room.start();
    assert_eq!(daemon.client.get(&kept).await.unwrap().metadata, changed);
    assert_eq!(output(&daemon, &kept, "echo on").await, "on\n");
    for id in [&kept, &id] {
        daemon.client.delete(id).await.unwrap();
    }
    daemon.stop(Signal::TERM).await;
    room.end().await;
}

#[test]
fn pools_fill_again_once_there_is_room() {
    tell(async |room| {
        room.guests_have_room();
        let daemon = Daemon::spawn(room.command_with_pools(1));
        daemon.comes_to_rest().await;
        filled::fill(&room.run_dir(), Lack::Bytes);
        // What waits may still be handed out.
        let mut given = Vec::new();
        let refused = loop {
            match daemon.client.create(Some("shell")).await {
                Ok(created) => given.push(created.id),
                refused => break refusal(refused),
            }
        };
        assert_eq!((refused.0, refused.1.code), (507, ErrorCode::HostFull), "{refused:?}");
        assert!(given.len() <= 2, "{given:?}");
        filled::make_room(&room.run_dir());
        daemon.comes_to_rest().await;
        given.push(daemon.create().await.0);
        for id in &given {
            assert_eq!(output(&daemon, id, "echo on").await, "on\n");
            daemon.client.delete(id).await.unwrap();
        }
        daemon.stop(Signal::TERM).await;
        room.end().await;
    });
}

#[test]
fn a_run_directory_without_a_byte_left_costs_no_sandbox_and_makes_none() {
    tell(async |room| in_want_of(Lack::Bytes, room).await);
}

#[test]
fn a_run_directory_without_an_inode_left_costs_no_sandbox_and_makes_none() {
    tell(async |room| in_want_of(Lack::Inodes, room).await);
}
