//! Configuration as meant: every default and every check, in one conversion.

use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use emberd_api::{ADDR_DEFAULT, Address, AddressError};
use emberd_image::{DataDir, Images, KernelImage, LoadError};
use emberd_sandbox::{
    BOOT_TIMEOUT_DEFAULT, EXEC_GRACE_DEFAULT, SANDBOXES_MAX_DEFAULT, SandboxesConfig,
};

use crate::args::{AccelChoice, LogFormat, Options, VmmChoice};

/// Memory of a guest, in MiB, unless configured otherwise.
const GUEST_RAM_MIB_DEFAULT: u32 = 256;

/// Memory a guest can be given, in MiB: less does not boot, more is a slip of the keyboard.
const GUEST_RAM_MIB: RangeInclusive<u32> = 64..=(1 << 20);

/// Virtual processors a guest can be given; Firecracker's limit.
const GUEST_VCPUS: RangeInclusive<u8> = 1..=32;

/// Sandboxes a host can be asked to hold.
const MAX_SANDBOXES: RangeInclusive<usize> = 1..=4096;

/// Boot times that can be allowed, in milliseconds, up to an hour.
const BOOT_TIMEOUT_MS: RangeInclusive<u64> = 1..=3_600_000;

/// Everything the daemon needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen.
    pub addr: Address,
    /// Where kernel, initramfs and language packs are.
    pub data_dir: DataDir,
    /// Kernel in place of the data directory's.
    pub kernel: Option<PathBuf>,
    /// Initramfs in place of the data directory's.
    pub initramfs: Option<PathBuf>,
    /// The VMM.
    pub vmm: VmmChoice,
    /// QEMU's binary, where it is not the search path's.
    pub qemu: Option<PathBuf>,
    /// What runs the guests' instructions.
    pub accel: AccelChoice,
    /// What every sandbox is made like.
    pub sandboxes: SandboxesConfig,
    /// Format of the log.
    pub log_format: LogFormat,
}

/// Which option cannot be meant.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// `--addr` is no address.
    #[error("--addr cannot be used")]
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
}

impl Surroundings {
    /// Those of this process.
    pub fn of_process() -> Self {
        let runtime_dir = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        Self {
            user_id: rustix::process::geteuid().as_raw(),
            runtime_dir: runtime_dir.filter(|path| path.is_absolute()),
            data_dir: DataDir::default_path(),
        }
    }

    fn run_dir(&self) -> PathBuf {
        match (self.user_id, &self.runtime_dir) {
            (0, _) => PathBuf::from("/run/emberd"),
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
        let boot_timeout_ms =
            within("--boot-timeout-ms", options.boot_timeout_ms, BOOT_TIMEOUT_MS)?;
        let sandboxes = SandboxesConfig {
            run_dir: absolute(run_dir)?,
            sandboxes_max: within("--max-sandboxes", options.max_sandboxes, MAX_SANDBOXES)?
                .unwrap_or(SANDBOXES_MAX_DEFAULT),
            boot_timeout: boot_timeout_ms.map_or(BOOT_TIMEOUT_DEFAULT, Duration::from_millis),
            exec_grace: EXEC_GRACE_DEFAULT,
            vcpu_count: within("--guest-vcpus", options.guest_vcpus, GUEST_VCPUS)?.unwrap_or(1),
            mem_size_mib: within("--guest-ram-mib", options.guest_ram_mib, GUEST_RAM_MIB)?
                .unwrap_or(GUEST_RAM_MIB_DEFAULT),
            kernel_args: options
                .kernel_args
                .iter()
                .flat_map(|words| words.split_whitespace().map(str::to_owned))
                .collect(),
        };
        Ok(Self {
            addr,
            data_dir,
            kernel: options.kernel.map(absolute).transpose()?,
            initramfs: options.initramfs.map(absolute).transpose()?,
            vmm: options.vmm.unwrap_or_default(),
            qemu: options.qemu.map(absolute).transpose()?,
            accel: options.accel.unwrap_or_default(),
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
            let release = "given by --kernel".to_owned();
            images.kernel = KernelImage { path: path.clone(), release, hz: None };
        }
        if let Some(path) = &self.initramfs {
            images.initramfs.clone_from(path);
        }
        Ok(images)
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
        Surroundings { user_id, runtime_dir, data_dir: Some(DataDir::new("/data")) }
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
    }

    #[test]
    fn run_dir_follows_the_user() {
        for (user_id, runtime_dir, expect) in [
            (0, Some("/run/user/0"), "/run/emberd"),
            (7, Some("/run/user/7"), "/run/user/7/emberd"),
            (7, None, "/tmp/emberd-7"),
        ] {
            let surroundings = surroundings(user_id, runtime_dir);
            let config = Config::new(Options::default(), &surroundings).unwrap();
            assert_eq!(config.sandboxes.run_dir, Path::new(expect));
        }
    }

    #[test]
    fn numbers_out_of_range_are_refused_and_their_edges_pass() {
        type Edit = fn(&mut Options);
        let cases: [(Edit, bool); 8] = [
            (|options| options.guest_ram_mib = Some(64), true),
            (|options| options.guest_ram_mib = Some(63), false),
            (|options| options.guest_vcpus = Some(32), true),
            (|options| options.guest_vcpus = Some(0), false),
            (|options| options.max_sandboxes = Some(0), false),
            (|options| options.max_sandboxes = Some(4096), true),
            (|options| options.boot_timeout_ms = Some(0), false),
            (|options| options.boot_timeout_ms = Some(3_600_001), false),
        ];
        for (case, (edit, valid)) in cases.into_iter().enumerate() {
            assert_eq!(config(edit).is_ok(), valid, "case {case}");
        }
    }

    #[test]
    fn paths_become_absolute() {
        let config = config(|options| {
            options.run_dir = Some("run".into());
            options.kernel = Some("vmlinux".into());
        });
        let config = config.unwrap();
        assert!(config.sandboxes.run_dir.is_absolute());
        assert!(config.kernel.unwrap().is_absolute());
    }

    #[test]
    fn kernel_arguments_are_words() {
        let config = config(|options| options.kernel_args = Some(" quiet  loglevel=3 ".into()));
        assert_eq!(config.unwrap().sandboxes.kernel_args, ["quiet", "loglevel=3"]);
    }
}
