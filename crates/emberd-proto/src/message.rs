//! The JSON inside control frames: what the host asks and what the guest answers.
//!
//! Unknown fields are ignored, so either side may add some; an operation the guest
//! does not know parses as [`HostMessage::Unknown`] and is refused by type, not by
//! closing the connection.

use serde::{Deserialize, Serialize};

use crate::context::ContextSpec;
use crate::exec::{ExecExit, ExecSpec};
use crate::file::{FileChange, FileEntry, FileRequest};
use crate::metrics::Metrics;
use crate::process::{ProcessSpec, SignalName, TtySize};
use crate::renewal::Renewal;

/// Generation of this wire. The guest refuses a host of another one.
pub const GENERATION: u32 = 1;

/// Port the guest agent listens on.
pub const AGENT_PORT: u32 = 1024;

/// Port of the host (CID 2) the guest dials once it serves. The connection carries nothing
/// and is closed at once; it saves the host from polling. A host need not listen there.
pub const READY_PORT: u32 = 1025;

/// Data for a port the host may have sent beyond what the guest has said was taken, in bytes
/// (256 KiB). A program that does not read holds up to that much of the guest's memory, and
/// does not keep the agent from hearing that the host has left.
pub const DIAL_WINDOW_BYTES: usize = 256 << 10;

/// Name of the virtio-serial port the agent serves where there is no vsock.
pub const AGENT_PORT_NAME: &str = "emberd.agent";

/// What the host asks. [`HostMessage::Hello`] opens every connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum HostMessage {
    /// First message of a connection; answered by [`GuestMessage::Welcome`].
    Hello {
        /// The host's [`GENERATION`].
        generation: u32,
    },
    /// Answered by [`GuestMessage::Pong`].
    Ping,
    /// Runs code. `Stdin` frames and one `StdinEnd` frame follow; the answer is `Stdout` and
    /// `Stderr` frames, then [`GuestMessage::Exited`].
    Exec(ExecSpec),
    /// Starts a process: answered by [`GuestMessage::Started`], or by [`GuestMessage::Exited`]
    /// when it cannot be. `Stdin` frames, at most [`crate::process::STDIN_WINDOW_BYTES`] of them
    /// not yet taken, one `StdinEnd`, [`Self::Signal`] and [`Self::Resize`] may follow; `Stdout`
    /// and `Stderr` frames come without bound until [`GuestMessage::Exited`]. A host that closes
    /// the connection kills the process and all it started.
    Start(ProcessSpec),
    /// Sends a signal to the process of this connection and all it started. Not answered.
    Signal {
        /// Which.
        signal: SignalName,
    },
    /// Changes the size of the terminal of this connection's process. Not answered.
    Resize(TtySize),
    /// An operation on files.
    File(FileRequest),
    /// Connects to a TCP port of the guest's loopback interface; answered by
    /// [`GuestMessage::Dialed`], then `Data` and one `DataEnd` go each way, at most
    /// [`DIAL_WINDOW_BYTES`] to the guest not yet taken, then [`GuestMessage::Done`]. A guest
    /// closes the connection when the one to the port breaks; a host that closes it breaks the
    /// one to the port.
    Dial {
        /// The port.
        port: u16,
    },
    /// Opens a context, see [`crate::context`]; answered by [`GuestMessage::Started`], ended by
    /// [`GuestMessage::Exited`]. [`Self::Signal`] may follow.
    Context(ContextSpec),
    /// Answered by [`GuestMessage::Metrics`].
    Metrics,
    /// Makes the guest itself after a restore; answered by [`GuestMessage::Renewed`]. An agent
    /// that is not its machine's PID 1 checks it, answers, and changes nothing. The same renewal
    /// again, known by its boot id, only sets the clock. May be sent along with [`Self::Hello`].
    Renew(Renewal),
    /// Brings the guest to rest before a snapshot: its zygote is up with a child forked ahead,
    /// its file systems are written out. Answered by [`GuestMessage::Settled`]. Execs on other
    /// connections are the host's to avoid.
    Settle,
    /// An operation this generation does not know.
    #[serde(other)]
    Unknown,
}

/// What the guest answers. All but `Stdout` and `Stderr` frames are one of these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum GuestMessage {
    /// The guest is ready.
    Welcome(Welcome),
    /// Answer to [`HostMessage::Ping`].
    Pong,
    /// The program ended; no further output follows.
    Exited(ExecExit),
    /// The process runs.
    Started {
        /// Its number in the guest.
        pid: u32,
    },
    /// The process has taken standard input, or will never: the host may send as much again.
    StdinTaken {
        /// How many bytes of it, since the last time this was said.
        bytes: usize,
    },
    /// What a path leads to.
    File(FileEntry),
    /// Some of the entries of a listing.
    Listed {
        /// At most [`crate::file::BATCH_MAX`].
        entries: Vec<FileEntry>,
        /// Whether there are more than a listing may have, and this is the last batch.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        cut: bool,
    },
    /// Changes from here on will be told.
    Watching,
    /// What has changed, in order.
    Changes {
        /// At most [`crate::file::BATCH_MAX`].
        changes: Vec<FileChange>,
    },
    /// The operation is complete.
    Done,
    /// The connection to the port stands.
    Dialed,
    /// Whoever listens on the port has taken data: the host may send as much again.
    DataTaken {
        /// How many bytes of it, since the last time this was said.
        bytes: usize,
    },
    /// What the guest uses.
    Metrics(Metrics),
    /// Everything in the [`Renewal`] has taken effect.
    Renewed(Renewed),
    /// Answer to [`HostMessage::Settle`].
    Settled(Settled),
    /// The operation was not carried out; the connection is idle again.
    Refused(Refusal),
}

/// Who answers, and how long its boot took.
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

/// The clock of a guest that was renewed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Renewed {
    /// What it shows as the answer is written, in microseconds since the epoch: how late it is
    /// is at most what the host's clock then shows beyond. Absent from older agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wall_clock_us: Option<u64>,
}

/// What a snapshot taken now would hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// Whether a zygote is ready to run code; absent when the pack has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zygote_ready: Option<bool>,
}

/// Why the guest did not carry out an operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("guest refused: {message}")]
pub struct Refusal {
    /// What kind of refusal this is.
    pub code: RefusalCode,
    /// For people.
    pub message: String,
}

/// Kinds of refusal a host can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// Host and guest speak different generations.
    Generation,
    /// The operation is unknown to this guest.
    UnknownOperation,
    /// The message breaks a rule of the protocol or one of its limits.
    Invalid,
    /// The guest tried, and a step of the operation failed; steps before it have taken effect.
    Failed,
    /// There is no such file, user or language, or nothing listens on the port.
    NotFound,
    /// Something is there already.
    AlreadyExists,
    /// A directory was expected, or something else than one.
    WrongType,
    /// The guest's kernel does not permit it.
    Denied,
    /// There is no room left.
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
        check_json(&HostMessage::Hello { generation: 1 }, r#"{"op":"hello","generation":1}"#);
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
            HostMessage::Hello { generation: 1 }
        );
    }
}
