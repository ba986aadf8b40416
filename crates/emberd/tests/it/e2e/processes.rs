//! Processes in real guests: what takes a kernel of their own.

use emberd_api::{Limits, ProcessEventKind, ProcessSpec, TtySize};
use emberd_client::ClientError;
use emberd_proto::ExecSpec;

use super::{Daemon, TIMEOUT_MS, spec};

/// What it wrote to standard output, and its exit code.
async fn output(daemon: &Daemon, id: &str, spec: &ProcessSpec) -> (String, i32) {
    let pid = daemon.client.start_process(id, spec).await.unwrap().pid;
    let mut attachment = daemon.client.attach(id, pid, 0).await.unwrap();
    let mut text = String::new();
    while let Some(event) = attachment.event().await.unwrap() {
        match event.kind {
            ProcessEventKind::Stdout(said) => text += &said.text,
            ProcessEventKind::Exit(exit) => return (text, exit.exit_code),
            _ => {}
        }
    }
    panic!("no end")
}

fn python(code: &str) -> ProcessSpec {
    ProcessSpec::of_argv(["python3", "-c", code])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_bomb_is_held_and_its_neighbours_work() {
    let Some(daemon) = Daemon::start(&[]) else { return };
    let id = daemon.create("shell").await;
    // Each that can fork stays, so that the limit is reached and nothing but it ends that.
    let bomb = "bomb() { bomb | bomb & sleep 1000; }; bomb";
    let bomb = ProcessSpec::of_argv(["sh", "-c", bomb]);
    let bomb = daemon.client.start_process(&id, &bomb).await.unwrap().pid;
    let count = "ls -d /proc/[0-9]* | wc -l";
    let mut most = 0;
    for _ in 0..20 {
        let seen: u32 = daemon.output(&id, count).await.trim().parse().unwrap();
        most = most.max(seen);
    }
    assert!(most < 1000, "{most} processes");
    daemon.client.delete_process(&id, bomb).await.unwrap();
    loop {
        let seen: u32 = daemon.output(&id, count).await.trim().parse().unwrap();
        if seen < 100 {
            break;
        }
    }
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_all_processes_together_hold() {
    let Some(daemon) = Daemon::start(&[]) else { return };
    let id = daemon.create("python").await;
    let limits = Limits { pids: Some(5), ..Limits::default() };
    let code = "import os\nn = 0\ntry:\n while n < 50:\n  n += 1\n  \
                os.fork() or os.execvp('sleep', ['sleep', '1000'])\n\
                except BlockingIOError: print(n)";
    let forks = ProcessSpec { limits, ..python(code) };
    assert_eq!(output(&daemon, &id, &forks).await, ("5\n".to_owned(), 0));
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn limited_memory_is_all_there_is_or_refused() {
    let Some(daemon) = Daemon::start(&[]) else { return };
    let id = daemon.create("python").await;
    let controllers = "print(open('/sys/fs/cgroup/cgroup.controllers').read())";
    let counts_memory = daemon.output(&id, controllers).await.contains("memory");
    let limits = Limits { memory_mib: Some(48), ..Limits::default() };
    let hog =
        ProcessSpec { limits, ..python("x = bytearray(b'x') * (100 << 20); print('had it')") };
    if !counts_memory {
        let refused = daemon.client.start_process(&id, &hog).await;
        assert!(matches!(refused, Err(ClientError::Api { status: 400, .. })), "{refused:?}");
        return daemon.stop();
    }
    assert_eq!(output(&daemon, &id, &hog).await, (String::new(), 137));
    // Execs too, in a fork of the zygote or not.
    let exec = ExecSpec { limits, ..spec("x = bytearray(b'x') * (100 << 20)") };
    let body = emberd_api::ExecBody { spec: exec, stdin: None, stdin_base64: None };
    assert_eq!(daemon.exec(&id, &body).await.exit.signal, Some(9));
    assert_eq!(daemon.output(&id, "print(1)").await, "1\n");
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_terminals() {
    let Some(daemon) = Daemon::start(&[]) else { return };
    let id = daemon.create("python").await;
    let exec = ExecSpec { user: Some("nobody".into()), ..spec("import os; print(os.getuid())") };
    let body = emberd_api::ExecBody { spec: exec, stdin: None, stdin_base64: None };
    assert_eq!(daemon.exec(&id, &body).await.stdout, "65534\n");
    let tty = Some(TtySize { cols: 70, rows: 20 });
    let script = "tty; stty size; echo $TERM; id -un; stat -c %U $(tty)";
    let user = Some("nobody".to_owned());
    let timeout_ms = Some(TIMEOUT_MS);
    let argv = ProcessSpec::of_argv(["sh", "-c", script]);
    let shell = ProcessSpec { tty, user, timeout_ms, ..argv };
    let (text, code) = output(&daemon, &id, &shell).await;
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[1..], ["20 70", "xterm-256color", "nobody", "nobody"]);
    assert!(lines[0].starts_with("/dev/pts/") && code == 0, "{text}");
    let unknown = ProcessSpec { user: Some("no-such-user".into()), ..python("") };
    let refused = daemon.client.start_process(&id, &unknown).await;
    assert!(matches!(refused, Err(ClientError::Api { status: 404, .. })), "{refused:?}");
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_processes_at_once() {
    let Some(daemon) = Daemon::start(&[]) else { return };
    let id = daemon.create("shell").await;
    let cat = ProcessSpec::of_argv(["cat"]);
    let mut pids = Vec::new();
    for _ in 0..100 {
        pids.push(daemon.client.start_process(&id, &cat).await.unwrap().pid);
    }
    for (number, pid) in pids.iter().enumerate() {
        daemon.client.write_stdin(&id, *pid, number.to_string(), true).await.unwrap();
    }
    for (number, pid) in pids.iter().enumerate() {
        let mut attachment = daemon.client.attach(&id, *pid, 1).await.unwrap();
        let Some(event) = attachment.event().await.unwrap() else { panic!("no event") };
        let ProcessEventKind::Stdout(said) = event.kind else { panic!("{event:?}") };
        assert_eq!(said.text, number.to_string());
    }
    daemon.stop();
}
