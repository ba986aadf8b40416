//! Configuration as meant: every default and every check, in one conversion.

use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use emberd_api::{ADDR_DEFAULT, ADDR_UNIX_PREFIX, Address, AddressError, socket_path};
use emberd_image::{DataDir, Images, InitramfsImage, KernelImage, LoadError};
use emberd_sandbox::{
    BOOT_TIMEOUT_DEFAULT, EXEC_GRACE_DEFAULT, Pace, PoolConfig, SANDBOXES_MAX_DEFAULT,
    SandboxesConfig,
};

use crate::args::{
    AccelChoice, JailChoice, LogFormat, Options, PoolSize, SocketChoice, Switch, VmmChoice,
};

/// Memory of a guest, in MiB, unless configured otherwise.
const GUEST_RAM_MIB_DEFAULT: u32 = 256;

/// Memory a guest can be given, in MiB: less does not boot, more is a slip of the keyboard.
const GUEST_RAM_MIB: RangeInclusive<u32> = 64..=(1 << 20);

/// Virtual processors a guest can be given; Firecracker's limit.
const GUEST_VCPUS: RangeInclusive<u8> = 1..=32;

/// Where templates are in the data directory.
const TEMPLATE_DIR: &str = "templates";

/// MicroVMs of each language pack that wait, unless configured otherwise: who asks for two
/// sandboxes at once waits for neither.
const POOL_SIZE_DEFAULT: usize = 2;

/// MicroVMs of each language pack that can be asked to wait: each is a process and its memory.
const POOL_SIZE: RangeInclusive<usize> = 0..=256;

/// Part of the host's memory that pools may take unless configured otherwise: one in this many.
const POOL_MEMORY_PART: u64 = 4;

/// Most memory pools can be given, in MiB (16 TiB): more is a slip of the keyboard.
const POOL_MEMORY_MIB_MAX: u64 = 1 << 24;

/// Sandboxes a host can be asked to hold.
const MAX_SANDBOXES: RangeInclusive<usize> = 1..=4096;

/// Boot times that can be allowed, in milliseconds, up to an hour.
const BOOT_TIMEOUT_MS: RangeInclusive<u64> = 1..=3_600_000;

/// Names that can be allowed: each is compared with the host of every request.
const ALLOWED_HOSTS_MAX: usize = 64;

/// Longest name of a host, in bytes: that of DNS.
const HOST_BYTES_MAX: usize = 253;

/// Users jails may run as: root is none, and the last number means "no user" (chown(2)).
const JAIL_UIDS: RangeInclusive<u32> = 1..=u32::MAX - 1;

/// Everything the daemon needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen.
    pub addr: Address,
    /// A Unix socket to listen on too.
    pub socket: Option<SocketOption>,
    /// Names by which the API may be called, beside those it has anyway.
    pub allowed_hosts: Vec<String>,
    /// Where kernel, initramfs and language packs are.
    pub data_dir: DataDir,
    /// Kernel in place of the data directory's.
    pub kernel: Option<PathBuf>,
    /// Initramfs in place of the data directory's.
    pub initramfs: Option<PathBuf>,
    /// The VMM.
    pub vmm: VmmChoice,
    /// Firecracker's binary, where it is not to be looked for.
    pub firecracker: Option<PathBuf>,
    /// How each Firecracker is jailed.
    pub jail: JailOptions,
    /// Whether Firecracker's system call filter is on.
    pub seccomp: bool,
    /// QEMU's binary, where it is not the search path's.
    pub qemu: Option<PathBuf>,
    /// What runs the guests' instructions.
    pub accel: AccelChoice,
    /// Whether guests have a console, where that is not the driver's to say.
    pub console: Option<bool>,
    /// What every sandbox is made like.
    pub sandboxes: SandboxesConfig,
    /// Format of the log.
    pub log_format: LogFormat,
}

/// A Unix socket beside a TCP address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketOption {
    /// Where.
    pub path: PathBuf,
    /// Whether it was asked for; else the daemon does without where it cannot be had.
    pub is_needed: bool,
}

/// How each Firecracker is jailed.
#[derive(Debug, Clone)]
pub struct JailOptions {
    /// Whether it is.
    pub choice: JailChoice,
    /// The jailer, where it is not to be looked for.
    pub jailer: Option<PathBuf>,
    /// Users the jails run as, where they are not the driver's default.
    pub uids: Option<RangeInclusive<u32>>,
    /// Network namespace the jails join.
    pub netns: Option<PathBuf>,
}

/// Which option cannot be meant.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// `--addr`, or `--socket`, is no address.
    #[error("there is nothing to listen on")]
    Addr(#[from] AddressError),
    /// A number is out of its range.
    #[error("{option} is {value}, not between {least} and {most}")]
    Range {
        /// The flag.
        option: &'static str,
        /// What was given.
        value: u64,
        /// The least allowed.
        least: u64,
        /// The most allowed.
        most: u64,
    },
    /// A text is not what its option takes.
    #[error("{option} is `{value}`, not {expected}")]
    Form {
        /// The flag.
        option: &'static str,
        /// What was given.
        value: String,
        /// What it takes.
        expected: &'static str,
    },
    /// Software emulation is demanded of the VMM that has none.
    #[error("--accel tcg is QEMU's: Firecracker needs KVM")]
    FirecrackerEmulated,
    /// There is no default for this user.
    #[error("this user has no home directory: name one with --data-dir")]
    NoDataDir,
    /// A path cannot be made absolute.
    #[error("cannot make {} an absolute path", path.display())]
    Path {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What of the process decides defaults.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Effective user id.
    pub user_id: u32,
    /// `$XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<PathBuf>,
    /// The data directory of this user.
    pub data_dir: Option<DataDir>,
    /// Memory of the host, in MiB.
    pub host_memory_mib: u64,
}

impl Surroundings {
    /// Those of this process.
    pub fn of_process() -> Self {
        let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        Self {
            user_id: rustix::process::geteuid().as_raw(),
            runtime_dir: runtime_dir.filter(|path| path.is_absolute()),
            data_dir: DataDir::default_path(),
            host_memory_mib: host_memory_mib(),
        }
    }

    fn run_dir(&self) -> PathBuf {
        match (self.user_id, &self.runtime_dir) {
            (0, _) => PathBuf::from("/var/lib/emberd/run"),
            (_, Some(runtime_dir)) => runtime_dir.join("emberd"),
            (user_id, None) => PathBuf::from(format!("/tmp/emberd-{user_id}")),
        }
    }
}

impl Config {
    /// What `options` mean for a process in `surroundings`.
    ///
    /// # Errors
    /// [`ConfigError`] for the first option that cannot be meant.
    pub fn new(options: Options, surroundings: &Surroundings) -> Result<Self, ConfigError> {
        let addr = options.addr.as_deref().unwrap_or(ADDR_DEFAULT).parse()?;
        let run_dir = options.run_dir.unwrap_or_else(|| surroundings.run_dir());
        let data_dir = match options.data_dir {
            Some(path) => DataDir::new(absolute(path)?),
            None => surroundings.data_dir.clone().ok_or(ConfigError::NoDataDir)?,
        };
        let mem_size_mib = within("--guest-ram-mib", options.guest_ram_mib, GUEST_RAM_MIB)?
            .unwrap_or(GUEST_RAM_MIB_DEFAULT);
        let pool = pool(options.pool_size, options.pool_memory_mib, mem_size_mib, surroundings)?;
        let template_dir = match options.template_dir {
            Some(path) => absolute(path)?,
            None => data_dir.path().join(TEMPLATE_DIR),
        };
        let has_templates = options.templates != Some(Switch::Off);
        let sandboxes = SandboxesConfig {
            run_dir: absolute(run_dir)?,
            sandboxes_max: within("--max-sandboxes", options.max_sandboxes, MAX_SANDBOXES)?
                .unwrap_or(SANDBOXES_MAX_DEFAULT),
            boot_timeout: boot_timeout(options.boot_timeout)?.unwrap_or(BOOT_TIMEOUT_DEFAULT),
            exec_grace: EXEC_GRACE_DEFAULT,
            vcpu_count: within("--guest-vcpus", options.guest_vcpus, GUEST_VCPUS)?.unwrap_or(1),
            mem_size_mib,
            kernel_args: options
                .kernel_args
                .iter()
                .flat_map(|words| words.split_whitespace().map(str::to_owned))
                .collect(),
            template_dir: has_templates.then_some(template_dir),
            pool: pool.filter(|_| has_templates),
        };
        let accel = options.accel.unwrap_or_default();
        Ok(Self {
            socket: socket(options.socket.unwrap_or_default(), &addr, surroundings)?,
            addr,
            allowed_hosts: allowed_hosts(options.allowed_host)?,
            data_dir,
            kernel: options.kernel.map(absolute).transpose()?,
            initramfs: options.initramfs.map(absolute).transpose()?,
            vmm: vmm(options.vmm, accel)?,
            firecracker: options.firecracker.map(absolute).transpose()?,
            jail: JailOptions {
                choice: options.jail.unwrap_or_default(),
                jailer: options.jailer.map(absolute).transpose()?,
                uids: options.jail_uids.map(jail_uids).transpose()?,
                netns: options.netns.map(absolute).transpose()?,
            },
            seccomp: !options.no_seccomp.unwrap_or(false),
            qemu: options.qemu.map(absolute).transpose()?,
            accel,
            console: options.console.map(|switch| switch == Switch::On),
            sandboxes,
            log_format: options.log_format.unwrap_or_default(),
        })
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

/// The socket beside `addr`.
fn socket(
    choice: SocketChoice,
    addr: &Address,
    surroundings: &Surroundings,
) -> Result<Option<SocketOption>, ConfigError> {
    match choice {
        SocketChoice::Off => Ok(None),
        // Only one daemon has that address. Others are called by theirs.
        SocketChoice::Auto if *addr != ADDR_DEFAULT.parse()? => Ok(None),
        SocketChoice::Auto => {
            let path = socket_path(surroundings.user_id, surroundings.runtime_dir.as_deref());
            Ok(path.map(|path| SocketOption { path, is_needed: false }))
        }
        SocketChoice::At(path) => {
            let path = absolute(path)?;
            // One that is an address is none too long.
            format!("{ADDR_UNIX_PREFIX}{}", path.display()).parse::<Address>()?;
            Ok(Some(SocketOption { path, is_needed: true }))
        }
    }
}

fn within<T>(
    option: &'static str,
    value: Option<T>,
    range: RangeInclusive<T>,
) -> Result<Option<T>, ConfigError>
where
    T: Copy + PartialOrd + TryInto<u64>,
{
    let number = |value: T| value.try_into().unwrap_or(u64::MAX);
    match value {
        Some(value) if !range.contains(&value) => Err(ConfigError::Range {
            option,
            value: number(value),
            least: number(*range.start()),
            most: number(*range.end()),
        }),
        value => Ok(value),
    }
}

/// The pool that is asked for; none where its memory would not do for one guest.
fn pool(
    size: Option<PoolSize>,
    memory_mib: Option<u64>,
    guest_mib: u32,
    surroundings: &Surroundings,
) -> Result<Option<PoolConfig>, ConfigError> {
    let guest_mib = u64::from(guest_mib);
    let memory_mib = within("--pool-memory-mib", memory_mib, guest_mib..=POOL_MEMORY_MIB_MAX)?;
    let memory_mib_max = memory_mib.unwrap_or(surroundings.host_memory_mib / POOL_MEMORY_PART);
    let size = match size {
        None => POOL_SIZE_DEFAULT,
        Some(PoolSize::Off) => return Ok(None),
        Some(PoolSize::Of(size)) => within("--pool-size", Some(size), POOL_SIZE)?.unwrap_or(size),
    };
    let pool = PoolConfig { size, memory_mib_max, pace: Pace::default() };
    Ok(Some(pool).filter(|_| memory_mib_max >= guest_mib))
}

fn host_memory_mib() -> u64 {
    let info = rustix::system::sysinfo();
    (info.totalram * u64::from(info.mem_unit)) >> 20
}

/// Only QEMU emulates in software: whoever asks for that asks for QEMU.
fn vmm(vmm: Option<VmmChoice>, accel: AccelChoice) -> Result<VmmChoice, ConfigError> {
    match (vmm.unwrap_or_default(), accel) {
        (VmmChoice::Auto, AccelChoice::Tcg) => Ok(VmmChoice::Qemu),
        (VmmChoice::Firecracker, AccelChoice::Tcg) => Err(ConfigError::FirecrackerEmulated),
        (vmm, _) => Ok(vmm),
    }
}

/// A whole number and a unit; a number alone is in seconds.
fn boot_timeout(text: Option<String>) -> Result<Option<Duration>, ConfigError> {
    let Some(text) = text else { return Ok(None) };
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let milliseconds_per_unit = match unit {
        "ms" => Some(1),
        "" | "s" => Some(1000),
        "m" => Some(60_000),
        _ => None,
    };
    let milliseconds = number
        .parse::<u64>()
        .ok()
        .zip(milliseconds_per_unit)
        .map(|(number, per_unit)| number.saturating_mul(per_unit));
    let (option, expected) = ("--boot-timeout", "a duration such as 500ms, 90s or 5m");
    let milliseconds = milliseconds.ok_or(ConfigError::Form { option, value: text, expected })?;
    Ok(within("--boot-timeout (in ms)", Some(milliseconds), BOOT_TIMEOUT_MS)?
        .map(Duration::from_millis))
}

fn allowed_hosts(names: Vec<String>) -> Result<Vec<String>, ConfigError> {
    within("number of --allowed-host", Some(names.len()), 0..=ALLOWED_HOSTS_MAX)?;
    let option = "--allowed-host";
    for name in &names {
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
        if name.is_empty() || name.len() > HOST_BYTES_MAX || !plain {
            let expected = "the name of a host, without a scheme or a port";
            return Err(ConfigError::Form { option, value: name.clone(), expected });
        }
    }
    Ok(names)
}

fn jail_uids(text: String) -> Result<RangeInclusive<u32>, ConfigError> {
    let range = text.split_once('-').and_then(|(first, last)| {
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        let valid = first <= last && JAIL_UIDS.contains(&first) && JAIL_UIDS.contains(&last);
        valid.then_some(first..=last)
    });
    let (option, expected) = ("--jail-uids", "a range of user ids such as 200000-209999");
    range.ok_or(ConfigError::Form { option, value: text, expected })
}

/// The VMM works in a directory of its own: no path may depend on the daemon's.
fn absolute(path: PathBuf) -> Result<PathBuf, ConfigError> {
    std::path::absolute(&path).map_err(|source| ConfigError::Path { path, source })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn surroundings(user_id: u32, runtime_dir: Option<&str>) -> Surroundings {
        let runtime_dir = runtime_dir.map(PathBuf::from);
        let data_dir = Some(DataDir::new("/data"));
        Surroundings { user_id, runtime_dir, data_dir, host_memory_mib: 8192 }
    }

    fn config(edit: impl FnOnce(&mut Options)) -> Result<Config, ConfigError> {
        let mut options = Options::default();
        edit(&mut options);
        Config::new(options, &surroundings(0, None))
    }

    #[test]
    fn defaults() {
        let config = config(|_| {}).unwrap();
        assert_eq!(config.addr, Address::Tcp("127.0.0.1:7777".into()));
        assert_eq!(config.data_dir, DataDir::new("/data"));
        assert_eq!((config.sandboxes.mem_size_mib, config.sandboxes.vcpu_count), (256, 1));
        assert_eq!(config.sandboxes.template_dir.as_deref(), Some(Path::new("/data/templates")));
        let pool = config.sandboxes.pool.unwrap();
        assert_eq!((pool.size, pool.memory_mib_max), (2, 2048));
    }

    #[test]
    fn run_dir_follows_the_user() {
        for (user_id, runtime_dir, expect) in [
            (0, Some("/run/user/0"), "/var/lib/emberd/run"),
            (7, Some("/run/user/7"), "/run/user/7/emberd"),
            (7, None, "/tmp/emberd-7"),
        ] {
            let surroundings = surroundings(user_id, runtime_dir);
            let config = Config::new(Options::default(), &surroundings).unwrap();
            assert_eq!(config.sandboxes.run_dir, Path::new(expect));
        }
    }

    #[test]
    fn the_socket_goes_with_the_default_address() {
        let socket = |addr: Option<&str>, choice: Option<&str>, user_id, runtime_dir| {
            let options = Options {
                addr: addr.map(str::to_owned),
                socket: choice.map(|choice| SocketChoice::from(choice.to_owned())),
                ..Options::default()
            };
            let socket = Config::new(options, &surroundings(user_id, runtime_dir)).unwrap().socket;
            socket.map(|socket| (socket.path.display().to_string(), socket.is_needed))
        };
        let root = Some(("/run/emberd/emberd.sock".to_owned(), false));
        assert_eq!(socket(None, None, 0, None), root);
        assert_eq!(socket(Some(ADDR_DEFAULT), Some("auto"), 0, None), root);
        let mine = Some(("/run/user/7/emberd/emberd.sock".to_owned(), false));
        assert_eq!(socket(None, None, 7, Some("/run/user/7")), mine);
        assert_eq!(socket(None, None, 7, None), None);
        for addr in ["127.0.0.1:7778", "0.0.0.0:7777", "unix:/s"] {
            assert_eq!(socket(Some(addr), None, 0, None), None, "{addr}");
        }
        assert_eq!(socket(None, Some("off"), 0, None), None);
        let named = Some(("/s".to_owned(), true));
        assert_eq!(socket(Some("127.0.0.1:1"), Some("/s"), 0, None), named);
        let long =
            config(|options| options.socket = Some(SocketChoice::At("x".repeat(108).into())));
        assert!(matches!(long, Err(ConfigError::Addr(AddressError::PathTooLong(_)))));
    }

    #[test]
    fn numbers_out_of_range_are_refused_and_their_edges_pass() {
        type Edit = fn(&mut Options);
        let cases: [(Edit, bool); 23] = [
            (|options| options.guest_ram_mib = Some(64), true),
            (|options| options.guest_ram_mib = Some(63), false),
            (|options| options.guest_vcpus = Some(32), true),
            (|options| options.guest_vcpus = Some(0), false),
            (|options| options.max_sandboxes = Some(0), false),
            (|options| options.max_sandboxes = Some(4096), true),
            (|options| options.boot_timeout = Some("0s".into()), false),
            (|options| options.boot_timeout = Some("3600001ms".into()), false),
            (|options| options.boot_timeout = Some("60m".into()), true),
            (|options| options.boot_timeout = Some("1h".into()), false),
            (|options| options.boot_timeout = Some("1.5s".into()), false),
            (|options| options.boot_timeout = Some("99999999999999999999".into()), false),
            (|options| options.jail_uids = Some("1-4294967294".into()), true),
            (|options| options.jail_uids = Some("0-9".into()), false),
            (|options| options.jail_uids = Some("9-4294967295".into()), false),
            (|options| options.jail_uids = Some("9-8".into()), false),
            (|options| options.jail_uids = Some("1900000000".into()), false),
            (|options| options.jail_uids = Some("7-7".into()), true),
            (|options| options.pool_size = Some(PoolSize::Of(256)), true),
            (|options| options.pool_size = Some(PoolSize::Of(257)), false),
            (|options| options.pool_memory_mib = Some(256), true),
            (|options| options.pool_memory_mib = Some(255), false),
            (|options| options.pool_memory_mib = Some(u64::MAX), false),
        ];
        for (case, (edit, valid)) in cases.into_iter().enumerate() {
            assert_eq!(config(edit).is_ok(), valid, "case {case}");
        }
    }

    #[test]
    fn hosts_are_names() {
        let allowed = |names: Vec<String>| {
            config(|options| options.allowed_host = names).map(|config| config.allowed_hosts)
        };
        assert_eq!(allowed(vec!["a-1.example".into()]).unwrap(), ["a-1.example"]);
        assert!(allowed(vec!["a".into(); ALLOWED_HOSTS_MAX]).is_ok());
        assert!(allowed(vec!["a".into(); ALLOWED_HOSTS_MAX + 1]).is_err());
        for name in ["", "*", "a:80", "http://a", "a/b", "[::1]", "a b"] {
            assert!(allowed(vec![name.into()]).is_err(), "{name}");
        }
        assert!(allowed(vec!["a".repeat(HOST_BYTES_MAX + 1)]).is_err());
    }

    #[test]
    fn pool_needs_templates_and_memory() {
        let made = |edit: fn(&mut Options)| {
            let sandboxes = config(edit).unwrap().sandboxes;
            (sandboxes.template_dir.is_some(), sandboxes.pool.map(|pool| pool.size))
        };
        assert_eq!(made(|_| {}), (true, Some(2)));
        assert_eq!(made(|options| options.pool_size = Some(PoolSize::Off)), (true, None));
        assert_eq!(made(|options| options.pool_size = Some(PoolSize::Of(9))), (true, Some(9)));
        let off = |options: &mut Options| {
            options.templates = Some(Switch::Off);
            options.pool_size = Some(PoolSize::Of(9));
        };
        assert_eq!(made(off), (false, None));
        // A quarter of this host does not hold one such guest.
        assert_eq!(made(|options| options.guest_ram_mib = Some(2049)), (true, None));
    }

    #[test]
    fn boot_times_have_units() {
        for (text, milliseconds) in [("100ms", 100), ("90s", 90_000), ("2m", 120_000), ("7", 7000)]
        {
            let config = config(|options| options.boot_timeout = Some(text.into())).unwrap();
            assert_eq!(
                config.sandboxes.boot_timeout,
                Duration::from_millis(milliseconds),
                "{text}"
            );
        }
    }

    #[test]
    fn software_emulation_is_qemus() {
        let chosen = |vmm, accel| {
            let config = config(|options| (options.vmm, options.accel) = (vmm, Some(accel)));
            config.map(|config| config.vmm)
        };
        assert_eq!(chosen(None, AccelChoice::Tcg).unwrap(), VmmChoice::Qemu);
        assert_eq!(chosen(None, AccelChoice::Kvm).unwrap(), VmmChoice::Auto);
        let refused = chosen(Some(VmmChoice::Firecracker), AccelChoice::Tcg);
        assert!(matches!(refused, Err(ConfigError::FirecrackerEmulated)));
    }

    #[test]
    fn paths_become_absolute() {
        let config = config(|options| {
            options.run_dir = Some("run".into());
            options.kernel = Some("vmlinux".into());
            options.firecracker = Some("firecracker".into());
            options.template_dir = Some("templates".into());
        });
        let config = config.unwrap();
        assert!(config.sandboxes.run_dir.is_absolute());
        assert!(config.sandboxes.template_dir.unwrap().is_absolute());
        assert!(config.kernel.unwrap().is_absolute());
        assert!(config.firecracker.unwrap().is_absolute());
    }

    #[test]
    fn kernel_arguments_are_words() {
        let config = config(|options| options.kernel_args = Some(" quiet  loglevel=3 ".into()));
        assert_eq!(config.unwrap().sandboxes.kernel_args, ["quiet", "loglevel=3"]);
    }
}
