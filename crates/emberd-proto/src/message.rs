//! The JSON messages in control frames: requests of the host and answers of the guest.
//!
//! Unknown fields are ignored, so either side may add fields. An operation that the guest does
//! not know parses as [`HostMessage::Unknown`]. It is refused by type, and the connection stays
//! open.

use serde::{Deserialize, Serialize};

use crate::context::ContextSpec;
use crate::egress::EgressCapture;
use crate::exec::{ExecExit, ExecSpec};
use crate::file::{FileChange, FileEntry, FileRequest};
use crate::limits::GuestLimits;
use crate::metrics::Metrics;
use crate::process::{ProcessSpec, SignalName, TtySize};
use crate::renewal::Renewal;

mod fields;

/// Generation of this protocol. The guest refuses a host that does not speak it.
pub const GENERATION: u32 = 2;

/// Oldest generation that the host speaks. A guest of generation 1 ends a process or a context
/// with its connection.
pub const GENERATION_OLDEST: u32 = 1;

/// Maximum length of the note about a process or a context, in bytes (192 KiB): more than the
/// variables of a context. As JSON text it is at most twice as long, since it is JSON text itself.
pub const NOTE_BYTES_MAX: usize = 192 << 10;

/// Maximum length of all notes in a list, in bytes (16 MiB): twice those of all that a host has at
/// once.
pub const NOTES_BYTES_MAX: usize = 16 << 20;

/// Maximum number of processes and contexts in a list (1,024): several times what a host has at
/// once.
pub const PROGRAMS_MAX: usize = 1024;

/// Port the guest agent listens on.
pub const AGENT_PORT: u32 = 1024;

/// Port of the host (CID 2) to which the guest connects once it serves. The connection carries no
/// data and is closed at once; it saves the host from polling. The host need not listen there.
pub const READY_PORT: u32 = 1025;

/// Window of data for a port, in bytes (256 KiB): how much the host may send beyond what the
/// guest has reported as consumed. A program that does not read takes at most this much of the
/// guest's memory, and the agent still notices when the host disconnects.
pub const DIAL_WINDOW_BYTES: usize = 256 << 10;

/// Word of the kernel's command line that tells a guest that it has a disk of its own, formatted
/// with ext4, for everything that it writes.
pub const DISK_ARGUMENT: &str = "emberd.disk=ext4";

/// Name of the virtio-serial port on which the agent serves if there is no vsock.
pub const AGENT_PORT_NAME: &str = "emberd.agent";

/// Name of the virtio port over which a host asks the agent for a fresh session: the agent ends the
/// one before, opens its own port again and sends the bytes back that it has received here.
pub const CONTROL_PORT_NAME: &str = "emberd.control";

/// How a question over the control port begins whose answer waits until no host is connected to
/// the agent's port. An agent that does not know it answers at once.
pub const ALONE: &[u8; 4] = b"lone";

/// A request of the host. [`HostMessage::Hello`] opens every connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum HostMessage {
    /// Opens a connection; answered by [`GuestMessage::Welcome`], see [`Self::hello`].
    Hello {
        /// The oldest generation that the host speaks. A guest of generation 1 reads no more.
        generation: u32,
        /// The newest one, if it is another.
        #[serde(skip_serializing_if = "Option::is_none")]
        newest: Option<u32>,
    },
    /// Checks the connection; answered by [`GuestMessage::Pong`].
    Ping,
    /// Runs code. `Stdin` frames and one `StdinEnd` frame follow; the answer is `Stdout` and
    /// `Stderr` frames, then [`GuestMessage::Exited`].
    Exec(ExecSpec),
    /// Starts a process, and attaches the connection to it: answered by
    /// [`GuestMessage::Attached`], then the events of the process. The first is
    /// [`GuestMessage::Started`], or [`GuestMessage::Exited`] if it cannot be started; any number
    /// of `Stdout` and `Stderr` frames come until [`GuestMessage::Exited`]. `Stdin` frames (at most
    /// [`crate::process::STDIN_WINDOW_BYTES`] unconsumed), one `StdinEnd`, [`Self::Signal`],
    /// [`Self::Resize`] and [`Self::Note`] may follow. The process does not end with the
    /// connection.
    Start(ProcessSpec),
    /// Attaches the connection to a process or context: answered by [`GuestMessage::Attached`],
    /// then its events, as after [`Self::Start`] and [`Self::Context`]. A connection that was
    /// attached to it before is closed.
    Attach {
        /// Which one.
        id: u64,
        /// Number of the first event to send. Events are the frames of a program, counted from 0,
        /// without [`GuestMessage::StdinTaken`].
        seq: u64,
    },
    /// Replaces the note about the attached process or context, which the guest keeps and does not
    /// read. At most [`NOTE_BYTES_MAX`]. Not answered.
    Note {
        /// The note.
        note: String,
    },
    /// Requests all processes and contexts: answered by any number of [`GuestMessage::Program`],
    /// then [`GuestMessage::Done`].
    List,
    /// Kills a process or context with all its children, and forgets its events; answered by
    /// [`GuestMessage::Done`], also if there is none.
    Delete {
        /// Which one.
        id: u64,
    },
    /// Closes every other connection, which ends what belongs to it: execs, transfers, dials.
    /// Answered by [`GuestMessage::Done`]. Nothing is closed if the guest was adopted in that epoch
    /// before.
    Adopt {
        /// Identifies the daemon; another after each start.
        epoch: u64,
    },
    /// Sends a signal to the process of this connection and its children. Not answered.
    Signal {
        /// The signal.
        signal: SignalName,
    },
    /// Changes the size of the terminal of this connection's process. Not answered.
    Resize(TtySize),
    /// An operation on files.
    File(FileRequest),
    /// Connects to a TCP port of the guest's loopback interface; answered by
    /// [`GuestMessage::Dialed`]. Then `Data` and one `DataEnd` go each way, with at most
    /// [`DIAL_WINDOW_BYTES`] to the guest unconsumed, then [`GuestMessage::Done`]. If the
    /// connection to the port fails, the guest closes this one; if the host closes this one, the
    /// guest closes the one to the port.
    Dial {
        /// The port.
        port: u16,
    },
    /// Opens a context, see [`crate::context`], and attaches the connection to it: answered by
    /// [`GuestMessage::Attached`], then [`GuestMessage::Started`], ended by
    /// [`GuestMessage::Exited`]. [`Self::Signal`] and [`Self::Note`] may follow. The context does
    /// not end with the connection. Lines from the host that are not whole do.
    Context(ContextSpec),
    /// Makes this connection the egress session of the guest, see [`crate::egress`]; answered by
    /// [`GuestMessage::Egress`]. A later session replaces the one before.
    Egress,
    /// Requests resource usage; answered by [`GuestMessage::Metrics`].
    Metrics,
    /// Gives the guest its own identity after a restore; answered by [`GuestMessage::Renewed`].
    /// An agent that is not PID 1 checks the renewal, answers, and changes nothing. May be sent
    /// together with [`Self::Hello`].
    Renew(Renewal),
    /// Sets the wall clock, which stands still while the guest is paused; answered by
    /// [`GuestMessage::Renewed`]. An agent that is not PID 1 changes nothing.
    SetClock {
        /// Current time, in microseconds since the epoch; at most
        /// [`WALL_CLOCK_US_MAX`](crate::renewal::WALL_CLOCK_US_MAX).
        wall_clock_us: u64,
    },
    /// Limits what all programs of the guest may take together; answered by
    /// [`GuestMessage::Done`] once the limits hold. A guest that cannot hold one of them
    /// refuses, and so does an agent that does not know the operation. An agent that is not PID 1
    /// checks the limits, answers, and changes nothing.
    Limit(GuestLimits),
    /// Brings the guest to rest before a snapshot: its zygote runs with a child forked ahead, and
    /// its file systems are written out. Answered by [`GuestMessage::Settled`]. The host must not
    /// run execs on other connections meanwhile.
    Settle,
    /// An operation this generation does not know.
    Unknown,
}

impl HostMessage {
    /// Returns the greeting of a host that speaks every generation from [`GENERATION_OLDEST`] to
    /// [`GENERATION`].
    pub fn hello() -> Self {
        Self::Hello { generation: GENERATION_OLDEST, newest: Some(GENERATION) }
    }
}

/// An answer of the guest: everything except bulk data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum GuestMessage {
    /// The guest is ready.
    Welcome(Welcome),
    /// Answer to [`HostMessage::Ping`].
    Pong,
    /// The program ended; no further output follows.
    Exited(ExecExit),
    /// The process was started.
    Started {
        /// Process id in the guest.
        pid: u32,
    },
    /// The connection is attached to a process or context.
    Attached(Attached),
    /// One process or context of a list.
    Program(Program),
    /// The process has consumed standard input, or will never read it: the host may send as much
    /// again.
    StdinTaken {
        /// Number of bytes since the last such message.
        bytes: usize,
    },
    /// The attributes of a path.
    File(FileEntry),
    /// Some of the entries of a listing.
    Listed {
        /// At most [`crate::file::BATCH_MAX`].
        entries: Vec<FileEntry>,
        /// Whether the listing was cut at its limit; then this is the last batch.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        cut: bool,
    },
    /// Changes from now on are reported.
    Watching,
    /// Changes, in order.
    Changes {
        /// At most [`crate::file::BATCH_MAX`].
        changes: Vec<FileChange>,
    },
    /// The operation is complete.
    Done,
    /// The connection to the port was established.
    Dialed,
    /// The server on the port has consumed data: the host may send as much again.
    DataTaken {
        /// Number of bytes since the last such message.
        bytes: usize,
    },
    /// Answer to [`HostMessage::Egress`].
    Egress(EgressCapture),
    /// The resource usage of the guest.
    Metrics(Metrics),
    /// Everything in the [`Renewal`] has taken effect.
    Renewed(Renewed),
    /// Answer to [`HostMessage::Settle`].
    Settled(Settled),
    /// The operation failed or was refused; the connection is idle again.
    Refused(Refusal),
}

/// The guest's version, and the duration of its boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The guest's [`GENERATION`].
    pub generation: u32,
    /// Version of the agent's package.
    pub agent_version: String,
    /// Time since the guest kernel started when PID 1 was entered, in microseconds
    /// (`CLOCK_BOOTTIME`); absent off PID 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_started_us: Option<u64>,
    /// Time since the guest kernel started when the agent began to serve, in microseconds;
    /// absent off PID 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving_us: Option<u64>,
}

/// A connection that is attached to a process or context.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// Identifies the process or context; another for each of a guest.
    pub id: u64,
    /// Number of the event that follows: the one asked for, or the first that is still kept.
    pub seq: u64,
    /// Number of the host's frames that have arrived over all connections so far, without notes.
    /// The host sends the rest again.
    pub received: u64,
    /// Number of bytes of standard input in those frames.
    pub input: u64,
    /// Number of bytes of them that were consumed so far. Each [`GuestMessage::StdinTaken`] adds to
    /// it.
    pub taken: u64,
}

/// A process or context in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// See [`Attached::id`].
    pub id: u64,
    /// Process id in the guest; 0 while it is not started.
    pub pid: u32,
    /// Number of the next event.
    pub next: u64,
    /// See [`Attached::received`].
    pub received: u64,
    /// Whether its last event has happened.
    pub ended: bool,
    /// The host's last note.
    pub note: String,
}

/// The clock of a guest that was renewed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewed {
    /// The clock when the answer was written, in microseconds since the epoch. The host's clock
    /// minus this value is an upper bound of how late the guest's clock is. Absent from older
    /// agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wall_clock_us: Option<u64>,
}

/// The state that a snapshot taken now would have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// Whether a zygote is ready to run code; absent if the pack has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zygote_ready: Option<bool>,
}

/// Why the guest refused an operation, or failed to execute it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("guest refused: {message}")]
pub struct Refusal {
    /// The kind of refusal.
    pub code: RefusalCode,
    /// A message for people.
    pub message: String,
}

/// Kinds of refusal that a host can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// Host and guest use different generations of the protocol.
    Generation,
    /// The operation is unknown to this guest.
    UnknownOperation,
    /// The message breaks a rule of the protocol or one of its limits.
    Invalid,
    /// A step of the operation failed; the steps before it have taken effect.
    Failed,
    /// The file, user or language does not exist, or nothing listens on the port.
    NotFound,
    /// The path already exists.
    AlreadyExists,
    /// The path is a directory, or is not one, contrary to what the operation needs.
    WrongType,
    /// The guest's kernel does not permit the operation.
    Denied,
    /// There is no space left.
    NoSpace,
    /// A kind of refusal newer than this code.
    #[serde(other)]
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_json<T>(value: &T, json: &str)
    where
        T: Serialize + serde::de::DeserializeOwned + PartialEq + std::fmt::Debug,
    {
        assert_eq!(serde_json::to_string(value).unwrap(), json);
        assert_eq!(&serde_json::from_str::<T>(json).unwrap(), value);
    }

    #[test]
    fn golden_messages() {
        check_json(&HostMessage::hello(), r#"{"op":"hello","generation":1,"newest":2}"#);
        check_json(&HostMessage::Attach { id: 1, seq: 2 }, r#"{"op":"attach","id":1,"seq":2}"#);
        check_json(&HostMessage::List, r#"{"op":"list"}"#);
        check_json(
            &GuestMessage::Attached(Attached { id: 1, seq: 2, received: 3, input: 5, taken: 4 }),
            r#"{"answer":"attached","id":1,"seq":2,"received":3,"input":5,"taken":4}"#,
        );
        check_json(&HostMessage::Ping, r#"{"op":"ping"}"#);
        check_json(
            &HostMessage::Exec(ExecSpec::new("1")),
            r#"{"op":"exec","code":"1","timeout_ms":30000}"#,
        );
        check_json(
            &HostMessage::Renew(Renewal {
                wall_clock_us: 1,
                entropy_base64: "AA==".into(),
                hostname: "h".into(),
                machine_id: "m".into(),
                boot_id: "b".into(),
            }),
            r#"{"op":"renew","wall_clock_us":1,"entropy_base64":"AA==","hostname":"h","machine_id":"m","boot_id":"b"}"#,
        );
        check_json(
            &HostMessage::SetClock { wall_clock_us: 1 },
            r#"{"op":"set_clock","wall_clock_us":1}"#,
        );
        check_json(
            &HostMessage::Limit(GuestLimits { pids: Some(64), disk_mib: Some(4096) }),
            r#"{"op":"limit","pids":64,"disk_mib":4096}"#,
        );
        check_json(&GuestMessage::Pong, r#"{"answer":"pong"}"#);
        check_json(&HostMessage::Settle, r#"{"op":"settle"}"#);
        check_json(
            &GuestMessage::Settled(Settled { zygote_ready: Some(true) }),
            r#"{"answer":"settled","zygote_ready":true}"#,
        );
        check_json(
            &GuestMessage::Renewed(Renewed { wall_clock_us: Some(1) }),
            r#"{"answer":"renewed","wall_clock_us":1}"#,
        );
        check_json(
            &GuestMessage::Renewed(Renewed { wall_clock_us: None }),
            r#"{"answer":"renewed"}"#,
        );
        check_json(
            &GuestMessage::Refused(Refusal { code: RefusalCode::Failed, message: "no".into() }),
            r#"{"answer":"refused","code":"failed","message":"no"}"#,
        );
        check_json(
            &GuestMessage::Refused(Refusal {
                code: RefusalCode::UnknownOperation,
                message: "no".into(),
            }),
            r#"{"answer":"refused","code":"unknown_operation","message":"no"}"#,
        );
        check_json(
            &GuestMessage::Exited(ExecExit { exit_code: 3, duration_us: 5, ..ExecExit::default() }),
            r#"{"answer":"exited","exit_code":3,"signal":null,"timed_out":false,"error":null,"duration_us":5,"launch_us":0,"stdout_truncated":false,"stderr_truncated":false}"#,
        );
    }

    #[test]
    fn unknown_operations_and_fields_parse() {
        let later = r#"{"op":"teleport","to":"mars"}"#;
        assert_eq!(serde_json::from_str::<HostMessage>(later).unwrap(), HostMessage::Unknown);
        let wider = r#"{"op":"hello","generation":1,"colour":"red"}"#;
        assert_eq!(
            serde_json::from_str::<HostMessage>(wider).unwrap(),
            HostMessage::Hello { generation: 1, newest: None }
        );
    }
}
