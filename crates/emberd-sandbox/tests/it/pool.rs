//! Warm pools: handed out, refilled, grown and shrunk; an ended microVM is never handed out.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use emberd_proto::ExecSpec;
use emberd_sandbox::{BootPath, PoolView, SandboxSpec, SandboxesConfig};
use fake_firecracker::Double;
use futures::FutureExt as _;
use futures::future::join_all;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use crate::fixture::{ById as _, Fixture, NEVER, is_running, pass, pool, shell, until};

/// Process ids of the VMMs in the pool, while nothing else is there. One that only stands by
/// has not bound its guest's socket yet.
fn pooled_pids(fixture: &Fixture) -> Vec<u32> {
    let dirs = fixture.left().into_iter().filter(|dir| dir.join("v.sock").exists());
    let pid = |dir: PathBuf| {
        // One that was discarded is being removed.
        let record = fs::read_to_string(dir.join("vmm.json")).ok()?;
        let (_, rest) = record.split_once("\"pid\":").unwrap();
        Some(rest.split(|end: char| !end.is_ascii_digit()).next().unwrap().parse().unwrap())
    };
    let mut pids: Vec<u32> = dirs.filter_map(pid).collect();
    pids.sort_unstable();
    pids
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

fn signal_all(pids: &[u32], kind: Signal) {
    for pid in pids {
        signal(*pid, kind);
    }
}

/// Whether a child of this process has ended: its first thread alone is not all of it.
fn has_ended(pid: u32) -> bool {
    let id = WaitId::Pid(Pid::from_raw(pid.cast_signed()).unwrap());
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(waitid(id, look), Ok(None))
}

#[tokio::test]
async fn sandbox_from_the_pool_is_there_at_once_and_replaced_behind() {
    let fixture = Fixture::pooled(2);
    assert_eq!(fixture.sandboxes.boot_path(), BootPath::WarmPool);
    fixture.filled().await;
    let before = fixture.left();
    // Ready the first time it is polled: nothing is waited for.
    let created = fixture.sandboxes.create(&shell()).now_or_never().unwrap().unwrap();
    assert_eq!(created.boot_path, BootPath::WarmPool);
    assert!(created.boot.renew.is_some() && created.boot.warm_up.is_some());
    let view = fixture.sandboxes.get(created.id).unwrap().view();
    assert!(before.contains(&view.dir));
    assert_eq!(view.boot_path, Some(BootPath::WarmPool));
    assert_eq!(fixture.exec(created.id, "echo warm").await.unwrap().stdout, "warm\n");
    fixture.filled().await;
    let pool = fixture.pool();
    assert_eq!((pool.ready, pool.target, pool.ceiling), (2, 2, 2));
    assert_eq!((pool.handed_out, pool.missed, pool.discarded), (1, 0, 0));
    assert_eq!(fixture.sandboxes.count(), 1);
    fixture.close().await;
}

#[tokio::test]
async fn sandbox_of_the_pool_gets_its_variables_when_it_is_created() {
    let fixture = Fixture::pooled(1);
    fixture.filled().await;
    let env = [("STAGE".to_owned(), "test".to_owned())].into();
    let spec = SandboxSpec { env, ..SandboxSpec::default() };
    let created = fixture.create_as(spec).await.unwrap();
    assert_eq!(created.boot_path, BootPath::WarmPool);
    assert_eq!(fixture.exec(created.id, "echo $STAGE").await.unwrap().stdout, "test\n");
    fixture.close().await;
}

#[tokio::test]
async fn pooled_microvms_are_no_sandboxes() {
    let fixture = Fixture::pooled_with(3, |config| config.sandboxes_max = 1);
    fixture.filled().await;
    assert!(fixture.sandboxes.list().is_empty());
    fixture.create().await;
    fixture.sandboxes.create(&shell()).await.unwrap_err();
    // Who is refused takes nothing along.
    until(|| fixture.pool().ready == 3).await;
    assert_eq!(fixture.pool().handed_out, 1);
    fixture.close().await;
}

#[tokio::test]
async fn burst_larger_than_the_pool_is_served_and_raises_the_ceiling() {
    let fixture = Fixture::pooled(2);
    fixture.filled().await;
    let created = join_all((0..12).map(|_| fixture.create())).await;
    let from_pool = |id: &&_| fixture.boot_path(**id) == BootPath::WarmPool;
    assert_eq!(created.iter().filter(from_pool).count(), 2);
    let restored = |id: &&_| fixture.boot_path(**id) == BootPath::SnapshotRestore;
    assert_eq!(created.iter().filter(restored).count(), 10);
    let outcomes = join_all(created.iter().map(|id| fixture.exec(*id, "echo here"))).await;
    assert!(outcomes.into_iter().all(|outcome| outcome.unwrap().stdout == "here\n"));
    let pool = fixture.pool();
    assert_eq!((pool.handed_out, pool.missed, pool.ceiling), (2, 10, 8));
    until(|| fixture.pool().ready == 8).await;
    fixture.close().await;
}

#[tokio::test]
async fn idle_time_shrinks_the_pool_to_its_target() {
    let fixture = Fixture::pooled_with(1, |config| {
        pool(config).pace.idle_before_shrink = Duration::from_millis(100);
    });
    fixture.filled().await;
    let created = join_all((0..3).map(|_| fixture.create())).await;
    assert_eq!(created.len(), 3);
    until(|| {
        let pool = fixture.pool();
        pool.ceiling == 1 && pool.ready == 1 && fixture.sandboxes.reaping() == 0
    })
    .await;
    fixture.close().await;
}

#[tokio::test]
async fn memory_bounds_the_pool() {
    // Guests of 64 MiB.
    let fixture = Fixture::pooled_with(8, |config| pool(config).memory_mib_max = 3 * 64 + 63);
    until(|| {
        let pool = fixture.pool();
        assert!(pool.ready + pool.filling <= 3);
        // The standby is started once the pool is full.
        pool.ready == 3 && pool.standing_by == 1
    })
    .await;
    fixture.create().await;
    until(|| {
        let pool = fixture.pool();
        assert!(pool.ready + pool.filling <= 3);
        pool.ready == 3
    })
    .await;
    fixture.close().await;
}

#[tokio::test]
async fn microvm_that_died_is_not_handed_out() {
    let fixture = Fixture::pooled(3);
    fixture.filled().await;
    let pids = pooled_pids(&fixture);
    assert_eq!(pids.len(), 3);
    for pid in &pids {
        signal(*pid, Signal::KILL);
    }
    // No other task runs here: the pool has not been notified when the next request comes.
    while !pids.iter().all(|pid| has_ended(*pid)) {
        std::thread::yield_now();
    }
    let created = fixture.sandboxes.create(&shell()).await.unwrap();
    assert_eq!(created.boot_path, BootPath::SnapshotRestore);
    assert_eq!(fixture.exec(created.id, "echo alive").await.unwrap().stdout, "alive\n");
    assert_eq!(fixture.pool().discarded, 3);
    fixture.filled().await;
    fixture.close().await;
}

#[tokio::test]
async fn microvm_that_dies_in_the_pool_is_replaced() {
    let fixture = Fixture::pooled(2);
    fixture.filled().await;
    signal(pooled_pids(&fixture)[0], Signal::KILL);
    until(|| fixture.pool().discarded == 1).await;
    fixture.filled().await;
    until(|| pooled_pids(&fixture).len() == 2).await;
    fixture.close().await;
}

#[tokio::test]
async fn guest_that_hangs_in_the_pool_is_found_and_replaced() {
    let fixture = Fixture::pooled_with(2, |config| {
        pool(config).pace.health_period = NEVER;
        pool(config).pace.health_timeout = NEVER;
    });
    fixture.filled().await;
    let pids = pooled_pids(&fixture);
    signal_all(&pids, Signal::STOP);
    pass(NEVER).await;
    // A guest that is looked at does not count as ready until it has answered.
    until(|| fixture.pool().ready == 1).await;
    pass(NEVER).await;
    until(|| fixture.pool().discarded == 1).await;
    // The other one is looked at next, and answers.
    until(|| pids.iter().filter(|pid| is_running(**pid)).count() == 1).await;
    let stays = *pids.iter().find(|pid| is_running(**pid)).unwrap();
    signal(stays, Signal::CONT);
    fixture.filled().await;
    assert!(pooled_pids(&fixture).contains(&stays));
    let id = fixture.create().await;
    assert_eq!(fixture.exec(id, "echo fine").await.unwrap().stdout, "fine\n");
    assert_eq!(fixture.pool().discarded, 1);
    fixture.close().await;
}

#[tokio::test]
async fn a_check_does_not_keep_a_creation_from_the_last_microvm() {
    let fixture = Fixture::pooled_with(1, |config| pool(config).pace.health_timeout = NEVER);
    fixture.filled().await;
    let pids = pooled_pids(&fixture);
    signal_all(&pids, Signal::STOP);
    pass(NEVER).await;
    until(|| fixture.pool().ready == 0).await;
    let created = fixture.sandboxes.create(&shell()).now_or_never().unwrap().unwrap();
    assert_eq!(created.boot_path, BootPath::WarmPool);
    assert_eq!(vec![fixture.vmm_pid(created.id)], pids);
    // The caller's now: the outcome of the check decides nothing any more.
    pass(NEVER).await;
    fixture.filled().await;
    signal_all(&pids, Signal::CONT);
    assert_eq!(fixture.exec(created.id, "echo mine").await.unwrap().stdout, "mine\n");
    let pool = fixture.pool();
    assert_eq!((pool.handed_out, pool.missed, pool.discarded), (1, 0, 0));
    fixture.close().await;
}

#[tokio::test]
async fn a_microvm_that_takes_long_to_answer_its_check_is_not_handed_out() {
    let fixture = Fixture::pooled_with(1, |config| {
        pool(config).pace.health_timeout = NEVER;
        pool(config).pace.health_trust = Duration::ZERO;
    });
    fixture.filled().await;
    let pids = pooled_pids(&fixture);
    signal_all(&pids, Signal::STOP);
    pass(NEVER).await;
    until(|| fixture.pool().ready == 0).await;
    let created = fixture.sandboxes.create(&shell()).await.unwrap();
    assert_eq!(created.boot_path, BootPath::SnapshotRestore);
    signal_all(&pids, Signal::CONT);
    // It was only late.
    until(|| pooled_pids(&fixture).len() >= 2 && fixture.pool().ready >= 1).await;
    assert_eq!((fixture.pool().missed, fixture.pool().discarded), (1, 0));
    fixture.close().await;
}

#[tokio::test]
async fn shutdown_during_a_check_leaves_nothing() {
    let fixture = Fixture::pooled_with(1, |config| pool(config).pace.health_timeout = NEVER);
    fixture.filled().await;
    signal_all(&pooled_pids(&fixture), Signal::STOP);
    pass(NEVER).await;
    until(|| fixture.pool().ready == 0).await;
    fixture.close().await;
}

#[tokio::test]
async fn pools_give_their_memory_back_while_the_host_is_short_of_it() {
    let waited = |config: &SandboxesConfig, time: Duration| {
        let some = format!("some avg10=0.00 total={}\nfull total=0\n", time.as_micros());
        fs::write(&config.pool.as_ref().unwrap().pressure, some).unwrap();
    };
    let fixture = Fixture::pooled_with(2, |config| waited(config, Duration::ZERO));
    let config = fixture.sandboxes.config().clone();
    fixture.filled().await;
    // A fifth of the time does not count as a shortage.
    waited(&config, NEVER / 5);
    pass(NEVER).await;
    fixture.exec(fixture.create().await, ":").await.unwrap();
    fixture.filled().await;
    waited(&config, NEVER);
    pass(NEVER).await;
    let is_empty = |pool: PoolView| (pool.ready, pool.filling, pool.standing_by) == (0, 0, 0);
    until(|| is_empty(fixture.pool())).await;
    // Sandboxes stay, and others are made.
    let created = fixture.sandboxes.create(&shell()).await.unwrap();
    assert_eq!(created.boot_path, BootPath::SnapshotRestore);
    assert!(is_empty(fixture.pool()));
    assert_eq!(fixture.sandboxes.count(), 2);
    // Nobody waits any more.
    pass(NEVER).await;
    fixture.filled().await;
    fixture.close().await;
}

#[tokio::test]
async fn healthy_guests_stay() {
    let fixture = Fixture::pooled_with(2, |config| {
        pool(config).pace.health_period = Duration::from_millis(1);
    });
    fixture.filled().await;
    let pids = pooled_pids(&fixture);
    for _ in 0..5 {
        // A guest that is looked at does not count as ready until it has answered.
        signal_all(&pids, Signal::STOP);
        until(|| fixture.pool().ready == 1).await;
        signal_all(&pids, Signal::CONT);
        until(|| fixture.pool().ready == 2).await;
    }
    assert_eq!(fixture.pool().discarded, 0);
    assert_eq!(pooled_pids(&fixture), pids);
    fixture.close().await;
}

#[tokio::test]
async fn refill_waits_for_programs_that_run() {
    let fixture = Fixture::pooled_with(2, |config| pool(config).pace.refill_wait_max = NEVER);
    fixture.filled().await;
    let id = fixture.create().await;
    let dir = fixture.sandboxes.get(id).unwrap().view().dir;
    let code = "echo running > running; while ! test -e stop; do sleep 0.01; done";
    let spec = ExecSpec { cwd: Some(dir.display().to_string()), ..ExecSpec::new(code) };
    let exec = fixture.sandboxes.exec(id, spec, b"");
    let meanwhile = async {
        until(|| dir.join("running").exists()).await;
        let other = fixture.create().await;
        let ready = fixture.pool().ready;
        for _ in 0..20 {
            fixture.exec(other, ":").await.unwrap();
        }
        assert!(fixture.pool().ready <= ready);
        assert_eq!(fixture.pool().filling, 0);
        fs::write(dir.join("stop"), "").unwrap();
    };
    let (executed, ()) = tokio::join!(exec, meanwhile);
    executed.unwrap();
    fixture.filled().await;
    fixture.close().await;
}

#[tokio::test]
async fn refill_waits_for_creations_that_found_nothing_ready() {
    let fixture = Fixture::pooled_with(1, |config| pool(config).pace.refill_wait_max = NEVER);
    fixture.filled().await;
    let pack = shell();
    fixture.sandboxes.create(&pack).now_or_never().unwrap().unwrap();
    // Begun, and not gone on with.
    let mut beyond = Box::pin(fixture.sandboxes.create(&pack));
    assert!((&mut beyond).now_or_never().is_none());
    // In the time of as many programs as a refill would start, and more.
    for _ in 0..20 {
        tokio::task::spawn_blocking(|| Command::new("true").status()).await.unwrap().unwrap();
        assert_eq!((fixture.pool().ready, fixture.pool().filling), (0, 0));
    }
    beyond.await.unwrap();
    fixture.filled().await;
    fixture.close().await;
}

#[tokio::test]
async fn programs_that_run_delay_a_refill_for_so_long_only() {
    let fixture = Fixture::pooled(2);
    fixture.filled().await;
    let id = fixture.create().await;
    let dir = fixture.sandboxes.get(id).unwrap().view().dir;
    let code = "while ! test -e stop; do sleep 0.01; done";
    let spec = ExecSpec { cwd: Some(dir.display().to_string()), ..ExecSpec::new(code) };
    let exec = fixture.sandboxes.exec(id, spec, b"");
    let meanwhile = async {
        fixture.filled().await;
        fs::write(dir.join("stop"), "").unwrap();
    };
    let (executed, ()) = tokio::join!(exec, meanwhile);
    executed.unwrap();
    fixture.close().await;
}

#[tokio::test]
async fn damaged_template_empties_the_pool() {
    let fixture = Fixture::pooled(1);
    let dir = fixture.build().await.dir.unwrap();
    fixture.filled().await;
    let state = dir.join("state");
    fs::remove_file(&state).unwrap();
    fs::write(&state, "damaged").unwrap();
    // The first takes what is ready; the refill finds out.
    let first = fixture.create().await;
    assert_eq!(fixture.boot_path(first), BootPath::WarmPool);
    until(|| state.metadata().is_ok_and(|state| state.len() > "damaged".len() as u64)).await;
    fixture.filled().await;
    let id = fixture.create().await;
    assert_eq!(fixture.boot_path(id), BootPath::WarmPool);
    fixture.close().await;
}

#[tokio::test]
async fn two_hundred_lives_leave_nothing() {
    let fixture = Fixture::pooled_with(2, |config| {
        pool(config).pace.idle_before_shrink = Duration::from_millis(10);
    });
    let settled = async || {
        fixture.filled().await;
        let is_idle = || fixture.pool().ceiling == 2 && fixture.pool().ready == 2;
        until(|| is_idle() && fixture.sandboxes.reaping() == 0).await;
    };
    let counts = || (fixture.left().len(), Double::processes_in(&fixture.run_dir).len());
    settled().await;
    let before = counts();
    for _ in 0..200 {
        let created = fixture.sandboxes.create(&shell()).await.unwrap();
        fixture.sandboxes.delete(created.id).await.unwrap();
    }
    settled().await;
    until(|| counts() == before).await;
    assert_eq!(fixture.pool().handed_out + fixture.pool().missed, 200);
    fixture.close().await;
}
