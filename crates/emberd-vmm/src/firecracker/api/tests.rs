//! The API client against small servers, and its bodies against what each release takes.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;

use super::types::{Action, MemoryBackend, SnapshotCreate, SnapshotLoad, VmState};
use super::*;
use crate::BootSpec;
use crate::firecracker::machine::{self, Files, Machine};
use crate::firecracker::version::{Features, Version};

const LONG: Duration = Duration::from_secs(60);

fn api(dir: &Path) -> (Api, UnixListener) {
    let root = Arc::new(Root::open(dir.into()).unwrap());
    let listener = root.bind(API_SOCKET).unwrap();
    (Api::new(root), listener)
}

/// Serves each connection the given answers, one per request, then closes it. Returns what
/// was asked.
async fn serve(listener: UnixListener, connections: Vec<Vec<&'static str>>) -> Vec<String> {
    let mut requests = Vec::new();
    for answers in connections {
        let (mut stream, _) = listener.accept().await.unwrap();
        for answer in answers {
            let mut request = vec![0; 4096];
            let n = stream.read(&mut request).await.unwrap();
            requests.push(String::from_utf8_lossy(&request[..n]).into_owned());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    }
    requests
}

const DONE: &str = "HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n";

#[tokio::test]
async fn calls_share_one_connection_and_have_sized_bodies() {
    let dir = tempfile::tempdir().unwrap();
    let (api, listener) = api(dir.path());
    let server = tokio::spawn(serve(listener, vec![vec![DONE, DONE]]));
    api.put("/actions", &Action::InstanceStart, LONG).await.unwrap();
    api.patch("/vm", &VmState::Paused, LONG).await.unwrap();
    let requests = server.await.unwrap();
    assert!(requests[0].starts_with("PUT /actions HTTP/1.1\r\n"), "{requests:?}");
    assert!(requests[0].ends_with("\r\n\r\n{\"action_type\":\"InstanceStart\"}"), "{requests:?}");
    assert!(requests[0].contains("content-length: 31\r\n"), "{requests:?}");
    assert!(requests[1].starts_with("PATCH /vm HTTP/1.1\r\n"), "{requests:?}");
    assert!(requests[1].ends_with("{\"state\":\"Paused\"}"), "{requests:?}");
}

#[tokio::test]
async fn a_fault_is_told_in_firecrackers_words_and_the_connection_lives_on() {
    let dir = tempfile::tempdir().unwrap();
    let (api, listener) = api(dir.path());
    let fault = "HTTP/1.1 400 \r\nContent-Length: 25\r\n\r\n{\"fault_message\":\"no :(\"}";
    let server = tokio::spawn(serve(listener, vec![vec![fault, DONE]]));
    let error = api.put("/vsock", &(), LONG).await.unwrap_err();
    assert!(
        matches!(&error, ApiError::Fault { status: 400, message } if message == "no :("),
        "{error:?}"
    );
    api.put("/vsock", &(), LONG).await.unwrap();
    assert_eq!(server.await.unwrap().len(), 2);
}

#[tokio::test]
async fn answers_of_others_are_not_taken_for_firecrackers() {
    for (answer, expect) in [
        ("HTTP/1.1 500 \r\nContent-Length: 2\r\n\r\n{}", "unexpected answer with status 500"),
        ("SSH-2.0-OpenSSH\r\n", "the API connection is closed"),
        ("HTTP/1.1 400 \r\nContent-Length: 99999999\r\n\r\n", "the API connection is closed"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (api, listener) = api(dir.path());
        let server = tokio::spawn(serve(listener, vec![vec![answer]]));
        let error = api.put("/vsock", &(), LONG).await.unwrap_err();
        assert_eq!(error.to_string(), expect);
        server.await.unwrap();
    }
}

#[tokio::test]
async fn a_silent_server_times_out_and_its_late_answer_is_nobodys() {
    let dir = tempfile::tempdir().unwrap();
    let (api, listener) = api(dir.path());
    let server = tokio::spawn(async move {
        let (silent, _) = listener.accept().await.unwrap();
        let requests = serve(listener, vec![vec![DONE]]).await;
        drop(silent);
        requests
    });
    let short = Duration::from_millis(20);
    let error = api.put("/first", &(), short).await.unwrap_err();
    assert!(matches!(error, ApiError::TimedOut(after) if after == short), "{error:?}");
    api.put("/second", &(), LONG).await.unwrap();
    let requests = server.await.unwrap();
    assert!(requests[0].starts_with("PUT /second "), "on a new connection: {requests:?}");
}

#[tokio::test]
async fn a_server_that_is_gone_is_told_as_closed() {
    let dir = tempfile::tempdir().unwrap();
    let (api, listener) = api(dir.path());
    drop(listener);
    let error = api.put("/vsock", &(), LONG).await.unwrap_err();
    assert!(matches!(error, ApiError::Closed(_)), "{error:?}");
}

/// Resource → its fields, as one release documents them.
type Fields = BTreeMap<String, Vec<String>>;

fn json(body: &impl Serialize) -> Value {
    serde_json::to_value(body).unwrap()
}

fn check_fields(known: &Fields, resource: &str, body: &Value) {
    for (name, value) in body.as_object().unwrap() {
        assert!(known[resource].contains(name), "{resource} has no `{name}`");
        assert!(!value.is_null(), "{resource}.{name} is sent as null");
        if known.contains_key(name) && value.is_object() {
            check_fields(known, name, value);
        }
    }
}

#[test]
fn bodies_have_only_fields_their_release_knows() {
    let releases: BTreeMap<String, Fields> =
        serde_json::from_str(include_str!("fields.json")).unwrap();
    let spec = BootSpec {
        dir: "/run/vm".into(),
        kernel: "k".into(),
        kernel_hz: None,
        initramfs: "i".into(),
        rootfs: "r".into(),
        disk: None,
        kernel_args: Vec::new(),
        vcpu_count: 1,
        mem_size_mib: 128,
        for_template: false,
    };
    let machine = Machine::new(&spec, Files::staged(true), false).unwrap();
    let create = SnapshotCreate { snapshot_type: "Full", snapshot_path: "s", mem_file_path: "m" };
    let mem_backend = MemoryBackend { backend_type: "File", backend_path: "m" };
    let load = SnapshotLoad { snapshot_path: "s", mem_backend, resume_vm: true };
    let mut bodies = vec![
        ("machine-config", json(&machine.machine_config)),
        ("boot-source", json(&machine.boot_source)),
        ("drives", json(&machine.drives[0])),
        ("vsock", json(&machine.vsock)),
        ("entropy", json(&machine.entropy)),
        ("actions", json(&Action::InstanceStart)),
        ("vm", json(&VmState::Resumed)),
        ("snapshot/create", json(&create)),
        ("snapshot/load", json(&load)),
    ];
    for (release, known) in &releases {
        let version = Version::parse(&format!("Firecracker v{release}.9")).unwrap();
        let limited = Features::from(&version).serial_rate_limiter;
        assert_eq!(limited, known["serial"].iter().any(|field| field == "rate_limiter"));
        if limited {
            bodies.push(("serial", json(&machine::serial())));
        }
        for (resource, body) in &bodies {
            check_fields(known, resource, body);
        }
    }
    assert_eq!(releases.len(), 4);
}
