//! Reads a [`HostMessage`]: one flat JSON object, in one pass.
//!
//! A derived reader of a tagged enum first keeps a copy of everything, and has code for each
//! variant, which would be a fiftieth of the agent.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use super::HostMessage;
use crate::context::ContextSpec;
use crate::exec::{ExecSpec, TIMEOUT_MS_DEFAULT};
use crate::file::{FileOp, FileRequest, GuestPath};
use crate::limits::GuestLimits;
use crate::process::{Limits, ProcessSpec, SignalName, TtySize};
use crate::renewal::Renewal;

/// The fields of all messages; each has the same type wherever it appears.
macro_rules! fields {
    ($($name:ident: $type:ty,)*) => {
        #[derive(Default)]
        struct Fields { $($name: Option<$type>,)* }

        impl<'de> Visitor<'de> for Fields {
            type Value = HostMessage;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a message")
            }

            fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<HostMessage, A::Error> {
                while let Some(name) = map.next_key::<String>()? {
                    match name.as_str() {
                        $(stringify!($name) => self.$name = map.next_value()?,)*
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                self.message().map_err(|field| A::Error::missing_field(field))
            }
        }
    };
}

fields! {
    op: String,
    args: Vec<String>,
    argv: Vec<String>,
    boot_id: String,
    code: String,
    cols: u16,
    cwd: String,
    depth: u32,
    disk_mib: u64,
    entropy_base64: String,
    env: BTreeMap<String, String>,
    epoch: u64,
    file_op: String,
    fresh: bool,
    from: GuestPath,
    generation: u32,
    hostname: String,
    id: u64,
    language: String,
    length: u64,
    limits: Limits,
    machine_id: String,
    mode: u32,
    newest: u32,
    note: String,
    offset: u64,
    path: GuestPath,
    pids: u64,
    port: u16,
    recursive: bool,
    rows: u16,
    seq: u64,
    signal: SignalName,
    timeout_ms: u64,
    to: GuestPath,
    tty: TtySize,
    user: String,
    wall_clock_us: u64,
}

impl<'de> Deserialize<'de> for HostMessage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields::default())
    }
}

/// Takes a field that a message cannot be without; else returns its name.
macro_rules! take {
    ($fields:ident.$name:ident) => {
        $fields.$name.ok_or(stringify!($name))?
    };
}

impl Fields {
    /// Returns the message, or the name of the field that it lacks.
    fn message(self) -> Result<HostMessage, &'static str> {
        let Some(op) = &self.op else { return Err("op") };
        Ok(match op.as_str() {
            "hello" => {
                HostMessage::Hello { generation: take!(self.generation), newest: self.newest }
            }
            "ping" => HostMessage::Ping,
            "exec" => HostMessage::Exec(ExecSpec {
                code: take!(self.code),
                args: self.args.unwrap_or_default(),
                env: self.env.unwrap_or_default(),
                cwd: self.cwd,
                user: self.user,
                timeout_ms: self.timeout_ms.unwrap_or(TIMEOUT_MS_DEFAULT),
                limits: self.limits.unwrap_or_default(),
                fresh: self.fresh.unwrap_or_default(),
            }),
            "start" => HostMessage::Start(ProcessSpec {
                code: self.code,
                argv: self.argv.unwrap_or_default(),
                args: self.args.unwrap_or_default(),
                env: self.env.unwrap_or_default(),
                cwd: self.cwd,
                user: self.user,
                tty: self.tty,
                timeout_ms: self.timeout_ms,
                limits: self.limits.unwrap_or_default(),
                fresh: self.fresh.unwrap_or_default(),
            }),
            "attach" => HostMessage::Attach { id: take!(self.id), seq: take!(self.seq) },
            "note" => HostMessage::Note { note: take!(self.note) },
            "list" => HostMessage::List,
            "delete" => HostMessage::Delete { id: take!(self.id) },
            "adopt" => HostMessage::Adopt { epoch: take!(self.epoch) },
            "signal" => HostMessage::Signal { signal: take!(self.signal) },
            "resize" => {
                HostMessage::Resize(TtySize { cols: take!(self.cols), rows: take!(self.rows) })
            }
            "file" => self.file()?,
            "dial" => HostMessage::Dial { port: take!(self.port) },
            "context" => HostMessage::Context(ContextSpec {
                language: self.language,
                cwd: self.cwd,
                env: self.env.unwrap_or_default(),
                user: self.user,
            }),
            "egress" => HostMessage::Egress,
            "metrics" => HostMessage::Metrics,
            "renew" => HostMessage::Renew(Renewal {
                wall_clock_us: take!(self.wall_clock_us),
                entropy_base64: take!(self.entropy_base64),
                hostname: take!(self.hostname),
                machine_id: take!(self.machine_id),
                boot_id: take!(self.boot_id),
            }),
            "set_clock" => HostMessage::SetClock { wall_clock_us: take!(self.wall_clock_us) },
            "limit" => HostMessage::Limit(GuestLimits { pids: self.pids, disk_mib: self.disk_mib }),
            "settle" => HostMessage::Settle,
            _ => HostMessage::Unknown,
        })
    }

    fn file(self) -> Result<HostMessage, &'static str> {
        let op = take!(self.file_op);
        let op = if op == "move" {
            FileOp::Move { from: take!(self.from), to: take!(self.to) }
        } else {
            let path = take!(self.path);
            match op.as_str() {
                "stat" => FileOp::Stat { path },
                "list" => FileOp::List { path, depth: take!(self.depth) },
                "make_dir" => FileOp::MakeDir { path, mode: self.mode },
                "remove" => FileOp::Remove { path },
                "read" => {
                    let offset = self.offset.unwrap_or_default();
                    FileOp::Read { path, offset, length: self.length }
                }
                "write" => FileOp::Write { path, mode: self.mode },
                "pack" => FileOp::Pack { path },
                "unpack" => FileOp::Unpack { path },
                "watch" => FileOp::Watch { path, recursive: self.recursive.unwrap_or_default() },
                _ => return Ok(HostMessage::Unknown),
            }
        };
        Ok(HostMessage::File(FileRequest { user: self.user, op }))
    }
}
