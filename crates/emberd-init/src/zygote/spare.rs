//! A child that the zygote forked ahead, and the work that it is given.
//!
//! ```text
//! agent ─▶ {"file":…,"args":[…],"env":{…},"cwd":…} + [stdin, stdout, stderr]
//! child ─▶ {"exit":CODE}        all the program does is done
//! ```
//! Each message is a `u32` big-endian byte count, then that many bytes. If the stream ends
//! without a report, the end is unknown, because programs close descriptors or execute others.

use std::ffi::OsString;
use std::fs;
use std::future;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use emberd_proto::process::Limits;
use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
use serde::{Deserialize, Serialize, Serializer};
use tokio::net::UnixStream;

use crate::environment::Environment;
use crate::exec::{LaunchError, Leader, Slot};
use crate::process_tree::ProcessTree;
use crate::programs::KeptProcess;
use crate::reaper::Exit;

/// Maximum size of a report, in bytes.
const REPORT_BYTES_MAX: usize = 64;

/// Size of the count before a message, in bytes.
const COUNT_BYTES: usize = size_of::<u32>();

/// A child that waits for work. Dropping it ends the child.
#[derive(Debug)]
pub struct Spare {
    slot: Slot,
    process: KeptProcess,
    socket: UnixStream,
    exit: Exit,
}

impl Spare {
    /// Returns the child `process` at the other end of `socket`, whose exit status comes through
    /// `exit`.
    pub fn new(slot: Slot, process: KeptProcess, socket: UnixStream, exit: Exit) -> Self {
        Self { slot, process, socket, exit }
    }

    /// Returns whether the child is alive, as far as is known.
    pub fn waits(&self) -> bool {
        self.exit.is_empty()
    }

    /// Returns whether the child sleeps, which means that it waits for work.
    pub fn rests(&self) -> bool {
        let stat =
            fs::read_to_string(format!("/proc/{}/stat", self.process.pid())).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_name, rest)| rest.starts_with(" S "))
    }

    /// Gives the child `code` to run within `limits`; `None` if the work cannot be sent.
    ///
    /// # Errors
    /// If the code cannot be written or a limit cannot be set.
    pub fn set_to(
        mut self,
        work: &Work<'_>,
        code: &str,
        limits: &Limits,
    ) -> Result<Option<(Slot, Leader)>, LaunchError> {
        if let Some(cgroup) = &self.slot.cgroup {
            cgroup.limit(limits)?;
        }
        let message = work.encode(self.slot.code.write(code)?);
        Ok(message.and_then(|message| self.tell(&message)))
    }

    /// Gives the child an existing file to run, with `input` as its standard input; `None` if the
    /// work cannot be sent.
    pub fn set_to_file(
        mut self,
        work: &Work<'_>,
        file: &Path,
        input: OwnedFd,
    ) -> Option<(Slot, Leader)> {
        self.slot.stdio[0] = input;
        let message = work.encode(file)?;
        self.tell(&message)
    }

    fn tell(self, message: &[u8]) -> Option<(Slot, Leader)> {
        let Self { mut slot, process, socket, exit } = self;
        let fds = slot.stdio.each_ref().map(OwnedFd::as_raw_fd);
        let sent = sendmsg::<UnixAddr>(
            socket.as_raw_fd(),
            &[IoSlice::new(message)],
            &[ControlMessage::ScmRights(&fds)],
            MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
            None,
        );
        // A child that got only part of the work sees the end of the stream and ends.
        if sent != Ok(message.len()) {
            return None;
        }
        let tree = ProcessTree { leader: process.pid(), cgroup: slot.cgroup.take() };
        Some((slot, Leader::new(exit, tree).reporting(Report::new(socket))))
    }
}

/// The work of a child, without the file of its code.
#[derive(Debug)]
pub struct Work<'a> {
    args: &'a [String],
    environment: &'a Environment,
    directory: &'a str,
}

impl<'a> Work<'a> {
    /// `None` if a part of it is not Unicode and cannot be encoded.
    pub fn new(
        args: &'a [String],
        environment: &'a Environment,
        directory: &'a Path,
    ) -> Option<Self> {
        let unicode = |(name, value): (&OsString, &OsString)| {
            name.to_str().is_some() && value.to_str().is_some()
        };
        let directory = directory.to_str()?;
        environment.into_iter().all(unicode).then_some(Self { args, environment, directory })
    }

    /// Returns the whole message; `None` if the file's name is not Unicode.
    fn encode(&self, file: &Path) -> Option<Vec<u8>> {
        let mut message = vec![0; COUNT_BYTES];
        let order = Order {
            file: file.to_str()?,
            args: self.args,
            env: Variables(self.environment),
            cwd: self.directory,
        };
        serde_json::to_writer(&mut message, &order).expect("strings become JSON");
        let count = u32::try_from(message.len() - COUNT_BYTES).ok()?;
        message[..COUNT_BYTES].copy_from_slice(&count.to_be_bytes());
        Some(message)
    }
}

/// The JSON of the work.
#[derive(Debug, Serialize)]
struct Order<'a> {
    file: &'a str,
    args: &'a [String],
    env: Variables<'a>,
    cwd: &'a str,
}

/// Returns the environment if all of it is Unicode.
#[derive(Debug)]
struct Variables<'a>(&'a Environment);

impl Serialize for Variables<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(
            self.0.into_iter().filter_map(|(name, value)| Some((name.to_str()?, value.to_str()?))),
        )
    }
}

/// The report of a working child.
#[derive(Debug)]
pub struct Report {
    /// Dropped when no further report is possible.
    socket: Option<UnixStream>,
    received: Vec<u8>,
}

/// A report's JSON.
#[derive(Debug, Deserialize)]
struct Ended {
    exit: u8,
}

impl Report {
    fn new(socket: UnixStream) -> Self {
        Self { socket: Some(socket), received: Vec::new() }
    }

    /// Waits for the report; never returns if none comes. Cancel safe.
    pub async fn exit_code(&mut self) -> u8 {
        while let Some(socket) = &self.socket {
            let mut chunk = [0; COUNT_BYTES + REPORT_BYTES_MAX];
            let read = match socket.readable().await {
                Ok(()) => socket.try_read(&mut chunk),
                Err(error) => Err(error),
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => self.socket = None,
                Ok(bytes) => {
                    self.received.extend_from_slice(&chunk[..bytes]);
                    match parse(&self.received) {
                        Some(Ok(exit_code)) => return exit_code,
                        Some(Err(Unreadable)) => self.socket = None,
                        None => {}
                    }
                }
            }
        }
        future::pending().await
    }
}

/// A child sent an invalid report.
#[derive(Debug, PartialEq, Eq)]
struct Unreadable;

/// Returns the exit code in a report; `None` until it is complete.
fn parse(received: &[u8]) -> Option<Result<u8, Unreadable>> {
    let (count, rest) = received.split_first_chunk::<COUNT_BYTES>()?;
    let count = usize::try_from(u32::from_be_bytes(*count)).unwrap_or(usize::MAX);
    if count > REPORT_BYTES_MAX {
        return Some(Err(Unreadable));
    }
    let report = serde_json::from_slice::<Ended>(rest.get(..count)?);
    Some(report.map(|report| report.exit).map_err(|_| Unreadable))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_is_read_in_any_pieces_and_nothing_else_is_one() {
        let whole = b"\0\0\0\x0a{\"exit\":3}";
        for received in 0..whole.len() {
            assert_eq!(parse(&whole[..received]), None, "{received}");
        }
        assert_eq!(parse(whole), Some(Ok(3)));
        assert_eq!(parse(b"\0\0\0\x0c{\"exit\":256}"), Some(Err(Unreadable)));
        assert_eq!(parse(b"\0\0\0\x02{}"), Some(Err(Unreadable)));
        assert_eq!(parse(b"\xff\0\0\0"), Some(Err(Unreadable)));
        assert_eq!(parse(b"GET / HTTP/1.1"), Some(Err(Unreadable)));
    }
}
