//! A microVM that Firecracker runs.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::OFlags;
use tokio::net::UnixStream;

use super::api::Api;
use super::api::types::{DriveUpdate, SnapshotCreate, VmState};
use super::dial::{DialError, dial};
use super::machine::{DISK_ID, DISK_STAGED};
use super::ready::Ready;
use super::version::{Features, Version};
use super::{DRIVER, Facts, exit};
use crate::process::VmmProcess;
use crate::root::Root;
use crate::template::{Draft, MEMORY_FILE, STATE_FILE};
use crate::{
    AdoptError, ConnectError, ExitWatch, GrowError, ImageHashes, KillError, MachineShape, MicroVm,
    Orphan, PauseError, SnapshotError, Template, TemplateKey,
};

/// Name under which a VMM finds the state file it is to load.
pub(super) const STATE_STAGED: &str = "template.state";
/// Name under which a VMM finds the memory file it is to load.
pub(super) const MEMORY_STAGED: &str = "template.memory";

/// Names under which a VMM writes a snapshot. Not the ones above: a clone can be made a
/// template of, too.
const STATE_WRITTEN: &str = "snapshot.state";
const MEMORY_WRITTEN: &str = "snapshot.memory";

/// Why no template is made of it.
const ADOPTED: &str = "an earlier daemon started the microVM";

impl Facts {
    pub(super) fn template_key(&self, images: ImageHashes, machine: MachineShape) -> TemplateKey {
        TemplateKey {
            vmm: self.vmm(),
            snapshot_format: self.snapshot_format.to_string(),
            cpu: self.host.cpu.clone(),
            host_kernel: self.host.kernel.clone(),
            images,
            machine,
        }
    }
}

/// A microVM that Firecracker runs.
#[derive(Debug)]
pub struct FirecrackerVm {
    process: VmmProcess,
    root: Arc<Root>,
    api: Api,
    ready: Option<Ready>,
    /// Whether the guest has ever answered: since then it does not boot any more.
    answered: AtomicBool,
    /// The guest's own disk.
    disk: Option<File>,
    /// Shape of its template; none if an earlier daemon started it.
    origin: Option<MachineShape>,
    features: Features,
    facts: Arc<Facts>,
}

impl FirecrackerVm {
    pub(super) fn new(
        process: VmmProcess,
        root: Arc<Root>,
        api: Api,
        ready: Option<Ready>,
        shape: MachineShape,
        disk: Option<File>,
        facts: Arc<Facts>,
    ) -> Self {
        let (answered, origin, features) = (AtomicBool::new(false), Some(shape), facts.features);
        Self { process, root, api, ready, answered, disk, origin, features, facts }
    }

    /// Takes over a Firecracker that an earlier daemon started. Its API takes another connection,
    /// and its vsock as many as ever; both sockets are where they were.
    pub(super) fn adopt(facts: &Arc<Facts>, orphan: &Orphan) -> Result<Self, AdoptError> {
        let site = orphan.site_of(DRIVER)?;
        let root = Root::open(orphan.dir.join(&site.sockets)).map_err(AdoptError::unusable)?;
        let process = VmmProcess::adopt(orphan, exit::reason).map_err(AdoptError::unusable)?;
        let root = Arc::new(root);
        let api = Api::new(Arc::clone(&root));
        // An older release may run on under a newer daemon.
        let version = Version::from_text(&site.version);
        let features = version.as_ref().map_or(facts.features, Features::from);
        // Its guest has answered that daemon.
        let (ready, answered, origin) = (None, AtomicBool::new(true), None);
        let (facts, disk) = (Arc::clone(facts), adopted_disk(&root, &process, site.uid));
        Ok(Self { process, root, api, ready, answered, disk, origin, features, facts })
    }

    fn booted(&self) -> bool {
        self.answered.load(Ordering::Relaxed) || self.ready.as_ref().is_some_and(Ready::is_ready)
    }

    /// Waits until the guest is ready, by its own dial or by answering ours, and dials.
    async fn reach(&self, port: u32) -> Result<UnixStream, DialError> {
        let dial = || dial(&self.root, port, || self.booted());
        let stream = match &self.ready {
            Some(ready) if !self.booted() => tokio::select! {
                () = ready.wait() => dial().await,
                outcome = dial() => outcome,
            },
            _ => dial().await,
        }?;
        self.answered.store(true, Ordering::Relaxed);
        Ok(stream)
    }

    async fn set_state(&self, state: VmState) -> Result<(), PauseError> {
        if !self.features.snapshots {
            return Err(PauseError::Unsupported { vmm: self.facts.vmm() });
        }
        let set = self.api.patch("/vm", &state, self.facts.config.call_timeout).await;
        set.map_err(|error| PauseError::Step {
            step: format!("PATCH /vm ({state:?})"),
            source: error.into(),
        })
    }
}

impl MicroVm for FirecrackerVm {
    type Stream = UnixStream;

    async fn connect(&self, port: u32) -> Result<UnixStream, ConnectError> {
        let mut exit = self.process.exited();
        tokio::select! {
            biased;
            _ = exit.wait() => Err(ConnectError::Closed),
            stream = self.reach(port) => {
                stream.map_err(|error| ConnectError::Channel(error.into()))
            }
        }
    }

    async fn pause(&self) -> Result<(), PauseError> {
        self.set_state(VmState::Paused).await
    }

    async fn resume(&self) -> Result<(), PauseError> {
        self.set_state(VmState::Resumed).await
    }

    async fn grow_disk(&self, bytes: u64) -> Result<(), GrowError> {
        let grow = || match &self.disk {
            Some(disk) => disk.set_len(bytes),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        grow().map_err(GrowError::at("the change of the file's length"))?;
        let update = DriveUpdate { drive_id: DISK_ID, path_on_host: DISK_STAGED };
        let path = format!("/drives/{DISK_ID}");
        let told = self.api.patch(&path, &update, self.facts.config.call_timeout).await;
        told.map_err(GrowError::at("PATCH /drives"))
    }

    async fn snapshot(&self, into: &Path, images: ImageHashes) -> Result<Template, SnapshotError> {
        let publish = |source| SnapshotError::Publish { template: into.into(), source };
        let origin = self.origin.as_ref().ok_or_else(|| SnapshotError::Create(ADOPTED.into()))?;
        self.pause().await?;
        let draft = Draft::begin(into).map_err(publish)?;
        let create = SnapshotCreate {
            snapshot_type: "Full",
            snapshot_path: STATE_WRITTEN,
            mem_file_path: MEMORY_WRITTEN,
        };
        let created =
            self.api.put("/snapshot/create", &create, self.facts.config.snapshot_timeout).await;
        created.map_err(|error| SnapshotError::Create(error.into()))?;

        let key = self.facts.template_key(images, origin.clone());
        let disk = self.disk.as_ref().map(File::try_clone).transpose().map_err(publish)?;
        let root = self.root.path().to_owned();
        let finish = move || {
            draft.take(&root.join(STATE_WRITTEN), STATE_FILE)?;
            draft.take(&root.join(MEMORY_WRITTEN), MEMORY_FILE)?;
            if let Some(mut disk) = disk {
                draft.copy_disk(&mut disk)?;
            }
            draft.publish(key)
        };
        // A copy between file systems takes its time; the closure finishes or is not begun.
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

/// Opens the disk of a VMM that an earlier daemon started, which has it open without a name, or
/// in its jail. A link that the user `uid` of a jail has put in its place is not followed, and a
/// file that is another user's, as the images are, is not taken.
fn adopted_disk(root: &Root, process: &VmmProcess, uid: Option<u32>) -> Option<File> {
    let staged = root.path().join(DISK_STAGED);
    let mut options = File::options();
    options.read(true).write(true);
    let file = if uid.is_some() {
        options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed()).open(staged)
    } else {
        let descriptor = fs::read_link(staged).ok()?;
        let descriptor = descriptor.file_name()?.to_str()?;
        options.open(format!("/proc/{}/fd/{descriptor}", process.process_id()))
    };
    let file = file.ok()?;
    let metadata = file.metadata().ok()?;
    let is_own = uid.is_none_or(|uid| metadata.uid() == uid);
    (metadata.is_file() && is_own).then_some(file)
}
