//! Everything one exec started, and how to kill it at once.
//!
//! As PID 1 a cgroup per exec: nothing leaves it by forking. Elsewhere, and on kernels
//! without `cgroup.kill` (before 5.14), what `/proc` shows to descend from the leader or to
//! share its session; an orphan that made a session of its own escapes that.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

mod descent;

/// Makes orphaned descendants children of this process.
///
/// # Errors
/// When the kernel refuses.
pub fn adopt_orphans() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// Where cgroup version 2 is mounted in the guest.
pub const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// The cgroups of all execs.
#[derive(Debug)]
pub struct Cgroups {
    root: PathBuf,
    /// Cgroups of ended execs that still had a process in them when last looked at.
    lingering: Arc<Mutex<Vec<PathBuf>>>,
}

impl Cgroups {
    /// Finds out whether this kernel has cgroups that can be killed as a whole.
    pub fn probe() -> Option<Self> {
        let root = PathBuf::from(CGROUP_ROOT);
        let trial = root.join("trial");
        fs::create_dir(&trial).ok()?;
        let killable = trial.join("cgroup.kill").exists();
        fs::remove_dir(&trial).ok()?;
        killable.then(|| Self { root, lingering: Arc::default() })
    }

    /// Makes the cgroup of exec number `exec`.
    ///
    /// # Errors
    /// When the kernel has no room for one more.
    pub fn make(&self, exec: u64) -> io::Result<Cgroup> {
        let dir = self.root.join(format!("exec-{exec}"));
        fs::create_dir(&dir)?;
        Ok(Cgroup { dir, lingering: Arc::clone(&self.lingering) })
    }

    /// Removes the cgroups of ended execs whose last process is gone.
    pub fn sweep(&self) {
        let mut lingering = self.lingering.lock().unwrap_or_else(PoisonError::into_inner);
        lingering.retain(|dir| fs::remove_dir(dir).is_err());
    }
}

/// The cgroup of one exec. Dropping it removes it as soon as it is empty.
#[derive(Debug)]
pub struct Cgroup {
    dir: PathBuf,
    lingering: Arc<Mutex<Vec<PathBuf>>>,
}

impl Cgroup {
    /// The file a process joins by; see [`crate::sys::enter_own_session`].
    ///
    /// # Errors
    /// When the guest has tampered with it.
    pub fn procs(&self) -> io::Result<File> {
        OpenOptions::new().write(true).open(self.dir.join("cgroup.procs"))
    }

    fn kill(&self) -> io::Result<()> {
        fs::write(self.dir.join("cgroup.kill"), "1")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if fs::remove_dir(&self.dir).is_err() {
            let dir = std::mem::take(&mut self.dir);
            self.lingering.lock().unwrap_or_else(PoisonError::into_inner).push(dir);
        }
    }
}

/// What one exec started.
#[derive(Debug)]
pub struct ProcessTree {
    /// Process id of the exec's first process, which leads a session of its own. Not to be
    /// used once it is reaped: the number may by then be another's.
    pub leader: u32,
    /// Its cgroup, if it has one.
    pub cgroup: Option<Cgroup>,
}

impl ProcessTree {
    /// Kills every process of the tree. The leader must not have been reaped.
    pub fn kill(&self) {
        let killed = self.cgroup.as_ref().is_some_and(|cgroup| cgroup.kill().is_ok());
        if !killed {
            descent::kill(Path::new("/proc"), self.leader.cast_signed());
        }
    }
}
