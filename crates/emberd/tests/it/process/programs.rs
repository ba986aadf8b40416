//! Processes, terminals and contexts that outlive their daemon.

use std::io::Write as _;
use std::path::Path;

use emberd_api::{
    ContextEvent, ContextState, CreateSandbox, IdleOptions, ProcessEventKind, RunEvent,
    SandboxPhase,
};
use emberd_client::{Attachment, Events};
use emberd_proto::{ContextRun, ContextSpec, ProcessSpec, TtySize};
use rustix::process::Signal;

use super::{Daemon, Room};
use crate::api::refusal;
use crate::wait;

/// Runs `code` in a context, and returns its output.
async fn run_in(daemon: &Daemon, id: &str, context: &str, code: &str) -> String {
    let run = ContextRun { code: code.to_owned(), ..ContextRun::default() };
    let mut events = daemon.client.run_context(id, context, &run).await.unwrap();
    let mut text = String::new();
    while let Some(event) = events.next().await.unwrap() {
        if let RunEvent::Stdout { text: piece } = event {
            text.push_str(&piece);
        }
    }
    text
}

/// Events of an attachment until one writes `last`: their numbers, and what they write.
async fn heard(attachment: &mut Attachment, last: &str) -> (Vec<u64>, String) {
    let (mut numbers, mut text) = (Vec::new(), String::new());
    while !text.ends_with(last) {
        let event = attachment.event().await.unwrap().expect("it runs");
        numbers.push(event.id);
        match event.kind {
            ProcessEventKind::Stdout(said) => text += &said.text,
            ProcessEventKind::Started { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    (numbers, text)
}

#[tokio::test]
async fn processes_terminals_and_contexts_go_on_by_number_with_every_next_daemon() {
    let room = Room::new();
    let mut daemon = room.start();
    let (id, _) = daemon.create().await;
    let cat = ProcessSpec::of_argv(["cat"]);
    let cat = daemon.client.start_process(&id, &cat).await.unwrap();
    let tty = Some(TtySize { cols: 10, rows: 20 });
    let shell = ProcessSpec { tty, ..ProcessSpec::of_argv(["sh", "-c", "stty -echo; exec cat"]) };
    let shell = daemon.client.start_process(&id, &shell).await.unwrap();
    let context = daemon.client.open_context(&id, &ContextSpec::default()).await.unwrap().id;
    assert_eq!(run_in(&daemon, &id, &context, "x=0; echo $x").await, "0\n");
    let mut next = 0;
    for round in 0..4 {
        let mut attachment = daemon.client.attach(&id, cat.pid, next).await.unwrap();
        let line = format!("line {round}\n");
        attachment.write(line.as_bytes()).await.unwrap();
        let (numbers, text) = heard(&mut attachment, &line).await;
        assert_eq!((numbers[0], text), (next, line), "nothing is lost or repeated");
        next = numbers[numbers.len() - 1] + 1;
        if round % 2 == 0 {
            daemon.crash().await;
            daemon = room.keeping();
        } else {
            daemon.stop(Signal::TERM).await;
            daemon = room.keeping();
        }
        let found = daemon.client.process(&id, cat.pid).await.unwrap();
        assert_eq!(
            (&found.argv, found.started_at_ms, found.next_event),
            (&cat.argv, cat.started_at_ms, next)
        );
        assert!(daemon.client.process(&id, shell.pid).await.unwrap().tty);
        let code = "x=$((x + 1)); echo $x";
        let text = run_in(&daemon, &id, &context, code).await;
        assert_eq!(text, format!("{}\n", round + 1));
    }
    daemon.client.delete_process(&id, cat.pid).await.unwrap();
    wait::until(async || !Path::new(&format!("/proc/{}", cat.pid)).exists()).await;
    daemon.crash().await;
    let daemon = room.start();
    let mut left = daemon.client.processes(&id).await.unwrap().processes;
    left.retain(|process| process.exit.is_none());
    assert_eq!(left.iter().map(|process| process.pid).collect::<Vec<_>>(), [shell.pid]);
    room.finish(daemon).await;
}

/// Events up to the end of a run.
async fn to_the_end(events: &mut Events<ContextEvent>) -> Vec<ContextEvent> {
    let mut all = Vec::new();
    loop {
        all.push(events.next().await.unwrap().expect("it is followed"));
        if let Some(ContextEvent { event: RunEvent::End { .. }, .. }) = all.last() {
            return all;
        }
    }
}

#[tokio::test]
async fn a_run_whose_daemon_was_killed_is_read_on_by_number() {
    let room = Room::new();
    let daemon = room.start();
    let (id, _) = daemon.create().await;
    let context = daemon.client.open_context(&id, &ContextSpec::default()).await.unwrap();
    assert_eq!(context.next_event, 0);
    let go = room.run_dir().join("go");
    let wait = format!("while ! test -e {}; do sleep 0.01; done", go.display());
    let code = format!("echo before; {wait}; echo after; exit 3");
    let run = ContextRun { code, ..ContextRun::default() };
    let mut run = daemon.client.run_context(&id, &context.id, &run).await.unwrap();
    let mut heard = Vec::new();
    while heard.len() < 2 {
        heard.push(run.next().await.unwrap().unwrap());
    }
    let last = run.last_id().unwrap();
    daemon.crash().await;
    run.next().await.unwrap_err();
    std::fs::write(&go, "").unwrap();
    let daemon = room.start();
    let mut rest = daemon.client.context_events(&id, &context.id, last + 1).await.unwrap();
    let rest = to_the_end(&mut rest).await;
    let mut texts = rest.iter().filter_map(|event| match &event.event {
        RunEvent::Stdout { text } => Some(text.as_str()),
        _ => None,
    });
    assert_eq!(texts.next(), Some("after\n"));
    let RunEvent::Error { name, .. } = &rest[rest.len() - 2].event else { panic!("{rest:?}") };
    assert_eq!(name, "ExitCode");
    // All of the run is there, numbered as before.
    let mut all = daemon.client.context_events(&id, &context.id, 0).await.unwrap();
    let all = to_the_end(&mut all).await;
    let events: Vec<_> = all.iter().map(|event| event.event.clone()).collect();
    assert_eq!((&events[..2], all[1].id, &all[2..]), (&heard[..], last, &rest[..]));
    let [known] = &daemon.client.contexts(&id).await.unwrap().contexts[..] else { panic!() };
    assert_eq!((known.state, known.next_event), (ContextState::Idle, all[all.len() - 1].id + 1));
    std::fs::remove_file(go).unwrap();
    room.finish(daemon).await;
}

#[tokio::test]
async fn what_was_deleted_does_not_come_back_with_the_next_daemon() {
    let room = Room::new();
    let mut daemon = room.start();
    let (id, _) = daemon.create().await;
    for _ in 0..4 {
        let sleep = ProcessSpec::of_argv(["sleep", "600"]);
        let sleep = daemon.client.start_process(&id, &sleep).await.unwrap();
        let context = daemon.client.open_context(&id, &ContextSpec::default()).await.unwrap();
        daemon.client.delete_context(&id, &context.id).await.unwrap();
        daemon.client.delete_process(&id, sleep.pid).await.unwrap();
        daemon.crash().await;
        daemon = room.start();
        assert_eq!(daemon.client.processes(&id).await.unwrap().processes, []);
        assert_eq!(daemon.client.contexts(&id).await.unwrap().contexts, []);
    }
    room.finish(daemon).await;
}

#[tokio::test]
async fn programs_of_a_frozen_sandbox_are_found_when_the_next_daemon_thaws_it() {
    let room = Room::new();
    let daemon = room.start();
    let idle = IdleOptions {
        freeze_ms: Some(Some(1_000)),
        ignore_programs: Some(true),
        ..IdleOptions::default()
    };
    let language_pack = Some("shell".to_owned());
    let wanted = CreateSandbox { language_pack, idle: Some(idle), ..CreateSandbox::default() };
    let id = daemon.client.create_with(&wanted).await.unwrap().answer.id;
    let cat = ProcessSpec::of_argv(["cat"]);
    let cat = daemon.client.start_process(&id, &cat).await.unwrap().pid;
    let mut attachment = daemon.client.attach(&id, cat, 1).await.unwrap();
    attachment.write(b"before\n").await.unwrap();
    assert_eq!(heard(&mut attachment, "before\n").await.0, [1]);
    let context = daemon.client.open_context(&id, &ContextSpec::default()).await.unwrap().id;
    assert_eq!(run_in(&daemon, &id, &context, "x=7; echo $x").await, "7\n");
    let phase = async |daemon: &Daemon| daemon.client.get(&id).await.unwrap().phase;
    wait::until(async || phase(&daemon).await == SandboxPhase::Frozen).await;
    daemon.crash().await;
    let mut daemon = room.start();
    // One that leaves it frozen finds nothing, and says nothing of that.
    assert_eq!(daemon.client.get(&id).await.unwrap().reason, None);
    daemon.client.metrics(&id).await.unwrap();
    assert_eq!(phase(&daemon).await, SandboxPhase::Frozen);
    daemon.crash().await;
    daemon = room.start();
    let known = daemon.client.processes(&id).await.unwrap().processes;
    assert_eq!(known.iter().map(|process| process.pid).collect::<Vec<_>>(), [cat]);
    let mut attachment = daemon.client.attach(&id, cat, 2).await.unwrap();
    attachment.write(b"after\n").await.unwrap();
    assert_eq!(heard(&mut attachment, "after\n").await.0, [2]);
    assert_eq!(run_in(&daemon, &id, &context, "echo $x").await, "7\n");
    room.finish(daemon).await;
}

#[tokio::test]
async fn the_end_of_input_is_known_to_the_next_daemon() {
    let room = Room::new();
    let daemon = room.start();
    let (id, _) = daemon.create().await;
    let spec = ProcessSpec::of_argv(["sh", "-c", "cat; echo end; exec sleep 600"]);
    let cat = daemon.client.start_process(&id, &spec).await.unwrap();
    let mut attachment = daemon.client.attach(&id, cat.pid, 1).await.unwrap();
    daemon.client.write_stdin(&id, cat.pid, "in\n", true).await.unwrap();
    assert_eq!(heard(&mut attachment, "end\n").await.1, "in\nend\n");
    let refused = refusal(daemon.client.write_stdin(&id, cat.pid, "", true).await);
    daemon.crash().await;
    let daemon = room.start();
    for (more, end) in [("", true), ("more", false)] {
        let again = refusal(daemon.client.write_stdin(&id, cat.pid, more, end).await);
        assert_eq!((again.0, again.1.code), (409, refused.1.code));
    }
    room.finish(daemon).await;
}

/// Lines of a program that prints more than the agent keeps of it.
const FLOOD_LINES: u64 = 4_000_000;

/// Output on the guest's console meanwhile, in bytes.
const CONSOLE_BYTES: usize = 8 << 20;

#[tokio::test]
async fn of_a_program_that_floods_while_no_daemon_runs_the_latest_is_there_after_a_gap() {
    let room = Room::new();
    let daemon = room.start();
    let (id, _) = daemon.create().await;
    let dir = room.run_dir().join(&id);
    let [go, done] = ["go", "done"].map(|name| dir.join(name));
    let code = format!(
        "until [ -e {} ]; do sleep 0.05; done; seq {FLOOD_LINES}; echo > {}; exec cat",
        go.display(),
        done.display()
    );
    let flood = ProcessSpec::of_argv(["sh", "-c", &code]);
    let pid = daemon.client.start_process(&id, &flood).await.unwrap().pid;
    daemon.crash().await;
    std::fs::write(&go, "").unwrap();
    wait::until(async || done.exists()).await;
    let console = dir.join("vm.log");
    let mut log = std::fs::OpenOptions::new().append(true).open(&console).unwrap();
    log.write_all(&"a line of the console\n".repeat(CONSOLE_BYTES / 22).into_bytes()).unwrap();

    let daemon = room.start();
    let mut attachment = daemon.client.attach(&id, pid, 1).await.unwrap();
    let gap = attachment.event().await.unwrap().unwrap();
    assert_eq!(gap.kind, ProcessEventKind::Gap { first_missing: 1 });
    let (numbers, text) = heard(&mut attachment, &format!("\n{FLOOD_LINES}\n")).await;
    let all = gap.id + 1..=numbers[numbers.len() - 1];
    assert!(numbers.iter().copied().eq(all), "numbers are missing");
    // The first line may be the end of one.
    let lines = text.lines().skip(1).map(|line| line.parse::<u64>().unwrap());
    let first = FLOOD_LINES + 2 - text.lines().count() as u64;
    assert!(lines.eq(first..=FLOOD_LINES), "lines are missing");
    attachment.write(b"on\n").await.unwrap();
    assert_eq!(heard(&mut attachment, "on\n").await.1, "on\n");
    // The daemon cuts the console to its limit.
    let length = || std::fs::metadata(&console).unwrap().len();
    wait::until(async || length() < CONSOLE_BYTES as u64 / 4).await;
    room.finish(daemon).await;
}
