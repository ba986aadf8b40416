//! Removes what an earlier daemon left behind when it was killed.
//!
//! Every microVM's directory holds the record of its VMM process. The process is killed
//! only if it is still that very one: same process id, same start time, same boot of the
//! host. A missing, torn or forged record never leads to the kill of an unrelated process. If the
//! record is missing, a process that is recognisably that VMM is killed.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::record::Record;

mod unrecorded;

/// Longest wait for one killed process to end; a healthy kernel needs far less.
const END_WAIT_MAX: Duration = Duration::from_secs(10);

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

/// Kills every VMM an earlier daemon recorded in a directory below `run_dir` and removes the
/// directory. Ignores entries whose name `is_vm` rejects, and a `run_dir` that does not exist.
///
/// Blocks; the caller makes sure that no other daemon uses `run_dir`.
///
/// # Errors
/// The first [`OrphanError`], after everything else was removed.
pub fn remove_orphans(
    run_dir: &Path,
    is_vm: impl Fn(&str) -> bool,
) -> Result<Vec<Removed>, OrphanError> {
    let dirs = vm_dirs(run_dir, is_vm)
        .map_err(|source| OrphanError::Read { path: run_dir.into(), source })?;
    // Collected first: a directory that cannot be removed must not spare the others.
    let outcomes: Vec<_> = dirs.into_iter().map(remove).collect();
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

fn remove(dir: PathBuf) -> Result<Removed, OrphanError> {
    let recorded = Record::read(&dir).ok();
    let record = match recorded {
        Some(record) => Some(record),
        None => unrecorded::find(&dir)
            .map_err(|source| OrphanError::Read { path: "/proc".into(), source })?,
    };
    let vmm = match record {
        Some(record) => {
            let killed = kill_if_running(&record).map_err(|source| OrphanError::Kill {
                process_id: record.pid,
                dir: dir.clone(),
                source,
            })?;
            if killed { OrphanVmm::Killed { process_id: record.pid } } else { OrphanVmm::Ended }
        }
        None => OrphanVmm::Unrecorded,
    };
    match crate::holdings::release(&dir).and_then(|()| std::fs::remove_dir_all(&dir)) {
        Ok(()) => Ok(Removed { dir, vmm }),
        Err(source) => Err(OrphanError::Remove { dir, source }),
    }
}

/// Kills the recorded process and waits for its end; `false` when it had ended before.
fn kill_if_running(record: &Record) -> io::Result<bool> {
    let Some(pid) = i32::try_from(record.pid).ok().filter(|pid| *pid > 1).and_then(Pid::from_raw)
    else {
        return Ok(false);
    };
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => return Ok(false),
        pidfd => pidfd?,
    };
    // Compared while the descriptor is open: it cannot come to refer to another process.
    if Record::of(record.pid)?.as_ref() != Some(record) {
        return Ok(false);
    }
    match pidfd_send_signal(&pidfd, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => return Err(error.into()),
    }
    // Not this daemon's child: its end can be observed, but not its status.
    let timeout = Timespec::try_from(END_WAIT_MAX).expect("ten seconds are few");
    let ended = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout))?;
    if ended == 0 { Err(io::ErrorKind::TimedOut.into()) } else { Ok(true) }
}
