//! The hybrid vsock, from both of its sides.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};

use emberd_proto::message::AGENT_PORT;
use emberd_proto::{GuestMessage, HostMessage};
use serde_json::json;

use crate::rig::{Agent, Dir, Vmm, connect, is_closed, is_silent, read_line};

#[test]
fn the_real_agent_runs_code_with_the_kernels_words_as_environment() {
    let dir = Dir::new();
    let vmm = dir.start(&[]);
    vmm.boot();
    let mut agent = vmm.connect_agent();
    assert_eq!(agent.run("echo $COLOUR $((6 * 7))"), "red 42\n");
    assert_eq!(agent.run("echo again"), "again\n");
}

#[test]
fn the_socket_is_bound_before_the_start_and_silent_until_the_guest_is_up() {
    let dir = Dir::new();
    let vmm = dir.start(&[]);
    vmm.configure();
    let mut early = vmm.send_connect(AGENT_PORT);
    assert_eq!(vmm.state(), "Not started");
    assert!(is_silent(&mut early));
    vmm.start_instance().done();
    // Served once the guest's driver is up; the agent may still be starting then.
    if let Some(line) = read_line(&mut early) {
        assert!(line.starts_with("OK "));
    }
    vmm.connect_agent();
}

#[test]
fn host_ports_start_at_2_to_the_30() {
    let dir = Dir::new();
    let vmm = dir.start(&[]);
    vmm.boot();
    drop(vmm.connect_agent());
    let port = || {
        let line = read_line(&mut vmm.send_connect(AGENT_PORT)).unwrap();
        line.strip_prefix("OK ").unwrap().trim().parse::<u32>().unwrap()
    };
    let (first, second) = (port(), port());
    assert!((1 << 30..1 << 31).contains(&first), "{first}");
    assert_eq!(second, first + 1);
}

#[test]
fn a_port_nobody_listens_on_ends_without_a_word() {
    let dir = Dir::new();
    let vmm = dir.start(&[]);
    vmm.boot();
    drop(vmm.connect_agent());
    assert!(is_closed(&mut vmm.send_connect(9999)));
}

#[test]
fn a_line_in_pieces_or_malformed_is_dropped() {
    let dir = Dir::new();
    let vmm = dir.start(&[]);
    vmm.boot();
    drop(vmm.connect_agent());
    for line in ["CONNECT", "CONNECT 1", "CONNECT 1024", "HELLO 1024\n", "CONNECT x y z\n"] {
        let mut stream = connect(&vmm.path("v.sock")).unwrap();
        stream.write_all(line.as_bytes()).unwrap();
        assert!(is_closed(&mut stream), "{line:?}");
    }
}

#[test]
fn bytes_after_the_line_stay_in_the_stream() {
    let dir = Dir::new();
    let vmm = dir.start(&[]);
    vmm.boot();
    drop(vmm.connect_agent());
    let mut stream = connect(&vmm.path("v.sock")).unwrap();
    let mut bytes = bytes::BytesMut::from(&b"connect 1024\n"[..]);
    let hello = HostMessage::hello();
    emberd_proto::frame::encode_message(&hello, &mut bytes);
    stream.write_all(&bytes).unwrap();
    assert!(read_line(&mut stream).unwrap().starts_with("OK "));
    let mut prefix = [0; 5];
    stream.read_exact(&mut prefix).unwrap();
    assert_eq!(prefix[4], 1, "a control frame: the agent heard the pipelined hello");
}

#[test]
fn half_close_is_full_close() {
    let dir = Dir::new();
    let vmm = dir.start(&[]);
    vmm.boot();
    let mut agent = vmm.connect_agent();
    agent.start("echo started; exec sleep 600");
    agent.next().unwrap();
    agent.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(agent.next().is_none(), "the other direction ends too");
}

#[test]
fn a_paused_vm_answers_when_it_is_resumed() {
    let dir = Dir::new();
    let vmm = dir.start(&[]);
    vmm.boot();
    let mut agent = vmm.connect_agent();
    vmm.pause();
    agent.send(&HostMessage::Ping);
    let mut waiting = vmm.send_connect(AGENT_PORT);
    assert_eq!(vmm.state(), "Paused");
    assert!(is_silent(&mut agent.stream) && is_silent(&mut waiting));
    vmm.resume();
    let pong = agent.next().unwrap().message::<GuestMessage>().unwrap();
    assert_eq!(pong, GuestMessage::Pong);
    assert!(read_line(&mut waiting).unwrap().starts_with("OK "));
    Agent::greet(waiting);
}

#[test]
fn two_versions_go_deaf_after_a_bare_resume() {
    for (version, is_deaf) in [("1.15.1", false), ("1.16.1", true), ("1.16.2", false)] {
        let dir = Dir::new();
        let vmm = dir.start(&["--fake-version", version]);
        vmm.boot();
        let mut agent = vmm.connect_agent();
        vmm.pause();
        vmm.resume();
        let mut later = vmm.send_connect(AGENT_PORT);
        assert_eq!(agent.run("echo heard"), "heard\n", "open connections live on");
        if is_deaf {
            assert!(is_silent(&mut later), "{version}");
        } else {
            assert!(read_line(&mut later).is_some(), "{version}");
        }
    }
}

#[test]
fn the_guest_dials_out_to_a_socket_named_after_the_port() {
    let dir = Dir::new();
    let vmm = dir.start(&[]);
    vmm.configure();
    let listener = UnixListener::bind(vmm.path("v.sock_5000")).unwrap();
    vmm.start_instance().done();
    drop(vmm.connect_agent());
    let mut guest = dial_out(&vmm, 5000);
    assert_eq!(read_line(&mut guest).unwrap(), "OK 5000\n");
    let (mut host, _) = listener.accept().unwrap();
    guest.write_all(b"ready\n").unwrap();
    assert_eq!(read_line(&mut host).unwrap(), "ready\n", "no preamble");
    assert!(is_closed(&mut dial_out(&vmm, 5001)), "nobody listens there");
}

/// What a process of the guest does: it runs on this host, and the socket is in its directory.
fn dial_out(vmm: &Vmm, port: u32) -> UnixStream {
    let guest_dir = format!("guest-{}", vmm.process.id());
    let mut stream = connect(&vmm.path(&guest_dir).join("host")).unwrap();
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).unwrap();
    stream
}

#[test]
fn a_second_vsock_replaces_the_first_and_an_existing_file_is_in_the_way() {
    let dir = Dir::new();
    let vmm = dir.start(&[]);
    let put = |path: &str| vmm.put("/vsock", &json!({ "guest_cid": 3, "uds_path": path }));
    put("v.sock").done();
    put("v.sock").done();
    put("w.sock").done();
    assert!(!vmm.path("v.sock").exists());
    let message = put("pack.json").fault_message();
    assert!(message.contains("Address already in use"), "{message}");
}

#[test]
fn connections_beyond_the_limit_are_closed() {
    let dir = Dir::new();
    let vmm = dir.start(&["--fault", "no-listener"]);
    vmm.boot();
    // Held before their `CONNECT` line, as in Firecracker, they count nowhere but here.
    let mut held = Vec::new();
    while held.len() < 1023 {
        held.push(connect(&vmm.path("v.sock")).unwrap());
    }
    let mut over = connect(&vmm.path("v.sock")).unwrap();
    assert!(is_closed(&mut over));
}
