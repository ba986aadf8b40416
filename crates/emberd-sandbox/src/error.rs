//! Errors of opening the sandboxes, creating one, finding one and operating on one.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use emberd_guest::{ChannelError, GuestError};
use emberd_image::PackName;
use emberd_proto::{Refusal, SpecError};
use emberd_vmm::{BootError, ExitReason, GrowError, OrphanError, PauseError};

use crate::bounds::ResourceError;
use crate::cpu::CpuError;
use crate::id::SandboxId;
use crate::lifecycle::holdings::QuotaExceeded;
use crate::supply::answer::{AnswerError, Console};

/// Longest path of the run directory without a node key, in bytes. A Unix socket's path has
/// 108 bytes with its final NUL (unix(7)); `/`, an id of 15 bytes and `/` with a socket's name
/// follow this one.
pub const RUN_DIR_BYTES_MAX: usize = 107 - (1 + 15) - (1 + SOCKET_NAME_BYTES_MAX);

/// Longest name a driver gives a socket, in bytes.
const SOCKET_NAME_BYTES_MAX: usize = 20;

/// No such sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown sandbox {0}")]
pub struct Unknown(pub SandboxId);

/// Why an operation in a sandbox failed. How a program itself ended is never an error.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// The sandbox is still being created.
    #[error("sandbox {0} is still being created")]
    NotReady(SandboxId),
    /// The sandbox is frozen, and requests do not thaw it.
    #[error("sandbox {0} is frozen, and its `auto_resume` is off")]
    Frozen(SandboxId),
    /// The sandbox is frozen and could not be thawed.
    #[error("sandbox {id} cannot be thawed{}", if source.is_some() { "" } else { " in time" })]
    Resume {
        /// Which sandbox.
        id: SandboxId,
        /// Why; none if the VMM did not answer in time.
        source: Option<PauseError>,
    },
    /// An earlier daemon started the sandbox, and its guest has not answered this one yet.
    #[error("the guest of sandbox {0} has not answered since the daemon was started")]
    Unreachable(SandboxId),
    /// The guest did not complete the operation.
    #[error(transparent)]
    Guest(#[from] GuestError),
}

/// Why the sandboxes could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another daemon uses the run directory.
    #[error("another daemon uses {}", run_dir.display())]
    RunDirInUse {
        /// The run directory.
        run_dir: PathBuf,
    },
    /// Sockets in the run directory would have paths longer than the kernel takes.
    #[error("{} is {bytes} bytes long, over the limit of {bytes_max}", run_dir.display())]
    RunDirTooLong {
        /// The run directory.
        run_dir: PathBuf,
        /// Length of its path.
        bytes: usize,
        /// The longest it may have, given the node key.
        bytes_max: usize,
    },
    /// The run directory is not a directory that only this user can write to.
    #[error("{} must be a directory that only this user can write to", run_dir.display())]
    RunDirShared {
        /// The run directory.
        run_dir: PathBuf,
    },
    /// The run directory cannot be used.
    #[error("cannot use the run directory {}", run_dir.display())]
    RunDir {
        /// The run directory.
        run_dir: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The disks of guests cannot be made.
    #[error("cannot make the disks of guests")]
    Disk(#[source] emberd_image::DiskError),
    /// The directory of templates cannot be used.
    #[error("cannot use the template directory {}", template_dir.display())]
    TemplateDir {
        /// The directory of templates.
        template_dir: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The microVMs that an earlier daemon left behind cannot be removed.
    #[error("cannot remove the microVMs of an earlier daemon")]
    Orphans(#[source] OrphanError),
}

/// Why a sandbox could not be created. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// No such language pack is installed.
    #[error("unknown language pack `{0}`")]
    UnknownPack(PackName),
    /// Its environment variables break a limit.
    #[error(transparent)]
    Env(#[from] SpecError),
    /// A resource is outside of its bounds.
    #[error(transparent)]
    Resources(#[from] ResourceError),
    /// Its processor time cannot be limited as asked for.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// The guest does not hold a limit that was asked for, or its agent is older than such limits.
    #[error("the guest does not hold the limits: {}", .0.message)]
    Limits(Refusal),
    /// Its disk could not be made as large as asked for.
    #[error("the disk of sandbox {id} does not grow")]
    Disk {
        /// Which sandbox.
        id: SandboxId,
        /// Why.
        source: GrowError,
    },
    /// The guest failed after its first answer.
    #[error("the guest of sandbox {id} failed before it was handed out")]
    Lost {
        /// Which sandbox.
        id: SandboxId,
        /// How the guest failed.
        source: GuestError,
    },
    /// The limit of sandboxes is reached.
    #[error("the limit of {0} sandboxes is reached")]
    TooMany(usize),
    /// The sandboxes of its owner would have more than allowed.
    #[error(transparent)]
    Quota(#[from] QuotaExceeded),
    /// The sandboxes have as much memory as allowed.
    #[error(
        "{asked_mib} MiB are asked for, and {free_mib} of the {total_mib} MiB of all sandboxes are free"
    )]
    NoMemory {
        /// Memory that the creation asks for, in MiB.
        asked_mib: u64,
        /// Memory that no sandbox has, in MiB.
        free_mib: u64,
        /// Memory that all sandboxes together may have, in MiB.
        total_mib: u64,
    },
    /// [`drain`](crate::Sandboxes::drain) was called.
    #[error("the daemon creates no sandboxes any more")]
    Draining,
    /// [`shutdown`](crate::Sandboxes::shutdown) has begun.
    #[error("the daemon is shutting down")]
    ShuttingDown,
    /// The sandbox was deleted before it was ready.
    #[error("sandbox {0} was deleted during its creation")]
    Deleted(SandboxId),
    /// The VMM could not be started.
    #[error("sandbox {id} could not be started")]
    Boot {
        /// Which sandbox.
        id: SandboxId,
        /// Why.
        source: BootError,
    },
    /// The host's disk is full.
    #[error("no space is left for {}", path.display())]
    NoSpace {
        /// The file or directory that could not be made.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its record could not be written.
    #[error("cannot write to {}", dir.display())]
    Record {
        /// Its directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The VMM ended before the guest answered.
    #[error("the VMM of sandbox {id} {reason} before its guest answered; {console}")]
    Died {
        /// Which sandbox.
        id: SandboxId,
        /// How the VMM ended.
        reason: ExitReason,
        /// The end of the guest's console.
        console: Console,
    },
    /// The guest did not answer in time.
    #[error("the guest of sandbox {id} did not answer within {waited:?}; {console}")]
    NotReady {
        /// Which sandbox.
        id: SandboxId,
        /// How long was waited.
        waited: Duration,
        /// The end of the guest's console.
        console: Console,
    },
    /// The guest answered, but not as an agent does.
    #[error("the guest of sandbox {id} failed to answer; {console}")]
    Guest {
        /// Which sandbox.
        id: SandboxId,
        /// How the guest failed.
        source: ChannelError,
        /// The end of the guest's console.
        console: Console,
    },
}

/// Whether the file system, or a quota on it, has no room for what was to be written.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl CreateError {
    /// The microVM of the sandbox `id` could not be booted.
    pub(crate) fn boot(id: SandboxId, source: BootError) -> Self {
        match source {
            BootError::Prepare { path, source } if is_full(&source) => {
                Self::NoSpace { path, source }
            }
            source => Self::Boot { id, source },
        }
    }

    /// The journal in `dir` could not be written.
    pub(crate) fn record(dir: &Path, source: io::Error) -> Self {
        let dir = dir.to_owned();
        if is_full(&source) {
            Self::NoSpace { path: dir, source }
        } else {
            Self::Record { dir, source }
        }
    }

    pub(crate) fn unanswered(id: SandboxId, error: AnswerError) -> Self {
        match error {
            AnswerError::Died { reason, console } => Self::Died { id, reason, console },
            AnswerError::Late { waited, console } => Self::NotReady { id, waited, console },
            AnswerError::Wrong { source, console } => Self::Guest { id, source, console },
        }
    }
}
