//! One sandbox as its caller holds it: everything that can be done in it hangs here.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use emberd_guest::{Executed, Guest, Room};
use emberd_proto::{ExecSpec, Metrics};
use emberd_vmm::Stream;
use tokio_util::sync::CancellationToken;

use super::activity::Activity;
use super::console::{self, ConsoleLog};
use super::sandbox::{Sandbox, SandboxView};
use crate::error::OperationError;
use crate::id::SandboxId;

/// The files of a sandbox.
pub type Files = emberd_guest::Files<Stream>;
/// The processes of a sandbox.
pub type Processes = emberd_guest::Processes<Stream>;
/// The contexts of a sandbox.
pub type Contexts = emberd_guest::Contexts<Stream>;
/// The TCP ports of a sandbox.
pub type Ports = emberd_guest::Ports<Stream>;
/// Content that comes from a sandbox.
pub type FileContent = emberd_guest::FileContent<Stream>;
/// A listing that comes from a sandbox.
pub type FileListing = emberd_guest::FileListing<Stream>;
/// A file on its way to a sandbox.
pub type FileUpload = emberd_guest::FileUpload<Stream>;
/// An archive on its way to a sandbox.
pub type ArchiveUpload = emberd_guest::ArchiveUpload<Stream>;
/// Changes that come from a sandbox.
pub type FileWatch = emberd_guest::FileWatch<Stream>;

/// One sandbox. Holding it does not keep the sandbox: what is done in one that was deleted fails.
#[derive(Clone)]
pub struct Handle {
    pub(crate) sandbox: Arc<Sandbox>,
    pub(crate) created_at: SystemTime,
    pub(crate) exec_grace: Duration,
    pub(crate) activity: Arc<Activity>,
    pub(crate) closing: CancellationToken,
}

impl Handle {
    /// Which sandbox.
    pub fn id(&self) -> SandboxId {
        self.sandbox.id
    }

    /// The sandbox as it is now.
    pub fn view(&self) -> SandboxView {
        self.sandbox.view(self.created_at)
    }

    /// Runs `spec` and waits for its end. Dropping the future ends the program.
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn exec(&self, spec: ExecSpec, stdin: &[u8]) -> Result<Executed, OperationError> {
        self.exec_within(spec, stdin, &mut |_| true).await
    }

    /// As [`Self::exec`]. `room` is asked for each piece of output whether there is room to keep
    /// it. Output without room is cut and flagged as truncated; the program goes on.
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn exec_within(
        &self,
        spec: ExecSpec,
        stdin: &[u8],
        room: &mut Room<'_>,
    ) -> Result<Executed, OperationError> {
        let guest = self.guest()?;
        let _running = self.activity.run();
        Ok(guest.exec(spec, stdin, room, self.exec_grace).await?)
    }

    /// Its files.
    ///
    /// # Errors
    /// [`OperationError::NotReady`].
    pub fn files(&self) -> Result<Files, OperationError> {
        Ok(self.guest()?.files())
    }

    /// Its processes; those of a sandbox that is gone, too.
    ///
    /// # Errors
    /// [`OperationError::NotReady`].
    pub fn processes(&self) -> Result<Processes, OperationError> {
        Ok(self.guest()?.processes())
    }

    /// Its contexts.
    ///
    /// # Errors
    /// [`OperationError::NotReady`].
    pub fn contexts(&self) -> Result<Contexts, OperationError> {
        Ok(self.guest()?.contexts())
    }

    /// Its TCP ports.
    ///
    /// # Errors
    /// [`OperationError::NotReady`].
    pub fn ports(&self) -> Result<Ports, OperationError> {
        Ok(self.guest()?.ports())
    }

    /// What the sandbox uses now. Its guest says so, and may say anything.
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn metrics(&self) -> Result<Metrics, OperationError> {
        Ok(self.guest()?.metrics().await?)
    }

    /// Its console log from `lines_max` lines before its end on, or all that is held of it. With
    /// `follow` it goes on until the sandbox or the daemon ends.
    ///
    /// # Errors
    /// [`OperationError::NotReady`].
    pub async fn console_log(
        &self,
        lines_max: Option<usize>,
        follow: bool,
    ) -> Result<ConsoleLog, OperationError> {
        let machine = self.sandbox.machine().map_err(|_| self.not_ready())?;
        Ok(console::open(&machine, lines_max, follow.then(|| self.closing.clone())).await)
    }

    /// Waits until the sandbox is deleted, or its microVM has ended by itself.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        self.sandbox.ended()
    }

    fn guest(&self) -> Result<Guest<Stream>, OperationError> {
        self.sandbox.guest().map_err(|_| self.not_ready())
    }

    fn not_ready(&self) -> OperationError {
        OperationError::NotReady(self.sandbox.id)
    }
}
