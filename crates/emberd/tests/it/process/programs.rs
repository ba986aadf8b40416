//! Processes, terminals and contexts that outlive their daemon.

use std::path::Path;

use emberd_api::{ProcessEventKind, RunEvent};
use emberd_client::Attachment;
use emberd_proto::{ContextRun, ContextSpec, ProcessSpec, TtySize};
use rustix::process::Signal;

use super::{Daemon, Room};
use crate::wait;

/// Runs `code` in a context, and returns its output.
async fn run_in(daemon: &Daemon, id: &str, context: &str, code: &str) -> String {
    let run = ContextRun { code: code.to_owned(), timeout_ms: None };
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
