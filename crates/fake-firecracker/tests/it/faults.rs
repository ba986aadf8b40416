//! Faults on request.

use emberd_proto::message::AGENT_PORT;
use serde_json::json;

use crate::rig::{Dir, is_closed, is_silent, read_line};

#[test]
fn death_at_boot_follows_the_answer() {
    for (fault, code) in [("die-at-boot", 1), ("die-at-boot=148", 148)] {
        let dir = Dir::new();
        let mut vmm = dir.start(&["--fault", fault]);
        vmm.boot();
        assert_eq!(vmm.wait().code(), Some(code));
        assert_eq!(vmm.log().contains("bad syscall"), code == 148, "{}", vmm.log());
    }
}

#[test]
fn death_at_a_call_leaves_it_unanswered() {
    let dir = Dir::new();
    let mut vmm = dir.start(&["--fault", "die-at=PUT /snapshot/load=149"]);
    let mut stream = vmm.connect_api();
    let request = "PUT /snapshot/load HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}";
    std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
    assert!(is_closed(&mut stream));
    assert_eq!(vmm.wait().code(), Some(149));
}

#[test]
fn a_call_that_hangs_blocks_the_whole_api() {
    let dir = Dir::new();
    let vmm = dir.start(&["--fault", "hang-at=PUT /entropy"]);
    vmm.put("/machine-config", &json!({ "vcpu_count": 1, "mem_size_mib": 64 })).done();
    let mut hung = vmm.connect_api();
    let request = "PUT /entropy HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}";
    std::io::Write::write_all(&mut hung, request.as_bytes()).unwrap();
    while !vmm.log().contains("PUT /entropy") {
        std::thread::yield_now();
    }
    let mut other = vmm.connect_api();
    std::io::Write::write_all(&mut other, b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert!(is_silent(&mut hung) && is_silent(&mut other));
}

#[test]
fn a_refused_call_is_answered_and_the_vm_goes_on() {
    let dir = Dir::new();
    let vmm = dir.start(&["--fault", "refuse-at=PUT /entropy"]);
    assert!(vmm.put("/entropy", &json!({})).fault_message().contains("fault injection"));
    assert_eq!(vmm.state(), "Not started");
}

#[test]
fn a_guest_that_is_never_ready_stays_silent() {
    let dir = Dir::new();
    let vmm = dir.start(&["--fault", "never-ready"]);
    vmm.boot();
    let mut stream = vmm.send_connect(AGENT_PORT);
    assert_eq!(vmm.state(), "Running");
    assert!(is_silent(&mut stream));
}

#[test]
fn a_guest_without_listener_ends_every_connection() {
    let dir = Dir::new();
    let vmm = dir.start(&["--fault", "no-listener,slow-boot=1"]);
    vmm.boot();
    assert!(is_closed(&mut vmm.send_connect(AGENT_PORT)));
}

#[test]
fn streams_break_off_after_so_many_bytes() {
    let dir = Dir::new();
    let vmm = dir.start(&["--fault", "cut-vsock=100"]);
    vmm.boot();
    // The greeting is answered with a frame of less than 100 bytes.
    let mut agent = vmm.connect_agent();
    agent.start("while echo more; do :; done");
    while agent.next().is_some() {}
    let dir = Dir::new();
    let vmm = dir.start(&["--fault", "cut-api=20"]);
    let mut stream = vmm.connect_api();
    std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(read_line(&mut stream).unwrap(), "HTTP/1.1 200 \r\n");
    assert_eq!(read_line(&mut stream), None);
}
