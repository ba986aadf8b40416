//! One sandbox: who it is, its microVM once there is one, and the connections to it.
//!
//! The lock around the microVM is held for writing by whoever starts or ends it, and for
//! reading while a connection is opened. Nothing else is needed to order a deletion after a
//! creation, and either after the execs they cut off.

use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use emberd_image::PackName;
use emberd_proto::Welcome;
use emberd_proto::message::AGENT_PORT;
use emberd_vmm::{ConnectError, ExitReason, ExitWatch, KillError, MicroVm};
use tokio::sync::{RwLock, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::SandboxId;
use crate::channel::{ChannelError, GuestConnection};
use crate::record::Record;

/// How sandboxes come to be, for people.
pub const BOOT_PATH: &str = "cold-boot";

/// Most connections one sandbox keeps open while they are not used.
const IDLE_CONNECTIONS_MAX: usize = 8;

/// Most execs one sandbox runs at once; more wait their turn. Bounds the output held.
pub(crate) const EXECS_MAX: usize = 64;

/// How long a closed connection is given to turn out as the end of the whole VMM.
const END_GRACE: Duration = Duration::from_secs(1);

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
    /// Where the time of its creation went; none until it is ready.
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

/// Where the time of a creation went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootTimes {
    /// Until the VMM process ran.
    pub vmm: Duration,
    /// From then until the guest answered.
    pub guest: Duration,
    /// Of the guest's own clock: kernel start to PID 1. None where the agent is not PID 1.
    pub kernel: Option<Duration>,
    /// Of the guest's own clock: PID 1 to a serving agent. None where it is not PID 1.
    pub init: Option<Duration>,
}

impl BootTimes {
    pub(crate) fn new(vmm: Duration, guest: Duration, welcome: &Welcome) -> Self {
        let kernel = welcome.init_started_us.map(Duration::from_micros);
        let serving = welcome.serving_us.map(Duration::from_micros);
        let init = serving.zip(kernel).map(|(serving, kernel)| serving.saturating_sub(kernel));
        Self { vmm, guest, kernel, init }
    }
}

/// See the module.
pub(crate) struct Sandbox<M: MicroVm> {
    pub record: Record,
    /// Grows with every sandbox: the order of creation.
    pub serial: u64,
    pub dir: PathBuf,
    /// Cancelled once the sandbox is to end; its creation and its execs stop then.
    pub ending: CancellationToken,
    pub vm: RwLock<Option<M>>,
    pub ready: OnceLock<Ready<M::Stream>>,
}

/// What is known and open once the guest has answered.
pub(crate) struct Ready<S> {
    pub vmm_pid: u32,
    pub boot: BootTimes,
    pub exit: ExitWatch,
    /// One permit for each exec that may run.
    pub turns: Semaphore,
    idle: Mutex<Vec<GuestConnection<S>>>,
}

impl<S> Ready<S> {
    pub fn new(vmm_pid: u32, boot: BootTimes, exit: ExitWatch, first: GuestConnection<S>) -> Self {
        let (turns, idle) = (Semaphore::new(EXECS_MAX), Mutex::new(vec![first]));
        Self { vmm_pid, boot, exit, turns, idle }
    }
}

impl<M: MicroVm> Sandbox<M> {
    pub fn new(record: Record, serial: u64, dir: PathBuf) -> Self {
        let (ending, vm, ready) = (CancellationToken::new(), RwLock::new(None), OnceLock::new());
        Self { record, serial, dir, ending, vm, ready }
    }

    pub fn view(&self) -> SandboxView {
        let ready = self.ready.get();
        let state = match ready.map(|ready| (ready, ready.exit.reason())) {
            None => SandboxState::Creating,
            Some((ready, None)) => SandboxState::Ready { vmm_pid: ready.vmm_pid },
            Some((_, Some(reason))) => SandboxState::Gone(reason),
        };
        SandboxView {
            id: self.record.id,
            pack: self.record.pack.clone(),
            state,
            created_at: self.record.created_at,
            boot: ready.map(|ready| ready.boot),
            dir: self.dir.clone(),
        }
    }

    /// A connection for one exec: an idle one, else a new one.
    pub async fn connection(
        &self,
        ready: &Ready<M::Stream>,
    ) -> Result<GuestConnection<M::Stream>, ChannelError> {
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
        let vm = self.vm.write().await.take();
        if let Some(ready) = self.ready.get() {
            ready.idle().clear();
        }
        match vm {
            Some(vm) => vm.kill().await,
            None => Ok(()),
        }
    }
}

impl<S> Ready<S> {
    /// No code that could panic runs under this lock.
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<GuestConnection<S>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a connection whose exec ended in step.
    pub fn keep(&self, connection: GuestConnection<S>) {
        let mut idle = self.idle();
        if idle.len() < IDLE_CONNECTIONS_MAX {
            idle.push(connection);
        }
    }
}

/// Opens a connection and greets the guest; waits for as long as it boots.
pub(crate) async fn connect<M: MicroVm>(
    vm: &M,
) -> Result<(GuestConnection<M::Stream>, Welcome), ChannelError> {
    let stream = vm.connect(AGENT_PORT).await.map_err(ChannelError::Connect)?;
    GuestConnection::greet(stream).await
}

/// Tells a closed connection from a VMM that ended: the connection closes a moment earlier.
pub(crate) async fn ended(exit: &mut ExitWatch) -> Option<ExitReason> {
    tokio::time::timeout(END_GRACE, exit.wait()).await.ok()
}
