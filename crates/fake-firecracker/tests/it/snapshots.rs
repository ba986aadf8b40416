//! Making snapshots and loading them into another process.

use std::fs;
use std::io::Write as _;

use emberd_proto::HostMessage;
use emberd_proto::message::AGENT_PORT;
use serde_json::{Value, json};

use crate::rig::{Dir, Vmm, is_closed, is_silent, read_line};

fn create(vmm: &Vmm) -> crate::rig::Answer {
    vmm.put("/snapshot/create", &json!({ "snapshot_path": "s", "mem_file_path": "m" }))
}

fn load(resume_vm: bool) -> Value {
    json!({
        "snapshot_path": "s",
        "mem_backend": { "backend_type": "File", "backend_path": "m" },
        "resume_vm": resume_vm,
    })
}

/// A directory with the snapshot of a VM that is gone.
fn dir_with_snapshot(words: &[&str]) -> Dir {
    let dir = Dir::new();
    let vmm = dir.start(words);
    vmm.boot();
    drop(vmm.connect_agent());
    vmm.pause();
    create(&vmm).done();
    drop(vmm);
    remove_sockets(&dir);
    dir
}

fn remove_sockets(dir: &Dir) {
    for socket in ["api.sock", "v.sock"] {
        fs::remove_file(dir.path(socket)).unwrap();
    }
}

#[test]
fn a_snapshot_needs_a_paused_vm_and_is_as_long_as_its_memory() {
    let dir = Dir::new();
    let vmm = dir.start(&[]);
    vmm.boot();
    let message = create(&vmm).fault_message();
    assert!(message.contains("save/restore unavailable while running"), "{message}");
    vmm.pause();
    create(&vmm).done();
    assert_eq!(fs::metadata(vmm.path("m")).unwrap().len(), 64 << 20);
}

#[test]
fn a_loaded_vm_runs_code_and_binds_its_socket() {
    let dir = dir_with_snapshot(&[]);
    let vmm = dir.start(&[]);
    vmm.put("/snapshot/load", &load(true)).done();
    assert_eq!(vmm.state(), "Running");
    // The agent listened when the snapshot was made: the first attempt is answered.
    let line = read_line(&mut vmm.send_connect(AGENT_PORT)).unwrap();
    assert!(line.starts_with("OK "), "{line}");
    assert_eq!(vmm.connect_agent().run("echo $COLOUR"), "red\n");
}

#[test]
fn a_loaded_vm_stays_paused_unless_asked() {
    let dir = dir_with_snapshot(&[]);
    let vmm = dir.start(&[]);
    vmm.put("/snapshot/load", &load(false)).done();
    assert_eq!(vmm.state(), "Paused");
    let mut waiting = vmm.send_connect(AGENT_PORT);
    assert_eq!(vmm.get("/machine-config").json()["mem_size_mib"], 64);
    assert!(is_silent(&mut waiting));
    vmm.resume();
    assert!(read_line(&mut waiting).unwrap().starts_with("OK "));
}

#[test]
fn the_socket_of_a_clone_can_be_another() {
    let dir = dir_with_snapshot(&[]);
    let vmm = dir.start(&[]);
    let mut body = load(true);
    body["vsock_override"] = json!({ "uds_path": "w.sock" });
    vmm.put("/snapshot/load", &body).done();
    assert!(vmm.path("w.sock").exists() && !vmm.path("v.sock").exists());
}

#[test]
fn host_ports_go_on_where_the_snapshot_was_made() {
    let dir = dir_with_snapshot(&[]);
    let vmm = dir.start(&[]);
    vmm.put("/snapshot/load", &load(true)).done();
    let line = read_line(&mut vmm.send_connect(AGENT_PORT)).unwrap();
    assert_ne!(line, format!("OK {}\n", 1 << 30));
}

#[test]
fn a_failed_load_is_answered_and_then_the_process_ends() {
    type Edit = fn(&Dir);
    let edits: [(&str, Edit); 5] = [
        ("bitcode error", |dir| fs::write(dir.path("s"), "garbage").unwrap()),
        ("CRC64 validation failed", |dir| {
            let mut state = fs::read(dir.path("s")).unwrap();
            state.pop();
            fs::write(dir.path("s"), state).unwrap();
        }),
        ("No such file", |dir| fs::remove_file(dir.path("m")).unwrap()),
        ("exceeds largest possible file offset", |dir| {
            fs::File::options().write(true).open(dir.path("m")).unwrap().set_len(1 << 20).unwrap();
        }),
        ("Address already in use", |dir| fs::write(dir.path("v.sock"), "").unwrap()),
    ];
    let dir = dir_with_snapshot(&[]);
    let (state, memory) = (fs::read(dir.path("s")).unwrap(), fs::read(dir.path("m")).unwrap());
    for (expected, edit) in edits {
        fs::write(dir.path("s"), &state).unwrap();
        fs::write(dir.path("m"), &memory).unwrap();
        edit(&dir);
        let mut vmm = dir.start(&[]);
        let message = vmm.put("/snapshot/load", &load(true)).fault_message();
        assert!(message.contains(expected), "{message}");
        assert_eq!(vmm.wait().code(), Some(1));
        fs::remove_file(dir.path("api.sock")).unwrap();
    }
}

#[test]
fn another_format_does_not_load() {
    let dir = dir_with_snapshot(&["--fake-version", "1.16.1"]);
    let mut vmm = dir.start(&["--fake-version", "1.16.2"]);
    let message = vmm.put("/snapshot/load", &load(true)).fault_message();
    assert!(message.contains("Invalid data version: 10.0.0"), "{message}");
    assert_eq!(vmm.wait().code(), Some(1));
}

#[test]
fn a_snapshot_resets_the_connections_there_are() {
    let dir = Dir::new();
    let vmm = dir.start(&[]);
    vmm.boot();
    let mut agent = vmm.connect_agent();
    vmm.pause();
    create(&vmm).done();
    vmm.resume();
    // New ones work. The old one is dead in the guest, and the host learns it by writing.
    assert_eq!(vmm.connect_agent().run("echo new"), "new\n");
    assert!(is_silent(&mut agent.stream));
    agent.send(&HostMessage::Ping);
    assert!(is_closed(&mut agent.stream));
}

#[test]
fn deprecated_fields_work_and_are_told() {
    let dir = dir_with_snapshot(&[]);
    let vmm = dir.start(&[]);
    let answer = vmm.put("/snapshot/load", &json!({ "snapshot_path": "s", "mem_file_path": "m" }));
    answer.done();
    assert!(answer.head.contains("Deprecation: true"), "{answer:?}");
}

#[test]
fn a_connection_under_way_survives_a_pause_without_snapshot() {
    let dir = Dir::new();
    let vmm = dir.start(&[]);
    vmm.boot();
    let mut agent = vmm.connect_agent();
    vmm.pause();
    agent.stream.write_all(&[]).unwrap();
    vmm.resume();
    assert_eq!(agent.run("echo alive"), "alive\n");
}
