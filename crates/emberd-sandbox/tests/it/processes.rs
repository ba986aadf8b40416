//! Processes: started, listened to, talked to, and every way they and their guest can end.

use bytes::Bytes;
use emberd_proto::process::{ProcessSpec, STDIN_WINDOW_BYTES, SignalName, TtySize};
use emberd_proto::{Attached, ExecExit, GuestMessage, Kind, RefusalCode};
use emberd_sandbox::{
    ENDED_BYTES_MAX, EVENT_BYTES_MAX, GuestError, PROCESSES_MAX, Process, ProcessError,
    ProcessEvent, ProcessEventKind, SandboxId, SandboxState, Unknown,
};
use futures::FutureExt as _;
use futures::future::join_all;
use rustix::process::Signal;

use crate::fixture::{ById as _, Fixture, is_running, said, until, violating};

fn sh(script: &str) -> ProcessSpec {
    ProcessSpec::of_argv(["sh", "-c", script])
}

async fn start(fixture: &Fixture, id: SandboxId, script: &str) -> Process {
    fixture.sandboxes.processes(id).start(sh(script)).await.unwrap()
}

/// The standard output of a process, and its end.
async fn output(process: &Process) -> (Vec<u8>, ExecExit) {
    let (mut events, mut stdout) = (process.events(0), Vec::new());
    while let Some(ProcessEvent { kind, .. }) = events.next().await {
        match kind {
            ProcessEventKind::Stdout(bytes) => stdout.extend(bytes),
            ProcessEventKind::Exited(exit) => return (stdout, exit),
            _ => {}
        }
    }
    panic!("no end of {process:?}");
}

#[tokio::test]
async fn output_input_and_the_end_are_told() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let process = start(&fixture, id, "cat; echo oops >&2; exit 7").await;
    let mut stdin = process.stdin().await.unwrap();
    stdin.write(Bytes::from_static(b"one ")).await.unwrap();
    stdin.write(Bytes::from_static(b"two")).await.unwrap();
    stdin.end().await.unwrap();
    let (stdout, exit) = output(&process).await;
    assert_eq!((stdout.as_slice(), exit.exit_code), (&b"one two"[..], 7));
    assert_eq!(process.wait().await, exit);
    let view = fixture.sandboxes.processes(id).get(process.pid()).unwrap().view();
    assert_eq!((view.exit, view.argv.len(), view.tty), (Some(exit), 3, false));
    assert!(matches!(process.stdin().await, Err(ProcessError::Ended(_))));
    let late = process.signal(SignalName::SigTerm).await;
    assert!(matches!(late, Err(ProcessError::Ended(_))));
    fixture.close().await;
}

#[tokio::test]
async fn every_listener_hears_all_from_where_it_likes() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let process = start(&fixture, id, "for n in 1 2 3; do echo $n; read x; done").await;
    let mut events = process.events(0);
    let mut seen = vec![events.next().await.unwrap()];
    for _ in 0..3 {
        seen.push(events.next().await.unwrap());
        let mut stdin = process.stdin().await.unwrap();
        stdin.write(Bytes::from_static(b"\n")).await.unwrap();
    }
    seen.push(events.next().await.unwrap());
    assert_eq!(events.next().await, None);
    assert_eq!(seen.iter().map(|event| event.seq).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    for from in 0..5 {
        let mut again = process.events(from);
        for expect in &seen[usize::try_from(from).unwrap()..] {
            assert_eq!(again.next().await.as_ref(), Some(expect));
        }
        assert_eq!(again.next().await, None);
    }
    fixture.close().await;
}

#[tokio::test]
async fn a_gibibyte_of_output_leaves_a_bounded_rest_and_a_gap() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let process = start(&fixture, id, "head -c 1073741824 /dev/zero; echo end").await;
    assert_eq!(process.wait().await.exit_code, 0);
    let mut events = process.events(0);
    let gap = events.next().await.unwrap();
    assert_eq!(gap.kind, ProcessEventKind::Gap { first_missing: 0 });
    let (mut next, mut bytes, mut last) = (gap.seq + 1, 0, Vec::new());
    while let Some(event) = events.next().await {
        assert_eq!(event.seq, next);
        next += 1;
        if let ProcessEventKind::Stdout(piece) = event.kind {
            bytes += piece.len();
            last = piece.to_vec();
        }
    }
    assert!(bytes <= EVENT_BYTES_MAX && bytes > EVENT_BYTES_MAX / 2, "{bytes}");
    assert!(last.ends_with(b"end\n"));
    fixture.close().await;
}

#[tokio::test]
async fn lines_by_the_ten_thousand_arrive_in_order() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let process = start(&fixture, id, "exec seq 100000").await;
    let (stdout, _) = output(&process).await;
    let lines: Vec<_> = std::str::from_utf8(&stdout).unwrap().lines().collect();
    assert_eq!((lines.len(), lines[0], lines[99_999]), (100_000, "1", "100000"));
    fixture.close().await;
}

#[tokio::test]
async fn input_to_a_program_that_does_not_read_waits_and_signals_pass() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let process =
        start(&fixture, id, "trap 'exit 5' TERM; echo up; while :; do sleep 0.01; done").await;
    let mut events = process.events(1);
    events.next().await.unwrap();
    let mut stdin = process.stdin().await.unwrap();
    let write = tokio::spawn(async move { stdin.write(vec![b'x'; 64 << 20].into()).await });
    process.signal(SignalName::SigTerm).await.unwrap();
    assert_eq!(process.wait().await.exit_code, 5);
    assert!(matches!(write.await.unwrap(), Err(ProcessError::Ended(_))));
    fixture.close().await;
}

#[tokio::test]
async fn large_input_reaches_a_program_that_reads() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let process = start(&fixture, id, "wc -c").await;
    let mut stdin = process.stdin().await.unwrap();
    stdin.write(vec![b'x'; 64 << 20].into()).await.unwrap();
    stdin.end().await.unwrap();
    assert_eq!(output(&process).await.0.trim_ascii(), b"67108864");
    fixture.close().await;
}

#[tokio::test]
async fn terminal_is_resized() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let script = "trap 'stty size; exit' WINCH; echo up; while :; do sleep 0.01; done";
    let mut spec = sh(script);
    spec.tty = Some(TtySize { cols: 80, rows: 24 });
    let process = fixture.sandboxes.processes(id).start(spec).await.unwrap();
    process.events(1).next().await.unwrap();
    process.resize(TtySize { cols: 9, rows: 8 }).await.unwrap();
    assert_eq!(output(&process).await.0, b"up\r\n8 9\r\n");
    let plain = start(&fixture, id, "exec sleep 1000").await;
    let size = TtySize { cols: 1, rows: 1 };
    assert!(matches!(plain.resize(size).await, Err(ProcessError::NoTerminal(_))));
    fixture.close().await;
}

#[tokio::test]
async fn deleted_process_is_killed_with_its_tree_and_forgotten() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let process = start(&fixture, id, "setsid sleep 1000 & echo $!; wait").await;
    let ProcessEventKind::Stdout(child) = process.events(1).next().await.unwrap().kind else {
        panic!("no output")
    };
    let child = std::str::from_utf8(&child).unwrap().trim().parse().unwrap();
    fixture.sandboxes.processes(id).delete(process.pid()).await.unwrap();
    let again = fixture.sandboxes.processes(id).delete(process.pid()).await;
    assert!(matches!(again, Err(ProcessError::Unknown { .. })));
    assert_eq!(process.wait().await.signal, Some(9));
    until(|| !is_running(child)).await;
    assert_eq!(fixture.sandboxes.processes(id).list().len(), 0);
    fixture.close().await;
}

#[tokio::test]
async fn two_hundred_at_once_and_no_more_than_allowed() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let starts = (0..PROCESSES_MAX).map(|n| {
        let fixture = &fixture;
        async move { start(fixture, id, &format!("read x; echo $x {n}")).await }
    });
    let processes = join_all(starts).await;
    let refused = fixture.sandboxes.processes(id).start(sh("true")).await;
    assert!(matches!(refused, Err(ProcessError::TooMany(PROCESSES_MAX))));
    for process in &processes {
        let mut stdin = process.stdin().await.unwrap();
        stdin.write(Bytes::from_static(b"hello\n")).await.unwrap();
    }
    for (n, process) in processes.iter().enumerate() {
        assert_eq!(output(process).await.0, format!("hello {n}\n").as_bytes());
    }
    start(&fixture, id, "true").await;
    fixture.close().await;
}

#[tokio::test]
async fn ended_processes_are_forgotten_when_they_hold_too_much() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let most = ENDED_BYTES_MAX / EVENT_BYTES_MAX;
    for _ in 0..most + 8 {
        let process = start(&fixture, id, "head -c 2000000 /dev/zero").await;
        process.wait().await;
    }
    until(|| fixture.sandboxes.processes(id).list().len() <= most + 1).await;
    assert!(fixture.sandboxes.processes(id).list().len() >= most);
    fixture.close().await;
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let none = ProcessSpec::of_argv(["/nowhere/program"]);
    let error = fixture.sandboxes.processes(id).start(none).await.unwrap_err();
    assert!(error.to_string().contains("cannot run /nowhere/program"), "{error}");
    let mut spec = sh("true");
    spec.user = Some("no-such-user".into());
    let error = fixture.sandboxes.processes(id).start(spec).await.unwrap_err();
    let ProcessError::Guest(GuestError::Refused(refusal)) = error else { panic!("{error}") };
    assert_eq!(refusal.code, RefusalCode::NotFound);
    let both = ProcessSpec { code: Some(String::new()), ..sh("true") };
    let error = fixture.sandboxes.processes(id).start(both).await.unwrap_err();
    assert!(matches!(error, ProcessError::Invalid(_)), "{error}");
    let unknown = fixture.sandboxes.get(SandboxId::random()).map(drop);
    assert!(matches!(unknown, Err(Unknown(_))));
    assert!(fixture.sandboxes.processes(id).list().is_empty());
    // No part of it holds a permit.
    start(&fixture, id, "true").await;
    fixture.close().await;
}

#[tokio::test]
async fn process_ends_with_its_sandbox() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let process = start(&fixture, id, "exec sleep 1000").await;
    fixture.sandboxes.delete(id).await.unwrap();
    let exit = process.wait().await;
    assert!(exit.error.unwrap().contains("was deleted during the operation"));
    until(|| !is_running(process.pid())).await;
    fixture.close().await;
}

#[tokio::test]
async fn process_ends_with_its_vmm_and_is_remembered() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let process = start(&fixture, id, "exec sleep 1000").await;
    fixture.signal(id, Signal::KILL);
    let exit = process.wait().await;
    assert!(exit.error.unwrap().contains("is gone"));
    let late = fixture.sandboxes.processes(id).get(process.pid()).unwrap();
    assert!(late.view().exit.is_some());
    let refused = fixture.sandboxes.processes(id).start(sh("true")).await;
    assert!(matches!(refused, Err(ProcessError::Guest(GuestError::Gone { .. }))));
    fixture.sandboxes.delete(id).await.unwrap();
    fixture.close().await;
}

#[tokio::test]
async fn caller_that_goes_away_ends_nothing() {
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let process = start(&fixture, id, "read x; echo still $x").await;
    let pid = process.pid();
    let mut events = process.events(0);
    events.next().await.unwrap();
    assert!(events.next().now_or_never().is_none());
    drop((events, process));
    let process = fixture.sandboxes.processes(id).get(pid).unwrap();
    let mut stdin = process.stdin().await.unwrap();
    stdin.write(Bytes::from_static(b"here\n")).await.unwrap();
    assert_eq!(output(&process).await.0, b"still here\n");
    fixture.close().await;
}

#[tokio::test]
async fn a_guest_whose_words_have_no_place_is_ended() {
    let attached = |seq| {
        let attached = Attached { id: 1, seq, received: 0, input: 0, taken: 0 };
        said(&GuestMessage::Attached(attached))
    };
    let started = || said(&GuestMessage::Started { pid: 7 });
    let too_much = GuestMessage::StdinTaken { bytes: STDIN_WINDOW_BYTES + 1 };
    let violations = [
        vec![said(&GuestMessage::Pong)],
        vec![started()],
        vec![attached(1), started()],
        vec![attached(0), said(&GuestMessage::Pong)],
        vec![attached(0), (Kind::Stdout, b"x".to_vec())],
        vec![attached(0), started(), attached(0)],
        vec![attached(0), started(), started()],
        vec![attached(0), started(), (Kind::Stdout, Vec::new())],
        vec![attached(0), started(), (Kind::Data, b"x".to_vec())],
        vec![attached(0), started(), (Kind::Control, b"}".to_vec())],
        vec![attached(0), started(), said(&too_much)],
    ];
    for violation in violations {
        let (fixture, id) = violating(&violation).await;
        if let Ok(process) = fixture.sandboxes.processes(id).start(sh("true")).await {
            let mut events = process.events(0);
            while events.next().await.is_some() {}
        }
        until(|| matches!(fixture.sandboxes.get(id).unwrap().view().state, SandboxState::Gone(_)))
            .await;
        fixture.close().await;
    }
}

#[tokio::test]
async fn a_connection_is_used_again_unless_its_process_was_sent_a_signal() {
    // Off PID 1 the parent of a program is the agent: these are all its connections.
    const SOCKETS: &str = "cat >/dev/null; readlink /proc/$PPID/fd/* | grep ^socket: | sort";
    let fixture = Fixture::new();
    let id = fixture.create().await;
    let mut seen = Vec::new();
    for signal in [None, None, Some(SignalName::SigCont), None] {
        let process = start(&fixture, id, SOCKETS).await;
        if let Some(signal) = signal {
            process.signal(signal).await.unwrap();
        }
        let mut stdin = process.stdin().await.unwrap();
        stdin.write(Bytes::from_static(b"read")).await.unwrap();
        stdin.end().await.unwrap();
        seen.push(output(&process).await.0);
    }
    assert!(!seen[0].is_empty());
    assert_eq!(seen[0], seen[1], "input alone leaves a connection in step");
    assert_eq!(seen[1], seen[2]);
    assert_ne!(seen[2], seen[3], "the guest might take a late signal for the next operation");
    fixture.close().await;
}
