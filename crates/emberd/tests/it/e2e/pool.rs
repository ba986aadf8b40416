//! The warm pool and the templates behind it, on real microVMs.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use emberd_api::{Pool, TemplateState};
use rustix::process::{Pid, Signal, kill_process};

use super::daemon::is_running;
use super::{Daemon, code, of_pack};

/// Pause between two looks at the daemon.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Longest wait for a pool or a template; only ever reached by a failing test.
const PATIENCE: Duration = Duration::from_secs(300);

/// What gives a daemon pools of two microVMs.
const POOL_OF_TWO: [&str; 2] = ["--pool-size", "2"];

#[tokio::test(flavor = "multi_thread")]
async fn creates_come_from_the_pool_and_the_pool_fills_again() {
    let Some(daemon) = Daemon::instant(&POOL_OF_TWO) else { return };
    pool(&daemon, |pool| pool.ready == 2).await;
    assert_eq!(daemon.client.info().await.unwrap().boot_path, "warm-pool");
    let mut ids = BTreeSet::new();
    for _ in 0..2 {
        let id = daemon.create("python").await;
        assert_eq!(daemon.client.get(&id).await.unwrap().boot_path.as_deref(), Some("warm-pool"));
        assert_eq!(daemon.output(&id, "print(6*7)").await, "42\n");
        assert!(ids.insert(id), "handed out twice");
    }
    pool(&daemon, |pool| pool.ready == 2 && pool.handed_out == 2).await;
    for id in ids {
        daemon.client.delete(&id).await.unwrap();
    }
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooled_microvm_that_died_is_never_handed_out() {
    let Some(daemon) = Daemon::instant(&POOL_OF_TWO) else { return };
    pool(&daemon, |pool| pool.ready == 2).await;
    let pids = vmm_pids(&daemon.run_dir);
    assert!(pids.len() >= 2, "{pids:?}");
    for pid in &pids {
        kill_process(Pid::from_raw(*pid).unwrap(), Signal::KILL).unwrap();
    }
    // Sent is not yet delivered.
    while pids.iter().any(|pid| is_running(pid.cast_unsigned())) {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    let id = daemon.create("python").await;
    assert_eq!(daemon.output(&id, "print(1)").await, "1\n");
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_daemon_s_pool_is_its_successor_s_to_hand_out() {
    let Some(daemon) = Daemon::instant(&POOL_OF_TWO) else { return };
    pool(&daemon, |pool| pool.ready == 2).await;
    let pids = vmm_pids(&daemon.run_dir);
    let daemon = daemon.crash_and_restart();
    pool(&daemon, |pool| pool.ready == 2).await;
    let id = daemon.create("python").await;
    let sandbox = daemon.client.get(&id).await.unwrap();
    let pid = sandbox.vmm_pid.unwrap().cast_signed();
    assert!(pids.contains(&pid), "{pid} is not one of {pids:?}");
    assert_eq!(daemon.exec(&id, &code("print(6 * 7)")).await.stdout, "42\n");
    daemon.stop();
    for pid in pids {
        assert!(!is_running(pid.cast_unsigned()), "{pid} outlived its daemons");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_template_means_a_cold_boot_and_a_new_template() {
    let templates = tempfile::Builder::new().prefix("e2e-templates").tempdir_in("/tmp").unwrap();
    let flags = ["--pool-size", "off", "--template-dir", templates.path().to_str().unwrap()];
    let Some(daemon) = Daemon::instant(&flags) else { return };
    let template = daemon.client.build_template("shell").await.unwrap();
    assert_eq!(template.state, TemplateState::Ready);
    daemon.stop();

    let memory = PathBuf::from(template.dir.unwrap()).join("memory");
    let bytes = fs::metadata(&memory).unwrap().len();
    fs::set_permissions(&memory, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let mut file = fs::OpenOptions::new().write(true).open(&memory).unwrap();
    file.seek(SeekFrom::Start(bytes / 2)).unwrap();
    file.write_all(&[0xa5; 4096]).unwrap();

    let Some(daemon) = Daemon::instant(&flags) else { return };
    let id = daemon.create("shell").await;
    assert_eq!(daemon.client.get(&id).await.unwrap().boot_path.as_deref(), Some("cold-boot"));
    assert_eq!(daemon.exec(&id, &code("echo alive")).await.stdout, "alive\n");
    let rebuilt = daemon.client.build_template("shell").await.unwrap();
    assert_eq!(rebuilt.state, TemplateState::Ready);
    daemon.restored(&of_pack("shell")).await;
    daemon.stop();
}

/// Waits until the pool of the pack `python` is as `expected`.
pub async fn pool(daemon: &Daemon, expected: impl Fn(&Pool) -> bool) {
    let python = |pool: &Pool| pool.language_pack == "python" && expected(pool);
    pools(daemon, |pools| pools.iter().any(python)).await;
}

/// Waits until there is a template of every pack, and every pool is full.
pub async fn at_rest(daemon: &Daemon) {
    let full =
        |pool: &Pool| pool.ready == pool.target && (pool.filling, pool.standing_by) == (0, 1);
    pools(daemon, |pools| pools.iter().all(full)).await;
}

async fn pools(daemon: &Daemon, expected: impl Fn(&[Pool]) -> bool) {
    let reached = tokio::time::timeout(PATIENCE, async {
        while !expected(&daemon.client.info().await.unwrap().pools) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    });
    reached.await.expect("the pools come to that");
}

/// Process ids of all VMMs in `run_dir`, by the records beside them.
fn vmm_pids(run_dir: &Path) -> Vec<i32> {
    let dirs = fs::read_dir(run_dir).unwrap().map(|entry| entry.unwrap().path());
    let record = |dir: PathBuf| fs::read_to_string(dir.join("vmm.json")).ok();
    let pid = |record: String| {
        serde_json::from_str::<serde_json::Value>(&record).unwrap()["pid"].as_i64()
    };
    dirs.filter_map(record).filter_map(pid).map(|pid| i32::try_from(pid).unwrap()).collect()
}
