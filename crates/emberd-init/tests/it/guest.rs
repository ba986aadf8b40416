//! An agent process and a host that talks to it.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;
use std::{fs, thread};

use bytes::BytesMut;
use emberd_proto::frame::{encode, encode_bulk, encode_message};
use emberd_proto::{
    Attached, Decoder, ExecExit, ExecSpec, Frame, GuestMessage, HostMessage, Kind, Refusal,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

/// A pack of shell scripts.
pub const SHELL_PACK: &str = r#"{"name":"shell","run":["/bin/sh","{file}"],
    "file_name":"main.sh","env":{"PACK":"shell","OVER":"pack"}}"#;

/// A pack of Python programs, by spawn.
pub const PYTHON_PACK: &str =
    r#"{"name":"python","run":["/usr/bin/env","python3","{file}"],"file_name":"main.py"}"#;

/// Gap between two attempts to connect to an agent that is just starting.
const CONNECT_RETRY: Duration = Duration::from_millis(1);

/// Longest silence of an agent that a test takes for anything but a hang.
const ANSWER_WAIT: Duration = Duration::from_secs(120);

/// A running agent. Dropping it ends the process.
pub struct Guest {
    agent: Child,
    dir: TempDir,
}

impl Guest {
    /// An agent that runs shell scripts.
    pub fn shell() -> Self {
        Self::with_pack(SHELL_PACK)
    }

    /// An agent with the given pack file.
    pub fn with_pack(pack: &str) -> Self {
        Self::with_pack_in(tempfile::tempdir().unwrap(), pack)
    }

    /// An agent with the given pack file, whose programs may lie in `dir`.
    pub fn with_pack_in(dir: TempDir, pack: &str) -> Self {
        fs::write(dir.path().join("pack.json"), pack).unwrap();
        Self::spawn(agent_command(dir.path()), dir)
    }

    /// An agent of shell scripts whose parent ignored signals and left a descriptor open.
    pub fn shell_with_inheritance() -> Self {
        Self::shell_after("trap '' HUP INT USR1; exec 9</etc/passwd")
    }

    /// An agent of shell scripts that can hold only a few connections open.
    pub fn shell_with_few_descriptors() -> Self {
        Self::shell_after("ulimit -n 24")
    }

    /// An agent of shell scripts started by a shell that did `preparation`.
    pub fn shell_after(preparation: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("pack.json"), SHELL_PACK).unwrap();
        let agent = agent_command(dir.path());
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("{preparation}; exec \"$@\""), "sh"]);
        command.arg(agent.get_program()).args(agent.get_args());
        Self::spawn(command, dir)
    }

    /// An agent of Python programs that captures egress in a network namespace of its own, where
    /// programs find its resolver.
    pub fn captured() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("pack.json"), PYTHON_PACK).unwrap();
        let resolv_conf = dir.path().join("resolv.conf");
        fs::write(&resolv_conf, "").unwrap();
        let mut agent = agent_command(dir.path());
        agent.arg("--egress").arg(&resolv_conf);
        let mut command = Command::new("unshare");
        let bind = format!("mount --bind {} /etc/resolv.conf", resolv_conf.display());
        let script = format!("ulimit -n $(ulimit -H -n); {bind} && exec \"$@\"");
        command.args(["--net", "--mount", "/bin/sh", "-c", &script, "sh"]);
        command.arg(agent.get_program()).args(agent.get_args());
        Self::spawn(command, dir)
    }

    /// An agent of shell scripts that connects to `ready` once it serves.
    pub fn shell_that_tells(ready: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("pack.json"), SHELL_PACK).unwrap();
        let mut command = agent_command(dir.path());
        command.arg("--ready").arg(ready);
        Self::spawn(command, dir)
    }

    fn spawn(mut command: Command, dir: TempDir) -> Self {
        command.env("INHERITED", "agent").env("OVER", "agent").env("HOME", dir.path());
        let mut guest = Self { agent: command.spawn().unwrap(), dir };
        guest.await_start();
        guest
    }

    fn await_start(&mut self) {
        while let Err(error) = UnixStream::connect(self.socket()) {
            assert_eq!(self.agent.try_wait().unwrap(), None, "agent ended early: {error}");
            thread::sleep(CONNECT_RETRY);
        }
    }

    /// Process id of the agent.
    pub fn pid(&self) -> u32 {
        self.agent.id()
    }

    /// Directory that holds everything of this agent, which is its `HOME` too.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The socket it serves.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    /// A connection on which nothing was said yet.
    pub fn connect(&self) -> Host {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(ANSWER_WAIT)).unwrap();
        Host { stream, decoder: Decoder::default() }
    }

    /// A connection that is ready for operations.
    pub fn greet(&self) -> Host {
        let mut host = self.connect();
        host.send(&HostMessage::hello());
        let answer = host.answer();
        assert!(matches!(answer, GuestMessage::Welcome(_)), "{answer:?}");
        host
    }

    /// Runs a program without input on a connection of its own.
    pub fn run(&self, code: &str) -> Outcome {
        self.greet().exec(&ExecSpec::new(code), b"")
    }

    /// Runs a shell script as the guest's pack can: its own, or the one of a Python pack.
    pub fn run_shell(&self, script: &str) -> Outcome {
        let pack = fs::read_to_string(self.dir().join("pack.json")).unwrap();
        if !pack.contains("python") {
            return self.run(script);
        }
        self.run(&format!(
            "import subprocess; subprocess.run(['sh', '-c', {script:?}], check=True)"
        ))
    }

    /// Asks the agent to end, and waits until it has.
    pub fn terminate(&mut self) -> ExitStatus {
        kill(Pid::from_raw(self.pid().cast_signed()), Signal::SIGTERM).unwrap();
        self.wait()
    }

    /// Waits until the agent has ended.
    pub fn wait(&mut self) -> ExitStatus {
        self.agent.wait().unwrap()
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.agent.kill().ok();
        self.agent.wait().ok();
    }
}

/// The command line every agent here is started with.
pub fn agent_command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_emberd-init"));
    command.arg("--listen").arg(dir.join("agent.sock"));
    command.arg("--pack").arg(dir.join("pack.json"));
    command
}

/// How a program ended and what it wrote.
#[derive(Debug)]
pub struct Outcome {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit: ExecExit,
}

impl Outcome {
    /// Standard output as text, without the newline at its end.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap().trim_end()
    }
}

/// The host's end of one connection.
pub struct Host {
    pub stream: UnixStream,
    decoder: Decoder,
}

impl Host {
    pub fn send(&mut self, message: &HostMessage) {
        let mut frames = BytesMut::new();
        encode_message(message, &mut frames);
        self.stream.write_all(&frames).unwrap();
    }

    /// Sends a message that attaches the connection to a program.
    pub fn begin(&mut self, message: &HostMessage) -> Attached {
        self.send(message);
        match self.answer() {
            GuestMessage::Attached(attached) => attached,
            other => panic!("expected to be attached, got {other:?}"),
        }
    }

    pub fn send_frame(&mut self, kind: Kind, payload: &[u8]) {
        let mut frames = BytesMut::new();
        encode(kind, payload, &mut frames);
        self.stream.write_all(&frames).unwrap();
    }

    /// The next frame, or `None` when the agent closed the connection.
    pub fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return Some(frame);
            }
            let mut chunk = [0; 16 << 10];
            match self.stream.read(&mut chunk) {
                // Closed with bytes of ours unread.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
                Ok(0) => return None,
                read => self.decoder.buffer().extend_from_slice(&chunk[..read.unwrap()]),
            }
        }
    }

    /// Reads so many bytes, and returns the frames that are whole in them.
    pub fn read_bytes(&mut self, bytes: usize) -> Vec<Frame> {
        let ahead = self.decoder.buffer().len();
        let mut read = vec![0; bytes.saturating_sub(ahead)];
        self.stream.read_exact(&mut read).unwrap();
        self.decoder.buffer().extend_from_slice(&read);
        self.decoder.buffer().truncate(bytes);
        std::iter::from_fn(|| self.decoder.next_frame().unwrap()).collect()
    }

    /// The connection without frames, and what has been read of it after the last one.
    pub fn into_raw(mut self) -> (UnixStream, Vec<u8>) {
        let ahead = self.decoder.buffer().to_vec();
        (self.stream, ahead)
    }

    pub fn answer(&mut self) -> GuestMessage {
        self.frame().expect("connection is open").message().unwrap()
    }

    pub fn refusal(&mut self) -> Refusal {
        match self.answer() {
            GuestMessage::Refused(refusal) => refusal,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    /// Asserts that the connection can still be used.
    pub fn ping(&mut self) {
        self.send(&HostMessage::Ping);
        assert_eq!(self.answer(), GuestMessage::Pong);
    }

    /// Runs a program to its end. All input is written before any output is read, which is
    /// the worst a host can do.
    pub fn exec(&mut self, spec: &ExecSpec, stdin: &[u8]) -> Outcome {
        self.start(spec);
        let mut frames = BytesMut::new();
        encode_bulk(Kind::Stdin, stdin, &mut frames);
        encode(Kind::StdinEnd, b"", &mut frames);
        self.stream.write_all(&frames).unwrap();
        self.outcome()
    }

    /// Starts a program; its input is still open.
    pub fn start(&mut self, spec: &ExecSpec) {
        self.send(&HostMessage::Exec(spec.clone()));
    }

    /// Collects what a started program writes, until it ended.
    pub fn outcome(&mut self) -> Outcome {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            let frame = self.frame().expect("connection is open");
            match frame.kind {
                Kind::Stdout => stdout.extend_from_slice(&frame.payload),
                Kind::Stderr => stderr.extend_from_slice(&frame.payload),
                _ => match frame.message().unwrap() {
                    GuestMessage::Exited(exit) => return Outcome { stdout, stderr, exit },
                    other => panic!("expected the exit, got {other:?}"),
                },
            }
        }
    }

    /// Waits for one line of a running program's output.
    pub fn line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            let frame = self.frame().expect("connection is open");
            assert_eq!(frame.kind, Kind::Stdout, "{frame:?}");
            line.extend_from_slice(&frame.payload);
        }
        String::from_utf8(line).unwrap().trim_end().to_owned()
    }

    /// Closes the connection for good.
    pub fn leave(self) {
        self.stream.shutdown(Shutdown::Both).unwrap();
    }
}
