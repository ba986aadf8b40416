//! The sources of microVMs: the driver and its images, templates and pools.

use std::num::NonZero;
use std::sync::Arc;

use emberd_image::{Images, PackImage, PackName};
use emberd_proto::chain;
use emberd_vmm::{AnyVmm, RestoreError, Template, TemplateError, TemplateKey, Vmm as _};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::adopt::{self, Estate};
use super::base::Base;
use super::boot::Answered;
use super::disks::Disks;
use super::pool::Pools;
use super::reaper::Reaper;
use super::restore::{self, Blame, RestoreFailure, Standby};
use super::run_dir::RunDir;
use super::templates::Templates;
use super::turns::Turns;
use crate::boot_path::BootPath;
use crate::config::SandboxesConfig;
use crate::error::OpenError;
use crate::lifecycle::activity::Activity;
use crate::lifecycle::sandbox::Sandbox;
use crate::shape::Shape;

/// Concurrent restores for each processor of the host. More would slow each restore down without
/// speeding up any. Under many requests, restores would become slow enough to time out.
const RESTORES_PER_PROCESSOR: usize = 2;

/// Concurrent cold boots for each processor of the host. A guest that does not answer holds its
/// place until its time is over, so that there are more than restores.
const BOOTS_PER_PROCESSOR: usize = 4;

/// See the module.
pub(crate) struct Sources {
    pub pools: Pools,
    /// The templates, or why the daemon makes none.
    pub templates: Result<Arc<Templates>, String>,
    pub reaper: Reaper,
    /// One permit for each microVM that may be restored at the moment. Owners take turns.
    pub restores: Turns,
    /// The same for sandboxes that boot cold.
    pub boots: Turns,
    /// The egress sessions. Each holds its microVM until it has ended.
    pub sessions: TaskTracker,
    // Last: the run directory is unlocked when everything in it is gone.
    pub base: Base,
}

impl Sources {
    /// Locks the run directory, takes over what an earlier daemon left there, and opens the
    /// directory of templates. Blocks.
    pub fn open(
        config: SandboxesConfig,
        images: Images,
        vmm: AnyVmm,
    ) -> Result<(Self, Estate), OpenError> {
        let run_dir = RunDir::open(&config.run_dir, config.node_key)?;
        let (activity, closing) = (Arc::new(Activity::new()), CancellationToken::new());
        let (no_egress, signals) = Default::default();
        let disks = Disks::open(config.disk.as_ref()).map_err(OpenError::Disk)?;
        let base =
            Base { vmm, images, config, disks, activity, signals, no_egress, closing, run_dir };
        let templates = open_templates(&base)?;
        // Last: an error would end what was taken over.
        let estate = adopt::take_over(&base)?;
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        let shapes = default_shapes(&base);
        let shapes = shapes.iter().filter(|_| templates.is_ok());
        let sources = Self {
            pools: Pools::new(shapes, base.config.pool.as_ref()),
            templates,
            reaper: Reaper::new(),
            sessions: TaskTracker::new(),
            restores: Turns::new(RESTORES_PER_PROCESSOR * processors),
            boots: Turns::new(BOOTS_PER_PROCESSOR * processors),
            base,
        };
        Ok((sources, estate))
    }

    /// Returns the image of an installed pack.
    pub fn image(&self, pack: &PackName) -> &PackImage {
        &self.base.images.packs[pack]
    }

    /// Returns the key of the template of `shape`; none if its pack is not installed, or if the VMM
    /// makes none.
    pub fn key_of(&self, shape: &Shape) -> Option<TemplateKey> {
        key_of(&self.base, shape)?.ok()
    }

    /// The template of `shape`, if sandboxes can be restored from it.
    pub fn ready_template(&self, shape: &Shape) -> Option<Arc<Template>> {
        self.templates.as_ref().ok()?.ready(shape)
    }

    /// Records that a microVM was restored from `template`.
    pub fn confirm(&self, shape: &Shape, template: &Arc<Template>) {
        if let Ok(templates) = &self.templates {
            templates.confirm(shape, template);
        }
    }

    /// Records a failed restore against its template.
    pub fn judge(&self, shape: &Shape, template: &Arc<Template>, failure: &RestoreFailure) {
        self.blame(shape, template, failure.blame(), &chain(failure));
    }

    /// Invalidates `template`: nothing is restored from it any more.
    pub fn invalidate(&self, shape: &Shape, template: &Arc<Template>, error: &TemplateError) {
        self.blame(shape, template, Blame::Template, &chain(error));
    }

    fn blame(&self, shape: &Shape, template: &Arc<Template>, blame: Blame, error: &str) {
        if let Ok(templates) = &self.templates
            && templates.blame(shape, template, blame, error)
        {
            self.empty_pool(shape);
        }
    }

    /// Ends the microVMs in the pool of `shape`.
    pub fn empty_pool(&self, shape: &Shape) {
        if let Some(pool) = self.pools.get(shape) {
            pool.clear(&self.reaper);
        }
    }

    /// Restores the microVM of `sandbox` from `standby`, else from the template of its shape.
    /// Returns none if there is no usable template.
    pub async fn restore(
        &self,
        image: &PackImage,
        sandbox: &Arc<Sandbox>,
        standby: Option<Standby>,
    ) -> Option<Answered> {
        let shape = &sandbox.shape;
        if standby.is_none() && self.ready_template(shape).is_none() {
            if let Ok(templates) = &self.templates {
                templates.ask(shape, || self.key_of(shape));
            }
            return None;
        }
        let _permit = self.restores.acquire(sandbox.owner.get().cloned()).await;
        let template = match &standby {
            Some(standby) => Arc::clone(&standby.template),
            // Another restore may have invalidated the template in the meantime.
            None => self.ready_template(shape)?,
        };
        let restored = async {
            let (template, owner) = (Arc::clone(&template), Arc::clone(sandbox));
            let standby = match standby {
                Some(standby) => standby,
                None => restore::stand_by(&self.base, template, owner, image).await?,
            };
            restore::load(&self.base, standby, image, BootPath::SnapshotRestore).await
        };
        match restored.await {
            Ok(restored) => {
                self.confirm(shape, &template);
                Some(restored)
            }
            Err(failure) => {
                let error = &failure as &dyn std::error::Error;
                tracing::warn!(id = %sandbox.id, %shape, error, "restore failed: booting cold");
                self.judge(shape, &template, &failure);
                None
            }
        }
    }

    /// Logs when the microVM ends by itself, has its phase change, and has a pool replace it; keeps
    /// its egress session. A caller that reads the state checks the process directly.
    pub fn watch(&self, sandbox: &Arc<Sandbox>) {
        let wake = Arc::clone(&self.pools.wake);
        let Ok(machine) = sandbox.machine() else { return };
        let (id, mut exit, ending) = (sandbox.id, machine.exit().clone(), machine.ending().clone());
        let (session, watched) = (sandbox.egress.clone(), Arc::downgrade(sandbox));
        if let (Some(session), Ok(guest)) = (session.clone(), sandbox.guest()) {
            let activity = Arc::clone(&self.base.activity);
            self.sessions.spawn(async move { session.keep(id, guest, &activity).await });
        }
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = ending.cancelled() => {}
                reason = exit.wait() => {
                    tracing::warn!(%id, "microVM gone: its VMM {reason}");
                    // The phase changes when it is read, and the event is recorded with it.
                    if let Some(sandbox) = watched.upgrade() {
                        sandbox.kind();
                    }
                    wake.notify_one();
                }
            }
            if let Some(session) = &session {
                session.egress.close();
            }
        });
    }
}

/// The shapes of sandboxes whose creation names no size.
fn default_shapes(base: &Base) -> Vec<Shape> {
    let size = base.config.size;
    base.images.packs.keys().map(|pack| Shape { pack: pack.clone(), size }).collect()
}

/// Returns the key of the template of `shape`; none if its pack is not installed.
fn key_of(base: &Base, shape: &Shape) -> Option<Result<TemplateKey, RestoreError>> {
    let image = base.images.packs.get(&shape.pack)?;
    Some(base.vmm.template_key(base.hashes(image), base.machine(shape.size)))
}

/// Opens the directory of templates, or returns why the daemon makes none.
fn open_templates(base: &Base) -> Result<Result<Arc<Templates>, String>, OpenError> {
    let Some(dir) = &base.config.template_dir else {
        return Ok(Err("templates are switched off".to_owned()));
    };
    let shapes = default_shapes(base);
    if let Some(refusal) = shapes.iter().find_map(|shape| key_of(base, shape)?.err()) {
        tracing::warn!("no templates: every sandbox boots cold: {refusal}");
        return Ok(Err(refusal.to_string()));
    }
    let key_of = |shape: &Shape| key_of(base, shape)?.ok();
    match Templates::open(dir, &shapes, key_of, base.config.template_disk_bytes) {
        Ok(templates) => Ok(Ok(Arc::new(templates))),
        Err(source) => Err(OpenError::TemplateDir { template_dir: dir.clone(), source }),
    }
}
