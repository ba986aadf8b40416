//! One sandbox: who it is, its microVM once there is one, and the connections to it.
//!
//! The lock around the microVM is held for writing by whoever starts or ends it, and for
//! reading while a connection is opened. Nothing else is needed to order a deletion after a
//! creation, and either after the execs they cut off.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use emberd_image::PackName;
use emberd_vmm::{
    AnyMicroVm, ConnectError, ExitReason, ExitWatch, KillError, MicroVm as _, Stream,
};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use tokio::sync::{RwLock, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::SandboxId;
use crate::answer::connect;
use crate::boot_path::{BootPath, BootTimes};
use crate::channel::{ChannelError, GuestConnection};
use crate::contexts::Contexts;
use crate::ports::PORT_CONNECTIONS_MAX;
use crate::processes::Processes;

/// Most connections one sandbox keeps open while they are not used.
const IDLE_CONNECTIONS_MAX: usize = 8;

/// Most execs one sandbox runs at once; more wait their turn. Bounds the output held.
pub(crate) const EXECS_MAX: usize = 64;

/// Most operations on files of one sandbox at once; more wait their turn. With the watches less
/// than half of the connections a guest takes.
const FILE_TURNS: usize = 64;

/// Most watches of files of one sandbox; more wait until one ends.
const WATCHES_MAX: usize = 32;

/// One sandbox as it is now.
#[derive(Debug, Clone)]
pub struct SandboxView {
    /// Who it is.
    pub id: SandboxId,
    /// Its language pack.
    pub pack: PackName,
    /// What it is doing.
    pub state: SandboxState,
    /// When it was asked for.
    pub created_at: SystemTime,
    /// How its microVM came to be; none until it is ready.
    pub boot_path: Option<BootPath>,
    /// Where the time of its making went; none until it is ready.
    pub boot: Option<BootTimes>,
    /// Directory of its sockets, log and record.
    pub dir: PathBuf,
}

/// What a sandbox is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SandboxState {
    /// Its microVM boots; it cannot be used yet.
    Creating,
    /// It runs code.
    Ready {
        /// Process id of its VMM.
        vmm_pid: u32,
    },
    /// Its microVM ended by itself; it can only be deleted.
    Gone(ExitReason),
}

/// See the module.
pub(crate) struct Sandbox {
    pub id: SandboxId,
    pub pack: PackName,
    pub dir: PathBuf,
    /// Cancelled once the sandbox is to end; its creation and its execs stop then.
    pub ending: CancellationToken,
    pub vm: RwLock<Option<AnyMicroVm>>,
    pub ready: OnceLock<Ready>,
    pub processes: Processes,
    pub contexts: Contexts,
}

/// What is known and open once the guest has answered.
pub(crate) struct Ready {
    pub vmm_pid: u32,
    pub boot_path: BootPath,
    pub boot: BootTimes,
    pub exit: ExitWatch,
    /// One permit for each exec that may run.
    pub turns: Semaphore,
    /// One permit for each connection to a port that may be open.
    pub dials: Arc<Semaphore>,
    /// One permit for each operation on files that may go on.
    pub file_turns: Arc<Semaphore>,
    /// One permit for each watch of files.
    pub watches: Arc<Semaphore>,
    idle: Mutex<Vec<GuestConnection<Stream>>>,
}

impl Ready {
    pub fn new(
        vmm_pid: u32,
        boot_path: BootPath,
        boot: BootTimes,
        exit: ExitWatch,
        first: GuestConnection<Stream>,
    ) -> Self {
        let (turns, idle) = (Semaphore::new(EXECS_MAX), Mutex::new(vec![first]));
        let dials = Arc::new(Semaphore::new(PORT_CONNECTIONS_MAX));
        let file_turns = Arc::new(Semaphore::new(FILE_TURNS));
        let watches = Arc::new(Semaphore::new(WATCHES_MAX));
        Self { vmm_pid, boot_path, boot, exit, turns, dials, file_turns, watches, idle }
    }

    /// Keeps a connection whose exec ended in step.
    pub fn keep(&self, connection: GuestConnection<Stream>) {
        let mut idle = self.idle();
        if idle.len() < IDLE_CONNECTIONS_MAX {
            idle.push(connection);
        }
    }

    /// No code that could panic runs under this lock.
    fn idle(&self) -> MutexGuard<'_, Vec<GuestConnection<Stream>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sandbox {
    pub fn new(id: SandboxId, pack: PackName, dir: PathBuf) -> Self {
        let (ending, vm, ready) = (CancellationToken::new(), RwLock::new(None), OnceLock::new());
        let (processes, contexts) = (Processes::new(), Contexts::default());
        Self { id, pack, dir, ending, vm, ready, processes, contexts }
    }

    pub fn view(&self, created_at: SystemTime) -> SandboxView {
        let ready = self.ready.get();
        let state = match ready.map(|ready| (ready, ready.exit.reason())) {
            None => SandboxState::Creating,
            Some((ready, None)) => SandboxState::Ready { vmm_pid: ready.vmm_pid },
            Some((_, Some(reason))) => SandboxState::Gone(reason),
        };
        SandboxView {
            id: self.id,
            pack: self.pack.clone(),
            state,
            created_at,
            boot_path: ready.map(|ready| ready.boot_path),
            boot: ready.map(|ready| ready.boot),
            dir: self.dir.clone(),
        }
    }

    /// Whether the microVM, which waits in a pool, can be handed out: its VMM runs, and its
    /// guest has not closed the connection held.
    pub fn is_fit(&self) -> bool {
        let Some(ready) = self.ready.get() else { return false };
        ready.exit.reason().is_none()
            && is_running(ready.vmm_pid)
            && ready.idle().last_mut().is_some_and(GuestConnection::is_idle)
    }

    /// A connection for one exec: an idle one, else a new one.
    pub async fn connection(&self, ready: &Ready) -> Result<GuestConnection<Stream>, ChannelError> {
        while let Some(mut connection) = ready.idle().pop() {
            if connection.is_idle() {
                return Ok(connection);
            }
        }
        let vm = self.vm.read().await;
        let vm = vm.as_ref().ok_or(ChannelError::Connect(ConnectError::Closed))?;
        let (connection, _) = connect(vm).await?;
        Ok(connection)
    }

    /// Ends the sandbox: cuts off creation and execs, then kills the microVM.
    ///
    /// # Errors
    /// When its directory could not be removed.
    pub async fn end(&self) -> Result<(), KillError> {
        self.ending.cancel();
        self.kill().await
    }

    /// Kills the microVM, whatever it is doing; the sandbox is gone then.
    ///
    /// # Errors
    /// When its directory could not be removed.
    pub async fn kill(&self) -> Result<(), KillError> {
        // Held until the microVM is gone: of two who end it, neither is done before that.
        let mut vm = self.vm.write().await;
        if let Some(ready) = self.ready.get() {
            ready.idle().clear();
        }
        match vm.take() {
            Some(vm) => vm.kill().await,
            None => Ok(()),
        }
    }
}

/// Whether the child process `pid` has not ended. The kernel is asked, because what the
/// runtime was told may be a moment old.
fn is_running(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    pid.is_some_and(|pid| matches!(waitid(WaitId::Pid(pid), look), Ok(None)))
}
