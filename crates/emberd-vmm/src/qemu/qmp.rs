//! QMP, the protocol QEMU is controlled by (its document `qmp-spec`): JSON, one message a line.
//!
//! ```text
//! ◀─ {"QMP": …}                       the greeting
//! ─▶ {"execute": "stop", "id": 1}
//! ◀─ {"event": "STOP", …}             at any time
//! ◀─ {"return": {}, "id": 1}          or {"error": {…}, "id": 1}
//! ```

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, Interest};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Longest message that is read, in bytes (64 KiB). The longest of those asked for here is
/// the greeting, of some hundred.
const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// Most events kept until they are requested; the oldest are dropped first. A guest can cause
/// events, but none that the driver waits for.
const EVENTS_MAX: usize = 64;

/// Longest wait for an answer. All commands used here are answered in well below a
/// millisecond, unless the host is overloaded; longer operations report by an event.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(30);

/// Why a QEMU command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum QmpError {
    /// QEMU refused the command.
    #[error("{description} ({class})")]
    Refused {
        /// Class of the error.
        class: String,
        /// For people.
        description: String,
    },
    /// QEMU did not answer, or the event did not occur.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The connection broke: QEMU has usually ended.
    #[error("the control connection is closed")]
    Closed(#[source] io::Error),
    /// QEMU sent a malformed message, or one over the limit.
    #[error("malformed message on the control connection: {0}")]
    Unreadable(String),
}

/// Something that happened in QEMU.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) name: String,
    /// `null` for events that carry nothing.
    pub(super) data: Value,
}

/// One message from QEMU; what kind tells which field is there.
#[derive(Deserialize)]
struct Message {
    #[serde(rename = "QMP")]
    greeting: Option<Value>,
    id: Option<u64>,
    #[serde(rename = "return")]
    answer: Option<Value>,
    error: Option<Refusal>,
    event: Option<String>,
    #[serde(default)]
    data: Value,
}

#[derive(Deserialize)]
struct Refusal {
    class: String,
    desc: String,
}

/// A connection to QEMU's control socket, of which it serves one at a time.
///
/// A command that is given up leaves the connection usable only if it was written whole:
/// drop the connection then.
#[derive(Debug)]
pub(super) struct Qmp {
    stream: UnixStream,
    /// Received bytes that are not a whole message yet.
    received: Vec<u8>,
    events: VecDeque<Event>,
    last_id: u64,
}

impl Qmp {
    /// Waits for the greeting and ends the negotiation of capabilities, of which none is used.
    pub(super) async fn open(stream: UnixStream) -> Result<Self, QmpError> {
        let mut qmp = Self { stream, received: Vec::new(), events: VecDeque::new(), last_id: 0 };
        let greeting = within(ANSWER_WAIT_MAX, qmp.message()).await?;
        if greeting.greeting.is_none() {
            return Err(QmpError::Unreadable("the greeting is missing".to_owned()));
        }
        qmp.execute("qmp_capabilities", Value::Null).await?;
        Ok(qmp)
    }

    /// Executes `command` and returns its answer. `arguments` are null for a command without.
    pub(super) async fn execute(
        &mut self,
        command: &str,
        arguments: Value,
    ) -> Result<Value, QmpError> {
        within(ANSWER_WAIT_MAX, self.exchange(command, arguments, None)).await
    }

    /// Gives QEMU the file `fd`, to be called `name` in the next command that needs it.
    pub(super) async fn give(&mut self, name: &str, fd: BorrowedFd<'_>) -> Result<(), QmpError> {
        let arguments = json!({ "fdname": name });
        within(ANSWER_WAIT_MAX, self.exchange("getfd", arguments, Some(fd))).await.map(drop)
    }

    /// Waits up to `wait` for an event of which `pick` makes something, and drops those
    /// before it.
    pub(super) async fn event<T>(
        &mut self,
        wait: Duration,
        pick: impl Fn(&Event) -> Option<T>,
    ) -> Result<T, QmpError> {
        let picked = async {
            loop {
                while let Some(event) = self.events.pop_front() {
                    if let Some(picked) = pick(&event) {
                        return Ok(picked);
                    }
                }
                let message = self.message().await?;
                self.note(message);
            }
        };
        within(wait, picked).await
    }

    async fn exchange(
        &mut self,
        command: &str,
        arguments: Value,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<Value, QmpError> {
        self.last_id += 1;
        let id = self.last_id;
        // QEMU reads the line byte by byte, with two system calls for each.
        let mut message = json!({ "execute": command, "id": id });
        if !arguments.is_null() {
            message["arguments"] = arguments;
        }
        let line = format!("{message}\n");
        self.send(line.as_bytes(), fd).await.map_err(QmpError::Closed)?;
        loop {
            match self.message().await? {
                // An answer to an earlier command has no caller any more.
                Message { id: Some(answered), .. } if answered != id => {}
                Message { error: Some(Refusal { class, desc }), .. } => {
                    return Err(QmpError::Refused { class, description: desc });
                }
                Message { answer: Some(answer), .. } => return Ok(answer),
                other => self.note(other),
            }
        }
    }

    /// Keeps an event for a later call.
    fn note(&mut self, message: Message) {
        if let Some(name) = message.event {
            if self.events.len() == EVENTS_MAX {
                self.events.pop_front();
            }
            self.events.push_back(Event { name, data: message.data });
        }
    }

    async fn send(&mut self, mut line: &[u8], mut fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        while !line.is_empty() {
            self.stream.writable().await?;
            let sent = self.stream.try_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                if let Some(fd) = &fd {
                    control.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(fd)));
                }
                Ok(sendmsg(&self.stream, &[IoSlice::new(line)], &mut control, SendFlags::NOSIGNAL)?)
            });
            match sent {
                Ok(count) => {
                    line = &line[count..];
                    fd = None;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The next message. Cancel safe.
    async fn message(&mut self) -> Result<Message, QmpError> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.received[searched..].iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=searched + end).collect();
                return serde_json::from_slice(&line)
                    .map_err(|error| QmpError::Unreadable(error.to_string()));
            }
            searched = self.received.len();
            if searched > MESSAGE_BYTES_MAX {
                return Err(QmpError::Unreadable("unterminated message".to_owned()));
            }
            let read = self.stream.read_buf(&mut self.received).await;
            if read.map_err(QmpError::Closed)? == 0 {
                return Err(QmpError::Closed(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

async fn within<T>(
    wait: Duration,
    answer: impl Future<Output = Result<T, QmpError>>,
) -> Result<T, QmpError> {
    timeout(wait, answer).await.unwrap_or(Err(QmpError::TimedOut(wait)))
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::{Read as _, Seek as _, Write as _};
    use std::os::fd::{AsFd as _, OwnedFd};

    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

    use super::*;

    pub(in crate::qemu) const GREETING: &str =
        r#"{"QMP": {"version": {}, "capabilities": ["oob"]}}"#;

    /// A QEMU that says the first of `script`, the others each after a command, and closes
    /// the connection. Returns the commands.
    pub(in crate::qemu) async fn peer(mut stream: UnixStream, script: &[&str]) -> Vec<String> {
        let (reader, mut writer) = stream.split();
        let mut commands = BufReader::new(reader).lines();
        let mut executed = Vec::new();
        writer.write_all(script[0].as_bytes()).await.unwrap();
        for words in &script[1..] {
            let Ok(Some(command)) = commands.next_line().await else { break };
            executed.push(command);
            writer.write_all(words.as_bytes()).await.unwrap();
        }
        executed
    }

    /// Negotiates with a QEMU of that `script`, then executes `stop`.
    async fn stop(script: &[&str]) -> (Result<Value, QmpError>, Vec<String>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let talk = async {
            let mut qmp = Qmp::open(ours).await?;
            qmp.execute("stop", Value::Null).await
        };
        tokio::join!(talk, peer(theirs, script))
    }

    #[tokio::test]
    async fn commands_are_answered_whatever_happens_between() {
        let negotiated = "{\"return\": {}, \"id\": 1}\r\n";
        let stopped = r#"{"event": "STOP", "timestamp": {}}
{"return": {"late": true}, "id": 1}
{"return": {"now": true}, "id": 2}
"#;
        let (answer, commands) = stop(&[&format!("{GREETING}\r\n"), negotiated, stopped]).await;
        assert_eq!(answer.unwrap(), json!({ "now": true }));
        let expect = [r#"{"execute":"qmp_capabilities","id":1}"#, r#"{"execute":"stop","id":2}"#];
        assert_eq!(commands, expect);
    }

    #[tokio::test(start_paused = true)]
    async fn every_other_way_of_answering_is_an_error_of_its_kind() {
        let greeting = format!("{GREETING}\n");
        let negotiated = "{\"return\": {}, \"id\": 1}\n";
        let refused = r#"{"id": 2, "error": {"class": "GenericError", "desc": "not now"}}"#;
        let endless = "x".repeat(MESSAGE_BYTES_MAX + 2);
        let cases: [(&[&str], &str); 8] = [
            (&[&greeting, negotiated, &format!("{refused}\n")], "not now (GenericError)"),
            (&[&greeting, negotiated], "the control connection is closed"),
            (&[&greeting], "the control connection is closed"),
            (&[&greeting, negotiated, "{\"return\":"], "the control connection is closed"),
            (&[&greeting, negotiated, "\n"], "malformed message on the control connection"),
            (&["SSH-2.0-x\n"], "malformed message on the control connection"),
            (&[negotiated], "malformed message on the control connection: the greeting is missing"),
            (&[&endless], "malformed message on the control connection: unterminated message"),
        ];
        for (script, expect) in cases {
            let error = stop(script).await.0.unwrap_err().to_string();
            assert!(error.starts_with(expect), "{error}, not {expect}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_not_waited_for_beyond_its_time() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let error = Qmp::open(ours).await.unwrap_err();
        assert!(matches!(error, QmpError::TimedOut(ANSWER_WAIT_MAX)), "{error}");
    }

    /// A negotiated connection, and QEMU's end of it.
    async fn connected() -> (Qmp, UnixStream) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(format!("{GREETING}\n").as_bytes()).await.unwrap();
        theirs.write_all(b"{\"return\": {}, \"id\": 1}\n").await.unwrap();
        let qmp = Qmp::open(ours).await.unwrap();
        (qmp, theirs)
    }

    #[tokio::test(start_paused = true)]
    async fn events_are_kept_until_requested_within_a_limit() {
        let (mut qmp, mut theirs) = connected().await;
        let event = |n: usize| format!("{{\"event\": \"E\", \"data\": {{\"n\": {n}}}}}\n");
        let flood: String = (0..EVENTS_MAX + 10).map(event).collect();
        theirs.write_all(flood.as_bytes()).await.unwrap();
        theirs.write_all(b"{\"return\": {}, \"id\": 2}\n{\"event\": \"LATER\"}\n").await.unwrap();
        qmp.execute("stop", Value::Null).await.unwrap();
        assert_eq!(qmp.events.len(), EVENTS_MAX);
        let wait = Duration::from_secs(1);
        let first = qmp.event(wait, |event| event.data["n"].as_u64()).await.unwrap();
        assert_eq!(first, 10, "the oldest went");
        qmp.event(wait, |event| (event.name == "LATER").then_some(())).await.unwrap();
        let none = qmp.event(wait, |_| Some(())).await.unwrap_err();
        assert!(matches!(none, QmpError::TimedOut(waited) if waited == wait), "{none}");
    }

    /// The descriptor that came with what `socket` receives next.
    fn receive(socket: &UnixStream) -> io::Result<OwnedFd> {
        let mut line = [0; 256];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut into = [io::IoSliceMut::new(&mut line)];
        recvmsg(socket, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let mut received = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        received.next().ok_or(io::ErrorKind::NotFound.into())
    }

    #[tokio::test]
    async fn a_file_given_is_the_very_file() {
        let (mut qmp, mut theirs) = connected().await;
        let mut file = tempfile::tempfile().unwrap();
        let qemu = async {
            let fd = loop {
                theirs.readable().await.unwrap();
                // The negotiation is still to be read, and brings none.
                if let Ok(fd) = theirs.try_io(Interest::READABLE, || receive(&theirs)) {
                    break fd;
                }
            };
            std::fs::File::from(fd).write_all(b"saved").unwrap();
            theirs.write_all(b"{\"return\": {}, \"id\": 2}\n").await.unwrap();
        };
        let (given, ()) = tokio::join!(qmp.give("state", file.as_fd()), qemu);
        given.unwrap();
        let mut saved = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut saved).unwrap();
        assert_eq!(saved, "saved");
    }
}
