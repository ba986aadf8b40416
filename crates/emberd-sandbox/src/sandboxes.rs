//! All sandboxes of one daemon, and what is made ahead of them.

use std::sync::Arc;

use emberd_image::{Images, PackName};
use emberd_proto::{ExecSpec, ProcessSpec};
use emberd_vmm::{AnyVmm, Vmm as _, VmmDescription};
use tokio_util::sync::CancellationToken;

use crate::SandboxId;
use crate::boot_path::BootPath;
use crate::config::SandboxesConfig;
use crate::create::{CreateError, Created, fulfil};
use crate::exec::{self, Executed};
use crate::operation::OperationError;
use crate::pool::{Pool, PoolView, Taken};
use crate::processes::{self, Process, ProcessError};
use crate::restore::Stand;
use crate::sandbox::{Sandbox, SandboxView};
use crate::shared::{OpenError, Shared};
use crate::table::Table;
use crate::templates::{BuildTemplateError, RemoveTemplateError, TemplateView};

/// Why a sandbox could not be deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// No such sandbox.
    #[error("unknown sandbox {0}")]
    Unknown(SandboxId),
}

/// All sandboxes of one daemon. Clones share them.
pub struct Sandboxes(pub(crate) Arc<Shared>);

impl Clone for Sandboxes {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl Sandboxes {
    /// Locks the run directory and removes what an earlier daemon left in it; with templates,
    /// begins to build them and to fill the pools. Blocks.
    ///
    /// # Errors
    /// [`OpenError`].
    ///
    /// # Panics
    /// With templates, outside of a tokio runtime.
    pub fn open(config: SandboxesConfig, images: Images, vmm: AnyVmm) -> Result<Self, OpenError> {
        Shared::open(config, images, vmm).map(Self)
    }

    /// What every sandbox is made like.
    pub fn config(&self) -> &SandboxesConfig {
        &self.0.base.config
    }

    /// What guests boot from.
    pub fn images(&self) -> &Images {
        &self.0.base.images
    }

    /// What microVMs run in.
    pub fn vmm(&self) -> &VmmDescription {
        self.0.base.vmm.description()
    }

    /// Creates a sandbox: takes one from the pool, else restores one from the pack's template,
    /// else boots one, and waits until its guest answers.
    ///
    /// Dropping the future removes whatever was started.
    ///
    /// # Errors
    /// [`CreateError`].
    pub async fn create(&self, pack: &PackName) -> Result<Created, CreateError> {
        let shared = &*self.0;
        let image = shared.base.images.packs.get(pack);
        let image = image.ok_or_else(|| CreateError::UnknownPack(pack.clone()))?;
        let pool = shared.pools.get(pack);
        let pick_one = || {
            let taken = pool.map_or(Taken::Nothing, |pool| pool.take(&shared.reaper));
            Picked::new(taken, || shared.base.sandbox(pack))
        };
        let picked = shared.table.enter(pick_one, |picked| &picked.sandbox)?;
        shared.activity.stir();
        shared.pools.wake.notify_one();
        if let Some(ready) = picked.sandbox.ready.get() {
            let (boot_path, boot) = (ready.boot_path, ready.boot);
            return Ok(Created { id: picked.sandbox.id, boot_path, boot });
        }
        let _waits = pool.map(Pool::wait);
        let entry = Entry { table: &shared.table, sandbox: picked.sandbox, kept: false };
        let sandbox = &entry.sandbox;
        let made = fulfil(sandbox, shared.restore_or_boot(image, sandbox, picked.stand)).await;
        match made {
            Some(Ok(created)) => {
                shared.watch(Arc::clone(sandbox));
                entry.keep();
                Ok(created)
            }
            Some(Err(error)) => Err(error),
            // A deletion that a shutdown asked for is told as what it is.
            None if shared.table.is_closed() => Err(CreateError::ShuttingDown),
            None => Err(CreateError::Deleted(sandbox.id)),
        }
    }

    /// Runs `spec` in the sandbox and waits for its end.
    ///
    /// Dropping the future ends the program.
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn exec(
        &self,
        id: SandboxId,
        spec: ExecSpec,
        stdin: &[u8],
    ) -> Result<Executed, OperationError> {
        let sandbox = self.0.table.find(id).ok_or(OperationError::Unknown(id))?;
        exec::check(&spec, stdin)?;
        let _running = self.0.activity.run();
        exec::exec(&sandbox, spec, stdin, self.0.base.config.exec_grace).await
    }

    /// Starts a process in the sandbox. Dropping the future ends it; afterwards it lives until
    /// it ends, is deleted, or its sandbox is.
    ///
    /// # Errors
    /// [`ProcessError`].
    pub async fn start_process(
        &self,
        id: SandboxId,
        spec: ProcessSpec,
    ) -> Result<Process, ProcessError> {
        let sandbox = self.find(id)?;
        self.0.activity.stir();
        processes::start(&sandbox, spec).await
    }

    /// The sandbox's processes, and those that have just ended, by process id.
    ///
    /// # Errors
    /// [`OperationError::Unknown`].
    pub fn processes(&self, id: SandboxId) -> Result<Vec<Process>, OperationError> {
        Ok(self.find(id)?.processes.all())
    }

    /// One process of the sandbox.
    ///
    /// # Errors
    /// [`ProcessError::Unknown`], and as [`Self::processes`].
    pub fn process(&self, id: SandboxId, pid: u32) -> Result<Process, ProcessError> {
        self.find(id)?.processes.find(pid).ok_or(ProcessError::Unknown { id, pid })
    }

    /// Kills a process with all it started, and forgets it.
    ///
    /// # Errors
    /// As [`Self::process`].
    pub fn delete_process(&self, id: SandboxId, pid: u32) -> Result<(), ProcessError> {
        let process = self.find(id)?.processes.remove(pid);
        process.ok_or(ProcessError::Unknown { id, pid })?.delete();
        Ok(())
    }

    fn find(&self, id: SandboxId) -> Result<Arc<Sandbox>, OperationError> {
        self.0.table.find(id).ok_or(OperationError::Unknown(id))
    }

    /// Cancelled once the daemon is to stop: what only listens ends then.
    pub fn closing(&self) -> CancellationToken {
        self.0.closing.clone()
    }

    /// Deletes the sandbox: nobody finds it any more, its creation and its execs are cut off,
    /// and its end is under way when this returns. What is left of it then is counted by
    /// [`Self::reaping`]. Goes on when the future is dropped.
    ///
    /// # Errors
    /// [`DeleteError`]. Of several deletions at once, one finds the sandbox.
    pub async fn delete(&self, id: SandboxId) -> Result<(), DeleteError> {
        let sandbox = self.0.table.remove(id).ok_or(DeleteError::Unknown(id))?;
        self.0.reaper.reap(sandbox).await;
        Ok(())
    }

    /// The sandbox as it is now.
    pub fn get(&self, id: SandboxId) -> Option<SandboxView> {
        self.0.table.view(id)
    }

    /// Waits until the sandbox is deleted, or its microVM has ended by itself; for nothing where
    /// there is no such sandbox, or no longer.
    pub fn ended(&self, id: SandboxId) -> impl Future<Output = ()> + Send + use<> {
        let sandbox = self.0.table.find(id);
        let exit = sandbox.as_ref().and_then(|it| Some(it.ready.get()?.exit.clone()));
        let ending = sandbox.map(|sandbox| sandbox.ending.clone());
        async move {
            let Some(ending) = ending else { return };
            let gone = async {
                match exit {
                    Some(mut exit) => drop(exit.wait().await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = ending.cancelled() => {}
                () = gone => {}
            }
        }
    }

    /// All sandboxes as they are now, oldest first.
    pub fn list(&self) -> Vec<SandboxView> {
        self.0.table.views()
    }

    /// How many sandboxes there are.
    pub fn count(&self) -> usize {
        self.0.table.count()
    }

    /// How many deleted sandboxes are not wholly gone yet.
    pub fn reaping(&self) -> usize {
        self.0.reaper.count()
    }

    /// How sandboxes come to be as a rule.
    pub fn boot_path(&self) -> BootPath {
        let pooled = self.0.base.config.pool.as_ref().is_some_and(|pool| pool.size > 0);
        match &self.0.templates {
            Ok(templates) if !templates.have_all_failed() && pooled => BootPath::WarmPool,
            Ok(templates) if !templates.have_all_failed() => BootPath::SnapshotRestore,
            _ => BootPath::ColdBoot,
        }
    }

    /// The template of every installed language pack, by name; none where none are made.
    pub fn templates(&self) -> Vec<TemplateView> {
        self.0.templates.as_ref().map(|templates| templates.views()).unwrap_or_default()
    }

    /// Returns the pack's template once it is ready; builds it if there is none. Goes on when
    /// the future is dropped.
    ///
    /// # Errors
    /// [`BuildTemplateError`].
    pub async fn build_template(
        &self,
        pack: &PackName,
    ) -> Result<TemplateView, BuildTemplateError> {
        let none = |reason: &String| BuildTemplateError::NoTemplates(reason.clone());
        let templates = self.0.templates.as_ref().map_err(none)?;
        let built = self.0.closing.run_until_cancelled(templates.build(pack)).await;
        built.unwrap_or(Err(BuildTemplateError::ShuttingDown))
    }

    /// Removes the pack's template, and what waits in its pool; cuts off its being built.
    /// Sandboxes boot cold until it is built again. No error if there is none. Goes on when the
    /// future is dropped.
    ///
    /// # Errors
    /// [`RemoveTemplateError`].
    pub async fn remove_template(&self, pack: &PackName) -> Result<(), RemoveTemplateError> {
        let none = |reason: &String| RemoveTemplateError::NoTemplates(reason.clone());
        let templates = Arc::clone(self.0.templates.as_ref().map_err(none)?);
        let (shared, pack) = (Arc::clone(&self.0), pack.clone());
        let removal = async move { templates.remove(&pack, || shared.empty_pool(&pack)).await };
        match self.0.background.spawn(removal).await {
            Ok(removed) => removed,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }

    /// The pool of every installed language pack, by name; none where there are no templates.
    pub fn pools(&self) -> Vec<PoolView> {
        self.0.pools.views()
    }

    /// Refuses creations from now on and cuts off those under way; nothing more is made ahead.
    pub fn close(&self) {
        self.0.table.close();
        self.0.closing.cancel();
    }

    /// Waits until the daemon is about to stop: what would go on for ever is to end then.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        self.0.closing.clone().cancelled_owned()
    }

    /// Refuses creations from now on, deletes every sandbox and what was made ahead, and
    /// returns when nothing is left.
    pub async fn shutdown(&self) {
        self.close();
        // First whoever makes more.
        self.0.background.close();
        self.0.background.wait().await;
        self.0.pools.clear(&self.0.reaper);
        for sandbox in self.0.table.drain() {
            self.0.reaper.reap_later(sandbox);
        }
        self.0.reaper.finish().await;
    }
}

/// What a creation starts with.
struct Picked {
    sandbox: Arc<Sandbox>,
    stand: Option<Stand>,
}

impl Picked {
    fn new(taken: Taken, new: impl FnOnce() -> Arc<Sandbox>) -> Self {
        match taken {
            Taken::Ready(sandbox) => Self { sandbox, stand: None },
            Taken::Standing(stand) => {
                Self { sandbox: Arc::clone(&stand.sandbox), stand: Some(stand) }
            }
            Taken::Nothing => Self { sandbox: new(), stand: None },
        }
    }
}

/// The entry of a sandbox being created; taken out again when dropped, unless kept.
struct Entry<'a> {
    table: &'a Table,
    sandbox: Arc<Sandbox>,
    kept: bool,
}

impl Entry<'_> {
    fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        if !self.kept {
            self.table.remove(self.sandbox.id);
        }
    }
}
