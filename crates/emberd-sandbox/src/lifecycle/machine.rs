//! The microVM of a sandbox, and the guest in it.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use emberd_guest::{End, Guest, Host, Link};
use emberd_proto::EgressDenials;
use emberd_proto::message::AGENT_PORT;
use emberd_vmm::{AnyMicroVm, ConnectError, ExitWatch, KillError, MicroVm as _, Stream};
use futures::future::BoxFuture;
use tokio::sync::RwLock;
use tokio_util::sync::CancellationToken;

use super::activity::Activity;
use crate::boot_path::{BootPath, BootTimes};
use crate::egress::Session;

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
    console_log: PathBuf,
    /// Cancelled when the sandbox is about to end.
    ending: CancellationToken,
}

impl Machine {
    pub fn new(vm: AnyMicroVm, ending: CancellationToken) -> Self {
        let (vmm_pid, exit, console_log) =
            (vm.process_id(), vm.exited(), vm.console_log().to_owned());
        Self { vm: RwLock::new(Some(vm)), vmm_pid, exit, console_log, ending }
    }

    pub fn vmm_pid(&self) -> u32 {
        self.vmm_pid
    }

    pub fn exit(&self) -> &ExitWatch {
        &self.exit
    }

    pub fn console_log(&self) -> &PathBuf {
        &self.console_log
    }

    pub fn ending(&self) -> &CancellationToken {
        &self.ending
    }

    async fn connect(&self) -> Result<Stream, ConnectError> {
        let vm = self.vm.read().await;
        let vm = vm.as_ref().ok_or(ConnectError::Closed)?;
        vm.connect(AGENT_PORT).await
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

/// The daemon's side of a guest: how `emberd-guest` connects to it and ends it.
pub(crate) struct GuestHost {
    pub machine: Arc<Machine>,
    pub activity: Arc<Activity>,
    /// Cancelled when the daemon stops making microVMs.
    pub closing: CancellationToken,
    /// None if the daemon carries no connections.
    pub egress: Option<Arc<Session>>,
    /// Of the sandbox; empty until it is created.
    pub env: Arc<OnceLock<BTreeMap<String, String>>>,
}

impl GuestHost {
    /// The guest at the other end of `first`.
    pub fn guest(self, name: String, first: Link<Stream>) -> Guest<Stream> {
        Guest::new(name, self, first)
    }
}

impl Host<Stream> for GuestHost {
    fn connect(&self) -> BoxFuture<'_, Result<Stream, Box<dyn Error + Send + Sync>>> {
        Box::pin(async { Ok(self.machine.connect().await?) })
    }

    fn ended(&self) -> BoxFuture<'static, End> {
        Box::pin(self.machine.ended())
    }

    fn deleted(&self) -> BoxFuture<'static, ()> {
        Box::pin(self.machine.ending.clone().cancelled_owned())
    }

    fn closing(&self) -> BoxFuture<'static, ()> {
        Box::pin(self.closing.clone().cancelled_owned())
    }

    fn end(&self) {
        let machine = Arc::clone(&self.machine);
        // The deletion of the sandbox reports what could not be removed.
        tokio::spawn(async move { machine.kill().await });
    }

    fn mark(&self) -> u64 {
        let Some(session) = &self.egress else { return 0 };
        session.need();
        session.egress.mark()
    }

    fn denied_since(&self, mark: u64) -> EgressDenials {
        let session = self.egress.as_ref();
        session.map(|session| session.egress.denied_since(mark)).unwrap_or_default()
    }

    fn env(&self) -> Option<&BTreeMap<String, String>> {
        self.env.get()
    }

    fn stir(&self) {
        self.activity.stir();
    }
}
