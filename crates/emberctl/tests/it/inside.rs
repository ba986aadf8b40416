//! `forward`, `logs` and `metrics`: what is inside a sandbox, from here.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::fake_daemon::{ENDLESS_LINE_BYTES, FakeDaemon, Flaws, LOG, OPEN_PORT};
use crate::secured::Secured;
use crate::{complaint, emberctl, printed, run};

fn daemon_with_sandbox() -> (FakeDaemon, String) {
    let daemon = FakeDaemon::start(Flaws::default());
    let id = printed(&run(&daemon.addr, &["create", "shell"])).trim().to_owned();
    (daemon, id)
}

/// A `forward` that listens, and where.
fn forward(daemon: &FakeDaemon, id: &str, ports: &str) -> (Child, String) {
    begin(emberctl(&daemon.addr, &["forward", id, ports]), id)
}

fn begin(mut command: Command, id: &str) -> (Child, String) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (line, _) = emberd_testing::first_line(child.stdout.take().unwrap()).unwrap();
    let forwarding = line.strip_prefix("forwarding ").unwrap();
    let (listening, rest) = forwarding.split_once(" to port ").unwrap();
    assert!(rest.ends_with(&format!(" of {id}\n")), "{line}");
    (child, listening.to_owned())
}

/// Interrupts a `forward`; what it said on standard error.
fn interrupt(child: Child) -> String {
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", output.status);
    complaint(&output)
}

#[test]
fn connections_are_passed_on_until_an_interrupt() {
    let (daemon, id) = daemon_with_sandbox();
    let (child, listening) = forward(&daemon, &id, &format!("0:{OPEN_PORT}"));
    let mut streams: Vec<_> = (0..8).map(|_| TcpStream::connect(&listening).unwrap()).collect();
    for (number, stream) in streams.iter_mut().enumerate() {
        write!(stream, "caller {number}").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    }
    for (number, stream) in streams.iter_mut().enumerate() {
        let mut heard = String::new();
        stream.read_to_string(&mut heard).unwrap();
        assert_eq!(heard, format!("caller {number}"));
    }
    let mut open = TcpStream::connect(&listening).unwrap();
    open.write_all(b"x").unwrap();
    open.read_exact(&mut [0]).unwrap();
    assert_eq!(interrupt(child), "");
    assert_eq!(open.read(&mut [0]).unwrap_or(0), 0, "closed with the rest");
}

#[test]
fn connections_are_passed_on_over_tls() {
    let (daemon, id) = daemon_with_sandbox();
    let secured = Secured::before(&daemon.addr);
    let mut command = emberctl(&secured.addr, &["forward", &id, &format!("0:{OPEN_PORT}")]);
    command.arg("--ca-cert").arg(&secured.ca_cert);
    let (child, listening) = begin(command, &id);
    let mut streams: Vec<_> = (0..4).map(|_| TcpStream::connect(&listening).unwrap()).collect();
    let said = vec![b'x'; 1 << 20];
    for stream in &mut streams {
        let mut writer = stream.try_clone().unwrap();
        let saying = said.clone();
        let writing = std::thread::spawn(move || {
            writer.write_all(&saying).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).unwrap();
        writing.join().unwrap();
        assert!(heard == said, "{} bytes", heard.len());
    }
    assert_eq!(interrupt(child), "");
    // Nobody who is not trusted is told anything.
    let untrusted = run(&secured.addr, &["forward", &id, "0:80"]);
    assert_eq!(untrusted.status.code(), Some(125));
    assert!(complaint(&untrusted).contains("--ca-cert"), "{}", complaint(&untrusted));
}

#[test]
fn port_without_a_listener_is_a_warning_and_the_end_of_the_sandbox_an_error() {
    let (daemon, id) = daemon_with_sandbox();
    let (child, listening) = forward(&daemon, &id, "0:80");
    let mut refused = TcpStream::connect(&listening).unwrap();
    assert_eq!(refused.read(&mut [0]).unwrap_or(0), 0);
    // It goes on.
    let mut refused = TcpStream::connect(&listening).unwrap();
    assert_eq!(refused.read(&mut [0]).unwrap_or(0), 0);
    printed(&run(&daemon.addr, &["rm", &id]));
    drop(TcpStream::connect(&listening).unwrap());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    let said = complaint(&output);
    assert_eq!(said.matches("warning: nothing listens\n").count(), 2, "{said}");
    assert!(said.ends_with(&format!("error: no sandbox {id}\n")), "{said}");
}

#[test]
fn forward_says_what_is_wrong_before_it_listens() {
    let (daemon, id) = daemon_with_sandbox();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let output = run(&daemon.addr, &["forward", &id, &format!("{port}:80")]);
    let said = complaint(&output);
    assert_eq!(output.status.code(), Some(125));
    assert!(said.contains(&format!("cannot listen on 127.0.0.1:{port}")), "{said}");
    assert!(said.contains("hint: choose another port of this host, as in 0:80"), "{said}");
    let unknown = run(&daemon.addr, &["forward", "sb_0", "80"]);
    assert_eq!(complaint(&unknown), "error: no sandbox sb_0\n");
    assert_eq!(run(&daemon.addr, &["forward", &id, "nonsense"]).status.code(), Some(125));
}

#[test]
fn forward_tells_programs_where_it_listens() {
    let (daemon, id) = daemon_with_sandbox();
    let mut command = emberctl(&daemon.addr, &["forward", &id, "0:80", "--json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut documents =
        serde_json::Deserializer::from_reader(child.stdout.take().unwrap()).into_iter::<Value>();
    let document = documents.next().unwrap().unwrap();
    assert_eq!((&document["id"], &document["port"]), (&json!(id), &json!(80)));
    TcpStream::connect(document["listening"].as_str().unwrap()).unwrap();
    interrupt(child);
}

#[test]
fn logs_are_printed_and_safe_to_show() {
    let (daemon, id) = daemon_with_sandbox();
    assert_eq!(printed(&run(&daemon.addr, &["logs", &id])), LOG);
    let followed = run(&daemon.addr, &["logs", &id, "-f", "--tail", "1"]);
    assert_eq!(printed(&followed), "last \u{fffd}line\nwithout end");
    let document = run(&daemon.addr, &["logs", &id, "--json"]);
    assert_eq!(serde_json::from_str::<Value>(printed(&document)).unwrap(), json!({"log": LOG}));
    let lines = run(&daemon.addr, &["logs", &id, "-f", "--tail", "1", "--json"]);
    let expect = "{\"line\":\"last \\u0007line\"}\n{\"line\":\"without end\"}\n";
    assert_eq!(printed(&lines), expect);
    assert_eq!(complaint(&run(&daemon.addr, &["logs", "sb_0"])), "error: no sandbox sb_0\n");
}

#[test]
fn a_line_without_end_is_printed_in_pieces() {
    let (daemon, id) = daemon_with_sandbox();
    let log = run(&daemon.addr, &["logs", &id, "-f", "--tail", "2"]);
    assert_eq!(printed(&log), "x".repeat(ENDLESS_LINE_BYTES));
    let lines = run(&daemon.addr, &["logs", &id, "-f", "--tail", "2", "--json"]);
    let pieces = printed(&lines).lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        line["line"].as_str().unwrap().len()
    });
    let pieces: Vec<usize> = pieces.collect();
    assert_eq!(pieces.iter().sum::<usize>(), ENDLESS_LINE_BYTES);
    assert!(pieces.len() > 2, "{pieces:?}");
}

#[test]
fn metrics_are_for_people_or_programs() {
    let (daemon, id) = daemon_with_sandbox();
    let expect = "processors    12.5 % of 2\nmemory        64.0 MiB of 256.0 MiB\n\
        cached files  1.0 MiB\ndisk          1.0 KiB of 128.0 MiB\nprocesses     3\n\
        up for        1.5 s\n";
    assert_eq!(printed(&run(&daemon.addr, &["metrics", &id])), expect);
    let document = run(&daemon.addr, &["metrics", &id, "--json"]);
    let document: Value = serde_json::from_str(printed(&document)).unwrap();
    assert_eq!((&document["cpu_count"], &document["process_count"]), (&json!(2), &json!(3)));
}
