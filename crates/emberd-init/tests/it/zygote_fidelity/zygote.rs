//! The agent's half of what agent and zygote say to each other, as the zygote's own comments
//! tell it.

use std::fs;
use std::io::{IoSlice, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair,
};
use serde_json::{Value, json};

use super::program::{End, Program, Streams};
use super::python::{OPTIONS, Python, zygote_program};

/// Longest message on the control socket, in bytes.
const CONTROL_BYTES_MAX: usize = 4 << 10;

/// A zygote that is ready.
pub struct Zygote {
    python: Python,
    /// Taken when the agent is to be gone.
    pub control: Option<UnixDatagram>,
    pub process: Child,
    forks: u64,
}

/// A child that waits for work.
pub struct Spare {
    pub pid: u64,
    pub channel: UnixStream,
}

impl Spare {
    /// Whether it sleeps, and so waits for its work.
    fn rests(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap();
        stat.rsplit_once(')').unwrap().1.starts_with(" S ")
    }
}

impl Zygote {
    /// Starts one that imports `modules`, and waits until it has.
    pub fn start(python: &Python, modules: &[String]) -> Self {
        Self::start_program(&zygote_program(), python, modules)
    }

    /// As [`Self::start`], with the zygote's program at `file`.
    pub fn start_program(file: &Path, python: &Python, modules: &[String]) -> Self {
        let (control, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
                .unwrap();
        // The socket goes by way of standard output: inheritable here, it would get into what
        // other tests start meanwhile.
        let mut command = Command::new("sh");
        command.args(["-c", "exec \"$@\" 3>&1 1>&2", "sh"]);
        command.arg(&python.interpreter).args(OPTIONS).arg(file).args(modules);
        command.current_dir("/").env_clear().envs(python.env.iter().cloned());
        command.env("EMBERD_ZYGOTE_FD", "3");
        command.stdin(Stdio::piped()).stdout(theirs).stderr(Stdio::piped());
        let process = command.spawn().unwrap();
        drop(command); // and with it our copy of the socket
        let control = Some(UnixDatagram::from(control));
        let mut zygote = Self { python: python.clone(), control, process, forks: 0 };
        assert_eq!(zygote.hear(), json!({"ready": true}));
        zygote
    }

    fn control(&self) -> &UnixDatagram {
        self.control.as_ref().expect("the agent is there")
    }

    /// The next message of the zygote.
    pub fn hear(&mut self) -> Value {
        let mut message = [0; CONTROL_BYTES_MAX];
        let length = self.control().recv(&mut message).unwrap();
        serde_json::from_slice(&message[..length]).unwrap()
    }

    /// Waits until its child `pid` has ended.
    pub fn ended(&mut self, pid: u64) -> End {
        let ended = self.hear();
        assert_eq!(ended["ended"], pid, "{ended}");
        let status = i32::try_from(ended["status"].as_i64().unwrap()).unwrap();
        ExitStatus::from_raw(status).into()
    }

    /// Has a child forked; it joins the cgroup whose `cgroup.procs` is given.
    pub fn fork(&mut self, procs: Option<BorrowedFd<'_>>) -> Spare {
        let (channel, theirs) = UnixStream::pair().unwrap();
        self.forks += 1;
        let message = json!({"fork": self.forks}).to_string();
        let given: Vec<_> = [theirs.as_fd()].into_iter().chain(procs).collect();
        send(self.control().as_fd(), message.as_bytes(), &given);
        let answer = self.hear();
        assert_eq!(answer["forked"], self.forks, "{answer}");
        Spare { pid: answer["pid"].as_u64().unwrap(), channel }
    }

    /// Runs `program` in a child forked for it, which finds its work waiting.
    pub fn run(&mut self, program: &Program, streams: Streams) -> End {
        let spare = self.fork(None);
        self.run_in(spare, program, streams)
    }

    /// Runs `program` in a child that has done all it can ahead.
    pub fn run_rested(&mut self, program: &Program, streams: Streams) -> End {
        let spare = self.fork(None);
        while !spare.rests() {
            thread::sleep(Duration::from_millis(1));
        }
        self.run_in(spare, program, streams)
    }

    /// Runs `program` in `spare`.
    pub fn run_in(&mut self, mut spare: Spare, program: &Program, streams: Streams) -> End {
        self.give(&mut spare, program, streams);
        let mut report = Vec::new();
        spare.channel.read_to_end(&mut report).unwrap();
        let end = self.ended(spare.pid);
        if let Some((length, report)) = report.split_at_checked(4) {
            assert_eq!(length, u32::try_from(report.len()).unwrap().to_be_bytes());
            let report: Value = serde_json::from_slice(report).unwrap();
            let code = i32::try_from(report["exit"].as_i64().unwrap()).unwrap();
            assert_eq!(end, End::Code(code), "the report and the end of {}", program.name);
        }
        end
    }

    /// Gives `spare` the work that `program` is.
    pub fn give(&self, spare: &mut Spare, program: &Program, streams: Streams) {
        let work = self.work(program, &streams);
        let Streams { stdin, stdout, stderr, .. } = streams;
        let given = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
        let sent = send(spare.channel.as_fd(), &work, &given);
        spare.channel.write_all(&work[sent..]).unwrap();
    }

    /// The message that makes a spare run `program`.
    pub fn work(&self, program: &Program, streams: &Streams) -> Vec<u8> {
        let env: serde_json::Map<_, _> = self
            .python
            .environment(program)
            .into_iter()
            .map(|(name, value)| (name, Value::String(value)))
            .collect();
        let work = json!({
            "file": program.file, "args": program.args, "env": env, "cwd": streams.cwd,
        });
        let work = work.to_string();
        let length = u32::try_from(work.len()).unwrap().to_be_bytes();
        [&length, work.as_bytes()].concat()
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        self.process.kill().ok(); // it may have gone already
        self.process.wait().unwrap();
    }
}

/// Sends `message` with descriptors; returns how much of it has gone.
pub fn send(socket: BorrowedFd<'_>, message: &[u8], given: &[BorrowedFd<'_>]) -> usize {
    let given: Vec<_> = given.iter().map(std::os::fd::AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&given)];
    let message = [IoSlice::new(message)];
    sendmsg::<()>(socket.as_raw_fd(), &message, &rights, MsgFlags::empty(), None).unwrap()
}
