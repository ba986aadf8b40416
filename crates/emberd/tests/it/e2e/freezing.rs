//! A sandbox that nobody uses costs its host no processor, and can be deleted as it thaws.

use std::fs;

use emberd_api::{CreateSandbox, ErrorCode, IdleOptions, SandboxPhase};

use super::daemon::refusal;
use super::{Daemon, code};
use crate::wait;

/// Ticks of the processor that the process has used, as user and in the kernel.
fn ticks(pid: u32) -> (u64, u64) {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = stat.rsplit_once(") ").unwrap();
    // proc_pid_stat(5): utime is field 14, and the state after the name is field 3.
    let mut fields = rest.split(' ').skip(14 - 3).map(|field| field.parse().unwrap());
    (fields.next().unwrap(), fields.next().unwrap())
}

async fn frozen(daemon: &Daemon, id: &str) {
    let phase = async || daemon.client.get(id).await.unwrap().phase;
    wait::until(async || phase().await == SandboxPhase::Frozen).await;
}

/// Deletes a frozen sandbox while a request thaws it: that is answered before, or refused.
async fn delete_as_it_thaws(daemon: &Daemon, id: &str) {
    frozen(daemon, id).await;
    let body = code("print(1)");
    let (ran, deleted) = tokio::join!(daemon.client.exec(id, &body), daemon.client.delete(id));
    deleted.unwrap();
    if let Ok(outcome) = ran {
        assert_eq!(outcome.stdout, "1\n");
        return;
    }
    let (status, body) = refusal(ran);
    let deleted = [(404, ErrorCode::UnknownSandbox), (410, ErrorCode::SandboxGone)];
    assert!(deleted.contains(&(status, body.code)), "{status} {body:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_sandbox_uses_no_processor_and_can_be_deleted_as_it_thaws() {
    let Some(daemon) = Daemon::start(&["--idle-freeze", "never"]) else { return };
    let idle = IdleOptions { freeze_ms: Some(Some(1_000)), ..IdleOptions::default() };
    let language_pack = Some("python".to_owned());
    let wanted = CreateSandbox { language_pack, idle: Some(idle), ..CreateSandbox::default() };
    let idle = daemon.client.create_with(&wanted).await.unwrap().answer.id;
    let other = daemon.create("python").await;
    let pid = daemon.client.get(&idle).await.unwrap().vmm_pid.unwrap();
    for _ in 0..2 {
        frozen(&daemon, &idle).await;
        // Answered once the guest stands still.
        daemon.client.metrics(&idle).await.unwrap();
        let before = ticks(pid);
        // Time that passes for others.
        daemon.output(&other, "import time; time.sleep(5)").await;
        let after = ticks(pid);
        println!("ticks while frozen: {before:?}, {after:?}");
        assert_eq!(after.0, before.0);
        let phase = daemon.client.get(&idle).await.unwrap().phase;
        assert_eq!(phase, SandboxPhase::Frozen);
        daemon.output(&idle, "print(sum(range(2_000_000)))").await;
        assert!(ticks(pid).0 > after.0);
    }
    delete_as_it_thaws(&daemon, &idle).await;
    wait::until(async || !wait::is_running(pid)).await;
    daemon.stop();
}
