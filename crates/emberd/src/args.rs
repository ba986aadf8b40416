//! Options as typed: on the command line, in `EMBERD_*` variables, in a TOML file.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::builder::BoolishValueParser;
use clap::{Parser, ValueEnum};
use serde::Deserialize;

/// Runs code in microVMs, over HTTP.
#[derive(Debug, Parser)]
#[command(name = "emberd", version, about, long_about = None)]
pub struct Args {
    /// TOML file with the options below, named alike; flags and variables go before it.
    #[arg(long, env = "EMBERD_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The options.
    #[command(flatten)]
    pub options: Options,
}

/// Every option, as it was given or not.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Options {
    /// Where to listen: HOST:PORT or unix:PATH [default: 127.0.0.1:7777].
    #[arg(long, env = "EMBERD_ADDR", value_name = "ADDR")]
    pub addr: Option<String>,
    /// A Unix socket beside a TCP address: `auto` is one in this user's runtime directory, which
    /// clients take first, and goes with the default address only [default: auto].
    #[arg(long, env = "EMBERD_SOCKET", value_name = "auto|off|PATH")]
    pub socket: Option<SocketChoice>,
    /// A name, beside `localhost` and IP addresses, by which the API may be called; may be
    /// given several times, and with commas between.
    #[arg(long, env = "EMBERD_ALLOWED_HOST", value_name = "NAME", value_delimiter = ',')]
    pub allowed_host: Vec<String>,
    /// Directory of per-sandbox state [default: /var/lib/emberd/run for root, else
    /// `$XDG_RUNTIME_DIR/emberd` or /tmp/emberd-UID].
    #[arg(long, env = "EMBERD_RUN_DIR", value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// Directory of kernel, initramfs and language packs [default: /var/lib/emberd for root,
    /// else `$XDG_DATA_HOME/emberd` or ~/.local/share/emberd].
    #[arg(long, env = "EMBERD_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The VMM [default: auto].
    #[arg(long, env = "EMBERD_VMM", value_name = "VMM")]
    pub vmm: Option<VmmChoice>,
    /// Firecracker's binary [default: the data directory's, else the search path's].
    #[arg(long, env = "EMBERD_FIRECRACKER", value_name = "FILE")]
    pub firecracker: Option<PathBuf>,
    /// Firecracker's jailer [default: beside Firecracker, else the search path's].
    #[arg(long, env = "EMBERD_JAILER", value_name = "FILE")]
    pub jailer: Option<PathBuf>,
    /// Whether each Firecracker runs in a jail [default: auto].
    #[arg(long, env = "EMBERD_JAIL", value_name = "WHEN")]
    pub jail: Option<JailChoice>,
    /// Users the jails run as, which must be nobody else's [default: 1900000000-1900009999].
    #[arg(long, env = "EMBERD_JAIL_UIDS", value_name = "FIRST-LAST")]
    pub jail_uids: Option<String>,
    /// Network namespace the jails join [default: the daemon's].
    #[arg(long, env = "EMBERD_NETNS", value_name = "FILE")]
    pub netns: Option<PathBuf>,
    /// Run Firecracker without its system call filter. For laboratories only.
    #[arg(long, env = "EMBERD_NO_SECCOMP", hide = true, num_args = 0..=1,
          default_missing_value = "true", value_parser = BoolishValueParser::new())]
    pub no_seccomp: Option<bool>,
    /// QEMU's binary [default: qemu-system-x86_64 of the search path].
    #[arg(long, env = "EMBERD_QEMU", value_name = "FILE")]
    pub qemu: Option<PathBuf>,
    /// What runs the guests' instructions [default: auto].
    #[arg(long, env = "EMBERD_ACCEL", value_name = "ACCEL")]
    pub accel: Option<AccelChoice>,
    /// Whether guests have a console, which goes to their logs and slows Firecracker's boot
    /// [default: on for QEMU, off for Firecracker].
    #[arg(long, env = "EMBERD_CONSOLE", value_name = "WHETHER")]
    pub console: Option<Switch>,
    /// Memory of each guest, in MiB [default: 256].
    #[arg(long, env = "EMBERD_GUEST_RAM_MIB", value_name = "MIB")]
    pub guest_ram_mib: Option<u32>,
    /// Virtual processors of each guest [default: 1].
    #[arg(long, env = "EMBERD_GUEST_VCPUS", value_name = "N")]
    pub guest_vcpus: Option<u8>,
    /// Whether sandboxes are restored from templates: snapshots of microVMs that have booted
    /// [default: on].
    #[arg(long, env = "EMBERD_TEMPLATES", value_name = "WHETHER")]
    pub templates: Option<Switch>,
    /// Directory of templates, which daemons may share [default: templates in the data
    /// directory].
    #[arg(long, env = "EMBERD_TEMPLATE_DIR", value_name = "DIR")]
    pub template_dir: Option<PathBuf>,
    /// MicroVMs of each language pack that wait, restored, for somebody to ask [default: 2].
    #[arg(long, env = "EMBERD_POOL_SIZE", value_name = "N|off")]
    pub pool_size: Option<PoolSize>,
    /// Most memory the waiting microVMs may come to, in MiB [default: a quarter of the host's].
    #[arg(long, env = "EMBERD_POOL_MEMORY_MIB", value_name = "MIB")]
    pub pool_memory_mib: Option<u64>,
    /// Most sandboxes at once [default: 64].
    #[arg(long, env = "EMBERD_MAX_SANDBOXES", value_name = "N")]
    pub max_sandboxes: Option<usize>,
    /// How long a guest may take to boot, such as 500ms, 90s or 5m [default: 60s].
    #[arg(long, env = "EMBERD_BOOT_TIMEOUT", value_name = "DURATION")]
    pub boot_timeout: Option<String>,
    /// Guest kernel (vmlinux) in place of the data directory's.
    #[arg(long, env = "EMBERD_KERNEL", value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Guest initramfs in place of the data directory's.
    #[arg(long, env = "EMBERD_INITRAMFS", value_name = "FILE")]
    pub initramfs: Option<PathBuf>,
    /// Words added to the guests' kernel arguments, separated by spaces.
    #[arg(long, env = "EMBERD_KERNEL_ARGS", value_name = "WORDS", allow_hyphen_values = true)]
    pub kernel_args: Option<String>,
    /// Format of the log on standard error [default: text]. `RUST_LOG` filters it.
    #[arg(long, env = "EMBERD_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
}

/// Whether the daemon listens on a Unix socket too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum SocketChoice {
    /// On the user's own, if the TCP address is the default.
    #[default]
    Auto,
    /// No.
    Off,
    /// On this one.
    At(PathBuf),
}

impl From<String> for SocketChoice {
    fn from(text: String) -> Self {
        match text.as_str() {
            "auto" => Self::Auto,
            "off" => Self::Off,
            path => Self::At(path.into()),
        }
    }
}

/// Which VMM runs the sandboxes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VmmChoice {
    /// The best there is on this host.
    #[default]
    Auto,
    /// Firecracker.
    Firecracker,
    /// QEMU.
    Qemu,
}

/// Whether each Firecracker runs in a jail.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JailChoice {
    /// If the daemon is root and a fitting jailer is found.
    #[default]
    Auto,
    /// Yes; without a jail the daemon does not start.
    On,
    /// No.
    Off,
}

/// Whether something is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Switch {
    /// Yes.
    On,
    /// No.
    Off,
}

/// How many microVMs of each language pack wait to be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "NumberOrWord")]
pub enum PoolSize {
    /// None: there is no pool.
    Off,
    /// This many.
    Of(usize),
}

/// Why a text is no [`PoolSize`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a number of microVMs, nor `off`")]
pub struct PoolSizeError;

impl FromStr for PoolSize {
    type Err = PoolSizeError;

    fn from_str(text: &str) -> Result<Self, PoolSizeError> {
        match text {
            "off" => Ok(Self::Off),
            number => number.parse::<usize>().map(Self::from).map_err(|_| PoolSizeError),
        }
    }
}

impl From<usize> for PoolSize {
    fn from(number: usize) -> Self {
        if number == 0 { Self::Off } else { Self::Of(number) }
    }
}

/// A [`PoolSize`] as TOML writes it.
#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrWord {
    Number(usize),
    Word(String),
}

impl TryFrom<NumberOrWord> for PoolSize {
    type Error = PoolSizeError;

    fn try_from(typed: NumberOrWord) -> Result<Self, PoolSizeError> {
        match typed {
            NumberOrWord::Number(number) => Ok(number.into()),
            NumberOrWord::Word(word) => word.parse(),
        }
    }
}

/// What runs the guests' instructions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AccelChoice {
    /// KVM where the processor supports it, else software.
    #[default]
    Auto,
    /// KVM.
    Kvm,
    /// Software emulation.
    Tcg,
}

/// Format of the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Why the TOML file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not TOML, or holds what is no option.
    #[error("{} is not a configuration of emberd", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why, with the line.
        source: toml::de::Error,
    },
}

impl Options {
    /// Reads the options in the TOML file at `path`.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| FileError::Read { path: path.to_owned(), source })?;
        toml::from_str(&text).map_err(|source| FileError::Parse { path: path.to_owned(), source })
    }

    /// These options, and those of `weaker` where these are silent.
    #[must_use]
    pub fn over(self, weaker: Self) -> Self {
        Self {
            addr: self.addr.or(weaker.addr),
            socket: self.socket.or(weaker.socket),
            allowed_host: if self.allowed_host.is_empty() {
                weaker.allowed_host
            } else {
                self.allowed_host
            },
            run_dir: self.run_dir.or(weaker.run_dir),
            data_dir: self.data_dir.or(weaker.data_dir),
            vmm: self.vmm.or(weaker.vmm),
            firecracker: self.firecracker.or(weaker.firecracker),
            jailer: self.jailer.or(weaker.jailer),
            jail: self.jail.or(weaker.jail),
            jail_uids: self.jail_uids.or(weaker.jail_uids),
            netns: self.netns.or(weaker.netns),
            no_seccomp: self.no_seccomp.or(weaker.no_seccomp),
            qemu: self.qemu.or(weaker.qemu),
            accel: self.accel.or(weaker.accel),
            console: self.console.or(weaker.console),
            guest_ram_mib: self.guest_ram_mib.or(weaker.guest_ram_mib),
            guest_vcpus: self.guest_vcpus.or(weaker.guest_vcpus),
            templates: self.templates.or(weaker.templates),
            template_dir: self.template_dir.or(weaker.template_dir),
            pool_size: self.pool_size.or(weaker.pool_size),
            pool_memory_mib: self.pool_memory_mib.or(weaker.pool_memory_mib),
            max_sandboxes: self.max_sandboxes.or(weaker.max_sandboxes),
            boot_timeout: self.boot_timeout.or(weaker.boot_timeout),
            kernel: self.kernel.or(weaker.kernel),
            initramfs: self.initramfs.or(weaker.initramfs),
            kernel_args: self.kernel_args.or(weaker.kernel_args),
            log_format: self.log_format.or(weaker.log_format),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_go_before_the_file() {
        let flags = ["emberd", "--addr", "a:1", "--kernel-args", "-x y", "--allowed-host", "a,b"];
        let flags = Args::try_parse_from(flags);
        let file = "addr = 'b:2'\nallowed-host = ['c']\nguest-ram-mib = 512\nvmm = 'qemu'\nlog-format = 'json'\n\
            pool-size = 3";
        let options = flags.unwrap().options.over(toml::from_str(file).unwrap());
        let expect = Options {
            addr: Some("a:1".into()),
            allowed_host: vec!["a".into(), "b".into()],
            guest_ram_mib: Some(512),
            vmm: Some(VmmChoice::Qemu),
            pool_size: Some(PoolSize::Of(3)),
            kernel_args: Some("-x y".into()),
            log_format: Some(LogFormat::Json),
            // Not the default: this machine's EMBERD_* variables count.
            ..Args::try_parse_from(["emberd"]).unwrap().options
        };
        assert_eq!(options, expect);
    }

    #[test]
    fn file_with_a_word_that_is_no_option_is_refused() {
        for file in [
            "adr = 'a:1'",
            "guest-ram-mib = '512'",
            "vmm = 'xen'",
            "pool-size = -1",
            "pool-size = 'many'",
            "templates = 'perhaps'",
            "[",
        ] {
            assert!(toml::from_str::<Options>(file).is_err(), "{file}");
        }
    }

    #[test]
    fn a_pool_has_a_size_or_is_off() {
        let flag = |text: &str| {
            let args = Args::try_parse_from(["emberd", "--pool-size", text]);
            args.map(|args| args.options.pool_size)
        };
        let file = |text: &str| toml::from_str::<Options>(text).map(|options| options.pool_size);
        assert_eq!(flag("off").unwrap(), Some(PoolSize::Off));
        assert_eq!(flag("0").unwrap(), Some(PoolSize::Off));
        assert_eq!(flag("7").unwrap(), Some(PoolSize::Of(7)));
        assert_eq!(file("pool-size = 'off'").unwrap(), Some(PoolSize::Off));
        assert_eq!(file("pool-size = 0").unwrap(), Some(PoolSize::Off));
        for text in ["", "on", "-1", "1.5", "99999999999999999999", "2 "] {
            assert!(flag(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn vmm_that_does_not_exist_is_refused() {
        assert!(Args::try_parse_from(["emberd", "--vmm", "xen"]).is_err());
    }

    #[test]
    fn a_switch_that_takes_no_value_may_have_one() {
        let parse = |words: &[&str]| {
            let words = ["emberd"].iter().chain(words);
            Args::try_parse_from(words).map(|args| args.options.no_seccomp)
        };
        assert_eq!(parse(&["--no-seccomp"]).unwrap(), Some(true));
        assert_eq!(parse(&["--no-seccomp=off", "--jail", "on"]).unwrap(), Some(false));
        assert!(parse(&["--no-seccomp=perhaps"]).is_err());
    }

    #[test]
    fn every_option_has_a_variable_of_its_name() {
        use clap::CommandFactory as _;
        for arg in Args::command().get_arguments() {
            let Some(long) = arg.get_long() else { continue };
            if matches!(long, "help" | "version") {
                continue;
            }
            let variable = format!("EMBERD_{}", long.replace('-', "_").to_uppercase());
            assert_eq!(arg.get_env(), Some(variable.as_ref()), "--{long}");
        }
    }
}
