//! Configuration as meant: every default and every check, in one conversion.

use std::ffi::OsStr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use emberd_api::{ADDR_DEFAULT, ADDR_UNIX_PREFIX, Address, AddressError, socket_path};
use emberd_image::{DataDir, Images, InitramfsImage, KernelImage, LoadError};

use crate::definition::Key;
use crate::file;
use crate::form::Form;
use crate::given::Given;
use crate::problem::Problems;
use crate::reader::{Reader, flag, utf8};
use crate::surroundings::Surroundings;
use crate::value::{
    AccelChoice, AccessRule, Authentication, JailChoice, LogFormat, OnStart, OnStop,
    RUN_DIR_BYTES_MAX, Switch, VmmChoice,
};
use crate::web_origin::WebOrigin;

mod access;
mod audit;
mod tls;

pub use audit::AuditOptions;
pub use tls::TlsOptions;

/// Where templates are in the data directory.
const TEMPLATE_DIR: &str = "templates";

/// Directory of the disks of guests, in the data directory.
const DISK_DIR: &str = "disks";

/// Part of the host's memory that pools may take unless configured otherwise: one in this many.
const POOL_MEMORY_PART: u64 = 4;

/// Part of the host's memory that all sandboxes may have unless configured otherwise: a fraction.
const MEMORY_PART: (u64, u64) = (3, 2);

/// The configuration of the daemon.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address of the API.
    pub addr: Address,
    /// Unix socket beside it.
    pub socket: Option<SocketOption>,
    /// Files of TLS on that address, if it takes TLS.
    pub tls: Option<TlsOptions>,
    /// Names by which the API may be called, beside those that are always allowed.
    pub allowed_hosts: Vec<String>,
    /// Origins of web pages that may use the API with a key; none twice.
    pub allowed_origins: Vec<WebOrigin>,
    /// Users of the Unix socket who need no key, beside this user and root.
    pub access: Vec<AccessRule>,
    /// Whether callers over TCP need a key.
    pub authentication: Authentication,
    /// File with a key beside those in the data directory.
    pub key_file: Option<PathBuf>,
    /// Directory of per-sandbox state; absolute.
    pub run_dir: PathBuf,
    /// Fate of the sandboxes of an earlier daemon.
    pub on_start: OnStart,
    /// Fate of the sandboxes when the daemon is stopped by SIGTERM.
    pub on_stop: OnStop,
    /// Directory of kernel, initramfs and language packs.
    pub data_dir: DataDir,
    /// Key in the ids of new sandboxes: at most
    /// [`NODE_KEY_BYTES_MAX`](crate::NODE_KEY_BYTES_MAX) of `a-z0-9`.
    pub node_key: String,
    /// Kernel in place of that of the data directory.
    pub kernel: Option<PathBuf>,
    /// Initramfs in place of that of the data directory.
    pub initramfs: Option<PathBuf>,
    /// Words added to the kernel arguments of guests.
    pub kernel_args: Vec<String>,
    /// The VMM.
    pub vmm: VmmChoice,
    /// Firecracker's binary, if it is not searched for.
    pub firecracker: Option<PathBuf>,
    /// How each VMM is jailed.
    pub jail: JailOptions,
    /// Place of the cgroups of VMMs.
    pub cgroup: CgroupOption,
    /// Whether Firecracker's system call filter is on.
    pub seccomp: bool,
    /// QEMU's binary, if it is not searched for.
    pub qemu: Option<PathBuf>,
    /// Accelerator of the guests: KVM or software emulation.
    pub accel: AccelChoice,
    /// Whether guests have a console; the driver decides if absent.
    pub console: Option<bool>,
    /// Memory of a sandbox whose creation names none, in MiB.
    pub guest_ram_mib: u32,
    /// Most memory that a creation may ask for, in MiB.
    pub guest_ram_max_mib: u32,
    /// Virtual processors of a sandbox whose creation names none.
    pub guest_vcpus: u8,
    /// Whether sandboxes are restored from templates.
    pub templates: bool,
    /// Directory of templates; absolute.
    pub template_dir: PathBuf,
    /// Most disk space of all templates, in MiB.
    pub template_disk_mib: u64,
    /// Size of each guest's own disk, in MiB; 0 if guests have none.
    pub disk_mib: u32,
    /// Largest disk that a creation may ask for, in MiB.
    pub disk_max_mib: u32,
    /// Directory of those disks; absolute.
    pub disk_dir: PathBuf,
    /// The warm pools as configured.
    pub pool: PoolOptions,
    /// Most sandboxes at the same time.
    pub max_sandboxes: usize,
    /// Most memory of all sandboxes together, in MiB.
    pub memory_mib: u64,
    /// Longest time a guest may take to boot.
    pub boot_timeout: Duration,
    /// Timeout of sandboxes whose caller asks for none; none for never.
    pub timeout: Option<Duration>,
    /// Longest timeout that a caller may ask for.
    pub timeout_max: Duration,
    /// Time without use after which sandboxes are frozen, or never; the driver decides if absent.
    pub idle_freeze: Option<Option<Duration>>,
    /// Whether sandboxes can reach other hosts.
    pub egress: bool,
    /// File with the most that sandboxes may reach; absolute.
    pub egress_policy: Option<PathBuf>,
    /// Whether `POST /mcp` is served.
    pub mcp: Switch,
    /// The audit journal.
    pub audit: AuditOptions,
    /// Format of the log.
    pub log_format: LogFormat,
    /// The configuration file that was read.
    pub file: Option<PathBuf>,
    /// The values that were given, each with its origin.
    pub given: Given,
}

/// A Unix socket beside a TCP address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketOption {
    /// Its path.
    pub path: PathBuf,
    /// Whether the daemon must have the socket. Without a socket that is not needed, it serves.
    pub is_needed: bool,
}

/// Place of the cgroups of VMMs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CgroupOption {
    /// A place that the host allows.
    Auto,
    /// None is made.
    Off,
    /// In this directory.
    In(PathBuf),
}

/// How each VMM is jailed.
#[derive(Debug, Clone)]
pub struct JailOptions {
    /// Whether it is.
    pub choice: JailChoice,
    /// The jailer, if it is not searched for.
    pub jailer: Option<PathBuf>,
    /// User ids of the jails; the driver's default if absent.
    pub uids: Option<RangeInclusive<u32>>,
    /// Network namespace the jails join.
    pub netns: Option<PathBuf>,
}

/// The warm pools as configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolOptions {
    /// MicroVMs of each language pack that wait; 0 for no pool.
    pub size: usize,
    /// Most memory of all that wait, in MiB.
    pub memory_mib: u64,
}

impl Config {
    /// Reads the configuration file under `given`, and converts both. The file is `file`, or
    /// else that of `surroundings` if it exists.
    ///
    /// # Errors
    /// Everything that is wrong with the file and the options.
    pub fn load(
        mut given: Given,
        file: Option<&Path>,
        surroundings: &Surroundings,
    ) -> Result<Self, Problems> {
        let default = surroundings.config_file.as_deref().filter(|path| path.exists());
        let file = file.or(default).map(Path::to_owned);
        let mut problems = Vec::new();
        if let Some(path) = &file {
            given.merge(file::read(path, &mut problems));
        }
        match Self::new(given, surroundings) {
            Ok(config) if problems.is_empty() => Ok(Self { file, ..config }),
            Ok(_) => Err(Problems(problems)),
            Err(Problems(more)) => {
                problems.extend(more);
                Err(Problems(problems))
            }
        }
    }

    /// Converts `given` for a process in `surroundings`.
    ///
    /// # Errors
    /// Everything that is wrong with the options.
    pub fn new(given: Given, surroundings: &Surroundings) -> Result<Self, Problems> {
        let mut reader = Reader { given: &given, problems: Vec::new() };
        let read = &mut reader;
        let addr = read.value(Key::Addr, address);
        let data_dir = data_dir(read, surroundings);
        let guest_ram_mib = read.number(Key::GuestRamMib);
        let node_key = read.value(Key::NodeKey, node_key);
        let template_dir = read.path(Key::TemplateDir);
        let disk_dir = read.path(Key::DiskDir);
        let accel = read.choice(Key::Accel);
        let config = Self {
            socket: socket(read, &addr, surroundings),
            tls: tls::tls(read, &addr),
            addr,
            allowed_hosts: allowed_hosts(read),
            allowed_origins: access::allowed_origins(read),
            access: access::access(read),
            authentication: access::authentication(read),
            key_file: read.path(Key::KeyFile),
            run_dir: run_dir(read, &node_key, surroundings),
            on_start: read.choice(Key::OnStart),
            on_stop: read.choice(Key::OnStop),
            node_key,
            kernel: read.path(Key::Kernel),
            initramfs: read.path(Key::Initramfs),
            kernel_args: read.given(Key::KernelArgs, words).unwrap_or_default(),
            vmm: vmm(read, accel),
            firecracker: read.path(Key::Firecracker),
            jail: JailOptions {
                choice: read.choice(Key::Jail),
                jailer: read.path(Key::Jailer),
                uids: read.given(Key::JailUids, user_ids),
                netns: read.path(Key::Netns),
            },
            cgroup: cgroup(read),
            seccomp: !read.value(Key::NoSeccomp, flag),
            qemu: read.path(Key::Qemu),
            accel,
            console: read.choice_if_given::<Switch>(Key::Console).map(|it| it == Switch::On),
            guest_ram_mib: narrow(guest_ram_mib),
            guest_ram_max_mib: guest_ram_max_mib(read, surroundings),
            guest_vcpus: narrow(read.number(Key::GuestVcpus)),
            templates: read.choice::<Switch>(Key::Templates) == Switch::On,
            template_dir: template_dir.unwrap_or_else(|| data_dir.path().join(TEMPLATE_DIR)),
            template_disk_mib: read.number(Key::TemplateDiskMib),
            disk_mib: narrow(read.number(Key::DiskMib)),
            disk_max_mib: narrow(read.number(Key::DiskMaxMib)),
            disk_dir: disk_dir.unwrap_or_else(|| data_dir.path().join(DISK_DIR)),
            audit: audit::audit(read, data_dir.path()),
            data_dir,
            pool: pool(read, guest_ram_mib, surroundings),
            max_sandboxes: narrow(read.number(Key::MaxSandboxes)),
            memory_mib: memory_mib(read, guest_ram_mib, surroundings),
            boot_timeout: read.duration(Key::BootTimeout),
            timeout: timeout(read),
            timeout_max: read.duration(Key::TimeoutMax),
            idle_freeze: read.duration_or_never_if_given(Key::IdleFreeze),
            egress: read.choice::<Switch>(Key::Egress) == Switch::On,
            egress_policy: read.path(Key::EgressPolicy),
            mcp: read.choice(Key::Mcp),
            log_format: read.choice(Key::LogFormat),
            file: None,
            given: Given::default(),
        };
        let problems = reader.problems;
        if problems.is_empty() { Ok(Self { given, ..config }) } else { Err(Problems(problems)) }
    }

    /// The pool that the daemon keeps; nothing if pools or templates are off, or if the memory
    /// of the pools does not hold one guest.
    pub fn pool_in_use(&self) -> Option<PoolOptions> {
        let holds_one = self.pool.memory_mib >= u64::from(self.guest_ram_mib);
        (self.templates && self.pool.size > 0 && holds_one).then_some(self.pool)
    }

    /// Loads and verifies what guests boot from.
    ///
    /// # Errors
    /// [`LoadError`]; it names the command that makes what is missing.
    pub fn images(&self) -> Result<Images, LoadError> {
        let mut images = Images::load(&self.data_dir)?;
        if let Some(path) = &self.kernel {
            images.kernel = KernelImage::given(path.clone())?;
        }
        if let Some(path) = &self.initramfs {
            images.initramfs = InitramfsImage::given(path.clone())?;
        }
        Ok(images)
    }
}

/// A number that the limits of its option keep within `T`.
fn narrow<T: TryFrom<u64>>(number: u64) -> T {
    T::try_from(number).ok().expect("limits fit the type of their option")
}

fn address(text: &OsStr) -> Result<Address, String> {
    let read = match utf8(text)?.parse() {
        // TLS is for --tls-cert to say.
        Ok(Address::Tls(authority)) => Err(AddressError::Malformed(authority)),
        read => read,
    };
    read.map_err(|error| match error {
        AddressError::Malformed(_) => "an address: HOST:PORT or unix:PATH".to_owned(),
        AddressError::PathTooLong(bytes) => {
            format!("a socket with a shorter path: it has {bytes} bytes")
        }
    })
}

fn cgroup(read: &mut Reader<'_>) -> CgroupOption {
    match read.value(Key::Cgroup, |text| Ok(text.to_owned())).to_str() {
        Some("auto") => CgroupOption::Auto,
        Some("off") => CgroupOption::Off,
        _ => read.path(Key::Cgroup).map_or(CgroupOption::Auto, CgroupOption::In),
    }
}

/// The socket beside `addr`.
fn socket(
    read: &mut Reader<'_>,
    addr: &Address,
    surroundings: &Surroundings,
) -> Option<SocketOption> {
    let choice = read.value(Key::Socket, |text| Ok(text.to_owned()));
    match choice.to_str() {
        Some("off") => None,
        // Only one daemon has the default address. Others are called by theirs.
        Some("auto") if address(ADDR_DEFAULT.as_ref()).as_ref() != Ok(addr) => None,
        Some("auto") => socket_path(surroundings.user_id, surroundings.runtime_dir.as_deref())
            .map(|path| SocketOption { path, is_needed: false }),
        _ => {
            let path = read.path(Key::Socket)?;
            let unix = format!("{ADDR_UNIX_PREFIX}{}", path.display());
            if let Err(error) = unix.parse::<Address>() {
                read.report(Key::Socket, &error.to_string(), "choose a shorter path, or `off`");
            }
            Some(SocketOption { path, is_needed: true })
        }
    }
}

fn allowed_hosts(read: &mut Reader<'_>) -> Vec<String> {
    const KEY: Key = Key::AllowedHost;
    let Form::HostNames { most, bytes_max } = KEY.definition().form else { return Vec::new() };
    let names = read.list(KEY);
    if names.len() > most {
        let error = format!("{} names, over the limit of {most}", names.len());
        read.report(KEY, &error, "run a reverse proxy with one name in front of the daemon");
    }
    let plain = |name: &&str| {
        let mut bytes = name.bytes();
        (1..=bytes_max).contains(&name.len())
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
    };
    let mut hosts = Vec::new();
    for name in &names {
        match name.to_str().filter(plain) {
            Some(host) => hosts.push(host.to_owned()),
            None => read.refuse(KEY, name, "the name of a host, without a scheme or a port"),
        }
    }
    hosts
}

fn run_dir(read: &mut Reader<'_>, node_key: &str, surroundings: &Surroundings) -> PathBuf {
    let path = read.path(Key::RunDir).unwrap_or_else(|| surroundings.run_dir());
    let (bytes, most) = (path.as_os_str().len(), RUN_DIR_BYTES_MAX - node_key.len());
    if bytes > most {
        let error = format!("{} has {bytes} bytes, over the limit of {most}", path.display());
        read.report(Key::RunDir, &error, "choose a shorter path with --run-dir");
    }
    path
}

fn data_dir(read: &mut Reader<'_>, surroundings: &Surroundings) -> DataDir {
    let given = read.path(Key::DataDir).map(DataDir::new);
    given.or_else(|| surroundings.data_dir.clone()).unwrap_or_else(|| {
        let hint = "name a directory with --data-dir";
        read.report(
            Key::DataDir,
            "the default needs a home directory, and this user has none",
            hint,
        );
        DataDir::new("/")
    })
}

fn node_key(text: &OsStr) -> Result<String, String> {
    let Form::NodeKey { bytes_max } = Key::NodeKey.definition().form else {
        return Err(String::new());
    };
    let text = utf8(text)?;
    let plain = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let valid = plain && text.len() <= bytes_max;
    valid.then(|| text.to_owned()).ok_or_else(|| format!("0 to {bytes_max} of a-z and 0-9"))
}

fn words(text: &OsStr) -> Result<Vec<String>, String> {
    Ok(utf8(text)?.split_whitespace().map(str::to_owned).collect())
}

fn user_ids(text: &OsStr) -> Result<RangeInclusive<u32>, String> {
    let Form::UserIds { least, most } = Key::JailUids.definition().form else {
        return Err(String::new());
    };
    let range = utf8(text)?.split_once('-').and_then(|(first, last)| {
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        let allowed = least..=most;
        let valid = first <= last && allowed.contains(&first) && allowed.contains(&last);
        valid.then_some(first..=last)
    });
    range.ok_or_else(|| "a range of user ids such as 200000-209999".to_owned())
}

/// Only QEMU emulates in software, so that `tcg` decides the VMM.
fn vmm(read: &mut Reader<'_>, accel: AccelChoice) -> VmmChoice {
    match (read.choice(Key::Vmm), accel) {
        (VmmChoice::Auto, AccelChoice::Tcg) => VmmChoice::Qemu,
        (VmmChoice::Firecracker, AccelChoice::Tcg) => {
            let error = "`tcg` is software emulation by QEMU, but the VMM is `firecracker`, and \
                Firecracker needs KVM";
            let hint = "choose --vmm qemu, or leave out --accel";
            read.report(Key::Accel, error, hint);
            VmmChoice::Qemu
        }
        (vmm, _) => vmm,
    }
}

fn guest_ram_max_mib(read: &mut Reader<'_>, surroundings: &Surroundings) -> u32 {
    let given = read.number_if_given(Key::GuestRamMaxMib).map(narrow);
    given.unwrap_or_else(|| u32::try_from(surroundings.host_memory_mib).unwrap_or(u32::MAX))
}

fn memory_mib(read: &mut Reader<'_>, guest_mib: u64, surroundings: &Surroundings) -> u64 {
    let given = read.number_if_given(Key::MemoryMib);
    if let Some(memory_mib) = given.filter(|memory_mib| *memory_mib < guest_mib) {
        let error = format!("{memory_mib} MiB is less than one guest of {guest_mib} MiB");
        read.report(Key::MemoryMib, &error, "choose more, or less with --guest-ram-mib");
    }
    let (part, whole) = MEMORY_PART;
    given.unwrap_or_else(|| guest_mib.max(surroundings.host_memory_mib * part / whole))
}

fn timeout(read: &mut Reader<'_>) -> Option<Duration> {
    let timeout = read.duration_or_never(Key::Timeout);
    if timeout > Some(read.duration(Key::TimeoutMax)) {
        let hint = "choose a shorter one, or a longer --timeout-max";
        read.report(Key::Timeout, "the timeout is over that of --timeout-max", hint);
    }
    timeout
}

fn pool(read: &mut Reader<'_>, guest_mib: u64, surroundings: &Surroundings) -> PoolOptions {
    let size = narrow(read.number(Key::PoolSize));
    let given = read.number_if_given(Key::PoolMemoryMib);
    if let Some(memory_mib) = given.filter(|memory_mib| *memory_mib < guest_mib) {
        let error = format!("{memory_mib} MiB is less than one guest of {guest_mib} MiB");
        read.report(Key::PoolMemoryMib, &error, "give pools more, or switch them off");
    }
    let of_host = surroundings.host_memory_mib / POOL_MEMORY_PART;
    PoolOptions { size, memory_mib: given.unwrap_or(of_host) }
}
