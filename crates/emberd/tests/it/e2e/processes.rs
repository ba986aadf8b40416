//! Processes in real guests: what takes a kernel of their own.

use emberd_api::{ExecExit, ProcessEventKind, ProcessSpec, TtySize};
use emberd_client::ClientError;
use emberd_proto::ExecSpec;

use super::{Daemon, TIMEOUT_MS, spec};

/// What it wrote to standard output, and how it ended.
pub async fn output(daemon: &Daemon, id: &str, spec: &ProcessSpec) -> (String, ExecExit) {
    let pid = daemon.client.start_process(id, spec).await.unwrap().pid;
    let mut attachment = daemon.client.attach(id, pid, 0).await.unwrap();
    let mut text = String::new();
    while let Some(event) = attachment.event().await.unwrap() {
        match event.kind {
            ProcessEventKind::Stdout(said) => text += &said.text,
            ProcessEventKind::Exit(exit) => return (text, exit),
            _ => {}
        }
    }
    panic!("no end")
}

pub fn python(code: &str) -> ProcessSpec {
    ProcessSpec::of_argv(["python3", "-c", code])
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
    let (text, exit) = output(&daemon, &id, &shell).await;
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[1..], ["20 70", "xterm-256color", "nobody", "nobody"]);
    assert!(lines[0].starts_with("/dev/pts/") && exit.exit_code == 0, "{text}");
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
