//! What defines an option; everything else is made from it.

use crate::form::Form;

/// Names an option in code; the order is that of [`DEFINITIONS`](crate::DEFINITIONS).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each is described by its definition")]
pub enum Key {
    Addr,
    Socket,
    TlsCert,
    TlsKey,
    TlsClientCa,
    AllowedHost,
    AllowedOrigin,
    Access,
    InsecureNoAuth,
    KeyFile,
    RunDir,
    OnStart,
    OnStop,
    DataDir,
    NodeKey,
    Vmm,
    Firecracker,
    Jailer,
    Jail,
    JailUids,
    Netns,
    Cgroup,
    NoSeccomp,
    Qemu,
    Accel,
    Console,
    GuestRamMib,
    GuestRamMaxMib,
    GuestVcpus,
    Templates,
    TemplateDir,
    TemplateDiskMib,
    DiskMib,
    DiskMaxMib,
    DiskDir,
    PoolSize,
    PoolMemoryMib,
    MaxSandboxes,
    MemoryMib,
    BootTimeout,
    Timeout,
    TimeoutMax,
    IdleFreeze,
    Kernel,
    Initramfs,
    KernelArgs,
    Egress,
    EgressPolicy,
    Mcp,
    Audit,
    AuditDir,
    AuditFileMib,
    AuditKeep,
    AuditKeepMib,
    LogFormat,
}

/// One option.
#[derive(Debug)]
pub struct Definition {
    /// Its name in code.
    pub key: Key,
    /// The TOML key, and the flag without its dashes.
    pub name: &'static str,
    /// Placeholder of the value in help texts.
    pub value_name: &'static str,
    /// Value if none is given.
    pub default: DefaultValue,
    /// How the value is written, and its limits.
    pub form: Form,
    /// Effect of the option: one phrase, for `-h`.
    pub about: &'static str,
    /// More sentences, for `--help` and the reference page; may be empty.
    pub detail: &'static str,
    /// Whether help and the reference page leave it out.
    pub hidden: bool,
}

/// The value of an option that was not given.
#[derive(Debug, Clone, Copy)]
pub enum DefaultValue {
    /// This text, read as if it had been given.
    Text(&'static str),
    /// A value that the host, the user or another option decides, in words.
    Described(&'static str),
}

impl DefaultValue {
    /// The default for readers.
    pub fn text(self) -> &'static str {
        match self {
            Self::Text("") => "empty",
            Self::Text(text) | Self::Described(text) => text,
        }
    }
}

impl Definition {
    /// Values that most options share.
    pub(crate) const BASE: Self = Self {
        key: Key::Addr,
        name: "",
        value_name: "",
        default: DefaultValue::Described("none"),
        form: Form::Path,
        about: "",
        detail: "",
        hidden: false,
    };

    /// The flag: `--guest-ram-mib`.
    pub fn flag(&self) -> String {
        format!("--{}", self.name)
    }

    /// The environment variable: `EMBERD_GUEST_RAM_MIB`.
    pub fn variable(&self) -> String {
        format!("EMBERD_{}", self.name.replace('-', "_").to_uppercase())
    }
}
