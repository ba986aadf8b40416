//! One sandbox: its identity, and its phase behind one lock.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use emberd_egress::SandboxEgress;
use emberd_guest::Guest;
use emberd_proto::GuestLimits;
use emberd_vmm::{ExitReason, KillError, Stream};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::events::{SandboxEvent, SandboxEventKind};
use super::journal::{Entry, Journal, LeaseEntry, Origin, Stage};
use super::lease::{Boottime, Lease, Terms};
use super::machine::{Machine, Running};
use super::phase::{Creating, Gone, Phase, PhaseKind, Refused, Request, Was, Why};
use super::reach::Reach;
use super::signals::Signals;
use super::state::{SandboxState, state};
use super::url_key::UrlKey;
use super::usage::Usage;
use crate::boot_path::{BootPath, BootTimes};
use crate::cpu::Cpu;
use crate::egress::Session;
use crate::id::SandboxId;
use crate::shape::Shape;

/// One sandbox as it is now.
#[derive(Debug, Clone)]
pub struct SandboxView {
    /// Identity of the sandbox.
    pub id: SandboxId,
    /// Its language pack and size.
    pub shape: Shape,
    /// State of the sandbox.
    pub state: SandboxState,
    /// When the sandbox was requested.
    pub created_at: SystemTime,
    /// How its microVM was made; none until the sandbox is ready.
    pub boot_path: Option<BootPath>,
    /// How long each part took; none until the sandbox is ready.
    pub boot: Option<BootTimes>,
    /// Directory of its sockets, log and record.
    pub dir: PathBuf,
    /// Decisions of its callers.
    pub terms: Terms,
    /// Its processor time.
    pub cpu: Cpu,
    /// Limits that its caller asked for and its guest holds, and the size of its disk.
    pub limits: GuestLimits,
    /// Names of the environment variables of its programs.
    pub env: Vec<String>,
    /// When it will be deleted, by the host's clock as it is set now; none for never, and until
    /// the sandbox is ready.
    pub expires_at: Option<SystemTime>,
    /// Whether its guest has answered this daemon, or was not asked yet because it is frozen. An
    /// earlier daemon started it, if not.
    pub is_reached: bool,
    /// Owner of the sandbox; none if it is nobody's.
    pub owner: Option<Arc<str>>,
}

/// A sandbox that was just created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Created {
    /// Identity of the sandbox.
    pub id: SandboxId,
    /// How its microVM was made.
    pub boot_path: BootPath,
    /// How long each part took.
    pub boot: BootTimes,
}

/// See the module.
pub(crate) struct Sandbox {
    pub id: SandboxId,
    pub shape: Shape,
    pub dir: PathBuf,
    /// None if the daemon carries no connections.
    pub egress: Option<Arc<Session>>,
    /// Environment variables of its programs, set when it is created.
    pub env: Arc<OnceLock<BTreeMap<String, String>>>,
    /// When a caller asked for it.
    pub created_at: OnceLock<SystemTime>,
    /// Text of a front end.
    pub tag: OnceLock<String>,
    /// Owner of the sandbox; set when it is created, unless it is nobody's.
    pub owner: OnceLock<Arc<str>>,
    pub lease: Mutex<Lease>,
    pub cpu: Mutex<Cpu>,
    /// Held by its guest; set when it is created.
    pub limits: OnceLock<GuestLimits>,
    /// Signs URLs of its ports; none while no URL is valid.
    pub url_key: Mutex<Option<UrlKey>>,
    pub journal: Journal,
    pub reach: Reach,
    pub usage: Usage,
    pub signals: Arc<Signals>,
    /// Held while the sandbox is frozen or thawed.
    pub transition: tokio::sync::Mutex<()>,
    /// Whether its events are recorded: from its entry in the table until its deletion. Changes
    /// under the lock of the phase, as events are recorded: in their order.
    is_told: AtomicBool,
    /// None only while a transition is under way, under the lock.
    phase: Mutex<Option<Phase>>,
}

impl Sandbox {
    pub fn new(
        id: SandboxId,
        shape: Shape,
        dir: PathBuf,
        egress: Option<SandboxEgress>,
        signals: Arc<Signals>,
    ) -> Self {
        let creating = Creating { ending: CancellationToken::new(), making: Arc::default() };
        let egress = egress.map(|egress| Arc::new(Session::new(egress)));
        let (lease, phase) = (Mutex::default(), Mutex::new(Some(Phase::Creating(creating))));
        let (usage, transition) = (Usage::new(), tokio::sync::Mutex::default());
        let (env, cpu, limits) = (Arc::default(), Mutex::default(), OnceLock::new());
        let url_key = Mutex::default();
        let (is_told, reach) = (AtomicBool::new(false), Reach::new());
        let (created_at, tag, owner) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        let (pack, size) = (shape.pack.to_string(), shape.size);
        let entry = Entry::new(id.to_string(), pack, size.vcpus, size.memory_mib);
        let journal = Journal::new(dir.clone(), entry);
        Self {
            id,
            shape,
            dir,
            egress,
            env,
            created_at,
            tag,
            owner,
            lease,
            cpu,
            limits,
            url_key,
            journal,
            reach,
            usage,
            signals,
            transition,
            is_told,
            phase,
        }
    }

    /// The sandbox that an earlier daemon has recorded as `entry`. It is being created until its
    /// guest is there.
    pub fn resumed(
        id: SandboxId,
        shape: Shape,
        dir: PathBuf,
        egress: Option<SandboxEgress>,
        signals: Arc<Signals>,
        entry: Entry,
    ) -> Self {
        let mut sandbox = Self::new(id, shape, dir.clone(), egress, signals);
        sandbox.created_at = entry.created_at.map(OnceLock::from).unwrap_or_default();
        sandbox.tag = entry.tag.clone().map(OnceLock::from).unwrap_or_default();
        sandbox.owner =
            entry.owner.as_deref().map(Arc::from).map(OnceLock::from).unwrap_or_default();
        sandbox.lease = Mutex::new(entry.lease.lease());
        sandbox.cpu = Mutex::new(entry.cpu);
        if entry.limits != GuestLimits::default() {
            sandbox.limits = OnceLock::from(entry.limits);
        }
        if !entry.env.is_empty() {
            sandbox.env = Arc::new(OnceLock::from(entry.env.clone()));
        }
        sandbox.url_key = Mutex::new(entry.url_secret.clone().map(UrlKey::of));
        sandbox.journal = Journal::new(dir, entry);
        sandbox
    }

    /// Writes the journal: the sandbox as it is now, in `stage`.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn journal_as(&self, stage: Stage) -> io::Result<()> {
        self.journal.write(|entry| self.describe(entry, stage))
    }

    /// Writes a change of the sandbox into the journal. If that fails, it is done later.
    pub fn note(&self) {
        self.or_later(self.record_change());
    }

    /// Has the journal written later where it could not be.
    pub(super) fn or_later(&self, written: io::Result<()>) {
        if let Err(error) = written {
            tracing::warn!(id = %self.id, %error, "the journal is behind");
            self.signals.journals.notify_one();
        }
    }

    /// Writes a change of the sandbox into the journal.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn record_change(&self) -> io::Result<()> {
        self.journal.write(|entry| {
            let stage = entry.stage;
            self.describe(entry, stage);
        })
    }

    /// Makes `entry` say what the sandbox is now, in `stage`.
    pub(super) fn describe(&self, entry: &mut Entry, stage: Stage) {
        entry.stage = stage;
        entry.lease = LeaseEntry::of(&self.lease.lock());
        entry.tag = self.tag.get().cloned();
        entry.owner = self.owner.get().map(ToString::to_string);
        entry.cpu = *self.cpu.lock();
        entry.limits = self.limits.get().copied().unwrap_or_default();
        entry.env = self.env.get().cloned().unwrap_or_default();
        let policy = self.egress.as_ref().map(|session| session.egress.policy());
        entry.egress = policy.as_ref().map(|policy| policy.spec().clone());
        entry.egress_ceiling = policy.and_then(|policy| Some(policy.own_ceiling()?.texts()));
        entry.url_secret = self.url_key.lock().as_ref().map(UrlKey::secret);
        entry.created_at = self.created_at.get().copied();
        self.read(|phase| {
            entry.origin = phase
                .running()
                .map(|running| Origin { boot_path: running.boot_path, boot: running.boot });
            entry.metrics = match phase {
                Phase::Frozen(frozen) => Some(frozen.metrics.clone()),
                _ => None,
            };
        });
    }

    /// Reads the phase. Detects here that the VMM has ended, without waiting for a notification.
    pub fn read<T>(&self, read: impl FnOnce(&Phase) -> T) -> T {
        let mut slot = self.phase.lock();
        let mut phase = slot.take().expect("put back below");
        if phase.kind().after(Request::Exit).is_ok()
            && let Some(reason) =
                phase.running().and_then(|running| running.machine.exit().reason())
        {
            phase = phase.gone(Why::Exited(reason));
            self.record(SandboxEventKind::Gone, &phase);
        }
        read(slot.insert(phase))
    }

    /// Moves to the phase that `request` asks for, by `change`, if the present one allows it and
    /// `when` holds under the lock; returns whether it did.
    pub fn shift(
        &self,
        request: Request,
        when: impl FnOnce() -> bool,
        change: impl FnOnce(Phase) -> Phase,
    ) -> bool {
        let mut slot = self.phase.lock();
        let phase = slot.take().expect("put back below");
        let goes = phase.kind().after(request).is_ok() && when();
        let phase = slot.insert(if goes { change(phase) } else { phase });
        let kind = match request {
            Request::Freeze => Some(SandboxEventKind::Frozen),
            Request::Thaw => Some(SandboxEventKind::Thawed),
            _ => None,
        };
        if let Some(kind) = kind.filter(|_| goes) {
            self.record(kind, phase);
        }
        goes
    }

    /// Begins to record the events of the sandbox, which was just requested.
    pub fn tell(&self) {
        let slot = self.phase.lock();
        let phase = slot.as_ref().expect("put back by those who take it");
        self.is_told.store(true, Ordering::Relaxed);
        self.record_as(SandboxEventKind::Created, PhaseKind::Creating, None);
        if phase.kind() == PhaseKind::Running {
            self.record(SandboxEventKind::Running, phase);
        }
    }

    /// Goes on to record the events of a sandbox of an earlier daemon. That its microVM has ended
    /// meanwhile is the first.
    pub fn tell_on(&self) {
        let slot = self.phase.lock();
        self.is_told.store(true, Ordering::Relaxed);
        if let Some(phase @ Phase::Gone(_)) = slot.as_ref() {
            self.record(SandboxEventKind::Gone, phase);
        }
    }

    /// Records that the time of the sandbox is over.
    pub fn tell_expired(&self) {
        self.read(|phase| self.record(SandboxEventKind::Expired, phase));
    }

    fn record(&self, kind: SandboxEventKind, phase: &Phase) {
        let reason = match phase {
            Phase::Gone(Gone { why: Why::Exited(reason), .. }) => Some(*reason),
            _ => None,
        };
        self.record_as(kind, phase.kind(), reason);
    }

    fn record_as(&self, kind: SandboxEventKind, phase: PhaseKind, reason: Option<ExitReason>) {
        if !self.is_told.load(Ordering::Relaxed) {
            return;
        }
        let (id, at) = (self.id, SystemTime::now());
        let metadata = self.lease.lock().terms.metadata.clone();
        let owner = self.owner.get().cloned();
        let event = |seq| SandboxEvent { seq, at, id, kind, phase, reason, metadata, owner };
        self.signals.events.record(event);
    }

    pub fn kind(&self) -> PhaseKind {
        self.read(Phase::kind)
    }

    /// Returns the resources of the creation.
    ///
    /// # Errors
    /// When the sandbox is not being created any more.
    pub fn creating(&self) -> Result<Creating, Refused> {
        self.read(|phase| match phase {
            Phase::Creating(Creating { ending, making }) => {
                Ok(Creating { ending: ending.clone(), making: Arc::clone(making) })
            }
            Phase::Running(_) => Err(Refused::Running),
            Phase::Frozen(_) => Err(Refused::Frozen),
            Phase::Gone(_) => Err(Refused::Gone),
        })
    }

    /// Records that the guest has answered.
    ///
    /// # Errors
    /// The microVM, where it comes too late.
    pub fn answer(&self, running: Running) -> Result<Created, Arc<Machine>> {
        let mut slot = self.phase.lock();
        if slot.as_ref().is_none_or(|phase| phase.kind().after(Request::Answer).is_err()) {
            return Err(running.machine);
        }
        let created = Created { id: self.id, boot_path: running.boot_path, boot: running.boot };
        let phase = slot.insert(Phase::Running(running));
        self.record(SandboxEventKind::Running, phase);
        Ok(created)
    }

    /// Returns the created sandbox, once it runs.
    pub fn created(&self) -> Option<Created> {
        self.read(|phase| {
            let Phase::Running(Running { boot_path, boot, .. }) = phase else { return None };
            Some(Created { id: self.id, boot_path: *boot_path, boot: *boot })
        })
    }

    /// Returns the guest. The guest of a sandbox that is gone answers every call with its end.
    ///
    /// # Errors
    /// While the sandbox is being created.
    pub fn guest(&self) -> Result<Guest<Stream>, Refused> {
        self.with_running(|running| running.guest.clone())
    }

    /// Returns the microVM.
    ///
    /// # Errors
    /// As [`Self::guest`].
    pub fn machine(&self) -> Result<Arc<Machine>, Refused> {
        self.with_running(|running| Arc::clone(&running.machine))
    }

    fn with_running<T>(&self, take: impl FnOnce(&Running) -> T) -> Result<T, Refused> {
        self.read(|phase| {
            phase.kind().after(Request::Operate)?;
            phase.running().map(take).ok_or(Refused::NotReady)
        })
    }

    /// Waits until the sandbox is about to end, or its microVM has ended by itself.
    pub fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let (machine, ending) = self.read(|phase| {
            (phase.running().map(|running| Arc::clone(&running.machine)), phase.ending().clone())
        });
        async move {
            match machine {
                Some(machine) => drop(machine.ended().await),
                None => ending.cancelled().await,
            }
        }
    }

    pub fn view(&self) -> SandboxView {
        let (state, boot) = self.read(|phase| {
            let boot = phase.running().map(|running| (running.boot_path, running.boot));
            (state(phase), boot)
        });
        let lease = self.lease.lock();
        SandboxView {
            id: self.id,
            shape: self.shape.clone(),
            state,
            created_at: self.created_at.get().copied().unwrap_or_else(SystemTime::now),
            boot_path: boot.map(|(boot_path, _)| boot_path),
            boot: boot.map(|(_, boot)| boot),
            dir: self.dir.clone(),
            terms: lease.terms.clone(),
            cpu: *self.cpu.lock(),
            limits: self.limits.get().copied().unwrap_or_default(),
            env: self.env.get().into_iter().flat_map(BTreeMap::keys).cloned().collect(),
            expires_at: lease.expires_at(SystemTime::now(), Boottime::now()),
            is_reached: !self.reach.is_missed(),
            owner: self.owner.get().cloned(),
        }
    }

    /// Whether the microVM, which waits in a pool, can be handed out: its VMM runs, and its
    /// guest has not closed the connection held.
    pub fn is_fit(&self) -> bool {
        self.read(|phase| {
            let Phase::Running(running) = phase else { return false };
            running.machine.exit().is_running() && running.guest.is_idle()
        })
    }

    /// Ends all operations in the sandbox and refuses further ones. [`Self::remove`] removes its
    /// microVM.
    pub fn delete(&self) {
        // Its connections end before its programs do.
        if let Some(session) = &self.egress {
            session.egress.close();
        }
        // Before anybody is told: the next daemon must not bring it back.
        self.journal.end();
        let mut slot = self.phase.lock();
        let Some(phase) = slot.take() else { return };
        phase.ending().cancel();
        let goes = phase.kind().after(Request::Delete).is_ok();
        let phase = slot.insert(if goes { phase.gone(Why::Deleted) } else { phase });
        self.record(SandboxEventKind::Deleted, phase);
        self.is_told.store(false, Ordering::Relaxed);
    }

    /// Whether the guest has answered, and neither it nor the sandbox has ended.
    pub fn lives(&self) -> bool {
        matches!(self.kind(), PhaseKind::Running | PhaseKind::Frozen)
    }

    /// Lets the microVM run on, for the next daemon. Its connections end.
    pub async fn detach(&self) {
        if let Some(session) = &self.egress {
            session.egress.close();
        }
        self.guest().iter().for_each(emberd_guest::Guest::detach);
        if let Ok(machine) = self.machine() {
            machine.detach().await;
        }
    }

    /// Removes the microVM of a deleted sandbox, once its creation has stopped.
    ///
    /// # Errors
    /// When its directory could not be removed.
    pub async fn remove(&self) -> Result<(), KillError> {
        let making = self.read(|phase| match phase {
            Phase::Gone(Gone { was: Was::Creating(creating), .. }) => {
                Some(Arc::clone(&creating.making))
            }
            _ => None,
        });
        if let Some(making) = making {
            drop(making.lock().await);
        }
        let running = self.with_running(|running| {
            running.guest.close();
            Arc::clone(&running.machine)
        });
        if let Ok(machine) = running {
            return machine.kill().await;
        }
        self.remove_lost().await;
        Ok(())
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // Its session holds the microVM.
        if let Some(session) = &self.egress {
            session.egress.close();
        }
    }
}
