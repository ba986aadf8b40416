//! Facts about the process and the host that decide defaults.

use std::path::PathBuf;

use emberd_image::DataDir;

/// Name of the configuration file in `/etc` and in a user's configuration directory.
const FILE: &str = "emberd/emberd.toml";

/// Facts about the process and the host that decide defaults.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Effective user id.
    pub user_id: u32,
    /// `$XDG_RUNTIME_DIR`, if absolute.
    pub runtime_dir: Option<PathBuf>,
    /// The data directory of this user.
    pub data_dir: Option<DataDir>,
    /// The configuration file that is read if it exists and no other is named.
    pub config_file: Option<PathBuf>,
    /// Memory of the host, in MiB.
    pub host_memory_mib: u64,
}

impl Surroundings {
    /// The surroundings of this process.
    pub fn of_process() -> Self {
        let absolute = |name| {
            std::env::var_os(name).map(PathBuf::from).filter(|path: &PathBuf| path.is_absolute())
        };
        let user_id = rustix::process::geteuid().as_raw();
        let config_home = || {
            let home = || absolute("HOME").map(|home| home.join(".config"));
            absolute("XDG_CONFIG_HOME").or_else(home)
        };
        let config_dir = if user_id == 0 { Some("/etc".into()) } else { config_home() };
        let info = rustix::system::sysinfo();
        Self {
            user_id,
            runtime_dir: absolute("XDG_RUNTIME_DIR"),
            data_dir: DataDir::default_path(),
            config_file: config_dir.map(|dir: PathBuf| dir.join(FILE)),
            host_memory_mib: (info.totalram * u64::from(info.mem_unit)) >> 20,
        }
    }

    /// The default of `--run-dir`.
    pub(crate) fn run_dir(&self) -> PathBuf {
        match (self.user_id, &self.runtime_dir) {
            (0, _) => PathBuf::from("/var/lib/emberd/run"),
            (_, Some(runtime_dir)) => runtime_dir.join("emberd"),
            (user_id, None) => PathBuf::from(format!("/tmp/emberd-{user_id}")),
        }
    }
}
