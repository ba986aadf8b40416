//! The HTTP contract of emberd: paths, bodies and the error body.
//!
//! Server and client both build on these types and on nothing of each other.
//! Unknown fields in a request are ignored.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

mod address;
mod contexts;
pub mod paths;
mod process;
mod server_timing;

pub use address::{Address, AddressError, socket_path};
pub use contexts::{Context, ContextList, ContextState, RunEvent};
pub use emberd_proto::exec::{self, ExecExit, ExecOutcome, ExecSpec, StartedBy};
pub use emberd_proto::file::{ChangeKind, DEPTH_MAX, FileChange, FileEntry, FileType, GuestPath};
pub use emberd_proto::process::{Limits, ProcessSpec, SignalName, TtySize};
pub use emberd_proto::{ContextRun, ContextSpec, Forms, Metrics};
pub use process::{
    Process, ProcessEvent, ProcessEventKind, ProcessList, ProcessWord, SignalProcess, StartProcess,
    Text, WEBSOCKET_MESSAGE_BYTES_MAX,
};
pub use server_timing::{
    SERVER_TIMING_HEADER, STAGE_TOTAL, ServerTiming, ServerTimingError, Stage,
};

/// Language pack of a sandbox created without naming one.
pub const LANGUAGE_PACK_DEFAULT: &str = "python";

/// Where the daemon listens, and clients look, unless told otherwise.
pub const ADDR_DEFAULT: &str = "127.0.0.1:7777";

/// Prefix of an address that names a Unix socket.
pub const ADDR_UNIX_PREFIX: &str = "unix:";

/// Largest request body, in bytes (64 MiB): the largest code and stdin, JSON-escaped.
pub const BODY_BYTES_MAX: usize = 64 << 20;

/// Largest file, and largest archive, that crosses in one request either way, in bytes (16 GiB),
/// however it is compressed.
pub const FILE_BYTES_MAX: u64 = 16 << 30;

/// Response header that carries the id the daemon's log knows a request by.
pub const REQUEST_ID_HEADER: &str = "x-request-id";

/// Request header that, with [`PORT_HEADER`], sends a request to a port inside a sandbox.
pub const SANDBOX_HEADER: &str = "x-emberd-sandbox";

/// Request header that names the port inside the sandbox of [`SANDBOX_HEADER`].
pub const PORT_HEADER: &str = "x-emberd-port";

/// Name of the protocol (`Upgrade`) a connection to a port inside a sandbox speaks: none, its
/// bytes are the port's.
pub const TUNNEL_PROTOCOL: &str = "tcp";

/// Body of `POST /sandboxes`; an empty body is `{}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreateSandbox {
    /// Name of the language pack; `python` when absent or empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language_pack: Option<String>,
}

/// Answer to `POST /sandboxes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreatedSandbox {
    /// `sb_`, the node key of the daemon if it has one, and 12 hexadecimal digits.
    pub id: String,
}

/// Body of `POST /sandboxes/{id}/exec`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExecBody {
    /// What to run.
    #[serde(flatten)]
    pub spec: ExecSpec,
    /// Standard input as text; empty when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// Standard input as base64, for bytes that are not text. Not together with `stdin`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin_base64: Option<String>,
}

/// What a sandbox is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SandboxState {
    /// Its microVM boots; it cannot be used yet.
    Creating,
    /// It runs code.
    Ready,
    /// Its microVM ended by itself; it can only be deleted.
    Gone,
}

/// One sandbox, as `GET /sandboxes` and `GET /sandboxes/{id}` show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Sandbox {
    /// `sb_`, the node key of the daemon if it has one, and 12 hexadecimal digits.
    pub id: String,
    /// Its language pack.
    pub language_pack: String,
    /// What it is doing.
    pub state: SandboxState,
    /// Why its microVM is gone; absent while it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it was asked for, in milliseconds since the Unix epoch.
    pub created_at_ms: u64,
    /// How its microVM came to be: `warm-pool`, `snapshot-restore` or `cold-boot`; absent
    /// until it is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_path: Option<String>,
    /// Where the time of its creation went; absent until it is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootTimes>,
    /// Process id of its VMM on the host; absent before it runs and after it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmm_pid: Option<u32>,
    /// Directory of its sockets, log and record on the host.
    pub dir: String,
}

/// Where the time of a microVM's making went, in microseconds. One from the warm pool was made
/// before it was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BootTimes {
    /// Until the VMM process ran and its channel, or its control socket, was open.
    pub vmm_us: u64,
    /// From then until the guest of a template ran. Absent after a cold boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_us: Option<u64>,
    /// From then until the guest answered.
    pub guest_us: u64,
    /// From then until a restored guest had a clock, randomness and names of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renew_us: Option<u64>,
    /// From then until the pack's warm-up had run. Absent where it was not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm_up_us: Option<u64>,
    /// Of the guest's own clock: kernel start to PID 1. Absent where the agent is not PID 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_us: Option<u64>,
    /// Of the guest's own clock: PID 1 to a serving agent. Absent where it is not PID 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_us: Option<u64>,
}

/// Answer to `GET /sandboxes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SandboxList {
    /// Every sandbox, oldest first.
    pub sandboxes: Vec<Sandbox>,
}

/// Answer to `GET /info`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Info {
    /// Version of the daemon.
    pub version: String,
    /// Memory of each guest, in MiB.
    pub guest_ram_mib: u32,
    /// Virtual processors of each guest.
    pub guest_vcpus: u8,
    /// How new sandboxes come to be as a rule: `warm-pool`, `snapshot-restore` or `cold-boot`.
    pub boot_path: String,
    /// The pools, one for each language pack; none where there are no templates.
    #[serde(default)]
    pub pools: Vec<Pool>,
    /// Deleted sandboxes whose microVMs are not wholly gone yet.
    #[serde(default)]
    pub reaping: usize,
    /// Names of the installed language packs.
    pub packs: Vec<String>,
    /// What each of them is, in one line, by name.
    #[serde(default)]
    pub pack_descriptions: BTreeMap<String, String>,
    /// Directory of per-sandbox state.
    pub work_dir: String,
    /// The VMM and why it was chosen.
    pub vmm: VmmInfo,
    /// Sandboxes there are.
    pub sandboxes: usize,
    /// Sandboxes there may be.
    pub sandboxes_max: usize,
}

/// The microVMs of one language pack that wait for somebody to ask for them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pool {
    /// The language pack.
    pub language_pack: String,
    /// MicroVMs ready to be handed out.
    pub ready: usize,
    /// MicroVMs being made ready.
    pub filling: usize,
    /// VMMs started ahead that have not loaded their template yet.
    pub standing_by: usize,
    /// MicroVMs that are to be ready; 0 where none wait and only VMMs stand by.
    pub target: usize,
    /// `target` as recent bursts have raised it.
    pub ceiling: usize,
    /// Sandboxes the pool has given.
    pub handed_out: u64,
    /// Sandboxes asked for while the pool was empty.
    pub missed: u64,
    /// MicroVMs that died or stopped answering in the pool.
    pub discarded: u64,
}

/// Answer to `GET /sandboxes/{id}/files/list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileList {
    /// What is in the directory, sorted by name; what is in a directory of it follows that.
    pub entries: Vec<FileEntry>,
    /// Whether there is more than a listing may have: 100 000 entries.
    pub cut: bool,
}

/// What a template is to the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TemplateState {
    /// There is none; sandboxes boot cold.
    Absent,
    /// It is being built or verified.
    Building,
    /// Sandboxes are restored from it.
    Ready,
    /// It could not be built; sandboxes boot cold.
    Failed,
}

/// The template of one language pack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Template {
    /// The language pack.
    pub language_pack: String,
    /// What it is to the daemon.
    pub state: TemplateState,
    /// Why it could not be built; absent unless `state` is `failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Its directory on the host; absent unless `state` is `ready`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dir: Option<String>,
    /// Bytes its files take on disk; absent unless `state` is `ready`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// When it was made, in milliseconds since the Unix epoch; absent unless `state` is
    /// `ready`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_at_ms: Option<u64>,
}

/// Answer to `GET /templates`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TemplateList {
    /// One for each installed language pack, by name; none where the daemon makes none.
    pub templates: Vec<Template>,
}

/// The VMM the daemon uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmmInfo {
    /// `qemu` or `firecracker`.
    pub driver: String,
    /// Version of its binary.
    pub version: String,
    /// `kvm` or `tcg` (software emulation).
    pub accelerator: String,
    /// Why this driver and accelerator.
    pub reason: String,
}

/// Answer to `GET /healthz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`.
    pub status: String,
}

/// Body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// What went wrong, for people: the whole chain of causes.
    pub error: String,
    /// What went wrong, for programs; stable.
    pub code: ErrorCode,
    /// What to do about it, where something can be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Kinds of error a client can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// 400: the body is not the JSON this route takes.
    InvalidJson,
    /// 400: a value breaks a rule or a limit.
    InvalidRequest,
    /// 400: no such language pack.
    UnknownPack,
    /// 403: a web page sent the request.
    ForeignOrigin,
    /// 403: a browser sent the request on behalf of a page of another site.
    CrossSite,
    /// 421: the request's `Host` is no name of this daemon.
    ForeignHost,
    /// 404: no such path.
    UnknownRoute,
    /// 404: no such sandbox.
    UnknownSandbox,
    /// 405: the path does not take this method.
    MethodNotAllowed,
    /// 410: the sandbox's microVM ended by itself (delete the sandbox), or the sandbox was
    /// deleted while it was used.
    SandboxGone,
    /// 408: the body did not arrive in time.
    BodyTimeout,
    /// 413: the body is over its limit.
    BodyTooLarge,
    /// 429: the bodies under way have as many bytes as allowed.
    TooManyBytes,
    /// 429: as many sandboxes as allowed exist.
    TooManySandboxes,
    /// 429: the sandbox has as many connections to its ports as allowed.
    TooManyConnections,
    /// 429: the sandbox has as many contexts as allowed.
    TooManyContexts,
    /// 429: as many runs as may wait for their turn in the context do.
    ContextBusy,
    /// 409: the context's interpreter has ended; it can be restarted.
    ContextDead,
    /// 403: the guest's kernel does not permit it.
    Denied,
    /// 404: the sandbox has no such file, process, context or user.
    NotFound,
    /// 409: something is there already.
    AlreadyExists,
    /// 416: the file has nothing where the range begins.
    RangeNotSatisfiable,
    /// 507: the sandbox has no room left for it.
    NoSpace,
    /// 422: the program could not be started in the sandbox.
    NotStarted,
    /// 409: the process, or its standard input, has ended.
    ProcessEnded,
    /// 429: as many processes, or `WebSocket`s, as allowed exist.
    TooMany,
    /// 409: the sandbox is still being created.
    SandboxNotReady,
    /// 409: this daemon makes no templates.
    NoTemplates,
    /// 500: a defect of the daemon or its host.
    Internal,
    /// 502: the guest broke the protocol or stopped answering.
    GuestFailed,
    /// 502: nothing in the sandbox listens on the port.
    PortClosed,
    /// 502: what listens on the port did not answer as HTTP does.
    PortFailed,
    /// 504: what listens on the port did not answer in time.
    PortTimeout,
    /// 503: the microVM could not be started or its guest never answered.
    BootFailed,
    /// 503: the template could not be built.
    TemplateFailed,
    /// 503: the daemon is shutting down.
    ShuttingDown,
    /// A kind of error newer than this code.
    #[serde(other)]
    Other,
}
