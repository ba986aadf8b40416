//! The daemon's options as `emberctl` sees them: what a daemon started from this shell would do.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use emberd_api::Address;
use emberd_client::{Client, TlsFiles};
use emberd_config::{Config, Given, Key, Origin, Problems, Subset, Surroundings};
use emberd_image::DataDir;

use crate::report::Hinted;

/// Names the configuration file.
const CONFIG_VARIABLE: &str = "EMBERD_CONFIG";

/// The options that every command has: they are global arguments of `emberctl`.
#[derive(Debug, Clone, Default)]
pub struct Globals {
    /// `--addr` or its variable.
    pub addr: Option<String>,
    /// `--ca-cert`, `--client-cert` and `--client-key`, or their variables.
    pub tls: TlsFiles,
    /// `--data-dir` or its variable.
    pub data_dir: Option<PathBuf>,
    /// `EMBERD_CONFIG`, or the `--config` of a command.
    pub config: Option<PathBuf>,
}

/// The flag of commands that take the daemon's options.
#[derive(Debug, clap::Args)]
pub struct FileArg {
    /// Configuration file of the daemon [default: the file that the daemon reads].
    #[arg(long, env = CONFIG_VARIABLE, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// The options of `doctor`: all but the global ones.
#[derive(Debug, Clone, Copy)]
pub struct DoctorKeys;

impl Subset for DoctorKeys {
    fn contains(key: Key) -> bool {
        !matches!(key, Key::Addr | Key::DataDir)
    }
}

/// The options of `vmconfig`: those that decide how one guest boots.
#[derive(Debug, Clone, Copy)]
pub struct GuestKeys;

impl Subset for GuestKeys {
    fn contains(key: Key) -> bool {
        let guest = [Key::GuestRamMib, Key::GuestVcpus];
        let boot = [Key::Kernel, Key::Initramfs, Key::KernelArgs];
        guest.contains(&key) || boot.contains(&key)
    }
}

impl Globals {
    /// The global arguments, and the configuration file that the environment names.
    pub fn new(addr: Option<String>, data_dir: Option<PathBuf>, tls: TlsFiles) -> Self {
        let config = std::env::var_os(CONFIG_VARIABLE).map(PathBuf::from);
        Self { addr, tls, data_dir, config }
    }

    /// The same with the configuration file of a command.
    pub fn with(&self, file: FileArg) -> Self {
        Self { config: file.config, ..self.clone() }
    }

    /// The configuration of a daemon with these options and those in `given`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(&self, mut given: Given) -> Result<Config, Problems> {
        if let Some(addr) = &self.addr {
            // Whether the daemon takes TLS there is for its own options to say.
            let addr = addr.strip_prefix("https://").unwrap_or(addr);
            given.set(Key::Addr, addr, Origin::Flag);
        }
        if let Some(data_dir) = &self.data_dir {
            given.set(Key::DataDir, data_dir, Origin::Flag);
        }
        Config::load(given, self.config.as_deref(), &Surroundings::of_process())
    }

    /// The data directory that commands work in: that of the daemon.
    ///
    /// # Errors
    /// The configuration file cannot be used, or this user has no home directory.
    pub fn data_dir(&self) -> anyhow::Result<DataDir> {
        match &self.data_dir {
            Some(path) => Ok(DataDir::new(path)),
            None => Ok(self.load(Given::default()).map_err(|problems| hinted(&problems))?.data_dir),
        }
    }

    /// A client of the daemon at `--addr`, or else of the one this user has, with the key of the
    /// environment.
    ///
    /// # Errors
    /// The address, the key or the files of TLS cannot be read.
    pub fn client(&self) -> anyhow::Result<Client> {
        with_key(match &self.addr {
            Some(addr) => self.secured(Client::new(addr)?)?,
            None => Client::of_user(),
        })
    }

    /// A client of the daemon that `config` configures, with the key of the environment.
    ///
    /// # Errors
    /// The address, the key or the files of TLS cannot be read.
    pub fn client_of(&self, config: &Config) -> anyhow::Result<Client> {
        let socket = config.socket.as_ref().filter(|socket| socket.is_needed);
        with_key(match (config.given.origin(Key::Addr), socket) {
            (Origin::Default, Some(socket)) => {
                Client::new(&format!("unix:{}", Path::display(&socket.path)))?
            }
            (Origin::Default, None) => Client::of_user(),
            _ => match &config.addr {
                Address::Tcp(authority) if config.tls.is_some() => {
                    self.secured(Client::new(&format!("https://{authority}"))?)?
                }
                addr => Client::new(&addr.to_string())?,
            },
        })
    }

    /// The client with the files of TLS, where it speaks that.
    fn secured(&self, client: Client) -> anyhow::Result<Client> {
        let is_tls = matches!(client.address(), Address::Tls(_));
        if is_tls && self.tls != TlsFiles::default() {
            return Ok(client.with_tls(&self.tls)?);
        }
        Ok(client)
    }
}

fn with_key(client: Client) -> anyhow::Result<Client> {
    client.with_key_of_process().context("cannot use EMBERD_API_KEY")
}

/// The problems of a configuration as one error, with the hint of the first.
pub fn hinted(problems: &Problems) -> Hinted {
    let hint = problems.0.first().map_or_else(String::new, |problem| problem.hint.clone());
    Hinted { message: problems.to_string(), hint }
}
