//! Finds what an earlier daemon left behind when it was killed, or let be when it stopped.
//!
//! Every microVM's directory holds the record of its VMM process. A process is that VMM
//! only if it is still that very one: same process id, same start time, same boot of the
//! host. A missing, torn or forged record never leads to an unrelated process. If the
//! record is missing, a process that is recognisably that VMM is found.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::exit::wait_for_end;
use crate::jail::ids::{Ids, Lease};
use crate::record::{ProcessIdentity, Record, Site};
use crate::sys;

mod unrecorded;

/// One directory that was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// The directory of a former daemon's microVM.
    pub dir: PathBuf,
    /// Outcome for its VMM.
    pub vmm: OrphanVmm,
}

/// Outcome for a former daemon's VMM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrphanVmm {
    /// The VMM was still running and was killed.
    Killed {
        /// Its process id.
        process_id: u32,
    },
    /// The VMM had already ended.
    Ended,
    /// The directory has no readable record, and no process was found to be its VMM.
    Unrecorded,
}

/// Why the microVMs of an earlier daemon could not be removed.
#[derive(Debug, thiserror::Error)]
pub enum OrphanError {
    /// The directory of all microVMs could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A VMM could not be killed.
    #[error("cannot kill process {process_id}, the VMM of {}", dir.display())]
    Kill {
        /// The VMM.
        process_id: u32,
        /// Its microVM's directory, which was kept.
        dir: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A directory could not be removed.
    #[error("cannot remove {}", dir.display())]
    Remove {
        /// The directory.
        dir: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// A directory that an earlier daemon left.
#[derive(Debug)]
pub enum Left {
    /// Its VMM runs.
    Running(Orphan),
    /// Its VMM has ended.
    Ended {
        /// The directory.
        dir: PathBuf,
        /// Whether the VMM was started since the host was.
        is_of_this_boot: bool,
    },
    /// There is no readable record, and no process was found to be its VMM.
    Unrecorded(PathBuf),
}

/// A VMM that an earlier daemon started, and that runs. Dropping this changes nothing.
pub struct Orphan {
    pub(crate) dir: PathBuf,
    pub(crate) process_id: u32,
    /// None if the record cannot be read.
    pub(crate) site: Option<Site>,
    pub(crate) pidfd: Arc<OwnedFd>,
    /// Its jail's user, which no other microVM gets.
    pub(crate) lease: Option<Arc<Lease>>,
}

impl fmt::Debug for Orphan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dir, process_id, .. } = self;
        f.debug_struct("Orphan").field("dir", dir).field("process_id", process_id).finish()
    }
}

/// Why a microVM of an earlier daemon cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The record of its VMM cannot be read.
    #[error("the record of its VMM cannot be read")]
    Unrecorded,
    /// Another driver started it.
    #[error("its VMM is {0}")]
    OtherDriver(String),
    /// Its directory or its process cannot be used.
    #[error("its VMM cannot be used")]
    Use(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A microVM of an earlier daemon that was not taken over. It runs on.
#[derive(Debug)]
pub struct NotAdopted {
    /// The microVM.
    pub orphan: Orphan,
    /// Why.
    pub why: AdoptError,
}

impl AdoptError {
    pub(crate) fn unusable(source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Use(source.into())
    }
}

impl NotAdopted {
    pub(crate) fn new(orphan: Orphan, why: AdoptError) -> Box<Self> {
        Box::new(Self { orphan, why })
    }
}

impl Orphan {
    /// Directory of the microVM.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Process id of the VMM.
    pub fn process_id(&self) -> u32 {
        self.process_id
    }

    /// How the VMM is driven, if `driver` started it.
    pub(crate) fn site_of(&self, driver: &str) -> Result<Site, AdoptError> {
        let site = self.site.as_ref().ok_or(AdoptError::Unrecorded)?;
        // The record belongs to the daemon, and is checked all the same: it names a directory.
        let is_below =
            site.sockets.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        match &*site.driver {
            _ if !is_below => Err(AdoptError::Unrecorded),
            name if name == driver => Ok(site.clone()),
            other => Err(AdoptError::OtherDriver(other.to_owned())),
        }
    }

    /// Keeps the user of its jail from other microVMs, if it is one of `ids`. Where the record
    /// cannot be read, the kernel knows the user.
    pub(crate) fn reserve(&mut self, ids: &Ids) {
        let recorded = self.site.as_ref().and_then(|site| site.uid);
        let uid = recorded.or_else(|| user_of(self.process_id));
        self.lease = uid.and_then(|uid| ids.reserve(uid)).map(Arc::new);
    }

    /// Kills the VMM and waits for its end; `false` when it had ended before.
    fn kill(&self) -> io::Result<bool> {
        let killed = sys::kill(&self.pidfd)?;
        wait_for_end(&self.pidfd)?;
        Ok(killed)
    }
}

impl Left {
    /// Kills the VMM if it runs, and removes the directory. Blocks.
    ///
    /// # Errors
    /// [`OrphanError`].
    pub fn remove(self) -> Result<Removed, OrphanError> {
        let (dir, vmm) = match self {
            Self::Running(orphan) => {
                let process_id = orphan.process_id;
                let killed = orphan.kill();
                let dir = orphan.dir;
                match killed {
                    Ok(true) => (dir, OrphanVmm::Killed { process_id }),
                    Ok(false) => (dir, OrphanVmm::Ended),
                    Err(source) => return Err(OrphanError::Kill { process_id, dir, source }),
                }
            }
            Self::Ended { dir, .. } => (dir, OrphanVmm::Ended),
            Self::Unrecorded(dir) => (dir, OrphanVmm::Unrecorded),
        };
        match crate::holdings::release(&dir).and_then(|()| std::fs::remove_dir_all(&dir)) {
            Ok(()) => Ok(Removed { dir, vmm }),
            Err(source) => Err(OrphanError::Remove { dir, source }),
        }
    }
}

/// Finds what an earlier daemon left below `run_dir`, in the order of names. Ignores entries whose
/// name `is_vm` rejects, and a `run_dir` that does not exist.
///
/// Blocks; the caller makes sure that no other daemon uses `run_dir`.
///
/// # Errors
/// [`OrphanError::Read`].
pub fn left_in(run_dir: &Path, is_vm: impl Fn(&str) -> bool) -> Result<Vec<Left>, OrphanError> {
    let dirs = vm_dirs(run_dir, is_vm)
        .map_err(|source| OrphanError::Read { path: run_dir.into(), source })?;
    let find = |dir| find(dir).map_err(|source| OrphanError::Read { path: "/proc".into(), source });
    dirs.into_iter().map(find).collect()
}

/// Removes what an earlier daemon left below `run_dir`, as [`left_in`] finds it.
///
/// # Errors
/// The first [`OrphanError`], after everything else was removed.
pub fn remove_orphans(
    run_dir: &Path,
    is_vm: impl Fn(&str) -> bool,
) -> Result<Vec<Removed>, OrphanError> {
    // Collected first: a directory that cannot be removed must not spare the others.
    let outcomes: Vec<_> = left_in(run_dir, is_vm)?.into_iter().map(Left::remove).collect();
    outcomes.into_iter().collect()
}

fn vm_dirs(run_dir: &Path, is_vm: impl Fn(&str) -> bool) -> io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(run_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut dirs = Vec::new();
    for entry in entries {
        let entry = entry?;
        // A symbolic link does not count as a directory, wherever it leads.
        if entry.file_type()?.is_dir() && entry.file_name().to_str().is_some_and(&is_vm) {
            dirs.push(entry.path());
        }
    }
    dirs.sort();
    Ok(dirs)
}

fn find(dir: PathBuf) -> io::Result<Left> {
    let (process, site) = match Record::read(&dir) {
        Ok(Record { process, site }) => (process, site),
        Err(_) => match unrecorded::find(&dir)? {
            Some(process) => (process, None),
            None => return Ok(Left::Unrecorded(dir)),
        },
    };
    let process_id = process.pid;
    let Some(pidfd) = pidfd_of(&process)? else {
        let is_of_this_boot = process.boot_id == ProcessIdentity::boot_id()?;
        return Ok(Left::Ended { dir, is_of_this_boot });
    };
    Ok(Left::Running(Orphan { dir, process_id, site, pidfd: Arc::new(pidfd), lease: None }))
}

/// A descriptor of that very process, if it runs.
fn pidfd_of(process: &ProcessIdentity) -> io::Result<Option<OwnedFd>> {
    let Some(pid) = i32::try_from(process.pid).ok().filter(|pid| *pid > 1).and_then(Pid::from_raw)
    else {
        return Ok(None);
    };
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => return Ok(None),
        pidfd => pidfd?,
    };
    // Compared while the descriptor is open: it cannot come to refer to another process.
    Ok((ProcessIdentity::of(process.pid)?.as_ref() == Some(process)).then_some(pidfd))
}

/// The real user of a process.
fn user_of(process_id: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{process_id}/status")).ok()?;
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    users.split_whitespace().next()?.parse().ok()
}
