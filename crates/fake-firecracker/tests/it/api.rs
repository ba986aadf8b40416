//! HTTP as Firecracker's server speaks it, and the limits below the API.

use std::io::Write as _;

use serde_json::json;

use crate::rig::{Dir, call, is_closed, is_silent, read_answer};

#[test]
fn one_connection_serves_many_calls() {
    let (dir, words) = (Dir::new(), ["--id", "vm-1", "--fake-version", "1.16.2"]);
    let vmm = dir.start(&words);
    let mut stream = vmm.connect_api();
    let version = call(&mut stream, "GET", "/version", "").json();
    assert_eq!(version, json!({ "firecracker_version": "1.16.2" }));
    let refused = call(&mut stream, "PUT", "/entropy", r#"{"colour":1}"#);
    assert!(refused.fault_message().contains("unknown field `colour`"));
    let instance = call(&mut stream, "GET", "/", "").json();
    let expected = json!({
        "app_name": "Firecracker", "id": "vm-1", "state": "Not started", "vmm_version": "1.16.2",
    });
    assert_eq!(instance, expected);
}

#[test]
fn a_success_without_content_has_no_body_and_no_reason() {
    let dir = Dir::new();
    let answer = dir.start(&[]).put("/entropy", &json!({}));
    assert_eq!(
        answer.head,
        "HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n"
    );
}

#[test]
fn the_configuration_reads_back() {
    let dir = Dir::new();
    let vmm = dir.start(&[]);
    vmm.configure();
    let config = vmm.get("/vm/config").json();
    assert_eq!(config["boot-source"]["kernel_image_path"], "vmlinux");
    assert_eq!(config["drives"][0]["io_engine"], "Sync");
    assert_eq!(config["vsock"], json!({ "guest_cid": 3, "uds_path": "v.sock" }));
    assert_eq!(config["machine-config"], vmm.get("/machine-config").json());
    assert_eq!(config["network-interfaces"], json!([]));
    vmm.patch("/machine-config", &json!({ "mem_size_mib": 256 })).done();
    assert_eq!(vmm.get("/machine-config").json()["mem_size_mib"], 256);
}

#[test]
fn a_body_over_the_limit_is_refused_below_the_api() {
    let dir = Dir::new();
    let vmm = dir.start(&[]);
    let at_limit = call(&mut vmm.connect_api(), "PUT", "/entropy", &"x".repeat(51_200));
    assert!(at_limit.fault_message().contains("deserializing the json body"));
    let mut stream = vmm.connect_api();
    stream.write_all(b"PUT /entropy HTTP/1.1\r\nContent-Length: 51201\r\n\r\n").unwrap();
    let over = read_answer(&mut stream);
    assert_eq!(over.status, 400);
    assert!(over.body.contains("larger than the limit of 51200"), "{over:?}");
    assert!(serde_json::from_str::<serde_json::Value>(&over.body).is_err(), "not even JSON");
    let raised = Dir::new();
    let vmm = raised.start(&["--http-api-max-payload-size", "60000"]);
    let within = call(&mut vmm.connect_api(), "PUT", "/entropy", &"x".repeat(51_201));
    assert!(within.fault_message().contains("deserializing"));
}

#[test]
fn chunks_and_long_header_lines_are_refused() {
    let dir = Dir::new();
    let vmm = dir.start(&[]);
    let chunked = "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0";
    let long = format!("X: {}", "y".repeat(1024));
    for rest in [chunked, &long] {
        let mut stream = vmm.connect_api();
        stream.write_all(format!("PUT /entropy HTTP/1.1\r\n{rest}\r\n\r\n").as_bytes()).unwrap();
        let answer = read_answer(&mut stream);
        assert_eq!(answer.status, 400);
        assert!(answer.body.starts_with("{ \"error\": \"Invalid request."), "{answer:?}");
    }
}

#[test]
fn the_eleventh_connection_is_turned_away() {
    let dir = Dir::new();
    let vmm = dir.start(&[]);
    // With the one the other calls go over.
    let mut open: Vec<_> = (0..9).map(|_| vmm.connect_api()).collect();
    for stream in &mut open {
        assert_eq!(call(stream, "GET", "/version", "").status, 200);
    }
    let mut eleventh = vmm.connect_api();
    let answer = read_answer(&mut eleventh);
    assert_eq!(
        (answer.status, answer.body.as_str()),
        (503, "{ \"error\": \"Too many open connections\" }")
    );
    assert!(is_closed(&mut eleventh));
    assert_eq!(call(&mut open[8], "GET", "/version", "").status, 200);
    assert!(is_silent(&mut open[0]));
    assert_eq!(vmm.state(), "Not started");
}

#[test]
fn fields_are_known_by_version() {
    let load = json!({
        "snapshot_path": "s",
        "mem_backend": { "backend_type": "File", "backend_path": "m" },
        "vsock_override": { "uds_path": "w.sock" },
    });
    let (old, new) = (Dir::new(), Dir::new());
    let refused = old.start(&["--fake-version", "1.15.1"]).put("/snapshot/load", &load);
    assert!(refused.fault_message().contains("unknown field `vsock_override`"));
    let read = new.start(&["--fake-version", "1.16.2"]).put("/snapshot/load", &load);
    assert!(read.fault_message().contains("Failed to open snapshot file"));
}

#[test]
fn files_are_opened_when_they_are_named() {
    let dir = Dir::new();
    let vmm = dir.start(&[]);
    let message = |path: &str, body| vmm.put(path, &body).fault_message();
    let source = json!({ "kernel_image_path": "missing" });
    assert!(message("/boot-source", source).contains("The kernel file cannot be opened"));
    let source = json!({ "kernel_image_path": "vmlinux", "initrd_path": "missing" });
    assert!(message("/boot-source", source).contains("The initrd file cannot be opened"));
    let drive = json!({ "drive_id": "a", "is_root_device": false, "path_on_host": "missing" });
    assert!(message("/drives/a", drive).contains("No such file"));
    let metrics = json!({ "metrics_path": "missing/m" });
    assert!(message("/metrics", metrics).contains("No such file"));
}

#[test]
fn values_have_limits() {
    let dir = Dir::new();
    let vmm = dir.start(&[]);
    for (vcpu_count, mem_size_mib, smt) in
        [(0, 64, false), (33, 64, false), (3, 64, true), (1, 0, false)]
    {
        let config = json!({ "vcpu_count": vcpu_count, "mem_size_mib": mem_size_mib, "smt": smt });
        assert!(vmm.put("/machine-config", &config).fault_message().contains("Machine config"));
    }
    let arguments =
        |bytes| json!({ "kernel_image_path": "vmlinux", "boot_args": "x".repeat(bytes) });
    vmm.put("/boot-source", &arguments(2047)).done();
    assert!(vmm.put("/boot-source", &arguments(2048)).fault_message().contains("command line"));
}

#[test]
fn what_is_not_imitated_says_so() {
    let dir = Dir::new();
    let vmm = dir.start(&[]);
    for path in ["/balloon", "/cpu-config", "/mmds", "/network-interfaces/e", "/pmem/p"] {
        assert!(vmm.put(path, &json!({})).fault_message().contains("does not imitate"), "{path}");
    }
}
