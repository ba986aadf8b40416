//! A run directory that is full, under real microVMs.

use std::path::PathBuf;

use emberd_api::{ErrorCode, ProcessEventKind, ProcessSpec, SandboxPhase};
use emberd_client::Attachment;
use emberd_testing::with_mounts;

use super::Daemon;
use super::daemon::{left_in, refusal};
use crate::filled::{self, Lack};
use crate::wait;

/// Creations that find no room, each before a daemon that is killed.
const ROUNDS: u64 = 2;

/// Directories of microVMs.
fn microvms(daemon: &Daemon) -> Vec<PathBuf> {
    let mut dirs = left_in(&daemon.run_dir);
    dirs.retain(|dir| !dir.ends_with(filled::FILLING));
    dirs
}

/// Gives a line to `cat`, and waits for it.
async fn echo(attachment: &mut Attachment, line: &str) {
    attachment.write(line.as_bytes()).await.unwrap();
    let event = attachment.event().await.unwrap().unwrap();
    let ProcessEventKind::Stdout(said) = event.kind else { panic!("{event:?}") };
    assert_eq!(said.text, line);
}

/// One that runs goes on, also with the next daemons; none is made, and nothing of it is left.
async fn in_want_of(lack: Lack, mut daemon: Daemon) -> Daemon {
    let id = daemon.create("shell").await;
    let vmm_pid = daemon.client.get(&id).await.unwrap().vmm_pid;
    let cat = ProcessSpec::of_argv(["cat"]);
    let pid = daemon.client.start_process(&id, &cat).await.unwrap().pid;
    let mut attachment = daemon.client.attach(&id, pid, 1).await.unwrap();
    filled::fill(&daemon.run_dir, lack);
    for round in 1..=ROUNDS {
        let (status, body) = refusal(daemon.client.create(Some("shell")).await);
        assert_eq!((status, body.code), (507, ErrorCode::HostFull), "{body:?}");
        assert!(body.error.contains("No space left on device"), "{body:?}");
        assert!(body.hint.unwrap().contains("--run-dir"));
        assert_eq!(daemon.client.list().await.unwrap().sandboxes.len(), 1);
        wait::until(async || microvms(&daemon).len() == 1).await;
        echo(&mut attachment, &format!("{round}\n")).await;
        assert_eq!(daemon.output(&id, "echo $((6 * 7))").await, "42\n");
        drop(attachment);
        daemon = daemon.crash_and_restart();
        let kept = daemon.client.get(&id).await.unwrap();
        assert_eq!((kept.phase, kept.vmm_pid), (SandboxPhase::Running, vmm_pid));
        attachment = daemon.client.attach(&id, pid, round + 1).await.unwrap();
    }
    filled::make_room(&daemon.run_dir);
    let other = daemon.create("shell").await;
    assert_eq!(daemon.output(&other, "echo new").await, "new\n");
    echo(&mut attachment, "on\n").await;
    for id in [&id, &other] {
        daemon.client.delete(id).await.unwrap();
    }
    wait::until(async || microvms(&daemon).is_empty()).await;
    daemon
}

#[test]
fn a_full_run_directory_costs_no_guest_and_leaves_nothing_of_others() {
    if Daemon::images().is_none() {
        return;
    }
    with_mounts(|| {
        let temp = Daemon::room();
        let run_dir = Daemon::run_dir_in(&temp);
        filled::mount(&run_dir);
        let mut daemon = Daemon::instant_in(temp, &["--templates", "off"]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for lack in [Lack::Bytes, Lack::Inodes] {
            daemon = runtime.block_on(in_want_of(lack, daemon));
        }
        let temp = daemon.leave();
        filled::unmount(&run_dir);
        temp.close().unwrap();
    });
}
