//! A running double in a directory of its own, raw HTTP to it, and streams to its guest.

use std::cell::RefCell;
use std::fs;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use emberd_proto::message::AGENT_PORT;
use emberd_proto::{Decoder, ExecSpec, Frame, GuestMessage, HostMessage, Kind, frame};
use serde_json::{Value, json};
use tempfile::TempDir;

/// When a test gives up waiting for what must happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The double's binary.
pub const BINARY: &str = env!("CARGO_BIN_EXE_fake-firecracker");

/// Path of the real agent, built on first use: this crate's tests alone would not.
pub fn agent() -> &'static Path {
    static AGENT: OnceLock<PathBuf> = OnceLock::new();
    AGENT.get_or_init(|| {
        let profile_dir = Path::new(BINARY).parent().unwrap();
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "emberd-init", "--target-dir"]);
        build.arg(profile_dir.parent().unwrap());
        if profile_dir.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success());
        profile_dir.join("emberd-init")
    })
}

/// An answer of the API.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn fault_message(&self) -> String {
        assert_eq!(self.status, 400, "{self:?}");
        let body: Value = serde_json::from_str(&self.body).unwrap();
        body["fault_message"].as_str().unwrap().to_owned()
    }

    pub fn json(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        serde_json::from_str(&self.body).unwrap()
    }

    /// # Panics
    /// When the answer is not 204.
    #[track_caller]
    pub fn done(&self) {
        assert_eq!(self.status, 204, "{self:?}");
    }
}

/// A directory to run doubles in.
pub struct Dir(TempDir);

impl Dir {
    /// With a kernel, an initrd and a pack.
    pub fn new() -> Self {
        let dir = Self(TempDir::new().unwrap());
        fs::write(dir.path("vmlinux"), b"\x7fELF and no more").unwrap();
        fs::write(dir.path("initramfs.cpio"), "070701").unwrap();
        let pack = json!({ "name": "shell", "run": ["/bin/sh", "{file}"], "file_name": "m.sh" });
        fs::write(dir.path("pack.json"), pack.to_string()).unwrap();
        dir
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Starts a double with `words` and waits until its API listens.
    pub fn start(&self, words: &[&str]) -> Vmm {
        let process = self.spawn(words);
        let mut vmm = Vmm { process, dir: self.0.path().to_owned(), api: RefCell::default() };
        let deadline = Instant::now() + PATIENCE;
        while vmm.api.borrow().is_none() {
            assert_eq!(vmm.process.try_wait().unwrap(), None, "{}", vmm.log());
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
            *vmm.api.borrow_mut() = connect(&vmm.path("api.sock")).ok();
        }
        vmm
    }

    /// Starts a double with `words`.
    pub fn spawn(&self, words: &[&str]) -> Child {
        let log = fs::File::create(self.path("out")).unwrap();
        let mut command = Command::new(BINARY);
        command.args(["--api-sock", "api.sock", "--fake-agent"]).arg(agent()).args(words);
        command.current_dir(self.0.path()).stdin(Stdio::null());
        command.stderr(log.try_clone().unwrap()).stdout(log).spawn().unwrap()
    }
}

/// A running double. Dropping it kills it.
pub struct Vmm {
    pub process: Child,
    dir: PathBuf,
    /// The connection all calls go over unless they name another.
    api: RefCell<Option<UnixStream>>,
}

impl Drop for Vmm {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Vmm {
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("out")).unwrap()
    }

    /// Another connection to the API.
    pub fn connect_api(&self) -> UnixStream {
        connect(&self.path("api.sock")).unwrap()
    }

    fn call(&self, method: &str, path: &str, body: &str) -> Answer {
        call(self.api.borrow_mut().as_mut().unwrap(), method, path, body)
    }

    pub fn put(&self, path: &str, body: &Value) -> Answer {
        self.call("PUT", path, &body.to_string())
    }

    pub fn patch(&self, path: &str, body: &Value) -> Answer {
        self.call("PATCH", path, &body.to_string())
    }

    pub fn get(&self, path: &str) -> Answer {
        self.call("GET", path, "")
    }

    pub fn state(&self) -> String {
        self.get("/").json()["state"].as_str().unwrap().to_owned()
    }

    /// Everything before the start.
    pub fn configure(&self) {
        let arguments = "reboot=k panic=-1 quiet COLOUR=red";
        let source = json!({
            "kernel_image_path": "vmlinux",
            "initrd_path": "initramfs.cpio",
            "boot_args": arguments,
        });
        self.put("/boot-source", &source).done();
        self.put("/machine-config", &json!({ "vcpu_count": 1, "mem_size_mib": 64 })).done();
        let drive = json!({
            "drive_id": "rootfs",
            "is_root_device": false,
            "is_read_only": true,
            "path_on_host": "pack.json",
        });
        self.put("/drives/rootfs", &drive).done();
        self.put("/vsock", &json!({ "guest_cid": 3, "uds_path": "v.sock" })).done();
        self.put("/entropy", &json!({})).done();
    }

    pub fn start_instance(&self) -> Answer {
        self.put("/actions", &json!({ "action_type": "InstanceStart" }))
    }

    pub fn boot(&self) {
        self.configure();
        self.start_instance().done();
    }

    pub fn pause(&self) {
        self.patch("/vm", &json!({ "state": "Paused" })).done();
    }

    pub fn resume(&self) {
        self.patch("/vm", &json!({ "state": "Resumed" })).done();
    }

    /// Writes a `CONNECT` line to the hybrid vsock.
    pub fn send_connect(&self, port: u32) -> UnixStream {
        let mut stream = connect(&self.path("v.sock")).unwrap();
        stream.write_all(format!("CONNECT {port}\n").as_bytes()).unwrap();
        stream
    }

    /// A stream to the agent, which is waited for.
    pub fn connect_agent(&self) -> Agent {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut stream = self.send_connect(AGENT_PORT);
            if let Some(line) = read_line(&mut stream) {
                assert!(line.starts_with("OK "), "{line}");
                return Agent::greet(stream);
            }
            assert!(Instant::now() < deadline, "{}", self.log());
        }
    }

    /// Waits for the process to end by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "still running: {}", self.log());
            std::thread::yield_now();
        }
    }
}

/// A connection whose reads give up at last.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Sends a call and reads its answer.
pub fn call(stream: &mut UnixStream, method: &str, path: &str, body: &str) -> Answer {
    let length =
        if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n{body}");
    stream.write_all(request.as_bytes()).unwrap();
    read_answer(stream)
}

/// Reads one answer.
pub fn read_answer(stream: &mut UnixStream) -> Answer {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let status = head.split_whitespace().nth(1).unwrap().parse().unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).unwrap();
    Answer { status, head, body: String::from_utf8(body).unwrap() }
}

/// Reads up to a newline; nothing when the stream ends first.
pub fn read_line(stream: &mut UnixStream) -> Option<String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(0) => return None,
            Ok(_) => line.push(byte[0]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
            Err(error) => panic!("{error}"),
        }
    }
    Some(String::from_utf8(line).unwrap())
}

/// Whether the peer has closed; waits until it has, or something else arrives.
pub fn is_closed(stream: &mut UnixStream) -> bool {
    match stream.read(&mut [0]) {
        Ok(bytes) => bytes == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

/// Whether neither a byte nor the end has arrived so far.
pub fn is_silent(stream: &mut UnixStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let outcome = stream.read(&mut [0]);
    stream.set_nonblocking(false).unwrap();
    outcome.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// A greeted stream to the real agent.
pub struct Agent {
    pub stream: UnixStream,
    decoder: Decoder,
}

impl Agent {
    pub fn greet(stream: UnixStream) -> Self {
        let mut agent = Self { stream, decoder: Decoder::default() };
        agent.send(&HostMessage::hello());
        let welcome = agent.next().unwrap().message().unwrap();
        assert!(matches!(welcome, GuestMessage::Welcome(_)), "{welcome:?}");
        agent
    }

    pub fn send(&mut self, message: &HostMessage) {
        let mut bytes = BytesMut::new();
        frame::encode_message(message, &mut bytes);
        self.stream.write_all(&bytes).unwrap();
    }

    /// The next frame; nothing when the stream ends first.
    pub fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return Some(frame);
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(bytes @ 1..) => self.decoder.buffer().extend_from_slice(&chunk[..bytes]),
                _ => return None,
            }
        }
    }

    /// Starts a program without waiting for it.
    pub fn start(&mut self, code: &str) {
        self.send(&HostMessage::Exec(ExecSpec::new(code)));
        self.stream.write_all(&frame::header(Kind::StdinEnd, 0)).unwrap();
    }

    /// Runs a program and returns its standard output.
    pub fn run(&mut self, code: &str) -> String {
        self.start(code);
        let mut output = Vec::new();
        loop {
            let frame = self.next().expect("the program ends");
            match frame.kind {
                Kind::Stdout => output.extend_from_slice(&frame.payload),
                Kind::Control => return String::from_utf8(output).unwrap(),
                _ => {}
            }
        }
    }
}
