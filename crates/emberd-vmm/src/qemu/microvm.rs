//! A microVM that QEMU runs.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Mutex, OnceCell};
use tokio::time::timeout;

use super::arguments::{CHANNEL, CONTROL, MEMORY, SYNC};
use super::block::DISK_NODE;
use super::launch::Sockets;
use super::mux::{Mux, MuxStream, Stand};
use super::qmp::{Qmp, QmpError};
use super::{DRIVER, Facts, migration, sync};
use crate::process::{VmmProcess, plain_code};
use crate::root::Root;
use crate::template::{Draft, MEMORY_FILE, STATE_FILE};
use crate::{
    AdoptError, ConnectError, ExitWatch, GrowError, ImageHashes, KillError, MachineShape, MicroVm,
    Orphan, PauseError, SnapshotError, Template,
};

/// File in the microVM's directory to which its devices are saved.
const STATE_WRITTEN: &str = "state";

/// Longest wait for a guest whose last host has vanished; it needs some milliseconds unless the
/// host is overloaded.
const SYNC_WAIT_MAX: Duration = Duration::from_secs(30);

/// A microVM in a QEMU process.
#[derive(Debug)]
pub struct QemuMicroVm {
    /// Not there until the guest of an earlier daemon is first connected to.
    mux: OnceCell<Mux>,
    control: Control,
    process: VmmProcess,
    origin: Option<Origin>,
    facts: Arc<Facts>,
}

/// Parts of a template that QEMU does not tell.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) shape: MachineShape,
    /// The guest's own disk.
    pub(super) disk: Option<File>,
}

impl QemuMicroVm {
    pub(super) fn new(
        mux: Mux,
        control: Control,
        process: VmmProcess,
        origin: Option<Origin>,
        facts: Arc<Facts>,
    ) -> Self {
        Self { mux: OnceCell::new_with(Some(mux)), control, process, origin, facts }
    }

    /// Takes over a QEMU that an earlier daemon started.
    pub(super) fn adopt(facts: &Arc<Facts>, orphan: &Orphan) -> Result<Self, AdoptError> {
        let site = orphan.site_of(DRIVER)?;
        let dir = orphan.dir.join(&site.sockets);
        let sockets = match site.uid {
            Some(_) => Sockets::Jailed(Arc::new(Root::open(dir).map_err(AdoptError::unusable)?)),
            None => Sockets::Own(dir),
        };
        let process = VmmProcess::adopt(orphan, plain_code).map_err(AdoptError::unusable)?;
        let (control, facts) = (Control::new(sockets, None), Arc::clone(facts));
        Ok(Self { mux: OnceCell::new(), control, process, origin: None, facts })
    }

    /// The mux. The first call begins a session with the guest of an earlier daemon.
    async fn mux(&self) -> Result<&Mux, ConnectError> {
        let sockets = &self.control.sockets;
        let begin = async || {
            // In the order of the module `sync`.
            let begun = async {
                let mut port = sockets.connect(SYNC).await?;
                sync::ask(&mut port).await?;
                drop(sockets.connect(CHANNEL).await?);
                sync::ask_alone(&mut port).await?;
                sockets.connect(CHANNEL).await
            };
            let channel = timeout(SYNC_WAIT_MAX, begun).await??;
            Ok(Mux::over(channel, Stand::Beginning))
        };
        self.mux.get_or_try_init(begin).await.map_err(ConnectError::Channel)
    }

    async fn tell(&self, command: &'static str) -> Result<(), PauseError> {
        let answer = self.control.with(async |qmp| qmp.execute(command, Value::Null).await).await;
        answer
            .map(drop)
            .map_err(|error| PauseError::Step { step: command.to_owned(), source: error.into() })
    }
}

impl MicroVm for QemuMicroVm {
    type Stream = MuxStream;

    /// As [`MicroVm::connect`], but returns at once: QEMU holds back what is written until
    /// the guest reads it. `port` is not transmitted: the guest serves one. The first connection
    /// to a guest of an earlier daemon waits for the guest.
    async fn connect(&self, _port: u32) -> Result<MuxStream, ConnectError> {
        self.mux().await?.open().await
    }

    async fn pause(&self) -> Result<(), PauseError> {
        self.tell("stop").await
    }

    async fn resume(&self) -> Result<(), PauseError> {
        self.tell("cont").await
    }

    async fn grow_disk(&self, bytes: u64) -> Result<(), GrowError> {
        let size = json!({ "node-name": DISK_NODE, "size": bytes });
        let grown = self.control.with(async |qmp| qmp.execute("block_resize", size).await).await;
        grown.map(drop).map_err(GrowError::at("block_resize"))
    }

    /// As [`MicroVm::snapshot`]. The guest must run: it must have received
    /// the end of the host's session before it is paused.
    async fn snapshot(&self, into: &Path, images: ImageHashes) -> Result<Template, SnapshotError> {
        let create = |error: SaveError| SnapshotError::Create(error.into());
        let publish = |source| SnapshotError::Publish { template: into.into(), source };
        let origin = self.origin.as_ref().ok_or(SaveError::NotForTemplate).map_err(create)?;
        let disk = origin.disk.as_ref().map(File::try_clone).transpose().map_err(publish)?;
        let renewed = async { self.mux().await?.renew().await };
        renewed.await.map_err(|source| create(SaveError::Session(source)))?;
        self.pause().await?;
        let draft = Draft::begin(into).map_err(publish)?;
        let state = self.process.dir().join(STATE_WRITTEN);
        let memory = self.control.sockets.path().join(MEMORY);
        let file = File::create(&state).map_err(publish)?;
        let saved = self.control.with(async |qmp| Ok(migration::save(qmp, &file).await)).await;
        saved
            .map_err(SaveError::Control)
            .and_then(|saved| saved.map_err(SaveError::Migration))
            .map_err(create)?;

        let key = self.facts.template_key(images, origin.shape.clone());
        let finish = move || {
            draft.take(&state, STATE_FILE)?;
            // Not the file itself: the guest, once resumed, continues to write to it.
            draft.copy(&memory, MEMORY_FILE)?;
            if let Some(mut disk) = disk {
                draft.copy_disk(&mut disk)?;
            }
            draft.publish(key)
        };
        // The closure either finishes or is never begun.
        let template = tokio::task::spawn_blocking(finish).await;
        template.map_err(|error| publish(error.into()))?.map_err(publish)
    }

    fn exited(&self) -> ExitWatch {
        self.process.exited()
    }

    fn process_id(&self) -> u32 {
        self.process.process_id()
    }

    fn console_log(&self) -> &Path {
        self.process.console_log()
    }

    async fn kill(self) -> Result<(), KillError> {
        self.process.kill().await
    }

    fn detach(self) {
        self.process.detach();
    }
}

/// Why a microVM was not saved.
#[derive(Debug, thiserror::Error)]
enum SaveError {
    #[error("the microVM was not booted for a template")]
    NotForTemplate,
    #[error("the guest did not start a new session")]
    Session(#[source] ConnectError),
    #[error("the control connection to QEMU failed")]
    Control(#[source] QmpError),
    #[error("cannot save the device state")]
    Migration(#[source] migration::MigrationError),
}

/// The control connection of a microVM, opened when it is first needed.
#[derive(Debug)]
pub(super) struct Control {
    sockets: Sockets,
    connection: Mutex<Option<Qmp>>,
}

impl Control {
    pub(super) fn new(sockets: Sockets, connection: Option<Qmp>) -> Self {
        Self { sockets, connection: Mutex::new(connection) }
    }

    /// Runs `act` with the connection. A connection is not reused after a failure or a dropped
    /// future.
    async fn with<T>(
        &self,
        act: impl AsyncFnOnce(&mut Qmp) -> Result<T, QmpError>,
    ) -> Result<T, QmpError> {
        let mut slot = self.connection.lock().await;
        let mut qmp = if let Some(qmp) = slot.take() {
            qmp
        } else {
            let stream = self.sockets.connect(CONTROL).await;
            Qmp::open(stream.map_err(QmpError::Closed)?).await?
        };
        let done = act(&mut qmp).await?;
        *slot = Some(qmp);
        Ok(done)
    }
}
