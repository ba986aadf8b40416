//! Processes: input and output without end, signals, terminals, users, limits.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use bytes::BytesMut;
use emberd_proto::exec::OUTPUT_BYTES_MAX;
use emberd_proto::frame::encode_bulk;
use emberd_proto::process::{Limits, ProcessSpec, STDIN_WINDOW_BYTES, SignalName, TtySize};
use emberd_proto::{ExecExit, ExecSpec, GuestMessage, HostMessage, Kind, RefusalCode};

use crate::guest::{Guest, Host};
use crate::process_trees::{alive, await_end};

const SIZE: TtySize = TtySize { cols: 100, rows: 30 };

fn sh(script: &str) -> ProcessSpec {
    ProcessSpec::of_argv(["sh", "-c", script])
}

/// Starts `spec` and returns its process id.
fn start(host: &mut Host, spec: &ProcessSpec) -> u32 {
    host.begin(&HostMessage::Start(spec.clone()));
    match host.answer() {
        GuestMessage::Started { pid } => pid,
        other => panic!("expected the start, got {other:?}"),
    }
}

/// What comes until the end: standard output, and bytes of input taken.
fn rest(host: &mut Host) -> (Vec<u8>, usize, ExecExit) {
    let (mut stdout, mut taken) = (Vec::new(), 0);
    loop {
        let frame = host.frame().expect("connection is open");
        match frame.kind {
            Kind::Stdout => stdout.extend_from_slice(&frame.payload),
            Kind::Stderr => {}
            _ => match frame.message().unwrap() {
                GuestMessage::StdinTaken { bytes } => taken += bytes,
                GuestMessage::Exited(exit) => return (stdout, taken, exit),
                other => panic!("expected the exit, got {other:?}"),
            },
        }
    }
}

fn run(guest: &Guest, spec: &ProcessSpec) -> (String, ExecExit) {
    let mut host = guest.greet();
    start(&mut host, spec);
    let (stdout, _, exit) = rest(&mut host);
    host.ping();
    (String::from_utf8(stdout).unwrap().trim_end().to_owned(), exit)
}

#[test]
fn argv_and_code_are_run() {
    let guest = Guest::shell();
    let mut spec = sh("echo $0 $1; exit 3");
    spec.args = vec!["zero".into(), "one".into()];
    let (text, exit) = run(&guest, &spec);
    assert_eq!((text.as_str(), exit.exit_code), ("zero one", 3));
    let code = ProcessSpec::from(ExecSpec::new("echo $PACK"));
    assert_eq!(run(&guest, &code).0, "shell");
}

#[test]
fn process_id_is_the_programs_own() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    let pid = start(&mut host, &sh("echo $$"));
    assert_eq!(String::from_utf8(rest(&mut host).0).unwrap().trim(), pid.to_string());
}

#[test]
fn program_that_is_not_there_is_told_as_an_exit() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    host.begin(&HostMessage::Start(ProcessSpec::of_argv(["/nowhere/program"])));
    let GuestMessage::Exited(exit) = host.answer() else { panic!("expected an exit") };
    assert_eq!(exit.exit_code, -1);
    assert!(exit.error.unwrap().contains("cannot run /nowhere/program"));
    host.ping();
}

#[test]
fn output_has_no_cap() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    let bytes = 3 * OUTPUT_BYTES_MAX;
    start(&mut host, &sh(&format!("head -c {bytes} /dev/zero")));
    let (stdout, _, exit) = rest(&mut host);
    assert_eq!((stdout.len(), exit.exit_code, exit.stdout_truncated), (bytes, 0, false));
}

#[test]
fn input_flows_by_the_window() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    start(&mut host, &sh("wc -c"));
    let (total, mut room) = (5 << 20, STDIN_WINDOW_BYTES);
    let mut sent = 0;
    while sent < total {
        let piece = room.min(total - sent);
        let mut frames = BytesMut::new();
        encode_bulk(Kind::Stdin, &vec![b'x'; piece], &mut frames);
        std::io::Write::write_all(&mut host.stream, &frames).unwrap();
        (sent, room) = (sent + piece, room - piece);
        match host.answer() {
            GuestMessage::StdinTaken { bytes } => room += bytes,
            other => panic!("{other:?}"),
        }
    }
    host.send_frame(Kind::StdinEnd, b"");
    let (stdout, _, exit) = rest(&mut host);
    assert_eq!(String::from_utf8(stdout).unwrap().trim(), total.to_string());
    assert_eq!(exit.exit_code, 0);
}

#[test]
fn signals_pass_while_the_program_does_not_read() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    start(&mut host, &sh("trap 'echo got; exit 9' USR1; echo up; while :; do sleep 0.01; done"));
    assert_eq!(host.line(), "up");
    let mut frames = BytesMut::new();
    encode_bulk(Kind::Stdin, &vec![b'x'; STDIN_WINDOW_BYTES], &mut frames);
    std::io::Write::write_all(&mut host.stream, &frames).unwrap();
    host.send(&HostMessage::Signal { signal: SignalName::SigUsr1 });
    let (stdout, _, exit) = rest(&mut host);
    assert_eq!((stdout.as_slice(), exit.exit_code), (&b"got\n"[..], 9));
}

#[test]
fn host_that_overruns_the_window_is_closed() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    start(&mut host, &sh("echo $$; exec sleep 600"));
    let pid = host.line().parse().unwrap();
    let mut frames = BytesMut::new();
    // A pipe takes some of it.
    encode_bulk(Kind::Stdin, &vec![b'x'; 4 * STDIN_WINDOW_BYTES], &mut frames);
    // The agent may be gone before it is all written.
    std::io::Write::write_all(&mut host.stream, &frames).ok();
    while host.frame().is_some() {}
    await_end(&guest, pid);
}

#[test]
fn signal_reaches_the_whole_tree() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    start(&mut host, &sh("sleep 600 & setsid sleep 600 & echo $! $$; wait"));
    let line = host.line();
    let pids: Vec<i32> = line.split(' ').map(|pid| pid.parse().unwrap()).collect();
    host.send(&HostMessage::Signal { signal: SignalName::SigKill });
    assert_eq!(rest(&mut host).2.signal, Some(9));
    for pid in pids {
        await_end(&guest, pid);
    }
    // One that comes too late is no reason to close.
    host.send(&HostMessage::Signal { signal: SignalName::SigTerm });
    host.send(&HostMessage::Resize(SIZE));
    host.ping();
}

#[test]
fn an_exec_takes_no_signals() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    host.start(&ExecSpec::new("echo $$; exec sleep 600"));
    let pid = host.line().parse().unwrap();
    assert!(alive(pid));
    host.send(&HostMessage::Signal { signal: SignalName::SigCont });
    while host.frame().is_some() {}
    await_end(&guest, pid);
}

#[test]
fn terminal() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    let script = "trap 'stty size; exit' WINCH; test -t 0 && test -t 1 && test -t 2 && \
                  stty size; echo $TERM; : >/dev/tty && echo own; while :; do sleep 0.01; done";
    let mut spec = sh(script);
    spec.tty = Some(SIZE);
    spec.env = [("TERM".into(), "dumb".into())].into();
    start(&mut host, &spec);
    let mut text = String::new();
    while !text.ends_with("own\n") {
        text += &host.line();
        text += "\n";
    }
    assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["30", "100", "dumb", "own"]);
    host.send(&HostMessage::Resize(TtySize { cols: 7, rows: 5 }));
    assert_eq!(String::from_utf8(rest(&mut host).0).unwrap().trim(), "5 7");
}

#[test]
fn terminal_echoes_interrupts_and_ends_input() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    let mut spec = ProcessSpec::of_argv(["cat"]);
    spec.tty = Some(SIZE);
    start(&mut host, &spec);
    host.send_frame(Kind::Stdin, b"typed\n");
    host.send_frame(Kind::StdinEnd, b"");
    let (stdout, taken, exit) = rest(&mut host);
    assert_eq!(String::from_utf8(stdout).unwrap(), "typed\r\ntyped\r\n");
    assert_eq!((taken, exit.exit_code), (6, 0));

    let mut spec = ProcessSpec::of_argv(["sleep", "600"]);
    spec.tty = Some(SIZE);
    start(&mut host, &spec);
    host.send_frame(Kind::Stdin, b"\x03");
    assert_eq!(rest(&mut host).2.signal, Some(2));
}

#[test]
fn terminal_takes_back_whole_characters() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    let mut spec =
        sh("stty -echo; echo ready; IFS= read -r line; printf %s \"$line\" | od -An -tx1");
    spec.tty = Some(SIZE);
    start(&mut host, &spec);
    assert_eq!(host.line(), "ready");
    host.send_frame(Kind::Stdin, "é\x7f€\x7fx\n".as_bytes());
    assert_eq!(String::from_utf8(rest(&mut host).0).unwrap().trim(), "78");
}

#[test]
fn all_a_program_wrote_to_its_terminal_arrives() {
    let guest = Guest::shell();
    let mut spec = sh("seq 20000");
    spec.tty = Some(SIZE);
    let (text, exit) = run(&guest, &spec);
    assert_eq!(text.lines().count(), 20_000);
    assert_eq!((text.lines().last(), exit.exit_code), (Some("20000"), 0));
}

/// Root alone may become somebody else.
fn is_root() -> bool {
    emberd_testing::needs(nix::unistd::geteuid().is_root(), "not root")
}

#[test]
fn programs_run_as_whom_they_are_told_to() {
    if !is_root() {
        return;
    }
    let guest = Guest::shell();
    fs::set_permissions(guest.dir(), Permissions::from_mode(0o711)).unwrap();
    let script = "id -un; id -u; echo $HOME $USER $LOGNAME $SHELL; pwd";
    let mut spec = sh(script);
    spec.user = Some("nobody".into());
    let (text, _) = run(&guest, &spec);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines, ["nobody", "65534", "/nonexistent nobody nobody /usr/sbin/nologin", "/"]);
    // What the caller names goes before what a login sets.
    spec.env = [("USER".into(), "caller".into())].into();
    assert!(run(&guest, &spec).0.contains("/nonexistent caller nobody "));
    spec.env.clear();
    // A number that is nobody's, in root's group and without a home.
    let nobodys = ProcessSpec { user: Some("54321".into()), ..sh(&format!("{script}; id -G")) };
    let (text, _) = run(&guest, &nobodys);
    assert_eq!(
        text.lines().collect::<Vec<_>>(),
        ["54321", "54321", "/ 54321 54321 /bin/sh", "/", "0"]
    );
    // The file of its code is its own.
    let exec = ExecSpec { user: spec.user.clone(), ..ExecSpec::new("id -un; cat \"$0\" | wc -l") };
    let outcome = guest.greet().exec(&exec, b"");
    assert_eq!(outcome.text(), "nobody\n0", "{outcome:?}");
    // So is its terminal.
    spec.argv = vec!["sh".into(), "-c".into(), "echo yes >/dev/tty; stat -c %U \"$(tty)\"".into()];
    spec.tty = Some(SIZE);
    assert_eq!(run(&guest, &spec).0.lines().collect::<Vec<_>>(), ["yes", "nobody"]);
}

#[test]
fn streams_of_other_users_are_opened_by_name() {
    if !is_root() {
        return;
    }
    let guest = Guest::shell();
    fs::set_permissions(guest.dir(), Permissions::from_mode(0o711)).unwrap();
    let write = "echo out >/dev/stdout; echo err >/dev/stderr; cat /dev/stdin";
    let check = |code: &str, user: Option<&str>| {
        let spec = ExecSpec { user: user.map(str::to_owned), ..ExecSpec::new(code) };
        let outcome = guest.greet().exec(&spec, b"in\n");
        assert_eq!((outcome.text(), outcome.stderr.as_slice()), ("out\nin", &b"err\n"[..]));
    };
    check(write, None);
    check(write, Some("nobody"));
    // One that gives up its rights keeps its streams.
    check(&format!("setpriv --reuid 65534 --clear-groups sh -c '{write}'"), None);
}

#[test]
fn users_give_up_roots_groups() {
    if !is_root() {
        return;
    }
    let guest = Guest::shell();
    let mut spec = sh("sed -n 's/^Groups://p;s/^Uid://p' /proc/self/status; cat /etc/shadow");
    spec.user = Some("nobody".into());
    let (text, exit) = run(&guest, &spec);
    let fields: Vec<_> = text.split_whitespace().collect();
    assert_eq!(fields, ["65534"; 5]);
    assert_ne!(exit.exit_code, 0);
}

#[test]
fn program_of_another_user_ends_with_its_agent() {
    if !is_root() {
        return;
    }
    let mut guest = Guest::shell();
    let mut host = guest.greet();
    let mut spec = sh("echo $$; exec sleep 600");
    spec.user = Some("nobody".into());
    start(&mut host, &spec);
    let pid = host.line().parse().unwrap();
    guest.terminate();
    let witness = Guest::shell();
    await_end(&witness, pid);
}

#[test]
fn what_cannot_be_is_refused_and_not_ignored() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    let mut check = |message: HostMessage, code, says: &str| {
        host.send(&message);
        let refusal = match host.answer() {
            GuestMessage::Attached(_) => host.refusal(),
            GuestMessage::Refused(refusal) => refusal,
            other => panic!("{other:?}"),
        };
        assert_eq!(refusal.code, code, "{refusal:?}");
        assert!(refusal.message.contains(says), "{refusal:?}");
        host.ping();
    };
    let nobody = ProcessSpec { user: Some("no-such-user".into()), ..sh("true") };
    check(HostMessage::Start(nobody), RefusalCode::NotFound, "no user `no-such-user`");
    let exec = ExecSpec { user: Some("no-such-user".into()), ..ExecSpec::new("") };
    check(HostMessage::Exec(exec), RefusalCode::NotFound, "no user `no-such-user`");
    let memory = Limits { memory_mib: Some(64), ..Limits::default() };
    let limited = ProcessSpec { limits: memory, ..sh("true") };
    check(HostMessage::Start(limited), RefusalCode::Invalid, "cannot limit memory");
    let pids = Limits { pids: Some(64), ..Limits::default() };
    let limited = ExecSpec { limits: pids, ..ExecSpec::new("") };
    check(HostMessage::Exec(limited), RefusalCode::Invalid, "cannot limit pids");
    let both = ProcessSpec { code: Some(String::new()), ..sh("true") };
    check(HostMessage::Start(both), RefusalCode::Invalid, "");
}

#[test]
fn limits_of_each_process_hold() {
    let guest = Guest::shell();
    let mut spec = sh("while :; do :; done");
    spec.limits.cpu_ms = Some(10);
    assert_eq!(run(&guest, &spec).1.signal, Some(24));
    let path = guest.dir().join("large");
    let mut spec = sh(&format!("exec head -c 3000000 /dev/zero >{}", path.display()));
    spec.limits.file_mib = Some(1);
    assert_eq!(run(&guest, &spec).1.signal, Some(25));
    assert_eq!(fs::metadata(path).unwrap().len(), 1 << 20);
}

#[test]
fn time_limit_is_optional_and_holds() {
    let guest = Guest::shell();
    let spec = ProcessSpec { timeout_ms: Some(50), ..sh("exec sleep 600") };
    let (_, exit) = run(&guest, &spec);
    assert!(exit.timed_out);
}

#[test]
fn three_hundred_at_once() {
    let guest = Guest::shell();
    let mut hosts: Vec<_> = (0..300).map(|_| guest.greet()).collect();
    for host in &mut hosts {
        host.send(&HostMessage::Start(ProcessSpec::of_argv(["cat"])));
    }
    for (number, host) in hosts.iter_mut().enumerate() {
        assert!(matches!(host.answer(), GuestMessage::Attached(_)));
        assert!(matches!(host.answer(), GuestMessage::Started { .. }));
        host.send_frame(Kind::Stdin, number.to_string().as_bytes());
        host.send_frame(Kind::StdinEnd, b"");
    }
    for (number, host) in hosts.iter_mut().enumerate() {
        assert_eq!(rest(host).0, number.to_string().as_bytes());
    }
}
