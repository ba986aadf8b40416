//! One Python sandbox from creation to deletion, and everything a caller sees of it.

use std::fs;
use std::path::Path;

use emberd_api::{ExecBody, SandboxState};
use emberd_proto::ExecSpec;

use super::daemon::{is_running, left_in, refusal};
use super::{Daemon, code, spec};
use crate::wait;

#[tokio::test(flavor = "multi_thread")]
async fn a_python_sandbox_from_creation_to_deletion() {
    let Some(daemon) = Daemon::start(&[]) else { return };
    let id = daemon.create("python").await;
    let sandbox = daemon.client.get(&id).await.unwrap();
    assert_eq!(sandbox.state, SandboxState::Ready);
    let boot = sandbox.boot.expect("a ready sandbox tells its boot times");
    assert!(boot.kernel_us.expect("the agent is PID 1") > 0);
    let pid = sandbox.vmm_pid.unwrap();
    assert!(is_running(pid));

    it_is_another_machine(&daemon, &id).await;
    programs_end_as_they_end_anywhere(&daemon, &id).await;
    surroundings_are_as_asked(&daemon, &id).await;
    bytes_survive(&daemon, &id).await;
    execs_share_files_and_run_at_once(&daemon, &id).await;

    daemon.client.delete(&id).await.unwrap();
    // The end of it goes on behind the answer.
    wait::until(async || !is_running(pid) && !Path::new(&sandbox.dir).exists()).await;
    assert_eq!(refusal(daemon.client.delete(&id).await).0, 404);
    assert_eq!(left_in(&daemon.run_dir), Vec::<std::path::PathBuf>::new());
    daemon.stop();
}

async fn it_is_another_machine(daemon: &Daemon, id: &str) {
    assert_eq!(daemon.output(id, "print(6*7)").await, "42\n");
    assert_eq!(daemon.output(id, "print(open('/proc/1/comm').read())").await.trim(), "init");
    let host = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let guest = daemon.output(id, "print(open('/proc/sys/kernel/random/boot_id').read())").await;
    assert_ne!(guest.trim(), host.trim());
    // No network device but the loopback, which is up.
    let network = "import os, socket\n\
        print(os.listdir('/sys/class/net'))\n\
        s = socket.create_server(('127.0.0.1', 0))\n\
        socket.create_connection(s.getsockname())";
    assert_eq!(daemon.output(id, network).await, "['lo']\n");
    // The root is writable and nothing on it is the host's.
    let root = "import os\nopen('/etc/written', 'w').write('x')\nprint(os.path.exists('/init'))";
    assert_eq!(daemon.output(id, root).await, "False\n");
}

async fn programs_end_as_they_end_anywhere(daemon: &Daemon, id: &str) {
    let outcome =
        daemon.exec(id, &code("import sys\nprint('e', file=sys.stderr)\nsys.exit(7)")).await;
    assert_eq!((outcome.exit.exit_code, outcome.stderr.as_str()), (7, "e\n"));
    assert_eq!(outcome.exit.error, None);

    let outcome = daemon.exec(id, &code("import os\nos.kill(os.getpid(), 9)")).await;
    assert_eq!((outcome.exit.exit_code, outcome.exit.signal), (137, Some(9)));

    let outcome = daemon.exec(id, &code("1/0")).await;
    assert_eq!(outcome.exit.exit_code, 1);
    assert!(outcome.stderr.ends_with("ZeroDivisionError: division by zero\n"), "{outcome:?}");

    // A session of its own does not save a child from the time limit, which is several times
    // what this host takes to get as far as the sleep.
    let trial = daemon.exec(id, &code("import subprocess\nsubprocess.run(['true'])")).await;
    let timeout_ms = 10_000 + 4 * trial.exit.duration_us / 1000;
    let sleeper = "import subprocess, time\n\
        subprocess.Popen(['sleep', '1000'], start_new_session=True)\n\
        print('started', flush=True)\n\
        time.sleep(1000)";
    let spec = ExecSpec { timeout_ms, ..ExecSpec::new(sleeper) };
    let body = ExecBody { spec, ..code("") };
    let outcome = daemon.exec(id, &body).await;
    assert!(outcome.exit.timed_out);
    assert_eq!((outcome.exit.exit_code, outcome.stdout.as_str()), (-1, "started\n"));
    assert_eq!(outcome.exit.error.as_deref(), Some("execution timed out"));
    let sleepers = "import glob\n\
        names = [open(p, 'rb').read() for p in glob.glob('/proc/[0-9]*/cmdline')]\n\
        print(sum(name.startswith(b'sleep') for name in names))";
    assert_eq!(daemon.output(id, sleepers).await, "0\n");
}

async fn surroundings_are_as_asked(daemon: &Daemon, id: &str) {
    let show = "import os, sys\n\
        print(sys.argv[1:], os.environ['COLOUR'], os.getcwd(), sys.stdin.read())";
    let spec = ExecSpec {
        args: vec!["a b".into(), "é".into()],
        env: [("COLOUR".into(), "red".into())].into(),
        cwd: Some("/usr".into()),
        ..spec(show)
    };
    let outcome =
        daemon.exec(id, &ExecBody { spec, stdin: Some("in\n".into()), stdin_base64: None }).await;
    assert_eq!(outcome.stdout, "['a b', 'é'] red /usr in\n\n", "{outcome:?}");
    let home = "import os\nprint(os.environ['HOME'], os.getcwd(), os.uname().nodename)";
    assert_eq!(daemon.output(id, home).await, "/root /root emberd\n");
}

async fn bytes_survive(daemon: &Daemon, id: &str) {
    let outcome = daemon.exec(id, &code("import os\nos.write(1, bytes(range(256)) * 4096)")).await;
    let expect: Vec<_> = (0..=255_u8).cycle().take(1 << 20).collect();
    assert_eq!(outcome.stdout_bytes(), expect);

    let outcome = daemon.exec(id, &code("print('x' * (9 << 20))")).await;
    assert!(outcome.exit.stdout_truncated && !outcome.exit.stderr_truncated);
    assert_eq!(outcome.stdout.len(), emberd_proto::exec::OUTPUT_BYTES_MAX);

    let long = format!("x = '{}'\nprint(len(x))", "x".repeat(900 << 10));
    assert_eq!(daemon.output(id, &long).await, "921600\n");

    let count = spec("import sys\nprint(len(sys.stdin.buffer.read()))");
    let stdin = Some("x".repeat(4 << 20));
    let outcome = daemon.exec(id, &ExecBody { spec: count, stdin, stdin_base64: None }).await;
    assert_eq!(outcome.stdout, "4194304\n");
}

async fn execs_share_files_and_run_at_once(daemon: &Daemon, id: &str) {
    daemon.output(id, "open('state', 'w').write('kept')").await;
    assert_eq!(daemon.output(id, "print(open('state').read())").await, "kept\n");

    // Eight programs that each wait until all eight have started.
    let meet = |n: usize| {
        format!(
            "import glob, time\nopen('/tmp/meet-{n}', 'w')\n\
             while len(glob.glob('/tmp/meet-*')) < 8: time.sleep(0.05)\nprint({n})"
        )
    };
    let all = (0..8).map(|n| async move { daemon.output(id, &meet(n)).await });
    let outputs = futures::future::join_all(all).await;
    assert_eq!(outputs, (0..8).map(|n| format!("{n}\n")).collect::<Vec<_>>());
}
