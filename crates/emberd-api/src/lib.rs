//! The HTTP contract of emberd: paths, bodies and the error body.
//!
//! Server and client both build on these types and on nothing of each other. A field that the
//! daemon does not know is accepted, and named in [`UNKNOWN_FIELDS_HEADER`].
//!
//! The feature `schema` adds the schemas of the OpenAPI document to the bodies.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

mod access;
mod address;
mod audit;
mod contexts;
mod egress;
mod error;
mod events;
mod listing;
pub mod paths;
mod ports;
mod process;
mod resources;
mod server_timing;
mod terms;
mod urls;
mod usage;

pub use access::{API_KEY_HEADER, AccessInfo, AccessOverTcp};
pub use address::{Address, AddressError, socket_path};
pub use audit::{AUDIT_RECORDS_MAX, AuditEgress, AuditEvent, AuditPage, AuditRecord, ReadAudit};
pub use contexts::{Context, ContextEvent, ContextList, ContextState, RunEvent};
pub use egress::{
    CheckEgress, EGRESS_RECORDS_MAX, EgressCheck, EgressDecision, EgressEvent, EgressInfo,
    EgressLists, EgressLog, EgressPatch, EgressProfile, EgressProfileList, EgressRecord,
    EgressRule, EgressState, EgressTotals, SandboxEgress,
};
pub use emberd_proto::exec::{self, ExecExit, ExecOutcome, ExecSpec, StartedBy};
pub use emberd_proto::file::{ChangeKind, DEPTH_MAX, FileChange, FileEntry, FileType, GuestPath};
pub use emberd_proto::policy::{
    EgressLimits, EgressLogMode, EgressProtocol, EntryFields, EntrySpec, PolicySpec,
};
pub use emberd_proto::process::{Limits, ProcessSpec, SignalName, TtySize};
pub use emberd_proto::{
    ContextRun, ContextSpec, EgressDenials, EgressDenied, EgressReason, Forms, Metrics, chain,
};
pub use error::{ErrorBody, ErrorCode, KeyLimit};
pub use events::{DaemonEvent, SandboxEvent, SandboxEventGap, SandboxEventKind};
pub use listing::{LIST_LIMIT_MAX, ListSandboxes, SandboxPhase};
pub use ports::{PORT_HEADER, SANDBOX_HEADER, TUNNEL_PROTOCOL, split_port_host};
pub use process::{
    Process, ProcessEvent, ProcessEventKind, ProcessList, ProcessMessage, SignalProcess,
    StartProcess, Text, WEBSOCKET_MESSAGE_BYTES_MAX,
};
pub use resources::{BuildTemplate, Resources};
pub use server_timing::{
    SERVER_TIMING_HEADER, STAGE_TOTAL, ServerTiming, ServerTimingError, Stage,
};
pub use terms::{
    IDLE_FREEZE_MS, IdleOptions, METADATA_BYTES_MAX, METADATA_PAIRS_MAX, OnTimeout, SandboxIdle,
    TIMEOUT_MS_MIN, TouchSandbox, UpdateResources, UpdateSandbox,
};
pub use urls::{CreateUrl, CreatedUrl, URL_EXPIRES_MS, URL_EXPIRES_MS_DEFAULT};
pub use usage::{Usage, UsageLimits, UsageList, Used};

/// Language pack of a sandbox whose creation names none.
pub const LANGUAGE_PACK_DEFAULT: &str = "python";

/// Address that the daemon listens on, and clients connect to, by default.
pub const ADDR_DEFAULT: &str = "127.0.0.1:7777";

/// Prefix of an address that names a Unix socket.
pub const ADDR_UNIX_PREFIX: &str = "unix:";

/// Largest request body, in bytes (64 MiB): the largest code and stdin, JSON-escaped.
pub const BODY_BYTES_MAX: usize = 64 << 20;

/// Largest file and largest archive of one request or response, in bytes (16 GiB), counted
/// uncompressed.
pub const FILE_BYTES_MAX: u64 = 16 << 30;

/// Response header with the id of the request in the daemon's log.
pub const REQUEST_ID_HEADER: &str = "x-request-id";

/// Request header with a key of a creation: repeated with the same key and body, it is answered as
/// the first time, and creates nothing.
pub const IDEMPOTENCY_KEY_HEADER: &str = "idempotency-key";

/// Longest [`IDEMPOTENCY_KEY_HEADER`], in bytes. It has visible ASCII characters only.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 128;

/// Response header, `true` where the sandbox was created by an earlier request with the same key.
pub const REPLAYED_HEADER: &str = "idempotent-replayed";

/// Response header that names the fields of the request's JSON body that the daemon does not know
/// and has ignored: names of nested fields with dots, separated by commas. At most 16 names of 64
/// characters each; `...` stands for what was left out, `?` for a character that a header cannot
/// carry.
pub const UNKNOWN_FIELDS_HEADER: &str = "x-emberd-unknown-fields";

/// The sandbox to create.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct CreateSandbox {
    /// Name of the language pack. `python` when absent or empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language_pack: Option<String>,
    /// Destinations that the sandbox may reach. The operator's default when absent, which is
    /// nothing unless the operator has changed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<PolicySpec>,
    /// Time after which the sandbox ends, from the moment it is ready, in milliseconds: 1,000 to
    /// what the daemon allows (`--timeout-max`). `null` for never. The daemon's default
    /// (`--timeout`) when absent.
    #[serde(default, deserialize_with = "terms::present", skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schema(value_type = Option<u64>))]
    pub timeout_ms: Option<Option<u64>>,
    /// Effect of the timeout. `delete` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_timeout: Option<OnTimeout>,
    /// When the sandbox is stopped for want of use. The daemon's default when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<IdleOptions>,
    /// Whether a request thaws the sandbox, once it is frozen. `true` when absent. With `false`,
    /// only a touch does, and requests are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auto_resume: Option<bool>,
    /// Names and values that mean nothing to the daemon: at most 64, of 8 KiB in all.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Size of the sandbox.
    #[serde(default, skip_serializing_if = "Resources::is_none")]
    pub resources: Resources,
    /// Environment variables of every exec, process and context of the sandbox; the `env` of one
    /// of them goes before. At most 1,024, of 128 KiB in all, together with that `env`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
}

/// A sandbox that was created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct CreatedSandbox {
    /// `sb_`, the node key of the daemon if it has one, and 12 hexadecimal digits.
    pub id: String,
}

/// The code to run, and its standard input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct ExecBody {
    /// The code and its surroundings.
    #[serde(flatten)]
    pub spec: ExecSpec,
    /// Standard input as text. Empty when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// Standard input as base64, for bytes that are not text. Excludes `stdin`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin_base64: Option<String>,
}

/// The fields of an [`ExecBody`], side by side. A derived `Deserialize` of a flattened field would
/// hold the body as a tree first, and hide its unknown fields.
#[derive(Deserialize)]
struct ExecFields {
    code: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    cwd: Option<String>,
    #[serde(default)]
    user: Option<String>,
    #[serde(default = "timeout_ms_default")]
    timeout_ms: u64,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    fresh: bool,
    #[serde(default)]
    stdin: Option<String>,
    #[serde(default)]
    stdin_base64: Option<String>,
}

fn timeout_ms_default() -> u64 {
    exec::TIMEOUT_MS_DEFAULT
}

impl<'de> Deserialize<'de> for ExecBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = ExecFields::deserialize(deserializer)?;
        let ExecFields { code, args, env, cwd, user, timeout_ms, limits, fresh, .. } = fields;
        let spec = ExecSpec { code, args, env, cwd, user, timeout_ms, limits, fresh };
        Ok(Self { spec, stdin: fields.stdin, stdin_base64: fields.stdin_base64 })
    }
}

/// State of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum SandboxState {
    /// The microVM is being started. The sandbox cannot be used yet.
    Creating,
    /// The sandbox runs code.
    Ready,
    /// The microVM ended by itself. The sandbox can only be deleted.
    Gone,
}

/// One sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Sandbox {
    /// `sb_`, the node key of the daemon if it has one, and 12 hexadecimal digits.
    pub id: String,
    /// Name of the language pack.
    pub language_pack: String,
    /// State of the sandbox: whether it can be used.
    pub state: SandboxState,
    /// Phase of the sandbox: whether its guest runs.
    pub phase: SandboxPhase,
    /// Why the microVM ended. Absent unless `state` is `gone`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When the request to create it arrived, in milliseconds since the Unix epoch.
    pub created_at_ms: u64,
    /// How the microVM was started: `warm-pool`, `snapshot-restore` or `cold-boot`. Absent until
    /// the sandbox is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_path: Option<String>,
    /// Time that each stage of the start took. Absent until the sandbox is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<BootTimes>,
    /// Process id of the VMM on the host. Absent before the VMM runs and after it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vmm_pid: Option<u32>,
    /// Directory on the host that holds the sandbox's sockets, log and record.
    pub dir: String,
    /// Timeout of the sandbox, in milliseconds. Absent if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// When the timeout passes, in milliseconds since the Unix epoch, by the host's clock as it is
    /// set now. Absent without a timeout, and until the sandbox is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at_ms: Option<u64>,
    /// Effect of the timeout.
    #[serde(default)]
    pub on_timeout: OnTimeout,
    /// When the sandbox is stopped for want of use.
    #[serde(default)]
    pub idle: SandboxIdle,
    /// Whether a request thaws the sandbox.
    #[serde(default)]
    pub auto_resume: bool,
    /// Names and values that callers gave the sandbox.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// Size of the sandbox, with the defaults filled in.
    #[serde(default)]
    pub resources: Resources,
    /// Names of the environment variables that the sandbox was created with. Their values, which
    /// may be secrets, are not shown.
    #[serde(default)]
    pub env: Vec<String>,
    /// Owner of the sandbox: `key:ID` or `uid:NUMBER`. Absent if it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// Time that each stage of a microVM's start took, in microseconds. A microVM of the warm pool
/// was started before the request arrived.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct BootTimes {
    /// Start of the VMM process, until its channel or its control socket was open.
    pub vmm_us: u64,
    /// Load of the template, until its guest ran. Absent after a cold boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_us: Option<u64>,
    /// Wait until the guest answered.
    pub guest_us: u64,
    /// Renewal of a restored guest: clock, randomness and names. Absent after a cold boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renew_us: Option<u64>,
    /// Warm-up of the language pack. Absent where none ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm_up_us: Option<u64>,
    /// Kernel start to PID 1, by the guest's clock. Absent where the agent is not PID 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_us: Option<u64>,
    /// PID 1 to a serving agent, by the guest's clock. Absent where the agent is not PID 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_us: Option<u64>,
}

/// Sandboxes: all, or one page of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct SandboxList {
    /// The sandboxes, oldest first.
    pub sandboxes: Vec<Sandbox>,
    /// Where the next page begins: its `after`. Absent where there are no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// The daemon: version, VMM, guests, language packs and how much is in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Info {
    /// Version of the daemon.
    pub version: String,
    /// Memory of a sandbox whose creation names none, in MiB.
    pub guest_ram_mib: u32,
    /// Number of virtual processors of a sandbox whose creation names none.
    pub guest_vcpus: u8,
    /// How most new sandboxes start: `warm-pool`, `snapshot-restore` or `cold-boot`.
    pub boot_path: String,
    /// Warm pools, one for each language pack and one for each pinned size. Empty where the daemon
    /// keeps no templates.
    #[serde(default)]
    pub pools: Vec<Pool>,
    /// Number of deleted sandboxes whose microVMs are still being removed.
    #[serde(default)]
    pub reaping: usize,
    /// Names of the installed language packs.
    pub packs: Vec<String>,
    /// One line of description for each language pack, by name.
    #[serde(default)]
    pub pack_descriptions: BTreeMap<String, String>,
    /// Directory on the host that holds the state of each sandbox.
    pub work_dir: String,
    /// The VMM, and why it was chosen.
    pub vmm: VmmInfo,
    /// Number of sandboxes.
    pub sandboxes: usize,
    /// Largest number of sandboxes.
    pub sandboxes_max: usize,
    /// Memory of all sandboxes, in MiB, each counted with all it may use.
    #[serde(default)]
    pub sandboxes_memory_mib: u64,
    /// Most memory of all sandboxes, in MiB.
    #[serde(default)]
    pub sandboxes_memory_mib_max: u64,
    /// Resources of each sandbox that the host limits: `memory`, `cpu` and `pids`.
    #[serde(default)]
    pub limits: Vec<String>,
    /// Whether the daemon refuses to create sandboxes (`POST /drain`).
    #[serde(default)]
    pub draining: bool,
    /// Callers that the daemon serves.
    #[serde(default)]
    pub access: AccessInfo,
    /// MicroVMs of an earlier daemon that run and that this one leaves alone, because it does not
    /// know whose they are. Shown to administrators only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unclaimed: Vec<UnclaimedMicroVm>,
    /// Network access of sandboxes. Absent where egress is switched off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<EgressInfo>,
}

/// A microVM of an earlier daemon that runs and is left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct UnclaimedMicroVm {
    /// Its directory on the host.
    pub dir: String,
    /// Process id of its VMM.
    pub vmm_pid: u32,
    /// Why it is left alone.
    pub why: String,
}

/// The warm pool of one language pack and size: microVMs that wait for a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Pool {
    /// Name of the language pack.
    pub language_pack: String,
    /// Number of virtual processors of its microVMs.
    #[serde(default)]
    pub vcpus: u8,
    /// Memory of its microVMs, in MiB.
    #[serde(default)]
    pub memory_mib: u32,
    /// Number of microVMs that are ready.
    pub ready: usize,
    /// Number of microVMs that are being restored.
    pub filling: usize,
    /// Number of standby VMMs: started ahead, without a template loaded.
    pub standing_by: usize,
    /// Number of microVMs that the pool keeps ready. 0 where it keeps standby VMMs only.
    pub target: usize,
    /// `target`, raised by recent bursts of requests.
    pub ceiling: usize,
    /// Number of sandboxes taken from the pool.
    pub handed_out: u64,
    /// Number of requests that found the pool empty.
    pub missed: u64,
    /// Number of microVMs that ended, or stopped answering, in the pool.
    pub discarded: u64,
}

/// Content of a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct FileList {
    /// Files and directories, sorted by name. The content of a directory follows it.
    pub entries: Vec<FileEntry>,
    /// Whether the listing was cut at its limit of 100,000 entries.
    pub cut: bool,
}

/// State of a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum TemplateState {
    /// The template does not exist. Sandboxes boot cold.
    Absent,
    /// The template is being built or verified.
    Building,
    /// Sandboxes are restored from the template.
    Ready,
    /// The build failed. Sandboxes boot cold.
    Failed,
}

/// The template of one language pack and size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Template {
    /// Name of the language pack.
    pub language_pack: String,
    /// Number of virtual processors.
    #[serde(default)]
    pub vcpus: u8,
    /// Memory, in MiB.
    #[serde(default)]
    pub memory_mib: u32,
    /// Whether the template stays, even if it is not used: it is of the default size, or pinned.
    #[serde(default)]
    pub pinned: bool,
    /// State of the template.
    pub state: TemplateState,
    /// Why the build failed. Absent unless `state` is `failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Directory of the template on the host. Absent unless `state` is `ready`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dir: Option<String>,
    /// Size of the template on disk, in bytes. Absent unless `state` is `ready`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<u64>,
    /// When the template was built, in milliseconds since the Unix epoch. Absent unless `state`
    /// is `ready`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_at_ms: Option<u64>,
}

/// All templates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct TemplateList {
    /// The template of each installed language pack with the default size, and those of other
    /// sizes, sorted by name and size. Empty where the daemon
    /// keeps no templates.
    pub templates: Vec<Template>,
}

/// The VMM the daemon uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct VmmInfo {
    /// `qemu` or `firecracker`.
    pub driver: String,
    /// Version of the VMM's binary.
    pub version: String,
    /// `kvm` or `tcg` (software emulation).
    pub accelerator: String,
    /// Why this driver and this accelerator were chosen.
    pub reason: String,
}

/// Sign of life of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Health {
    /// Always `ok`.
    pub status: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_an_exec_is_read_as_it_was_written() {
        let spec = ExecSpec {
            code: "c".to_owned(),
            args: vec!["a".to_owned()],
            env: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
            cwd: Some("/".to_owned()),
            user: Some("u".to_owned()),
            timeout_ms: 7,
            limits: Limits { cpu_ms: Some(1), memory_mib: Some(2), pids: Some(3), file_mib: None },
            fresh: true,
        };
        let (stdin, stdin_base64) = (Some("i".to_owned()), Some("aQ==".to_owned()));
        let body = ExecBody { spec, stdin, stdin_base64 };
        let json = serde_json::to_string(&body).unwrap();
        assert_eq!(serde_json::from_str::<ExecBody>(&json).unwrap(), body);
        // The defaults are those of a spec.
        let read = serde_json::from_str::<ExecBody>(r#"{"code":"c"}"#).unwrap();
        assert_eq!(read.spec, serde_json::from_str(r#"{"code":"c"}"#).unwrap());
    }
}
