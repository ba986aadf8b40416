//! What outlives its connection, and its daemon, with the real agent.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use emberd_guest::{
    ContextEvents, ContextState, Guest, Link, NumberedEvent, Process, ProcessEvent,
    ProcessEventKind, Recovered, RunEvent,
};
use emberd_proto::process::{ProcessSpec, TtySize};
use emberd_proto::{ContextRun, ContextSpec, ExecSpec};
use futures::FutureExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::UnixStream;

use crate::agent::{Agent, connect, guest};
use crate::host::TestHost;

/// Longest wait for what must come about; only ever reached by a failing test.
const PATIENCE: Duration = Duration::from_secs(60);

fn sh(script: &str) -> ProcessSpec {
    ProcessSpec::of_argv(["/bin/sh", "-c", script])
}

/// All events from `seq` to the last.
async fn events(process: &Process, seq: u64) -> Vec<ProcessEvent> {
    let (mut events, mut all) = (process.events(seq), Vec::new());
    while let Some(event) = events.next().await {
        all.push(event);
    }
    all
}

fn stdout(events: &[ProcessEvent]) -> Vec<u8> {
    let stdout = events.iter().filter_map(|event| match &event.kind {
        ProcessEventKind::Stdout(bytes) => Some(bytes.to_vec()),
        _ => None,
    });
    stdout.collect::<Vec<_>>().concat()
}

/// Waits until `condition` holds; its state changes without notice.
async fn until(mut condition: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    waited.await.expect("it comes about");
}

fn alive(pid: u32) -> bool {
    PathBuf::from(format!("/proc/{pid}")).exists()
}

#[tokio::test]
async fn next_daemon_goes_on_with_processes_by_number() {
    let agent = Agent::start();
    let (before, _) = guest(&agent).await;
    let script = "echo one; read x; echo $x; read y; echo $y; exit 5";
    let process = before.processes().start(sh(script)).await.unwrap();
    let pid = process.pid();
    let mut told = process.events(0);
    let first: Vec<_> = [told.next().await.unwrap(), told.next().await.unwrap()].into();
    let mut stdin = process.stdin().await.unwrap();
    stdin.write(Bytes::from_static(b"two\n")).await.unwrap();
    let second = told.next().await.unwrap();
    let view = process.view();
    // As if it were killed.
    before.detach();
    drop((before, process, told, stdin));

    let (after, broke) = guest(&agent).await;
    let recovered = after.recover().await.unwrap();
    assert_eq!(recovered, Recovered { processes: 1, contexts: 0, ended: 0 });
    let process = after.processes().get(pid).unwrap();
    let now = process.view();
    assert_eq!((now.argv, now.tty, now.next_seq), (view.argv, view.tty, view.next_seq));
    let apart = now.started_at.duration_since(view.started_at).unwrap_or_else(|e| e.duration());
    assert!(apart < Duration::from_millis(2), "{apart:?}");
    let mut stdin = process.stdin().await.unwrap();
    stdin.write(Bytes::from_static(b"three\n")).await.unwrap();
    assert_eq!(process.wait().await.exit_code, 5);
    let all = events(&process, 0).await;
    assert_eq!(all[..3], [&first[..], &[second]].concat());
    assert_eq!(stdout(&all), b"one\ntwo\nthree\n");
    let numbers: Vec<_> = all.iter().map(|event| event.seq).collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4]);
    assert!(!broke.load(Ordering::Relaxed));
}

#[tokio::test]
async fn execs_of_a_daemon_before_are_ended_and_so_is_what_no_caller_knows() {
    let agent = Agent::start();
    let (before, _) = guest(&agent).await;
    let marker = agent.socket.with_file_name("pid");
    let spec = ExecSpec::new(format!(
        "echo $$ >{0}.new; mv {0}.new {0}; exec sleep 600",
        marker.display()
    ));
    let exec = tokio::spawn({
        let before = before.clone();
        async move { before.exec(spec, b"", &mut |_| true, Duration::from_secs(60)).await }
    });
    until(|| marker.exists()).await;
    let pid = std::fs::read_to_string(&marker).unwrap().trim().parse().unwrap();
    // Started behind the daemon's back: without a note.
    let mut stranger = connect(&agent.socket).await;
    let mut said = bytes::BytesMut::new();
    for message in
        [emberd_proto::HostMessage::hello(), emberd_proto::HostMessage::Start(sh("sleep 600"))]
    {
        emberd_proto::frame::encode_message(&message, &mut said);
    }
    stranger.write_all(&said).await.unwrap();
    stranger.read_u32().await.unwrap();
    let (after, _) = guest(&agent).await;
    until(|| alive(pid)).await;
    let recovered = after.recover().await.unwrap();
    assert_eq!(recovered, Recovered { processes: 0, contexts: 0, ended: 1 });
    assert!(exec.await.unwrap().is_err());
    until(|| !alive(pid)).await;
    assert_eq!(after.metrics().await.unwrap().program_count, Some(0));
}

#[tokio::test]
async fn ended_processes_and_terminals_are_known_to_the_next_daemon() {
    let agent = Agent::start();
    let (before, _) = guest(&agent).await;
    let ended = before.processes().start(sh("echo x; exit 4")).await.unwrap();
    ended.wait().await;
    let mut spec = sh("stty -echo; echo ready; read x; stty size");
    spec.tty = Some(TtySize { cols: 10, rows: 20 });
    let terminal = before.processes().start(spec).await.unwrap();
    let mut told = terminal.events(1);
    told.next().await.unwrap();
    before.detach();
    drop((before, told));
    let (after, _) = guest(&agent).await;
    assert_eq!(after.recover().await.unwrap().processes, 2);
    let ended = after.processes().get(ended.pid()).unwrap();
    assert_eq!(ended.view().exit.unwrap().exit_code, 4);
    let terminal = after.processes().get(terminal.pid()).unwrap();
    terminal.resize(TtySize { cols: 30, rows: 40 }).await.unwrap();
    terminal.stdin().await.unwrap().write(Bytes::from_static(b"\n")).await.unwrap();
    assert_eq!(stdout(&events(&terminal, 0).await), b"ready\r\n40 30\r\n");
}

#[tokio::test]
async fn delete_reaches_a_recovered_process_and_a_dropped_start_ends_it() {
    let agent = Agent::start();
    let (before, _) = guest(&agent).await;
    let process = before.processes().start(sh("exec sleep 600")).await.unwrap();
    let pid = process.pid();
    before.detach();
    drop((before, process));
    let (after, _) = guest(&agent).await;
    after.recover().await.unwrap();
    after.processes().delete(pid).await.unwrap();
    until(|| !alive(pid)).await;
    assert!(after.processes().get(pid).is_err());
    let processes = after.processes();
    let mut start = std::pin::pin!(processes.start(sh("exec sleep 601")));
    // Asked for, and not answered yet.
    assert!(start.as_mut().now_or_never().is_none());
    start.set(processes.start(sh("true")));
    start.await.unwrap().wait().await;
    loop {
        if after.metrics().await.unwrap().program_count == Some(0) {
            break;
        }
    }
}

#[tokio::test]
async fn what_was_deleted_is_not_found_by_a_daemon_that_starts_right_after() {
    let agent = Agent::start();
    let (mut before, _) = guest(&agent).await;
    for round in 0..10 {
        let script = if round % 2 == 0 { "exec sleep 600" } else { "exit 3" };
        let process = before.processes().start(sh(script)).await.unwrap();
        let context = before.contexts().open(ContextSpec::default()).await.unwrap();
        let mut follower = process.events(1);
        before.processes().delete(process.pid()).await.unwrap();
        before.contexts().delete(context.id).await.unwrap();
        let end = follower.next().await.unwrap().kind;
        assert!(
            matches!(&end, ProcessEventKind::Exited(exit)
                if exit.error.is_none() && (exit.signal == Some(9) || exit.exit_code == 3)),
            "{end:?}"
        );
        before.detach();
        let (after, broke) = guest(&agent).await;
        assert_eq!(after.recover().await.unwrap(), Recovered::default());
        assert!(!broke.load(Ordering::Relaxed));
        before = after;
    }
}

#[tokio::test]
async fn the_end_of_input_is_known_to_the_next_daemon() {
    let agent = Agent::start();
    let (before, _) = guest(&agent).await;
    let go = agent.socket.with_file_name("go");
    let wait = format!("while ! test -e {}; do sleep 0.01; done", go.display());
    let spec = sh(&format!("cat; echo end; {wait}"));
    let [ended, open] =
        [before.processes().start(spec.clone()).await, before.processes().start(spec).await]
            .map(Result::unwrap);
    let mut stdin = ended.stdin().await.unwrap();
    stdin.write(Bytes::from_static(b"all\n")).await.unwrap();
    stdin.end().await.unwrap();
    let refused = ended.stdin().await.unwrap_err();
    let mut told = ended.events(1);
    let mut said = Vec::new();
    while !said.ends_with(b"end\n") {
        if let ProcessEventKind::Stdout(piece) = told.next().await.unwrap().kind {
            said.extend_from_slice(&piece);
        }
    }
    before.detach();
    let (after, _) = guest(&agent).await;
    after.recover().await.unwrap();
    let known = after.processes().get(ended.pid()).unwrap();
    assert_eq!(known.stdin().await.unwrap_err().to_string(), refused.to_string());
    let known = after.processes().get(open.pid()).unwrap();
    known.stdin().await.unwrap().end().await.unwrap();
    known.stdin().await.unwrap_err();
    std::fs::write(go, "").unwrap();
    assert_eq!(stdout(&events(&known, 0).await), b"end\n");
}

/// A stream that breaks after so many bytes from the guest.
fn cutting(stream: UnixStream, bytes: usize) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(1 << 16);
    tokio::spawn(async move {
        let (from_guest, mut to_guest) = stream.into_split();
        let (mut from_host, mut to_host) = tokio::io::split(theirs);
        let mut cut = from_guest.take(bytes as u64);
        tokio::select! {
            _ = tokio::io::copy(&mut cut, &mut to_host) => {}
            _ = tokio::io::copy(&mut from_host, &mut to_guest) => {}
        }
    });
    ours
}

/// A guest whose connections, but for the first, break after as many bytes as `cut` says.
async fn breaking(agent: &Agent, cut: Arc<AtomicUsize>) -> Guest<DuplexStream> {
    let first = cutting(connect(&agent.socket).await, usize::MAX);
    let (first, _) = Link::greet(first).await.unwrap();
    let socket = agent.socket.clone();
    let host = TestHost::new(Box::new(move || {
        let (socket, bytes) = (socket.clone(), cut.load(Ordering::Relaxed));
        Box::pin(async move { Ok(cutting(connect(&socket).await, bytes)) })
    }));
    Guest::new("sb_00ff1234abcd".to_owned(), host, first)
}

#[tokio::test]
async fn connections_that_break_at_any_byte_lose_nothing_and_repeat_nothing() {
    let agent = Agent::start();
    let cut = Arc::new(AtomicUsize::new(usize::MAX));
    let guest = breaking(&agent, Arc::clone(&cut)).await;
    // Long enough for several connections, each with a few events.
    let script = "i=0; while read x; do echo $x-$i; echo é$i >&2; i=$((i+1)); done; exit 6";
    for bytes in 600..760 {
        cut.store(usize::MAX, Ordering::Relaxed);
        // Holds the unbroken connection.
        let held = guest.processes().start(sh("exec sleep 600")).await.unwrap();
        cut.store(bytes, Ordering::Relaxed);
        let Ok(process) = guest.processes().start(sh(script)).await else { continue };
        let mut stdin = process.stdin().await.unwrap();
        for line in 0..6 {
            stdin.write(Bytes::from(format!("line{line}\n"))).await.unwrap();
        }
        stdin.end().await.unwrap();
        let all = events(&process, 0).await;
        let numbers: Vec<_> = all.iter().map(|event| event.seq).collect();
        assert_eq!(numbers, (0..all.len() as u64).collect::<Vec<_>>(), "{bytes}");
        let expect: Vec<_> = (0..6).map(|line| format!("line{line}-{line}")).collect();
        let lines = String::from_utf8(stdout(&all)).unwrap();
        assert_eq!(lines.lines().collect::<Vec<_>>(), expect, "{bytes}");
        assert_eq!(process.wait().await.exit_code, 6, "{bytes}");
        cut.store(usize::MAX, Ordering::Relaxed);
        guest.processes().delete(held.pid()).await.unwrap();
        held.wait().await;
    }
}

/// Runs `code`, and returns its output and the number of the run.
async fn run<S>(guest: &Guest<S>, id: emberd_guest::ContextId, code: &str) -> (Vec<u8>, u64)
where
    S: emberd_guest::ByteStream,
{
    let run = ContextRun { code: code.to_owned(), ..ContextRun::default() };
    let mut run = guest.contexts().run(id, &run).unwrap();
    let mut output = Vec::new();
    loop {
        match run.next().await.unwrap().event {
            RunEvent::Stdout(bytes) => output.extend_from_slice(&bytes),
            RunEvent::End(end) => return (output, end.execution_count),
            RunEvent::Started { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn next_daemon_goes_on_with_contexts() {
    let agent = Agent::start();
    let (before, _) = guest(&agent).await;
    let context = before.contexts().open(ContextSpec::default()).await.unwrap();
    assert_eq!(run(&before, context.id, "x=7; echo one").await, (b"one\n".to_vec(), 1));
    before.detach();
    drop(before);
    let (after, broke) = guest(&agent).await;
    assert_eq!(after.recover().await.unwrap().contexts, 1);
    let [view] = &after.contexts().list()[..] else { panic!("one context") };
    assert_eq!((view.id, &view.spec), (context.id, &context.spec));
    assert_eq!(run(&after, context.id, "echo $x").await, (b"7\n".to_vec(), 2));
    let view = after.contexts().restart(context.id).await.unwrap();
    assert_eq!(view.execution_count, 0);
    assert_eq!(run(&after, context.id, "echo x$x").await, (b"x\n".to_vec(), 1));
    after.contexts().delete(context.id).await.unwrap();
    loop {
        if after.metrics().await.unwrap().program_count == Some(0) {
            break;
        }
    }
    assert!(!broke.load(Ordering::Relaxed));
}

#[tokio::test]
async fn run_under_way_goes_on_and_the_next_one_waits_for_it() {
    let agent = Agent::start();
    let (before, _) = guest(&agent).await;
    let context = before.contexts().open(ContextSpec::default()).await.unwrap();
    let (begun, go) = (agent.socket.with_file_name("begun"), agent.socket.with_file_name("go"));
    let wait = "while ! test -e";
    let code =
        format!("x=1; >{}; {wait} {}; do sleep 0.01; done; x=2", begun.display(), go.display());
    let contexts = before.contexts();
    let under_way =
        contexts.run(context.id, &ContextRun { code, ..ContextRun::default() }).unwrap();
    until(|| begun.exists()).await;
    before.detach();
    // A run whose caller goes away is interrupted, and a killed daemon does nothing.
    std::mem::forget(under_way);
    let (after, _) = guest(&agent).await;
    after.recover().await.unwrap();
    let [view] = &after.contexts().list()[..] else { panic!("one context") };
    assert_eq!(view.state, ContextState::Busy);
    let next = ContextRun { code: "echo $x".to_owned(), ..ContextRun::default() };
    let mut next = after.contexts().run(context.id, &next).unwrap();
    assert!(next.next().now_or_never().is_none());
    std::fs::write(go, "").unwrap();
    let started = next.next().await.unwrap().event;
    assert_eq!(started, RunEvent::Started { execution_count: 2 });
    let said = next.next().await.unwrap().event;
    assert_eq!(said, RunEvent::Stdout(Bytes::from_static(b"2\n")));
}

/// Events up to the end of a run.
async fn to_the_end(events: &mut ContextEvents) -> Vec<NumberedEvent> {
    let mut all = Vec::new();
    loop {
        all.push(events.next().await.unwrap());
        if let Some(NumberedEvent { event: RunEvent::End(_), .. }) = all.last() {
            return all;
        }
    }
}

/// The text that the events write on standard output.
fn written(events: &[NumberedEvent]) -> String {
    let stdout = events.iter().filter_map(|event| match &event.event {
        RunEvent::Stdout(bytes) => Some(str::from_utf8(bytes).unwrap()),
        _ => None,
    });
    stdout.collect()
}

#[tokio::test]
async fn events_of_a_run_are_read_on_by_number_with_the_next_daemon() {
    let agent = Agent::start();
    let (before, _) = guest(&agent).await;
    let context = before.contexts().open(ContextSpec::default()).await.unwrap();
    assert_eq!(run(&before, context.id, "echo first").await.1, 1);
    let [go, said] = ["go", "said"].map(|name| agent.socket.with_file_name(name));
    let wait = format!("while ! test -e {}; do sleep 0.01; done", go.display());
    let code = format!("echo é1; {wait}; echo é2; echo 3 >&2; >{}", said.display());
    let run_spec = ContextRun { code, ..ContextRun::default() };
    let mut under_way = before.contexts().run(context.id, &run_spec).unwrap();
    let mut follower = before.contexts().events(context.id, 0).unwrap();
    let first = to_the_end(&mut follower).await;
    assert_eq!(written(&first), "first\n");
    let heard = [under_way.next().await.unwrap(), under_way.next().await.unwrap()];
    assert_eq!(follower.next().await.as_ref(), Some(&heard[0]), "the same, by the same numbers");
    let last = heard[1].seq;
    before.detach();
    std::mem::forget(under_way);
    std::fs::write(&go, "").unwrap();
    until(|| said.exists()).await;

    let (after, broke) = guest(&agent).await;
    after.recover().await.unwrap();
    let mut rest = after.contexts().events(context.id, last + 1).unwrap();
    let rest = to_the_end(&mut rest).await;
    assert_eq!(written(&rest), "é2\n");
    assert!(rest.iter().all(|event| event.seq > last));
    let said = NumberedEvent { seq: 8, event: RunEvent::Stderr(Bytes::from_static(b"3\n")) };
    assert!(rest.contains(&said), "{rest:?}");
    // The whole run is there, and of the one before what is missing.
    let mut all = after.contexts().events(context.id, 0).unwrap();
    let all = to_the_end(&mut all).await;
    let gap = NumberedEvent { seq: heard[0].seq - 1, event: RunEvent::Gap { first_missing: 0 } };
    assert_eq!(all[0], gap);
    assert_eq!((&all[1..3], &all[3..]), (&heard[..], &rest[..]));
    // Another interpreter goes on counting.
    let mut later = after.contexts().events(context.id, rest[rest.len() - 1].seq + 1).unwrap();
    after.contexts().restart(context.id).await.unwrap();
    assert_eq!(run(&after, context.id, "echo again").await.1, 1);
    assert_eq!(written(&to_the_end(&mut later).await), "again\n");
    after.contexts().delete(context.id).await.unwrap();
    assert_eq!(later.next().await, None);
    assert!(!broke.load(Ordering::Relaxed));
}

#[tokio::test]
async fn events_of_a_run_that_is_given_up_or_cut_have_an_end() {
    let agent = Agent::start();
    let (guest, _) = guest(&agent).await;
    let context = guest.contexts().open(ContextSpec::default()).await.unwrap();
    let code =
        "stop=; trap 'stop=1' INT; echo up; while ! test $stop; do sleep 0.01; done; trap : INT";
    let sleep = ContextRun { code: code.to_owned(), ..ContextRun::default() };
    let mut events = guest.contexts().events(context.id, 0).unwrap();
    let given_up = guest.contexts().run(context.id, &sleep).unwrap();
    while written(&[events.next().await.unwrap()]) != "up\n" {}
    drop(given_up);
    to_the_end(&mut events).await;
    let _cut = guest.contexts().run(context.id, &sleep).unwrap();
    while written(&[events.next().await.unwrap()]) != "up\n" {}
    guest.contexts().restart(context.id).await.unwrap();
    let last = to_the_end(&mut events).await;
    assert!(matches!(&last[0].event, RunEvent::Error { name, .. } if name == "ContextEnded"));
    let exit =
        ContextRun { code: "echo up; exec sh -c 'exit 3'".to_owned(), ..ContextRun::default() };
    let _dies = guest.contexts().run(context.id, &exit).unwrap();
    let last = to_the_end(&mut events).await;
    assert_eq!(written(&last), "up\n");
    assert!(matches!(&last[2].event, RunEvent::Error { name, .. } if name == "ContextEnded"));
}

#[tokio::test]
async fn run_that_ended_in_between_has_ended_even_where_its_events_are_lost() {
    let agent = Agent::start();
    let (before, _) = guest(&agent).await;
    let context = before.contexts().open(ContextSpec::default()).await.unwrap();
    let [begun, go, ended] = ["begun", "go", "ended"].map(|name| agent.socket.with_file_name(name));
    let code = format!(
        ">{}; while ! test -e {}; do sleep 0.01; done; head -c 40000000 /dev/zero; >{}",
        begun.display(),
        go.display(),
        ended.display()
    );
    let run_spec = ContextRun { code, ..ContextRun::default() };
    let under_way = before.contexts().run(context.id, &run_spec).unwrap();
    until(|| begun.exists()).await;
    before.detach();
    std::mem::forget(under_way);
    std::fs::write(go, "").unwrap();
    until(|| ended.exists()).await;
    let (after, broke) = guest(&agent).await;
    after.recover().await.unwrap();
    assert_eq!(run(&after, context.id, "echo next").await, (b"next\n".to_vec(), 2));
    let mut events = after.contexts().events(context.id, 0).unwrap();
    let told = to_the_end(&mut events).await;
    let gap = told.iter().rfind(|event| matches!(event.event, RunEvent::Gap { .. }));
    assert!(gap.is_some(), "what is lost is told");
    assert!(matches!(&told[told.len() - 1].event, RunEvent::End(end) if end.truncated));
    assert_eq!(written(&to_the_end(&mut events).await), "next\n");
    assert!(!broke.load(Ordering::Relaxed));
}

#[tokio::test]
async fn time_limit_of_a_run_is_held_by_the_next_daemon() {
    let agent = Agent::start();
    let (before, _) = guest(&agent).await;
    let context = before.contexts().open(ContextSpec::default()).await.unwrap();
    let begun = agent.socket.with_file_name("begun");
    let code = format!(">{}; sleep 600", begun.display());
    let run_spec = ContextRun { code, timeout_ms: Some(2_000), ..ContextRun::default() };
    let under_way = before.contexts().run(context.id, &run_spec).unwrap();
    until(|| begun.exists()).await;
    before.detach();
    std::mem::forget(under_way);
    let (after, _) = guest(&agent).await;
    after.recover().await.unwrap();
    assert_eq!(run(&after, context.id, "echo next").await, (b"next\n".to_vec(), 2));
}

#[tokio::test]
async fn dead_context_stays_dead_and_one_that_nobody_knows_is_ended() {
    let agent = Agent::start();
    let (before, _) = guest(&agent).await;
    let context = before.contexts().open(ContextSpec::default()).await.unwrap();
    let exit = ContextRun { code: "exit 3".to_owned(), ..ContextRun::default() };
    let mut ended = before.contexts().run(context.id, &exit).unwrap();
    while ended.next().await.is_some() {}
    before.detach();
    drop(before);
    let (after, _) = guest(&agent).await;
    assert_eq!(after.recover().await.unwrap().contexts, 1);
    until(|| matches!(after.contexts().list()[0].state, ContextState::Dead(_))).await;
    after.contexts().restart(context.id).await.unwrap();
    assert_eq!(run(&after, context.id, "echo again").await.0, b"again\n");
}

#[tokio::test]
async fn context_whose_connections_break_runs_all_of_its_runs_once() {
    let agent = Agent::start();
    let cut = Arc::new(AtomicUsize::new(usize::MAX));
    let guest = breaking(&agent, Arc::clone(&cut)).await;
    let held = guest.processes().start(sh("exec sleep 600")).await.unwrap();
    for bytes in (240..520).step_by(7) {
        cut.store(usize::MAX, Ordering::Relaxed);
        let context = guest.contexts().open(ContextSpec::default()).await.unwrap();
        cut.store(bytes, Ordering::Relaxed);
        // The connection of the context breaks once, and those after it again and again.
        for number in 1..5 {
            let code = format!("x=${{x}}{number}; echo $x");
            let expect: String = (1..=number).map(|number| number.to_string()).collect();
            let ran = run(&guest, context.id, &code).await;
            assert_eq!(ran, (format!("{expect}\n").into_bytes(), number), "{bytes}");
        }
        guest.contexts().delete(context.id).await.unwrap();
    }
    guest.processes().delete(held.pid()).await.unwrap();
}
