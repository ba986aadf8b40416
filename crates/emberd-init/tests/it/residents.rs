//! Processes that outlive their connections: attached again, without loss or duplicate.

use std::fs;

use bytes::BytesMut;
use emberd_proto::frame::{encode, encode_message};
use emberd_proto::process::{ProcessSpec, TtySize};
use emberd_proto::{
    Attached, ExecSpec, Frame, GuestMessage, HostMessage, Kind, Program, RefusalCode,
};

use crate::guest::{Guest, Host};
use crate::process_trees::{alive, await_end};

fn sh(script: &str) -> ProcessSpec {
    ProcessSpec::of_argv(["sh", "-c", script])
}

fn list(host: &mut Host) -> Vec<Program> {
    host.send(&HostMessage::List);
    let mut programs = Vec::new();
    loop {
        match host.answer() {
            GuestMessage::Program(program) => programs.push(program),
            GuestMessage::Done => return programs,
            other => panic!("{other:?}"),
        }
    }
}

fn attach(guest: &Guest, id: u64, seq: u64) -> (Host, Attached) {
    let mut host = guest.greet();
    let attached = host.begin(&HostMessage::Attach { id, seq });
    (host, attached)
}

/// The next event: a frame that is not about input.
fn event(host: &mut Host) -> Option<Frame> {
    loop {
        let frame = host.frame()?;
        let is_taken = frame.kind == Kind::Control
            && matches!(frame.message().unwrap(), GuestMessage::StdinTaken { .. });
        if !is_taken {
            return Some(frame);
        }
    }
}

fn is_last(frame: &Frame) -> bool {
    frame.kind == Kind::Control
        && matches!(frame.message().unwrap(), GuestMessage::Exited(_) | GuestMessage::Refused(_))
}

/// All events from here to the last.
fn events(host: &mut Host) -> Vec<Frame> {
    let mut events = Vec::new();
    loop {
        events.push(event(host).expect("connection is open"));
        if is_last(&events[events.len() - 1]) {
            return events;
        }
    }
}

#[test]
fn process_goes_on_without_a_host_and_tells_the_next_one_all() {
    let guest = Guest::shell();
    let fifo = guest.dir().join("go");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut host = guest.greet();
    let script = format!("echo one; read go <{}; echo two; exit 3", fifo.display());
    let id = host.begin(&HostMessage::Start(sh(&script))).id;
    host.send(&HostMessage::Note { note: "mine".to_owned() });
    assert!(matches!(host.answer(), GuestMessage::Started { .. }));
    assert_eq!(host.line(), "one");
    host.leave();
    let mut host = guest.greet();
    let [program] = &list(&mut host)[..] else { panic!("one program runs") };
    assert_eq!((program.id, program.note.as_str(), program.ended), (id, "mine", false));
    assert!(alive(program.pid.cast_signed()));
    fs::write(fifo, "\n").unwrap();
    for seq in 0..4 {
        let (mut host, attached) = attach(&guest, id, seq);
        assert_eq!((attached.id, attached.seq, attached.received), (id, seq, 0));
        assert_eq!(events(&mut host).len() as u64, 4 - seq);
        host.ping();
    }
    let [program] = &list(&mut host)[..] else { panic!("its end is kept") };
    assert_eq!((program.next, program.ended), (4, true));
    host.send(&HostMessage::Delete { id });
    assert_eq!(host.answer(), GuestMessage::Done);
    assert_eq!(list(&mut host), []);
    host.send(&HostMessage::Attach { id, seq: 0 });
    assert_eq!(host.refusal().code, RefusalCode::NotFound);
}

#[test]
fn connection_cut_at_any_byte_loses_no_event_and_repeats_none() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    // Characters of several bytes, some of them written in two pieces.
    let script =
        r"printf 'a\342\202'; printf 'b\303' >&2; printf '\254c'; printf '\251' >&2; printf x";
    let id = host.begin(&HostMessage::Start(sh(script))).id;
    let all = events(&mut host);
    let mut bytes = BytesMut::new();
    for frame in &all {
        encode(frame.kind, &frame.payload, &mut bytes);
    }
    for cut in 0..=bytes.len() {
        let (mut host, _) = attach(&guest, id, 0);
        let mut got = host.read_bytes(cut);
        let whole = got.len();
        host.leave();
        let (mut host, attached) = attach(&guest, id, whole as u64);
        assert_eq!(attached.seq, whole as u64);
        if whole < all.len() {
            got.extend(events(&mut host));
        }
        assert_eq!(got, all, "cut at {cut}");
        host.ping();
    }
    for frame in &all {
        assert!(frame.kind == Kind::Control || std::str::from_utf8(&frame.payload).is_ok());
    }
}

#[test]
fn requests_cut_at_any_byte_arrive_once() {
    let guest = Guest::shell();
    let mut frames = Vec::new();
    for (kind, payload) in [(Kind::Stdin, &b"one\n"[..]), (Kind::Stdin, b"two\n")] {
        let mut frame = BytesMut::new();
        encode(kind, payload, &mut frame);
        frames.push(frame);
    }
    let mut resize = BytesMut::new();
    encode_message(&HostMessage::Resize(TtySize { cols: 9, rows: 9 }), &mut resize);
    frames.insert(1, resize);
    let mut end = BytesMut::new();
    encode(Kind::StdinEnd, b"", &mut end);
    frames.push(end);
    let bytes = frames.concat();
    for cut in 0..=bytes.len() {
        let mut host = guest.greet();
        let id = host.begin(&HostMessage::Start(ProcessSpec::of_argv(["cat"]))).id;
        std::io::Write::write_all(&mut host.stream, &bytes[..cut]).unwrap();
        host.leave();
        // Whatever has arrived, the rest follows.
        let (mut host, attached) = attach(&guest, id, 0);
        let received = usize::try_from(attached.received).unwrap();
        assert!(frames[..received].concat().len() <= cut);
        let rest = frames[received..].concat();
        std::io::Write::write_all(&mut host.stream, &rest).unwrap();
        let output: Vec<u8> = events(&mut host)
            .into_iter()
            .filter(|frame| frame.kind == Kind::Stdout)
            .flat_map(|frame| frame.payload.to_vec())
            .collect();
        assert_eq!(output, b"one\ntwo\n", "cut at {cut}");
    }
}

#[test]
fn what_nobody_reads_makes_a_gap_and_does_not_hold_the_program() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    let script = "echo first; head -c 40000000 /dev/zero; echo last";
    let id = host.begin(&HostMessage::Start(sh(script))).id;
    host.leave();
    let mut host = guest.greet();
    let next = loop {
        let [program] = &list(&mut host)[..] else { panic!("it is kept") };
        if program.ended {
            break program.next;
        }
    };
    let (mut host, attached) = attach(&guest, id, 0);
    assert!((1..next).contains(&attached.seq), "{attached:?} of {next}");
    let kept = events(&mut host);
    assert_eq!(kept.len() as u64, next - attached.seq);
    let bytes: usize = kept.iter().map(|frame| frame.payload.len()).sum();
    assert!((8 << 20..=16 << 20).contains(&bytes), "{bytes}");
}

#[test]
fn slow_host_that_is_attached_loses_nothing() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    let bytes = 40_000_000;
    let id = host.begin(&HostMessage::Start(sh(&format!("head -c {bytes} /dev/zero")))).id;
    let mut other = guest.greet();
    // It waits for this host.
    assert!(!list(&mut other)[0].ended);
    let output: usize = events(&mut host)
        .iter()
        .filter(|frame| frame.kind == Kind::Stdout)
        .map(|frame| frame.payload.len())
        .sum();
    assert_eq!(output, bytes);
    assert_eq!(list(&mut other)[0].id, id);
}

#[test]
fn later_attachment_replaces_the_one_before() {
    let guest = Guest::shell();
    let mut first = guest.greet();
    let id = first.begin(&HostMessage::Start(ProcessSpec::of_argv(["cat"]))).id;
    let (mut second, attached) = attach(&guest, id, 0);
    assert_eq!(attached.seq, 0);
    while first.frame().is_some() {}
    second.send_frame(Kind::Stdin, b"x");
    second.send_frame(Kind::StdinEnd, b"");
    assert_eq!(events(&mut second).len(), 3);
}

#[test]
fn adoption_ends_execs_of_before_and_no_processes() {
    let guest = Guest::shell();
    let (mut exec, mut process, mut idle) = (guest.greet(), guest.greet(), guest.greet());
    exec.start(&ExecSpec::new("echo $$; exec sleep 600"));
    let pid = exec.line().parse().unwrap();
    process.begin(&HostMessage::Start(ProcessSpec::of_argv(["sleep", "600"])));
    let mut host = guest.greet();
    host.send(&HostMessage::Adopt { epoch: 7 });
    assert_eq!(host.answer(), GuestMessage::Done);
    await_end(&guest, pid);
    assert_eq!(idle.frame(), None);
    while process.frame().is_some() {}
    let [program] = &list(&mut host)[..] else { panic!("the process runs") };
    assert!(alive(program.pid.cast_signed()) && !program.ended);
    // The same daemon again.
    let mut other = guest.greet();
    other.send(&HostMessage::Adopt { epoch: 7 });
    assert_eq!(other.answer(), GuestMessage::Done);
    host.ping();
}

#[test]
fn delete_kills_the_tree_and_closes_the_connection() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    let id = host.begin(&HostMessage::Start(sh("sleep 600 & echo $!; wait"))).id;
    assert!(matches!(host.answer(), GuestMessage::Started { .. }));
    let pid = host.line().parse().unwrap();
    let mut other = guest.greet();
    for _ in 0..2 {
        other.send(&HostMessage::Delete { id });
        assert_eq!(other.answer(), GuestMessage::Done);
    }
    await_end(&guest, pid);
    while host.frame().is_some() {}
    assert_eq!(list(&mut other), []);
}

#[test]
fn program_that_could_not_be_started_is_not_kept_and_few_that_ended_are() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    host.begin(&HostMessage::Start(ProcessSpec::of_argv(["/nowhere/program"])));
    assert!(matches!(host.answer(), GuestMessage::Exited(_)));
    // The agent forgets it after it has told its end.
    while !list(&mut host).is_empty() {}
    for _ in 0..80 {
        host.begin(&HostMessage::Start(ProcessSpec::of_argv(["true"])));
        events(&mut host);
    }
    assert!((64..70).contains(&list(&mut host).len()));
}
