//! Limits that hold in real guests, all in one of them: what takes its kernel's cgroups.

use std::path::Path;

use emberd_api::{
    ContextRun, ContextSpec, CreateSandbox, ExecBody, ExecExit, Limits, ProcessSpec, Resources,
    RunEvent,
};
use emberd_client::{FileOptions, Upload};
use emberd_proto::{ExecSpec, StartedBy};

use super::pool::pool;
use super::processes::{output, python};
use super::{Daemon, TIMEOUT_MS, code, spec};
use crate::wait;

/// Memory a limited program gets, in MiB: several times what a Python takes for itself.
const MEMORY_MIB: u64 = 48;

/// Prints how many processes there are, and starts none to count them.
const COUNT: &str = "import glob; print(len(glob.glob('/proc/[0-9]*')))";

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_and_neighbours_work() {
    let Some(daemon) = Daemon::start(&[]) else { return };
    let id = daemon.create("python").await;
    // The warm interpreter is on its way when the machine answers.
    let forked = async || daemon.exec(&id, &code("")).await.exit.started_by;
    wait::until(async || forked().await == Some(StartedBy::Zygote)).await;
    memory_is_held_and_its_want_is_told(&daemon, &id).await;
    memory_of_all_it_started_counts(&daemon, &id).await;
    processes_are_counted(&daemon, &id).await;
    processor_time_is_held(&daemon, &id).await;
    files_are_held(&daemon, &id).await;
    a_fork_bomb_is_held(&daemon, &id).await;
    daemon.stop();
}

async fn memory_is_held_and_its_want_is_told(daemon: &Daemon, id: &str) {
    let memory = Limits { memory_mib: Some(MEMORY_MIB), ..Limits::default() };
    let holds = |mib: u64| format!("x = b'x' * ({mib} << 20); print('had it')");
    for fresh in [false, true] {
        let exec = |mib| ExecSpec { limits: memory, fresh, ..spec(holds(mib)) };
        let less = exec_of(daemon, id, exec(MEMORY_MIB / 4)).await;
        assert_eq!((less.1.as_str(), less.0.out_of_memory), ("had it\n", false));
        let started_by = if fresh { StartedBy::Spawn } else { StartedBy::Zygote };
        assert_eq!(less.0.started_by, Some(started_by));

        let more = exec_of(daemon, id, exec(MEMORY_MIB * 2)).await;
        assert_eq!((more.1.as_str(), more.0.exit_code, more.0.signal), ("", 137, Some(9)));
        assert!(more.0.out_of_memory && more.0.error.is_none(), "{more:?}");

        // The same program without the limit: the machine has that much.
        let unlimited = ExecSpec { fresh, ..spec(holds(MEMORY_MIB * 2)) };
        assert_eq!(exec_of(daemon, id, unlimited).await.1, "had it\n");
    }
    let process = ProcessSpec { limits: memory, ..python(&holds(MEMORY_MIB * 2)) };
    let (text, exit) = output(daemon, id, &process).await;
    assert_eq!((text.as_str(), exit.exit_code, exit.out_of_memory), ("", 137, true));
    // SIGKILL from elsewhere is no want of memory.
    let killed = ExecSpec { limits: memory, ..spec("import os; os.kill(os.getpid(), 9)") };
    let (exit, _) = exec_of(daemon, id, killed).await;
    assert_eq!((exit.signal, exit.out_of_memory), (Some(9), false));
}

/// A child that is killed is told, though its parent ends well.
async fn memory_of_all_it_started_counts(daemon: &Daemon, id: &str) {
    let limits = Limits { memory_mib: Some(MEMORY_MIB), ..Limits::default() };
    let child = format!(
        "import subprocess, sys\n\
         print(subprocess.call([sys.executable, '-c', 'b\"x\" * ({} << 20)']))",
        MEMORY_MIB * 2
    );
    let (exit, text) = exec_of(daemon, id, ExecSpec { limits, ..spec(child) }).await;
    assert_eq!((text.as_str(), exit.exit_code, exit.out_of_memory), ("-9\n", 0, true));
}

async fn processes_are_counted(daemon: &Daemon, id: &str) {
    let limits = Limits { pids: Some(5), ..Limits::default() };
    let program = "import os\nn = 0\ntry:\n while n < 50:\n  n += 1\n  \
                os.fork() or os.execvp('sleep', ['sleep', '1000'])\n\
                except BlockingIOError: print(n)";
    let forks = ProcessSpec { limits, ..python(program) };
    let (text, exit) = output(daemon, id, &forks).await;
    assert_eq!((text.as_str(), exit.exit_code), ("5\n", 0));
}

async fn processor_time_is_held(daemon: &Daemon, id: &str) {
    let limits = Limits { cpu_ms: Some(1), ..Limits::default() };
    let (exit, _) = exec_of(daemon, id, ExecSpec { limits, ..spec("while True: pass") }).await;
    assert_eq!((exit.signal, exit.timed_out), (Some(24), false), "SIGXCPU");
}

async fn files_are_held(daemon: &Daemon, id: &str) {
    let limits = Limits { file_mib: Some(1), ..Limits::default() };
    // Python ignores SIGXFSZ, and is told by the system call.
    let program = "import os\nf = os.open('big', os.O_CREAT | os.O_WRONLY)\n\
                print(os.write(f, bytes(2 << 20)))\n\
                try: os.write(f, b'x')\nexcept OSError as e: print(e.strerror)";
    let (exit, text) = exec_of(daemon, id, ExecSpec { limits, ..spec(program) }).await;
    assert_eq!((text.as_str(), exit.exit_code), ("1048576\nFile too large\n", 0));
}

async fn a_fork_bomb_is_held(daemon: &Daemon, id: &str) {
    let count = async || daemon.output(id, COUNT).await.trim().parse::<u32>().unwrap();
    // Each that can fork stays, so that the limit is reached and nothing but it ends that.
    let bomb = "bomb() { bomb | bomb & sleep 1000; }; bomb";
    let bomb = ProcessSpec::of_argv(["sh", "-c", bomb]);
    let bomb = daemon.client.start_process(id, &bomb).await.unwrap().pid;
    let mut most = 0;
    for _ in 0..20 {
        most = most.max(count().await);
    }
    assert!(most < 1000, "{most} processes");
    daemon.client.delete_process(id, bomb).await.unwrap();
    while count().await >= 100 {}
}

/// Processes and threads of the sandbox whose programs fork without end.
const PIDS: u64 = 64;

/// Forks until it cannot, and tells how often that went well and why it ended.
const FORKS: &str = "import os, errno\nn = 0\ntry:\n while n < 1000:\n  \
    os.fork() or os.execvp('sleep', ['sleep', '1000'])\n  n += 1\n\
    except OSError as e: print(n, errno.errorcode[e.errno])";

#[tokio::test(flavor = "multi_thread")]
async fn all_programs_of_a_sandbox_together_are_held() {
    let Some(daemon) = Daemon::instant(&["--pool-size", "1"]) else { return };
    pool(&daemon, |pool| pool.ready == 1).await;
    let wanted = CreateSandbox {
        resources: Resources { pids: Some(PIDS), ..Resources::default() },
        ..CreateSandbox::default()
    };
    let id = daemon.client.create_with(&wanted).await.unwrap().answer.id;
    let sandbox = daemon.client.get(&id).await.unwrap();
    assert_eq!(sandbox.boot_path.as_deref(), Some("warm-pool"));
    assert_eq!(sandbox.resources.pids, Some(PIDS));
    let forks = async || {
        let said = daemon.output(&id, FORKS).await;
        let (count, error) = said.trim().split_once(' ').unwrap();
        assert_eq!(error, "EAGAIN");
        count.parse::<u64>().unwrap()
    };
    // What an exec leaves behind still counts.
    let first = forks().await;
    assert!((PIDS / 2..PIDS).contains(&first), "{first}");
    let second = forks().await;
    assert!(second < PIDS - first, "{second} after {first}");
    // Everything that the host starts works on, and the agent does.
    let bomb = ProcessSpec::of_argv(["sh", "-c", "bomb() { bomb | bomb & sleep 1000; }; bomb"]);
    for _ in 0..3 {
        daemon.client.start_process(&id, &bomb).await.unwrap();
    }
    let said = daemon.output(&id, "print(open('/sys/fs/cgroup/programs/pids.max').read())").await;
    assert_eq!(said.trim().parse(), Ok(PIDS));
    let context = daemon.client.open_context(&id, &ContextSpec::default()).await.unwrap().id;
    let run = ContextRun {
        code: "print(6 * 7)".into(),
        timeout_ms: Some(TIMEOUT_MS),
        ..ContextRun::default()
    };
    let mut events = daemon.client.run_context(&id, &context, &run).await.unwrap();
    let mut said = String::new();
    while let Some(event) = events.next().await.unwrap() {
        if let RunEvent::Stdout { text } = event {
            said += &text;
        }
    }
    assert_eq!(said, "42\n");
    let (path, options) = (Path::new("/root/file"), FileOptions::default());
    let upload = Upload::bytes("content");
    daemon.client.file_write(&id, path, upload, &options).await.unwrap();
    assert!(daemon.output(&id, COUNT).await.trim().parse::<u64>().unwrap() < 3 * PIDS);
    let daemon = daemon.crash_and_restart();
    assert_eq!(daemon.client.get(&id).await.unwrap().resources.pids, Some(PIDS));
    assert_eq!(daemon.output(&id, "print(open('/root/file').read())").await, "content\n");
    // A neighbour that asked for nothing has the default.
    let other = daemon.create("python").await;
    let max = "print(open('/sys/fs/cgroup/programs/pids.max').read().strip())";
    assert_eq!(daemon.output(&other, max).await, "4096\n");
    daemon.stop();
}

/// How `spec` ended, and what it wrote to standard output.
async fn exec_of(daemon: &Daemon, id: &str, spec: ExecSpec) -> (ExecExit, String) {
    let outcome = daemon.exec(id, &ExecBody { spec, stdin: None, stdin_base64: None }).await;
    (outcome.exit, outcome.stdout)
}
