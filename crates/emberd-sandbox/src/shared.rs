//! What the sandboxes of one daemon and the tasks behind them share.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;

use emberd_image::{Images, PackImage, PackName};
use emberd_vmm::{
    AnyVmm, OrphanError, RestoreError, Template, TemplateError, TemplateKey, Vmm as _,
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::SandboxId;
use crate::activity::Activity;
use crate::base::Base;
use crate::boot_path::BootPath;
use crate::chain::chain;
use crate::config::SandboxesConfig;
use crate::create::{self, Answered, CreateError};
use crate::pool::{Pools, health, keeper};
use crate::reaper::Reaper;
use crate::restore::{self, Blame, RestoreFailure, Stand};
use crate::run_dir::{RUN_DIR_BYTES_MAX, RunDir};
use crate::sandbox::Sandbox;
use crate::table::Table;
use crate::templates::{Templates, builder};

/// Why the sandboxes could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another daemon uses the run directory.
    #[error("another daemon uses {}", run_dir.display())]
    RunDirInUse {
        /// The run directory.
        run_dir: PathBuf,
    },
    /// Sockets in the run directory would have paths longer than the kernel takes.
    #[error("{} has {bytes} bytes, over the limit of {RUN_DIR_BYTES_MAX}", run_dir.display())]
    RunDirTooLong {
        /// The run directory.
        run_dir: PathBuf,
        /// Length of its path.
        bytes: usize,
    },
    /// Somebody else can write to the run directory.
    #[error("{} is not a directory of this user alone", run_dir.display())]
    RunDirShared {
        /// The run directory.
        run_dir: PathBuf,
    },
    /// The run directory cannot be used.
    #[error("cannot use {}", run_dir.display())]
    RunDir {
        /// The run directory.
        run_dir: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The directory of templates cannot be used.
    #[error("cannot use {}", template_dir.display())]
    TemplateDir {
        /// The directory of templates.
        template_dir: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What an earlier daemon left behind cannot be removed.
    #[error("cannot clean up after an earlier daemon")]
    Orphans(#[source] OrphanError),
}

/// Restores at once for each processor of the host. More would make each slower and none
/// faster; so slow that guests seem not to wake up, where many are asked for at once.
const RESTORES_PER_PROCESSOR: usize = 2;

/// See the module.
pub(crate) struct Shared {
    pub table: Table,
    pub pools: Pools,
    /// Or why there are none.
    pub templates: Result<Arc<Templates>, String>,
    pub reaper: Reaper,
    pub activity: Activity,
    /// One permit for each microVM that may be restored at the moment; first come, first served.
    pub restores: Semaphore,
    /// Cancelled once nothing is to be made any more.
    pub closing: CancellationToken,
    /// What goes on behind everybody's back.
    pub background: TaskTracker,
    // Last: the run directory is unlocked when everything in it is gone.
    pub base: Base,
}

impl Shared {
    /// As [`Sandboxes::open`](crate::Sandboxes::open).
    pub fn open(
        config: SandboxesConfig,
        images: Images,
        vmm: AnyVmm,
    ) -> Result<Arc<Self>, OpenError> {
        let run_dir = RunDir::open(&config.run_dir)?;
        let is_sandbox = |name: &str| name.parse::<SandboxId>().is_ok();
        let removed = emberd_vmm::remove_orphans(run_dir.path(), is_sandbox);
        for orphan in removed.map_err(OpenError::Orphans)? {
            tracing::warn!(dir = %orphan.dir.display(), vmm = ?orphan.vmm, "removed an orphan");
        }
        let base = Base { vmm, images, config, run_dir };
        let templates = open_templates(&base)?;
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        let packs = base.images.packs.keys().filter(|_| templates.is_ok());
        let shared = Arc::new(Shared {
            table: Table::new(base.config.sandboxes_max),
            pools: Pools::new(packs, base.config.pool.as_ref(), base.config.mem_size_mib),
            templates,
            reaper: Reaper::new(),
            activity: Activity::new(),
            restores: Semaphore::new(RESTORES_PER_PROCESSOR * processors),
            closing: CancellationToken::new(),
            background: TaskTracker::new(),
            base,
        });
        if let Ok(templates) = &shared.templates {
            let templates = Arc::clone(templates);
            shared.go_on(builder::build_all(Arc::clone(&shared), templates));
            shared.go_on(keeper::keep(Arc::clone(&shared)));
            shared.go_on(health::look_after(Arc::clone(&shared)));
        }
        Ok(shared)
    }

    /// What guests of an installed pack boot from.
    pub fn image(&self, pack: &PackName) -> &PackImage {
        &self.base.images.packs[pack]
    }

    /// The pack's template, if sandboxes can be restored from it.
    pub fn ready_template(&self, pack: &PackName) -> Option<Arc<Template>> {
        self.templates.as_ref().ok()?.ready(pack)
    }

    /// A microVM was restored from `template`.
    pub fn acquit(&self, pack: &PackName, template: &Arc<Template>) {
        if let Ok(templates) = &self.templates {
            templates.acquit(pack, template);
        }
    }

    /// Holds a failed restore against its template.
    pub fn judge(&self, pack: &PackName, template: &Arc<Template>, failure: &RestoreFailure) {
        self.blame(pack, template, failure.blame(), &chain(failure));
    }

    /// Nothing is restored from `template` any more.
    pub fn condemn(&self, pack: &PackName, template: &Arc<Template>, error: &TemplateError) {
        self.blame(pack, template, Blame::Template, &chain(error));
    }

    fn blame(&self, pack: &PackName, template: &Arc<Template>, blame: Blame, error: &str) {
        if let Ok(templates) = &self.templates
            && templates.blame(pack, template, blame, error)
        {
            self.empty_pool(pack);
        }
    }

    /// Ends what waits in the pack's pool.
    pub fn empty_pool(&self, pack: &PackName) {
        if let Some(pool) = self.pools.get(pack) {
            pool.clear(&self.reaper);
        }
    }

    /// Restores the microVM of `sandbox`, with a head start if there is one; boots it where
    /// there is no template, or none that works.
    pub async fn restore_or_boot(
        &self,
        image: &PackImage,
        sandbox: &Arc<Sandbox>,
        stand: Option<Stand>,
    ) -> Result<Answered, CreateError> {
        let restorable = stand.is_some() || self.ready_template(&sandbox.pack).is_some();
        if restorable && let Some(restored) = self.restore(image, sandbox, stand).await {
            return Ok(restored);
        }
        create::boot(&self.base, sandbox, image, false).await
    }

    async fn restore(
        &self,
        image: &PackImage,
        sandbox: &Arc<Sandbox>,
        stand: Option<Stand>,
    ) -> Option<Answered> {
        let pack = &sandbox.pack;
        let _turn = self.restores.acquire().await.expect("the semaphore is never closed");
        let template = match &stand {
            Some(stand) => Arc::clone(&stand.template),
            // It may have been condemned while others had their turn.
            None => self.ready_template(pack)?,
        };
        let restored = async {
            let (template, owner) = (Arc::clone(&template), Arc::clone(sandbox));
            let stand = match stand {
                Some(stand) => stand,
                None => restore::stand_by(&self.base, template, owner, image).await?,
            };
            restore::load(&self.base, stand, image, BootPath::SnapshotRestore).await
        };
        match restored.await {
            Ok(restored) => {
                self.acquit(pack, &template);
                Some(restored)
            }
            Err(failure) => {
                let error = &failure as &dyn std::error::Error;
                tracing::warn!(id = %sandbox.id, %pack, error, "not restored: booting cold");
                self.judge(pack, &template, &failure);
                None
            }
        }
    }

    /// Says in the log when the microVM ends by itself, and has a pool replace it. Who asks
    /// for the state looks himself.
    pub fn watch(&self, sandbox: Arc<Sandbox>) {
        let wake = Arc::clone(&self.pools.wake);
        tokio::spawn(async move {
            let Some(mut exit) = sandbox.ready.get().map(|ready| ready.exit.clone()) else {
                return;
            };
            let (id, ending) = (sandbox.id, sandbox.ending.clone());
            drop(sandbox);
            tokio::select! {
                biased;
                () = ending.cancelled() => {}
                reason = exit.wait() => {
                    tracing::warn!(%id, "microVM gone: its VMM {reason}");
                    wake.notify_one();
                }
            }
        });
    }

    /// Lets `task` run until nothing is to be made any more.
    fn go_on(&self, task: impl Future<Output = ()> + Send + 'static) {
        let closing = self.closing.clone();
        self.background.spawn(async move { closing.run_until_cancelled(task).await });
    }
}

/// Opens the directory of templates, or says why there are none.
fn open_templates(base: &Base) -> Result<Result<Arc<Templates>, String>, OpenError> {
    let Some(dir) = &base.config.template_dir else {
        return Ok(Err("it was told to make none".to_owned()));
    };
    let keys = base.images.packs.iter().map(|(pack, image)| {
        let key = base.vmm.template_key(base.hashes(image), base.shape())?;
        Ok((pack.clone(), key))
    });
    let keys: BTreeMap<PackName, TemplateKey> = match keys.collect() {
        Ok(keys) => keys,
        Err(refusal) => {
            let refusal: RestoreError = refusal;
            tracing::warn!("no templates, every sandbox boots cold: {refusal}");
            return Ok(Err(refusal.to_string()));
        }
    };
    match Templates::open(dir, keys) {
        Ok(templates) => Ok(Ok(Arc::new(templates))),
        Err(source) => Err(OpenError::TemplateDir { template_dir: dir.clone(), source }),
    }
}
