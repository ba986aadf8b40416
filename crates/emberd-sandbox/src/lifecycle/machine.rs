//! The microVM of a sandbox, and the guest in it.

use std::path::PathBuf;
use std::sync::Arc;

use emberd_guest::{End, Guest};
use emberd_proto::message::AGENT_PORT;
use emberd_vmm::{
    AnyMicroVm, ConnectError, ExitWatch, GrowError, KillError, MicroVm as _, PauseError, Stream,
};
use tokio::sync::RwLock;
use tokio_util::sync::CancellationToken;

use super::clock::GuestClock;
use crate::boot_path::{BootPath, BootTimes};

/// A microVM whose guest has answered.
pub(crate) struct Running {
    pub machine: Arc<Machine>,
    pub guest: Guest<Stream>,
    pub boot_path: BootPath,
    pub boot: BootTimes,
}

/// A microVM until it is removed.
pub(crate) struct Machine {
    /// Locked for reading while a connection is opened: the removal of the microVM waits for it.
    vm: RwLock<Option<AnyMicroVm>>,
    vmm_pid: u32,
    exit: ExitWatch,
    clock: GuestClock,
    console_log: PathBuf,
    /// Cancelled when the sandbox is about to end.
    ending: CancellationToken,
}

impl Machine {
    pub fn new(vm: AnyMicroVm, ending: CancellationToken) -> Self {
        let (vmm_pid, exit, console_log) =
            (vm.process_id(), vm.exited(), vm.console_log().to_owned());
        let (vm, clock) = (RwLock::new(Some(vm)), GuestClock::new());
        Self { vm, vmm_pid, exit, clock, console_log, ending }
    }

    pub fn vmm_pid(&self) -> u32 {
        self.vmm_pid
    }

    pub fn exit(&self) -> &ExitWatch {
        &self.exit
    }

    /// How long the guest has run.
    pub fn clock(&self) -> &GuestClock {
        &self.clock
    }

    pub fn console_log(&self) -> &PathBuf {
        &self.console_log
    }

    pub fn ending(&self) -> &CancellationToken {
        &self.ending
    }

    /// Opens a connection to the agent.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(&self) -> Result<Stream, ConnectError> {
        let vm = self.vm.read().await;
        let vm = vm.as_ref().ok_or(ConnectError::Closed)?;
        vm.connect(AGENT_PORT).await
    }

    /// Stops the guest's processors; none if the microVM has ended, or is about to. The clock
    /// stands still until it is resumed, also where this fails.
    pub async fn pause(&self) -> Option<Result<(), PauseError>> {
        self.clock.stop();
        self.while_it_lasts(async |vm| vm.pause().await).await
    }

    /// As [`Self::pause`]; continues them.
    pub async fn resume(&self) -> Option<Result<(), PauseError>> {
        let resumed = self.while_it_lasts(async |vm| vm.resume().await).await;
        if let Some(Ok(())) = resumed {
            self.clock.go_on();
        }
        resumed
    }

    /// Makes the guest's own disk `bytes` large, more than it has; none if the microVM has ended,
    /// or is about to. Its file system stays as it is.
    pub async fn grow_disk(&self, bytes: u64) -> Option<Result<(), GrowError>> {
        self.while_it_lasts(async |vm| vm.grow_disk(bytes).await).await
    }

    /// The removal of the microVM waits for the lock, and so for `act`, which ends with it.
    async fn while_it_lasts<T>(&self, act: impl AsyncFnOnce(&AnyMicroVm) -> T) -> Option<T> {
        let acted = async {
            let vm = self.vm.read().await;
            Some(act(vm.as_ref()?).await)
        };
        tokio::select! {
            biased;
            _ = self.ended() => None,
            acted = acted => acted,
        }
    }

    /// Kills the microVM and removes it.
    ///
    /// # Errors
    /// When its directory could not be removed.
    pub async fn kill(&self) -> Result<(), KillError> {
        // Held until the microVM is gone: of two concurrent calls, neither returns before that.
        let mut vm = self.vm.write().await;
        match vm.take() {
            Some(vm) => vm.kill().await,
            None => Ok(()),
        }
    }

    /// Lets the microVM run on without this daemon.
    pub async fn detach(&self) {
        if let Some(vm) = self.vm.write().await.take() {
            vm.detach();
        }
    }

    /// Waits until the sandbox is about to end, or its microVM has ended by itself.
    pub fn ended(&self) -> impl Future<Output = End> + Send + use<> {
        let (ending, mut exit) = (self.ending.clone(), self.exit.clone());
        async move {
            tokio::select! {
                biased;
                () = ending.cancelled() => End::Deleted,
                reason = exit.wait() => End::Gone(format!("its VMM {reason}")),
            }
        }
    }
}
