//! One sandbox as its caller holds it: the entry to every operation.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use emberd_egress::SandboxEgress;
use emberd_guest::{Executed, Guest, GuestError, Room};
use emberd_proto::{ExecSpec, Metrics};
use emberd_vmm::Stream;
use tokio_util::sync::CancellationToken;

use super::activity::Activity;
use super::console::{self, ConsoleLog};
use super::freeze::InUse;
use super::lease::{Boottime, Expired, Lease, TermsChange};
use super::sandbox::{Sandbox, SandboxView};
use super::state::{SandboxState, state};
use crate::egress::EgressState;
use crate::error::{OperationError, Unknown};
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
/// An upload to a sandbox.
pub type Upload<A> = emberd_guest::Upload<Stream, A>;
/// Changes that come from a sandbox.
pub type FileWatch = emberd_guest::FileWatch<Stream>;

/// One sandbox. A handle does not keep the sandbox alive: operations in a deleted sandbox fail.
#[derive(Clone)]
pub struct Handle {
    pub(crate) sandbox: Arc<Sandbox>,
    pub(crate) exec_grace: Duration,
    pub(crate) activity: Arc<Activity>,
    pub(crate) closing: CancellationToken,
}

impl Handle {
    /// Which sandbox.
    pub fn id(&self) -> SandboxId {
        self.sandbox.id
    }

    /// Owner of the sandbox; none if it is nobody's.
    pub fn owner(&self) -> Option<Arc<str>> {
        self.sandbox.owner.get().cloned()
    }

    /// The sandbox as it is now.
    pub fn view(&self) -> SandboxView {
        self.sandbox.view()
    }

    /// Notes that a request begins, and thaws the sandbox if it is frozen. It stays thawed while
    /// what this returns is held. Every operation in a sandbox needs one: a frozen guest answers
    /// nothing.
    ///
    /// # Errors
    /// [`OperationError::Frozen`], [`OperationError::Resume`].
    pub async fn enter(&self) -> Result<InUse, OperationError> {
        self.sandbox.enter(false).await
    }

    /// Notes that something came from the sandbox to a caller who waits for it.
    pub fn stir(&self) {
        self.sandbox.usage.stir();
    }

    /// Notes input of a caller over an open connection, and has the sandbox thawed if it is
    /// frozen.
    pub fn knock(&self) {
        self.sandbox.knock();
    }

    /// Notes that the sandbox's egress policy has changed.
    pub fn policy_changed(&self) {
        self.sandbox.note();
    }

    /// Runs `spec` and waits for its end. Dropping the future ends the program.
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn exec(&self, spec: ExecSpec, stdin: &[u8]) -> Result<Executed, OperationError> {
        self.exec_within(spec, stdin, &mut |_| true).await
    }

    /// As [`Self::exec`]. Calls `room` for each piece of output to learn whether there is room to
    /// keep it. Output without room is cut and flagged as truncated; the program continues.
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

    /// Returns the sandbox's files.
    ///
    /// # Errors
    /// [`OperationError::NotReady`].
    pub fn files(&self) -> Result<Files, OperationError> {
        Ok(self.guest()?.files())
    }

    /// Returns the sandbox's processes, also of a sandbox that is gone.
    ///
    /// # Errors
    /// [`OperationError::NotReady`].
    pub fn processes(&self) -> Result<Processes, OperationError> {
        Ok(self.guest()?.processes())
    }

    /// Returns the sandbox's contexts.
    ///
    /// # Errors
    /// [`OperationError::NotReady`].
    pub fn contexts(&self) -> Result<Contexts, OperationError> {
        Ok(self.guest()?.contexts())
    }

    /// Returns the sandbox's TCP ports.
    ///
    /// # Errors
    /// [`OperationError::NotReady`].
    pub fn ports(&self) -> Result<Ports, OperationError> {
        Ok(self.guest()?.ports())
    }

    /// Returns the sandbox's egress; none if the daemon carries no connections.
    pub fn egress(&self) -> Option<SandboxEgress> {
        self.sandbox.egress.as_ref().map(|session| session.egress.clone())
    }

    /// Returns what becomes of the connections of the sandbox's programs.
    pub fn egress_state(&self) -> EgressState {
        self.sandbox.egress.as_ref().map_or(EgressState::Off, |session| session.state())
    }

    /// As [`Self::egress_state`]; first waits until the guest has been asked.
    pub async fn egress_settled(&self) -> EgressState {
        match &self.sandbox.egress {
            Some(session) => tokio::select! {
                state = session.settled() => state,
                () = self.sandbox.ended() => session.state(),
            },
            None => EgressState::Off,
        }
    }

    /// Returns the present resource usage, and does not count as a use. The guest reports it and
    /// may report anything.
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn metrics(&self) -> Result<Metrics, OperationError> {
        let _awake = self.sandbox.usage.hold();
        if let Some(metrics) = self.sandbox.frozen_metrics().await {
            return Ok(metrics);
        }
        self.sandbox.reached().await?;
        Ok(self.guest()?.metrics().await?)
    }

    /// Returns the last `lines_max` lines of the console log, or all that is kept of it. With
    /// `follow` the log continues until the sandbox or the daemon ends.
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

    /// Changes how long the sandbox may live, when it is frozen, and its metadata, if `check`
    /// accepts what comes out: everything, or nothing.
    ///
    /// # Errors
    /// [`Unknown`] if its time has passed; what `check` found.
    pub fn change<E>(
        &self,
        change: TermsChange,
        check: impl FnOnce(&BTreeMap<String, String>) -> Result<(), E>,
    ) -> Result<Result<(), E>, Unknown> {
        self.in_lease(|lease, now| lease.change(change, now, check))
    }

    /// Extends the time that the sandbox may live to at least `timeout` from now, or its own
    /// timeout where that is none. Never shortens it.
    ///
    /// # Errors
    /// [`Unknown`] if its time has passed.
    pub fn extend(&self, timeout: Option<Duration>) -> Result<(), Unknown> {
        self.in_lease(|lease, now| lease.extend(timeout, now))
    }

    /// Thaws the sandbox, also one that requests do not thaw.
    ///
    /// # Errors
    /// [`OperationError::Resume`].
    pub async fn thaw(&self) -> Result<InUse, OperationError> {
        self.sandbox.enter(true).await
    }

    fn in_lease<T>(
        &self,
        act: impl FnOnce(&mut Lease, Boottime) -> Result<T, Expired>,
    ) -> Result<T, Unknown> {
        let acted = act(&mut self.sandbox.lease.lock(), Boottime::now());
        if acted.is_ok() {
            self.sandbox.note();
        }
        self.sandbox.signals.deadlines.notify_one();
        self.sandbox.signals.idle.notify_one();
        acted.map_err(|Expired| Unknown(self.sandbox.id))
    }

    /// Waits until the sandbox is deleted, or its microVM has ended by itself.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        self.sandbox.ended()
    }

    fn guest(&self) -> Result<Guest<Stream>, OperationError> {
        self.sandbox.guest().map_err(|_| self.not_ready())
    }

    fn not_ready(&self) -> OperationError {
        let id = self.sandbox.id;
        match self.sandbox.read(state) {
            SandboxState::Gone(reason) => {
                GuestError::Gone { guest: id.to_string(), reason: format!("its VMM {reason}") }
                    .into()
            }
            _ => OperationError::NotReady(id),
        }
    }
}
