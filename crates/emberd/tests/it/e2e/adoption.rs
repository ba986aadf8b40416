//! Sandboxes of real microVMs that outlive their daemon.

use std::time::Duration;

use emberd_api::{ExecBody, SandboxPhase};
use emberd_proto::ExecSpec;

use super::{Daemon, code};
use crate::wait;

/// Kills of the daemon.
const KILLS: usize = 3;

/// Leaves a program behind that counts in a file, far from the exec that started it.
const COUNTER: &str = r#"
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    open("/sys/fs/cgroup/cgroup.procs", "w").write(str(os.getpid()))
    for fd in (0, 1, 2):
        os.close(fd)
    n, fd = 0, os.open("/root/count", os.O_CREAT | os.O_WRONLY)
    while True:
        n += 1
        os.pwrite(fd, b"%012d" % n, 0)
        time.sleep(0.02)
os.wait()
"#;

#[tokio::test(flavor = "multi_thread")]
async fn programs_files_and_frozen_guests_outlive_killed_daemons() {
    let Some(mut daemon) = Daemon::instant(&["--idle-freeze", "never"]) else { return };
    let id = daemon.create("python").await;
    daemon.output(&id, COUNTER).await;
    daemon.output(&id, "open('/root/kept', 'w').write('kept')").await;
    let pid = daemon.client.get(&id).await.unwrap().vmm_pid.unwrap();
    let read = "print(open('/root/count').read())";
    let mut last = 0;
    let mut count = async |daemon: &Daemon| {
        let now: u64 = daemon.output(&id, read).await.trim().parse().unwrap();
        assert!(now >= last, "{now} after {last}");
        last = now;
        now
    };
    for _ in 0..KILLS {
        let before = count(&daemon).await;
        // Killed in the middle of output, so that the channel is left in the middle of a frame.
        let flood = "import time\nfor _ in range(100): print('y' * 100000, flush=True)\n\
                     time.sleep(100)";
        let spec = ExecSpec { timeout_ms: 200_000, ..ExecSpec::new(flood) };
        let body = ExecBody { spec, stdin: None, stdin_base64: None };
        let (client, sandbox) = (daemon.client.clone(), id.clone());
        let cut = tokio::spawn(async move { client.exec(&sandbox, &body).await });
        tokio::time::sleep(Duration::from_millis(300)).await;
        daemon = daemon.crash_and_restart();
        cut.await.unwrap().unwrap_err();
        assert!(count(&daemon).await >= before);
        assert_eq!(daemon.output(&id, "print(open('/root/kept').read())").await, "kept\n");
        assert_eq!(daemon.client.get(&id).await.unwrap().vmm_pid, Some(pid));
        // The program of the cut exec is gone, the counter goes on.
        let left = "import subprocess\n\
            print(subprocess.run(['pgrep', '-fc', 'range.100'], capture_output=True).stdout)";
        wait::until(async || daemon.output(&id, left).await.contains("b'0")).await;
        let then = count(&daemon).await;
        wait::until(async || count(&daemon).await > then).await;
    }
    assert_eq!(daemon.client.info().await.unwrap().unclaimed, []);
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_guest_is_adopted_as_it_is() {
    let Some(daemon) = Daemon::instant(&["--idle-freeze", "1s"]) else { return };
    let id = daemon.create("shell").await;
    daemon.output(&id, "echo kept > /root/kept").await;
    let phase = async |daemon: &Daemon| daemon.client.get(&id).await.unwrap().phase;
    wait::until(async || phase(&daemon).await == SandboxPhase::Frozen).await;
    let daemon = daemon.crash_and_restart();
    assert_eq!(phase(&daemon).await, SandboxPhase::Frozen);
    let ran = daemon.client.exec_traced(&id, &code("cat /root/kept; date +%s")).await.unwrap();
    assert!(ran.timing.duration("thaw").is_some());
    let (kept, at) = ran.answer.stdout.split_once('\n').unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let late = now.as_secs().abs_diff(at.trim().parse().unwrap());
    assert!(kept == "kept" && late < 5, "{late} s late");
    daemon.stop();
}
