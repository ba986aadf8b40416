//! A daemon without microVMs: sandboxes are directories with a process beside them, and code
//! runs in the host's own shell. It answers as the HTTP contract says.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::fake_contexts::FakeContexts;
use crate::fake_egress;
use crate::fake_files;
use emberd_api::{ExecBody, ExecExit, ExecOutcome, StartedBy};
use serde_json::{Value, json};

/// The fake never answers an exec of this.
pub const HANG: &str = "hang";
/// The fake refuses an exec of this, as if the guest had failed.
pub const GUEST_FAILS: &str = "fail";
/// The fake answers this as if the guest had no interpreter.
pub const NOT_STARTED: &str = "no interpreter";
/// The fake answers an exec of this like a daemon that does not know some of its fields.
pub const OLD_DAEMON: &str = "old daemon";
/// Code that reaches its limit of memory.
pub const OUT_OF_MEMORY: &str = "out of memory";

/// The one port inside its sandboxes something listens on, which says back what it is told.
pub const OPEN_PORT: u16 = 7;
/// The log of all its sandboxes.
pub const LOG: &str = "one\ntwo\n";

/// Its events.
const EVENTS: &str = r#"event: gap
data: {"after":3,"before":5}

id: 5
event: created
data: {"seq":5,"at_ms":1500,"event":"created","sandbox":"sb_1","phase":"creating"}

"#;

/// Bytes of a log whose only line has no end.
pub const ENDLESS_LINE_BYTES: usize = 1 << 20;

/// The language packs it has.
const PACKS: [&str; 2] = ["python", "shell"];

/// How far the fake departs from a sound daemon.
#[derive(Clone, Copy, Default)]
pub struct Flaws {
    /// Code sees the host's kernel, and does not hide it.
    pub host_kernel: bool,
    /// Its directory is not on this host.
    pub elsewhere: bool,
    /// Deleting leaves the sandbox's process and directory behind.
    pub leaks: bool,
}

/// A running fake. Dropping it ends its processes and removes its directory.
pub struct FakeDaemon {
    pub addr: String,
    state: Arc<State>,
    arrivals: Receiver<String>,
}

struct State {
    flaws: Flaws,
    dir: tempfile::TempDir,
    arrivals: Mutex<Sender<String>>,
    sandboxes: Mutex<BTreeMap<String, Vm>>,
    /// Packs that have a template.
    templates: Mutex<BTreeSet<String>>,
    contexts: FakeContexts,
}

struct Vm {
    pack: String,
    /// The policy that it was created with, and what has become of it.
    policy: Value,
    resources: Value,
    /// Names of its environment variables.
    env: Vec<String>,
    /// Timeout and metadata, as the last request set them.
    terms: Value,
    process: Child,
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.process.kill().expect("our own child");
        self.process.wait().expect("our own child");
    }
}

impl FakeDaemon {
    pub fn start(flaws: Flaws) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let (sender, arrivals) = channel();
        let state = Arc::new(State {
            flaws,
            dir: tempfile::tempdir().unwrap(),
            arrivals: Mutex::new(sender),
            sandboxes: Mutex::default(),
            templates: Mutex::default(),
            contexts: FakeContexts::default(),
        });
        let served = Arc::downgrade(&state);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Some(state) = served.upgrade() else { break };
                thread::spawn(move || state.serve(stream.unwrap()));
            }
        });
        Self { addr, state, arrivals }
    }

    /// Waits for the next request and returns its method and path.
    pub fn next_request(&self) -> String {
        self.arrivals.recv_timeout(Duration::from_secs(60)).expect("a request arrives")
    }

    /// Method and path of every request so far that nobody took.
    pub fn requests(&self) -> Vec<String> {
        self.arrivals.try_iter().collect()
    }

    /// Ids of the sandboxes there are.
    pub fn sandboxes(&self) -> Vec<String> {
        self.state.sandboxes.lock().unwrap().keys().cloned().collect()
    }
}

/// The header of unknown fields, for an exec of [`OLD_DAEMON`].
fn unknown_fields(body: &[u8]) -> &'static str {
    let is_old =
        serde_json::from_slice::<ExecBody>(body).is_ok_and(|body| body.spec.code == OLD_DAEMON);
    if is_old { "x-emberd-unknown-fields: limits.pids, fresh\r\n" } else { "" }
}

impl State {
    fn serve(&self, mut stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let mut words = line.split(' ').map(str::to_owned);
        let (Some(method), Some(path)) = (words.next(), words.next()) else { return };
        let body = fake_files::body(&mut reader);
        self.arrivals.lock().unwrap().send(format!("{method} {path}")).unwrap();
        if path.contains("/ports/") && path.ends_with(&format!("/{OPEN_PORT}")) {
            return echo(reader, &mut stream);
        }
        if path.contains("/files") {
            stream.write_all(&fake_files::answer(&method, &path, &body)).unwrap();
            return;
        }
        if path.contains("/contexts") {
            return self.contexts.serve(&method, &path, &body, &mut stream);
        }
        let Some((status, answer)) = self.answer(&method, &path, &body) else {
            // Hold the connection until the client gives up.
            reader.read_to_end(&mut Vec::new()).unwrap();
            return;
        };
        let head = format!(
            "HTTP/1.1 {status} -\r\nconnection: close\r\ncontent-type: application/json\r\n\
             {}{}content-length: {}\r\n\r\n",
            timing(&method, &path),
            unknown_fields(&body),
            answer.len()
        );
        stream.write_all(format!("{head}{answer}").as_bytes()).unwrap();
    }

    fn answer(&self, method: &str, path: &str, body: &[u8]) -> Option<(u16, String)> {
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        let (status, answer) = match (method, parts.as_slice()) {
            ("POST", ["drain"]) => (204, Value::Null),
            ("GET", ["healthz"]) => (200, json!({"status": "ok"})),
            ("GET", ["info"]) => (200, self.info()),
            ("POST", ["sandboxes"]) => self.create(&serde_json::from_slice(body).unwrap()),
            ("GET", ["sandboxes"]) => (200, self.list()),
            ("GET", [list]) if list.starts_with("sandboxes?") => (200, self.list()),
            ("GET", ["sandboxes", id]) => self.get(id),
            ("PATCH", ["sandboxes", id]) | ("POST", ["sandboxes", id, "touch"]) => {
                if let Some(vm) = self.sandboxes.lock().unwrap().get_mut(*id) {
                    vm.terms = serde_json::from_slice(body).unwrap();
                }
                self.get(id)
            }
            ("DELETE", ["sandboxes", id]) => self.delete(id),
            ("POST", ["sandboxes", id, "exec"]) => {
                let body: ExecBody = serde_json::from_slice(body).unwrap();
                if body.spec.code == HANG {
                    return None;
                }
                self.exec(id, &body)
            }
            ("GET", ["sandboxes", id, "metrics"]) => self.of(id, metrics()),
            ("GET", ["sandboxes", id, "logs?follow=false"]) => {
                let (status, answer) = self.of(id, Value::Null);
                return Some((status, if status == 200 { LOG.into() } else { answer.to_string() }));
            }
            ("GET", ["sandboxes", _, "logs?follow=true&tail=1"]) => {
                return Some((200, "last \u{7}line\nwithout end".into()));
            }
            ("GET", ["sandboxes", _, "logs?follow=true&tail=2"]) => {
                return Some((200, "x".repeat(ENDLESS_LINE_BYTES)));
            }
            ("GET", ["sandboxes", id, "ports", _]) if self.has(id) => {
                (502, json!({"error": "nothing listens", "code": "port_closed"}))
            }
            ("GET", ["sandboxes", id, "ports", _]) => unknown(id),
            (_, ["egress", "profiles"]) => (200, fake_egress::profiles()),
            (_, ["sandboxes", id, "egress", rest @ ..]) => {
                let mut sandboxes = self.sandboxes.lock().unwrap();
                let Some(vm) = sandboxes.get_mut(*id) else {
                    let (status, answer) = unknown(id);
                    return Some((status, answer.to_string()));
                };
                return Some((200, fake_egress::answer(method, rest, body, &mut vm.policy)));
            }
            ("GET", [query]) if query.starts_with("audit?") => {
                return Some((200, crate::audit::answer(query)));
            }
            ("GET", [query]) if query.starts_with("events?") => {
                return Some((200, EVENTS.into()));
            }
            ("GET", ["templates"]) => (200, self.templates()),
            ("POST", ["templates", pack]) => self.build_template(pack),
            ("DELETE", ["templates", pack]) => self.delete_template(pack),
            _ => (404, json!({"error": "no such path", "code": "unknown_route"})),
        };
        Some((status, if answer.is_null() { String::new() } else { answer.to_string() }))
    }

    fn dir(&self, id: &str) -> std::path::PathBuf {
        self.work_dir().join(id)
    }

    fn work_dir(&self) -> std::path::PathBuf {
        if self.flaws.elsewhere { "/nonexistent".into() } else { self.dir.path().to_owned() }
    }

    fn info(&self) -> Value {
        json!({
            "version": "0.0.0", "guest_ram_mib": 256, "guest_vcpus": 1, "boot_path": "cold-boot",
            "packs": ["python", "shell"],
            "pack_descriptions": {"python": "Python 3", "shell": "POSIX shell"},
            "work_dir": self.work_dir(),
            "vmm": {"driver": "fake", "version": "1", "accelerator": "none", "reason": "a test"},
            "sandboxes": self.sandboxes.lock().unwrap().len(), "sandboxes_max": 64, "sandboxes_memory_mib": 512,
            "sandboxes_memory_mib_max": 36864, "limits": ["memory", "cpu"],
            "egress": {"default": [], "ceiling": ["public"], "profiles": ["public"]},
            "pools": [{
                "language_pack": "python", "vcpus": 1, "memory_mib": 256, "ready": 1, "filling": 1, "standing_by": 1,
                "target": 2, "ceiling": 4, "handed_out": 7, "missed": 3, "discarded": 0,
            }],
        })
    }

    fn create(&self, body: &Value) -> (u16, Value) {
        let pack = body["language_pack"].as_str().unwrap_or("python").to_owned();
        if !PACKS.contains(&pack.as_str()) {
            return unknown_pack(&pack);
        }
        let policy = body["egress"].clone();
        let env: Vec<_> =
            body["env"].as_object().into_iter().flat_map(serde_json::Map::keys).collect();
        let env = env.into_iter().cloned().collect();
        let terms = json!({"timeout_ms": body["timeout_ms"], "metadata": body["metadata"]});
        let resources = json!({
            "vcpus": body["resources"]["vcpus"].as_u64().unwrap_or(1),
            "memory_mib": body["resources"]["memory_mib"].as_u64().unwrap_or(256),
        });
        // Stands for a VMM: waits for an input that never comes.
        let process = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let id = format!("sb_{:012x}", process.id());
        if !self.flaws.elsewhere {
            std::fs::create_dir(self.dir(&id)).unwrap();
        }
        self.sandboxes
            .lock()
            .unwrap()
            .insert(id.clone(), Vm { pack, policy, resources, env, terms, process });
        (201, json!({"id": id}))
    }

    fn show(&self, id: &str, vm: &Vm) -> Value {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        // Half a minute later, so that all of the timeout is left when it is shown.
        let expires_at = |ms: u64| u64::try_from(now.as_millis()).unwrap() + ms + 30_000;
        let timeout_ms = vm.terms["timeout_ms"].as_u64();
        let metadata = vm.terms["metadata"].as_object().cloned().unwrap_or_default();
        json!({
            "id": id, "language_pack": vm.pack, "state": "ready", "phase": "running", "created_at_ms": 0,
            "timeout_ms": timeout_ms, "expires_at_ms": timeout_ms.map(expires_at),
            "metadata": metadata, "env": vm.env, "resources": vm.resources,
            "boot_path": "snapshot-restore", "vmm_pid": vm.process.id(), "dir": self.dir(id),
            "boot": {"vmm_us": 50_000, "load_us": 10_000, "guest_us": 1_930_000,
                "renew_us": 4_000, "warm_up_us": 6_000},
        })
    }

    fn list(&self) -> Value {
        let sandboxes = self.sandboxes.lock().unwrap();
        let shown: Vec<_> = sandboxes.iter().map(|(id, vm)| self.show(id, vm)).collect();
        json!({"sandboxes": shown})
    }

    fn get(&self, id: &str) -> (u16, Value) {
        let sandboxes = self.sandboxes.lock().unwrap();
        sandboxes.get(id).map_or_else(|| unknown(id), |vm| (200, self.show(id, vm)))
    }

    fn has(&self, id: &str) -> bool {
        self.sandboxes.lock().unwrap().contains_key(id)
    }

    fn of(&self, id: &str, answer: Value) -> (u16, Value) {
        if self.has(id) { (200, answer) } else { unknown(id) }
    }

    fn delete(&self, id: &str) -> (u16, Value) {
        let Some(vm) = self.sandboxes.lock().unwrap().remove(id) else { return unknown(id) };
        if self.flaws.leaks {
            self.sandboxes.lock().unwrap().insert(format!("{id}-leaked"), vm);
        } else if !self.flaws.elsewhere {
            std::fs::remove_dir(self.dir(id)).unwrap();
        }
        (204, Value::Null)
    }

    fn template(&self, pack: &str) -> Value {
        if self.templates.lock().unwrap().contains(pack) {
            let dir = self.work_dir().join(pack);
            json!({"language_pack": pack, "state": "ready", "dir": dir, "disk_bytes": 3 << 20,
                "made_at_ms": 0, "vcpus": 2, "memory_mib": 512})
        } else {
            json!({"language_pack": pack, "state": "absent"})
        }
    }

    fn templates(&self) -> Value {
        json!({"templates": PACKS.map(|pack| self.template(pack))})
    }

    fn build_template(&self, pack: &str) -> (u16, Value) {
        if !PACKS.contains(&pack) {
            return unknown_pack(pack);
        }
        self.templates.lock().unwrap().insert(pack.to_owned());
        (200, self.template(pack))
    }

    fn delete_template(&self, pack: &str) -> (u16, Value) {
        if !PACKS.contains(&pack) {
            return unknown_pack(pack);
        }
        self.templates.lock().unwrap().remove(pack);
        (204, Value::Null)
    }

    fn exec(&self, id: &str, body: &ExecBody) -> (u16, Value) {
        if !self.sandboxes.lock().unwrap().contains_key(id) {
            return unknown(id);
        }
        let outcome = match body.spec.code.as_str() {
            GUEST_FAILS => {
                return (502, json!({"error": "the guest is silent", "code": "guest_failed"}));
            }
            NOT_STARTED => {
                let error = Some("cannot start /bin/none".to_owned());
                ExecOutcome::new(
                    ExecExit { exit_code: -1, error, ..ExecExit::default() },
                    Vec::new(),
                    Vec::new(),
                )
            }
            OUT_OF_MEMORY => {
                let killed = ExecExit { exit_code: 137, signal: Some(9), ..ExecExit::default() };
                let exit = ExecExit { out_of_memory: true, ..killed };
                ExecOutcome::new(exit, b"so far".to_vec(), Vec::new())
            }
            code if code.contains("boot_id") && !self.flaws.host_kernel => {
                let lines = b"00000000-0000-0000-0000-000000000000\n6.1.0-guest\ninit\n";
                ExecOutcome::new(ExecExit::default(), lines.to_vec(), Vec::new())
            }
            _ => run_in_host_shell(body),
        };
        (200, serde_json::to_value(outcome).unwrap())
    }
}

/// Upgrades the connection and says back what comes on it.
fn echo(mut reader: impl std::io::Read, stream: &mut TcpStream) {
    let head = "HTTP/1.1 101 -\r\nconnection: upgrade\r\nupgrade: tcp\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    // A client may leave whenever it likes.
    drop(std::io::copy(&mut reader, stream));
    drop(stream.shutdown(std::net::Shutdown::Write));
}

fn metrics() -> Value {
    json!({
        "time_ms": 0, "cpu_count": 2, "cpu_used_percent": 12.5, "memory_total_bytes": 256 << 20,
        "memory_used_bytes": 64 << 20, "memory_cached_bytes": 1 << 20, "disk_total_bytes": 1 << 27,
        "disk_used_bytes": 1 << 10, "process_count": 3, "uptime_ms": 1500,
    })
}

/// The header in which a daemon says where the time of an answer went, or nothing.
fn timing(method: &str, path: &str) -> &'static str {
    match (method, path) {
        ("POST", "/sandboxes") => "server-timing: boot-path;desc=\"warm-pool\", total;dur=0.2\r\n",
        ("POST", path) if path.ends_with("/exec") => {
            "server-timing: turn;dur=0, launch;dur=0.3, run;dur=0.5, total;dur=0.9\r\n"
        }
        ("DELETE", _) => "server-timing: total;dur=0.01\r\n",
        _ => "",
    }
}

fn unknown_pack(pack: &str) -> (u16, Value) {
    let error = format!("unknown language pack `{pack}`");
    let hint = "installed are python, shell";
    (400, json!({"error": error, "code": "unknown_pack", "hint": hint}))
}

fn unknown(id: &str) -> (u16, Value) {
    (404, json!({"error": format!("no sandbox {id}"), "code": "unknown_sandbox"}))
}

fn run_in_host_shell(body: &ExecBody) -> ExecOutcome {
    let limit = format!("{}", Duration::from_millis(body.spec.timeout_ms).as_secs_f64());
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", &limit, "sh", "-c", &body.spec.code, "sh"]);
    command.args(&body.spec.args).envs(&body.spec.env);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.current_dir(body.spec.cwd.as_deref().unwrap_or("/"));
    let mut child = command.spawn().unwrap();
    let stdin = body.stdin.clone().unwrap_or_default();
    // A program that does not read its input may have ended by now.
    drop(child.stdin.take().unwrap().write_all(stdin.as_bytes()));
    let output = child.wait_with_output().unwrap();
    // timeout(1) kills itself too when it had to use SIGKILL.
    let exit = if output.status.signal() == Some(9) {
        let error = Some("execution timed out".to_owned());
        ExecExit { exit_code: -1, timed_out: true, error, ..ExecExit::default() }
    } else {
        let exit_code = output.status.code().unwrap_or(-1);
        ExecExit { exit_code, started_by: Some(StartedBy::Spawn), ..ExecExit::default() }
    };
    ExecOutcome::new(exit, output.stdout, output.stderr)
}
