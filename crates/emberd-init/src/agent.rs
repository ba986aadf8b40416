//! State that all connections share: the pack, the environment, the reaper.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use emberd_proto::pack::PACK_FILE_BYTES_MAX;
use emberd_proto::{GuestLimits, PackSpec, Renewal, chain, renewal};
use parking_lot::Mutex;

use crate::disk::OwnDisk;
use crate::egress::Egress;
use crate::environment::Environment;
use crate::exec::Leftovers;
use crate::machine::{self, Held, RenewError};
use crate::metrics::Usage;
use crate::process_tree::{Cgroups, Controller, LimitError};
use crate::programs::Kept;
use crate::reaper::Reaper;
use crate::residents::{Adoption, Residents};
use crate::zygote::Zygote;

/// Why an agent that does not say so captures no connections.
const NO_EGRESS: &str = "the agent does not own the network";

/// An agent, which lives as long as its process.
#[derive(Debug)]
pub struct Agent {
    /// The pack, which says how code runs.
    pub pack: PackSpec,
    /// Environment of every program, including the pack's. An exec's own variables override it.
    pub environment: Environment,
    /// Cgroups that separate execs; absent off PID 1 and on kernels without support.
    pub cgroups: Option<Cgroups>,
    /// Duration of the boot; absent off PID 1.
    pub boot_times: Option<BootTimes>,
    /// Whether the agent may change the machine, which is so only for PID 1.
    pub owns_machine: bool,
    /// The guest's own disk, if it has one.
    pub disk: Option<OwnDisk>,
    /// Connections of programs to other machines.
    pub egress: Egress,
    /// Resource usage of the machine.
    pub usage: Usage,
    /// Readers of the output of programs that were left behind.
    pub leftovers: Leftovers,
    /// Processes and contexts, which outlive the connections they were started on.
    pub residents: Residents,
    /// Which daemon this agent answers to.
    pub adoption: Adoption,
    /// Processes that wait for work.
    pub kept: Kept,
    /// Waits for all children.
    pub reaper: Reaper,
    /// The pack's warm interpreter, if it has one.
    pub zygote: Option<Zygote>,
    /// Directory in which each exec has its own directory for its code. Declared after the
    /// zygote, whose spares have directories there.
    pub scratch: Scratch,
    execs: AtomicU64,
    numbers: AtomicU64,
    identity: Mutex<Identity>,
    /// Whether anything of the host's asking ran here since the machine came to rest.
    used: AtomicBool,
}

impl Agent {
    /// An agent off PID 1.
    pub fn new(pack: PackSpec, environment: &Environment, scratch: Scratch) -> Self {
        Self {
            environment: environment.overlaid(&pack.env),
            zygote: pack.zygote.clone().map(Zygote::new),
            pack,
            cgroups: None,
            boot_times: None,
            owns_machine: false,
            disk: None,
            egress: Egress::unavailable(NO_EGRESS.to_owned()),
            usage: Usage::default(),
            leftovers: Leftovers::default(),
            residents: Residents::default(),
            adoption: Adoption::default(),
            kept: Kept::default(),
            reaper: Reaper::default(),
            scratch,
            execs: AtomicU64::new(0),
            numbers: AtomicU64::new(1),
            identity: Mutex::default(),
            used: AtomicBool::new(false),
        }
    }

    /// Applies `renewal` to the machine. Checks it and changes nothing if the agent may not change
    /// the machine.
    ///
    /// # Errors
    /// [`RenewError`].
    pub fn renew(&self, renewal: &Renewal) -> Result<(), RenewError> {
        renewal.check()?;
        if !self.owns_machine {
            return Ok(());
        }
        let mut identity = self.identity.lock();
        let held = identity.held.take().filter(|held| !self.is_used() && held.fits(renewal));
        identity.renewal = None;
        match &held {
            Some(held) => held.renew(renewal)?,
            None => machine::renew(renewal)?,
        }
        // The entropy has done its work, and memory may end up in a template.
        let renewal = Renewal { entropy_base64: String::new(), ..renewal.clone() };
        *identity = Identity { renewal: Some(renewal), held };
        Ok(())
    }

    /// Sets the wall clock if the agent may change the machine.
    ///
    /// # Errors
    /// [`RenewError`].
    pub fn set_clock(&self, wall_clock_us: u64) -> Result<(), RenewError> {
        renewal::check_wall_clock(wall_clock_us)?;
        if self.owns_machine { machine::set_clock(wall_clock_us) } else { Ok(()) }
    }

    /// Limits what all programs take together. Checks it and changes nothing if the agent may not
    /// change the machine. Nothing else is served while a disk grows.
    ///
    /// # Errors
    /// Why a limit is not held, for people.
    pub async fn limit(&self, limits: GuestLimits) -> Result<(), String> {
        limits.check().map_err(|error| error.to_string())?;
        if !self.owns_machine {
            return Ok(());
        }
        if let Some(pids) = limits.pids {
            let held = match &self.cgroups {
                Some(cgroups) => cgroups.limit_pids(pids),
                None => Err(LimitError::Unavailable(Controller::Pids)),
            };
            held.map_err(|error| chain(&error))?;
        }
        match (limits.disk_mib, &self.disk) {
            (None, _) => Ok(()),
            (Some(_), None) => Err("this guest has no disk of its own".to_owned()),
            (Some(mib), Some(disk)) => {
                disk.grow(mib).await.map_err(|error| format!("the disk cannot grow: {error}"))
            }
        }
    }

    /// Records that a program or a file operation of the caller may change the machine.
    pub fn use_machine(&self) {
        self.used.store(true, Ordering::Relaxed);
    }

    fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// Removes the cgroups of ended execs that still had a running process when the exec ended.
    pub fn sweep(&self) {
        if let Some(cgroups) = &self.cgroups {
            cgroups.sweep();
        }
    }

    /// Brings the machine to rest: a spare of the zygote waits, written data is on disk, and the
    /// files that the next renewal writes are open. Returns whether the zygote is ready, if there
    /// is one.
    pub async fn settle(&self) -> Option<bool> {
        let zygote_ready = match &self.zygote {
            Some(zygote) => Some(zygote.settle(self).await),
            None => None,
        };
        let mut identity = self.identity.lock();
        identity.held = identity.renewal.as_ref().and_then(Held::open);
        self.used.store(false, Ordering::Relaxed);
        nix::unistd::sync();
        zygote_ready
    }

    /// Returns a number that no other exec of this agent has.
    pub fn next_exec(&self) -> u64 {
        self.execs.fetch_add(1, Ordering::Relaxed)
    }

    /// Returns a number that no other connection and program of this agent has.
    pub fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }
}

/// The machine's identity.
#[derive(Debug, Default)]
struct Identity {
    /// What was carried out last.
    renewal: Option<Renewal>,
    /// The files that said so when the machine came to rest.
    held: Option<Held>,
}

/// Time since the guest kernel started, in microseconds, at two moments of the boot.
#[derive(Debug, Clone, Copy)]
pub struct BootTimes {
    /// When PID 1 was entered.
    pub init_started_us: u64,
    /// When the agent began to serve.
    pub serving_us: u64,
}

/// Why the pack cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The pack's file cannot be read.
    #[error("cannot read {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// The file is not a pack.
    #[error("{} is not a pack", .0.display())]
    Parse(PathBuf, #[source] serde_json::Error),
    /// The pack or its zygote has no program, or the name of its code file is not a plain name.
    #[error("{} has no program in `run`, or no plain file name in `file_name`", .0.display())]
    Unusable(PathBuf),
}

/// Reads the pack at `path`, at most [`PACK_FILE_BYTES_MAX`] bytes of it.
pub fn read_pack(path: &Path) -> Result<PackSpec, PackError> {
    let mut json = Vec::new();
    File::open(path)
        .and_then(|file| file.take(PACK_FILE_BYTES_MAX).read_to_end(&mut json))
        .map_err(|source| PackError::Read(path.into(), source))?;
    let pack: PackSpec =
        serde_json::from_slice(&json).map_err(|source| PackError::Parse(path.into(), source))?;
    let plain_name = Path::new(&pack.file_name).file_name() == Some(OsStr::new(&pack.file_name));
    let idle_zygote = pack.zygote.as_ref().is_some_and(|zygote| zygote.run.is_empty());
    if pack.run.is_empty() || idle_zygote || !plain_name {
        return Err(PackError::Unusable(path.into()));
    }
    Ok(pack)
}

/// Directory for the code of running execs. Dropping it removes it if it is empty and was
/// made by [`Scratch::open`].
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    made: bool,
}

impl Scratch {
    /// Uses the directory at `path`, and creates it if it is missing. Every user may enter it, so
    /// that programs can read their own code. Each entry belongs to one exec.
    ///
    /// # Errors
    /// If the directory neither exists nor can be created.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        // Programs have other working directories.
        let path = std::path::absolute(path)?;
        if path.is_dir() {
            return Ok(Self { path, made: false });
        }
        DirBuilder::new().mode(0o711).create(&path)?;
        Ok(Self { path, made: true })
    }

    /// Returns the path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.made {
            // Execs have removed their directories; anything else was not created by the agent.
            fs::remove_dir(&self.path).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scratch_is_the_same_place_from_every_working_directory() {
        let scratch = Scratch::open(".".into()).unwrap();
        assert!(scratch.path().is_absolute());
    }

    #[test]
    fn unusable_packs_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pack.json");
        let check = |json: &str| {
            fs::write(&path, json).unwrap();
            read_pack(&path)
        };
        assert!(check(r#"{"name":"a","run":["x"],"file_name":"main.sh"}"#).is_ok());
        for file_name in ["", "..", "/main", "a/b"] {
            let json = format!(r#"{{"name":"a","run":["x"],"file_name":"{file_name}"}}"#);
            assert!(matches!(check(&json), Err(PackError::Unusable(_))), "`{file_name}`");
        }
        let no_program = r#"{"name":"a","run":[],"file_name":"main.sh"}"#;
        assert!(matches!(check(no_program), Err(PackError::Unusable(_))));
        let idle_zygote = r#"{"name":"a","run":["x"],"file_name":"a","zygote":{"run":[]}}"#;
        assert!(matches!(check(idle_zygote), Err(PackError::Unusable(_))));
        assert!(matches!(check("{"), Err(PackError::Parse(..))));
        assert!(matches!(read_pack(dir.path()), Err(PackError::Read(..))));
    }
}
