//! The configuration as meant, one value per option, with where each comes from.

use std::time::Duration;

use emberd_api::Address;
use serde::Serialize;
use serde_json::{Value, json};

use crate::config::{CgroupOption, Config};
use crate::definition::Key;
use crate::definitions::DEFINITIONS;
use crate::given::Origin;
use crate::value::{Authentication, Switch};
use crate::{duration, value};

/// One option as `emberd config print` shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Shown {
    /// The TOML key, and the flag without its dashes.
    pub option: &'static str,
    /// The value, as the file takes it; null if the default depends on the driver or the host.
    pub value: Value,
    /// `default`, `file`, `environment` or `flag`.
    pub origin: &'static str,
    /// The file and line, or the name of the variable or flag; null for a default.
    pub place: Option<String>,
    /// The default in words; null unless `value` is null.
    pub described: Option<&'static str>,
}

impl Config {
    /// Every option, in the order of the reference page.
    pub fn shown(&self) -> Vec<Shown> {
        let shown = DEFINITIONS.iter().map(|definition| {
            let key = definition.key;
            let (origin, place) = match self.given.origin(key) {
                Origin::Default => ("default", None),
                Origin::File { path, line } => ("file", Some(crate::given::place(&path, line))),
                Origin::Variable => ("environment", Some(definition.variable())),
                Origin::Flag => ("flag", Some(definition.flag())),
            };
            let value = self.value(key);
            let described = value.is_null().then(|| definition.default.text());
            Shown { option: definition.name, value, origin, place, described }
        });
        shown.collect()
    }

    /// The value of one option, as the file takes it.
    fn value(&self, key: Key) -> Value {
        let path = |path: &Option<std::path::PathBuf>| json!(path.as_ref().map(shown_path));
        let switch = |on| json!(value::name(if on { Switch::On } else { Switch::Off }));
        match key {
            Key::Addr => json!(shown_address(&self.addr)),
            Key::Socket => match &self.socket {
                None => json!("off"),
                Some(socket) => json!(shown_path(&socket.path)),
            },
            Key::TlsCert => path(&self.tls.as_ref().map(|tls| tls.cert.clone())),
            Key::TlsKey => path(&self.tls.as_ref().map(|tls| tls.key.clone())),
            Key::TlsClientCa => path(&self.tls.as_ref().and_then(|tls| tls.client_ca.clone())),
            Key::AllowedHost => json!(self.allowed_hosts),
            Key::AllowedOrigin => texts(&self.allowed_origins),
            Key::Access => texts(&self.access),
            Key::InsecureNoAuth => json!(self.authentication == Authentication::Off),
            Key::KeyFile => path(&self.key_file),
            Key::RunDir => json!(shown_path(&self.run_dir)),
            Key::OnStart => json!(value::name(self.on_start)),
            Key::OnStop => json!(value::name(self.on_stop)),
            Key::DataDir => json!(shown_path(self.data_dir.path())),
            Key::NodeKey => json!(self.node_key),
            Key::Vmm => json!(value::name(self.vmm)),
            Key::Firecracker => path(&self.firecracker),
            Key::Jailer => path(&self.jail.jailer),
            Key::Jail => json!(value::name(self.jail.choice)),
            Key::JailUids => {
                let uids = self.jail.uids.as_ref();
                json!(uids.map(|uids| format!("{}-{}", uids.start(), uids.end())))
            }
            Key::Netns => path(&self.jail.netns),
            Key::Cgroup => json!(shown_cgroup(&self.cgroup)),
            Key::NoSeccomp => json!(!self.seccomp),
            Key::Qemu => path(&self.qemu),
            Key::Accel => json!(value::name(self.accel)),
            Key::Console => self.console.map_or(Value::Null, switch),
            Key::GuestRamMib => json!(self.guest_ram_mib),
            Key::GuestRamMaxMib => json!(self.guest_ram_max_mib),
            Key::GuestVcpus => json!(self.guest_vcpus),
            Key::Templates => switch(self.templates),
            Key::TemplateDir => json!(shown_path(&self.template_dir)),
            Key::TemplateDiskMib => json!(self.template_disk_mib),
            Key::DiskMib => json!(self.disk_mib),
            Key::DiskMaxMib => json!(self.disk_max_mib),
            Key::DiskDir => json!(shown_path(&self.disk_dir)),
            Key::PoolSize => json!(self.pool.size),
            Key::PoolMemoryMib => json!(self.pool.memory_mib),
            Key::MaxSandboxes => json!(self.max_sandboxes),
            Key::MemoryMib => json!(self.memory_mib),
            Key::BootTimeout => json!(duration::text(self.boot_timeout)),
            Key::Timeout => json!(or_never(self.timeout)),
            Key::TimeoutMax => json!(duration::text(self.timeout_max)),
            Key::IdleFreeze => json!(self.idle_freeze.map(or_never)),
            Key::Kernel => path(&self.kernel),
            Key::Initramfs => path(&self.initramfs),
            Key::KernelArgs => json!(self.kernel_args.join(" ")),
            Key::Egress => switch(self.egress),
            Key::EgressPolicy => path(&self.egress_policy),
            Key::Mcp => json!(value::name(self.mcp)),
            Key::Audit => json!(value::name(self.audit.choice)),
            Key::AuditDir => json!(shown_path(&self.audit.dir)),
            Key::AuditFileMib => json!(self.audit.file_mib),
            Key::AuditKeep => json!(duration::text(self.audit.keep)),
            Key::AuditKeepMib => json!(self.audit.keep_mib),
            Key::LogFormat => json!(value::name(self.log_format)),
        }
    }
}

fn texts(values: &[impl ToString]) -> Value {
    json!(values.iter().map(ToString::to_string).collect::<Vec<_>>())
}

fn or_never(time: Option<Duration>) -> String {
    time.map_or_else(|| "never".to_owned(), duration::text)
}

fn shown_address(address: &Address) -> String {
    match address {
        Address::Tcp(authority) | Address::Tls(authority) => authority.clone(),
        unix @ Address::Unix(_) => unix.to_string(),
    }
}

fn shown_cgroup(cgroup: &CgroupOption) -> String {
    match cgroup {
        CgroupOption::Auto => "auto".to_owned(),
        CgroupOption::Off => "off".to_owned(),
        CgroupOption::In(dir) => shown_path(dir),
    }
}

fn shown_path(path: impl AsRef<std::path::Path>) -> String {
    path.as_ref().display().to_string()
}
