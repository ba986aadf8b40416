//! Greetings, refusals, and hosts that break the protocol.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Stdio;

use emberd_proto::frame::FRAME_BYTES_MAX;
use emberd_proto::message::GENERATION;
use emberd_proto::{ExecSpec, GuestMessage, HostMessage, Kind, RefusalCode};

use crate::guest::{Guest, Host, SHELL_PACK, agent_command};

#[test]
fn welcome_tells_who_answers() {
    let guest = Guest::shell();
    let mut host = guest.connect();
    host.send(&HostMessage::hello());
    let GuestMessage::Welcome(welcome) = host.answer() else { panic!("no welcome") };
    assert_eq!(welcome.generation, GENERATION);
    assert_eq!(welcome.agent_version, env!("CARGO_PKG_VERSION"));
    assert_eq!((welcome.init_started_us, welcome.serving_us), (None, None));
    host.ping();
}

#[test]
fn another_generation_is_refused() {
    let guest = Guest::shell();
    let mut host = guest.connect();
    host.send(&HostMessage::Hello { generation: GENERATION + 1, newest: None });
    let refusal = host.refusal();
    assert_eq!(refusal.code, RefusalCode::Generation);
    assert_eq!(refusal.message, "host speaks generation 3, guest speaks 2");
    assert_eq!(host.frame(), None);
    // A host of the generation before knows only its own.
    let mut host = guest.connect();
    host.send(&HostMessage::Hello { generation: 1, newest: None });
    assert_eq!(host.refusal().code, RefusalCode::Generation);
    let mut host = guest.connect();
    host.send(&HostMessage::Hello { generation: 1, newest: Some(GENERATION + 1) });
    let GuestMessage::Welcome(welcome) = host.answer() else { panic!("no welcome") };
    assert_eq!(welcome.generation, GENERATION);
}

#[test]
fn connection_must_open_with_hello() {
    let guest = Guest::shell();
    let mut host = guest.connect();
    host.send(&HostMessage::Ping);
    assert_eq!(host.refusal().code, RefusalCode::Invalid);
    assert_eq!(host.frame(), None);
}

#[test]
fn unknown_operation_is_refused_and_the_connection_stays() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    host.send_frame(Kind::Control, br#"{"op":"teleport","to":"mars"}"#);
    assert_eq!(host.refusal().code, RefusalCode::UnknownOperation);
    host.ping();
    host.send(&HostMessage::hello());
    assert_eq!(host.refusal().code, RefusalCode::Invalid);
    host.ping();
}

#[test]
fn invalid_spec_is_refused_and_the_connection_stays() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    host.start(&ExecSpec { timeout_ms: 0, ..ExecSpec::new("echo never") });
    host.send_frame(Kind::Stdin, b"its input came with it");
    host.send_frame(Kind::StdinEnd, b"");
    let refusal = host.refusal();
    assert_eq!(refusal.code, RefusalCode::Invalid);
    assert_eq!(refusal.message, "timeout_ms is 0, not between 1 and 3600000");
    assert_eq!(host.exec(&ExecSpec::new("echo next"), b"").text(), "next");
}

#[test]
fn message_that_is_none_is_refused_and_closes_the_connection() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    host.send_frame(Kind::Control, br#"{"op":"exec","code":7}"#);
    let refusal = host.refusal();
    assert_eq!(refusal.code, RefusalCode::Invalid);
    assert!(refusal.message.contains("invalid type: integer `7`"), "{}", refusal.message);
    assert_eq!(host.frame(), None);
}

#[test]
fn garbage_closes_only_its_own_connection() {
    let guest = Guest::shell();
    let mut witness = guest.greet();
    let too_long = u32::try_from(FRAME_BYTES_MAX + 1).unwrap().to_be_bytes();
    let cases: [&[u8]; 5] =
        [&too_long, &[0; 4], &[0, 0, 0, 1, 0x7f], b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\x03\x01{}"];
    for garbage in cases {
        let mut fresh = guest.connect();
        fresh.stream.write_all(garbage).unwrap();
        while fresh.frame().is_some() {}
        let mut greeted = guest.greet();
        greeted.stream.write_all(garbage).unwrap();
        while greeted.frame().is_some() {}
        witness.ping();
    }
}

#[test]
fn output_frames_from_the_host_close_the_connection() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    host.send_frame(Kind::Stdout, b"confused");
    assert_eq!(host.frame(), None);
    guest.greet().ping();
}

#[test]
fn host_that_leaves_at_any_byte_harms_nobody() {
    let guest = Guest::shell();
    let hello = b"\0\0\0\x20\x01{\"op\":\"hello\",\"generation\":1}\0\0\0\x0e\x01{\"op\":\"ping\"}";
    for cut in 0..hello.len() {
        let mut host = guest.connect();
        host.stream.write_all(&hello[..cut]).unwrap();
        host.leave();
    }
    guest.greet().ping();
}

#[test]
fn connections_over_the_cap_are_closed_and_seats_come_back() {
    let guest = Guest::shell();
    let mut seated: Vec<_> = (0..512).map(|_| guest.greet()).collect();
    let mut standing = guest.connect();
    assert_eq!(standing.frame(), None);
    let last = seated.pop().unwrap();
    seated.last_mut().unwrap().ping();
    last.leave();
    // The agent may take a moment to notice; until then newcomers are turned away.
    loop {
        let mut next = guest.connect();
        let hello = br#"{"op":"hello","generation":1}"#;
        next.send_frame(Kind::Control, hello);
        if next.frame().is_some() {
            break;
        }
    }
}

#[test]
fn shortage_of_descriptors_passes() {
    let guest = Guest::shell_with_few_descriptors();
    let mut first = guest.greet();
    let more: Vec<_> = (0..64).map(|_| guest.connect()).collect();
    first.ping();
    more.into_iter().for_each(Host::leave);
    assert_eq!(guest.run("echo served").text(), "served");
}

#[test]
fn agent_tells_once_that_it_serves() {
    let dir = tempfile::tempdir().unwrap();
    let ready = dir.path().join("ready.sock");
    let listener = UnixListener::bind(&ready).unwrap();
    let guest = Guest::shell_that_tells(&ready);
    let (mut told, _) = listener.accept().unwrap();
    assert_eq!(told.read_to_end(&mut Vec::new()).unwrap(), 0);
    guest.greet().ping();
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn nobody_needs_to_be_told_that_the_agent_serves() {
    Guest::shell_that_tells(Path::new("/nowhere/ready.sock")).greet().ping();
}

#[test]
fn agent_that_cannot_start_says_why() {
    let check = |pack: &str, extra: &[&str], expect: &str| {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("pack.json"), pack).unwrap();
        fs::create_dir(dir.path().join("taken")).unwrap();
        let mut command = agent_command(dir.path());
        command.args(extra).current_dir(dir.path()).stderr(Stdio::piped());
        let output = command.output().unwrap();
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{complaint}");
        assert!(complaint.contains(expect), "{complaint}");
        let mut left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["pack.json", "taken"]);
    };
    check(SHELL_PACK, &["--bogus"], "unknown argument `--bogus`; usage: emberd-init");
    check("{}", &[], "pack.json is not a pack: missing field");
    check(SHELL_PACK, &["--pack", "gone"], "cannot read gone: No such file");
    check(SHELL_PACK, &["--listen", "taken"], "cannot listen on taken: Address already in use");
}
