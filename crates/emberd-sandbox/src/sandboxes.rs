//! All sandboxes of one daemon, with their templates and warm pools.

use std::collections::HashMap;
use std::sync::Arc;

use emberd_image::{Images, PackName};
use emberd_proto::exec::check_env;
use emberd_vmm::{AnyVmm, Vmm as _, VmmDescription};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::boot_path::BootPath;
use crate::config::{Resources, SandboxSpec, SandboxesConfig, pool_target};
use crate::cpu::{CpuChange, CpuError};
use crate::error::{CreateError, OpenError, Unknown};
use crate::id::SandboxId;
use crate::lifecycle::events::{SandboxEvent, SandboxEventPage};
use crate::lifecycle::handle::Handle;
use crate::lifecycle::holdings::Holdings;
use crate::lifecycle::sandbox::{Created, Sandbox, SandboxView};
use crate::lifecycle::state::{SandboxState, state};
use crate::lifecycle::table::Table;
use crate::shape::Shape;
use crate::supply::adopt::{self, Estate, Unclaimed, UnclaimedView};
use crate::supply::create::{self, FollowUp, Wanted};
use crate::supply::pins::Pins;
use crate::supply::pool::PoolView;
use crate::supply::sources::Sources;
use crate::supply::templates::builder;
use crate::supply::templates::{BuildTemplateError, RemoveTemplateError, TemplateView};
use crate::supply::{expiry, health, idle, journals, keeper, limit, pressure, rejoin};

/// All sandboxes of one daemon. Clones share them.
#[derive(Clone)]
pub struct Sandboxes(Arc<Inner>);

struct Inner {
    table: Arc<Table>,
    sources: Arc<Sources>,
    /// MicroVMs of an earlier daemon that are left alone.
    unclaimed: Vec<Unclaimed>,
    pins: Pins,
    /// The background tasks.
    background: TaskTracker,
    /// Cancelled when the requests under way have been waited for.
    leaving: CancellationToken,
}

impl Sandboxes {
    /// Locks the run directory and takes over what an earlier daemon left in it, or removes it;
    /// begins to end sandboxes at their deadlines and to freeze unused ones, and with templates to
    /// build those and to fill the pools. Blocks.
    ///
    /// The egress policies of sandboxes that were taken over are not compiled, and allow nothing.
    ///
    /// # Errors
    /// [`OpenError`].
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn open(config: SandboxesConfig, images: Images, vmm: AnyVmm) -> Result<Self, OpenError> {
        let table = Table::new(config.sandboxes_max, config.memory_mib_total);
        let (sources, estate) = Sources::open(config, images, vmm)?;
        let (sources, table) = (Arc::new(sources), Arc::new(table));
        let Estate { sandboxes: adopted, pooled, unclaimed } = estate;
        let (background, leaving) = (TaskTracker::new(), CancellationToken::new());
        let pins = Pins::read(sources.base.run_dir.path());
        let sandboxes =
            Self(Arc::new(Inner { table, sources, unclaimed, pins, background, leaving }));
        sandboxes.pin_again();
        sandboxes.take_in(adopted, pooled);
        let sources = &sandboxes.0.sources;
        let (table, expiring) = (Arc::clone(&sandboxes.0.table), Arc::clone(sources));
        sandboxes.go_on(async move {
            expiry::expire(&table, &expiring.reaper, &expiring.base.signals).await;
        });
        let (table, signals) = (Arc::clone(&sandboxes.0.table), Arc::clone(&sources.base.signals));
        sandboxes.go_on(async move { idle::freeze_unused(&table, &signals).await });
        let (table, signals) = (Arc::clone(&sandboxes.0.table), Arc::clone(&sources.base.signals));
        sandboxes.go_on(async move { journals::catch_up(&table, &signals).await });
        if let Ok(templates) = &sources.templates {
            let templates = Arc::clone(templates);
            sandboxes.go_on(builder::build_all(Arc::clone(sources), templates));
            sandboxes.go_on(keeper::keep(Arc::clone(sources)));
            sandboxes.go_on(health::look_after(Arc::clone(sources)));
            sandboxes.go_on(pressure::yield_memory(Arc::clone(sources)));
        }
        Ok(sandboxes)
    }

    /// Pins the shapes that an earlier daemon had pinned, and begins to build their templates.
    fn pin_again(&self) {
        let sources = &self.0.sources;
        let Ok(templates) = &sources.templates else { return };
        for (shape, pool_size) in self.0.pins.all() {
            if let Err(error) = templates.pin(&shape, || sources.key_of(&shape)) {
                tracing::warn!(%shape, %error, "not pinned again");
                continue;
            }
            if pool_size.is_some() || sources.pools.get(&shape).is_none() {
                sources.pools.keep(&shape, pool_size.unwrap_or_default());
            }
            let templates = Arc::clone(templates);
            self.go_on(async move {
                if let Err(error) = templates.build(&shape).await {
                    tracing::warn!(%shape, %error, "the template of a pinned shape is not there");
                }
            });
        }
    }

    /// Takes in the sandboxes of an earlier daemon, and begins to meet their guests.
    fn take_in(&self, adopted: Vec<Arc<Sandbox>>, pooled: Vec<(Arc<Sandbox>, Option<String>)>) {
        let sources = &self.0.sources;
        for sandbox in adopted {
            self.0.table.take_over(Arc::clone(&sandbox));
            sources.watch(&sandbox);
            if !sandbox.reach.is_met() {
                // Until the end: requests that a stop waits for may wait for this.
                let leaving = self.0.leaving.clone();
                self.0.background.spawn(async move {
                    leaving.run_until_cancelled(adopt::meet(sandbox)).await;
                });
            }
        }
        for (sandbox, digest) in pooled {
            match rejoin::pool_of(sources, &sandbox, digest.as_deref()) {
                Some((pool, generation)) => {
                    let sources = Arc::clone(sources);
                    self.go_on(async move {
                        rejoin::join_pool(&sources, &pool, generation, sandbox).await;
                    });
                }
                None => sources.reaper.reap_later(sandbox),
            }
        }
    }

    /// Spawns `task`, which is cancelled when creations are closed.
    fn go_on(&self, task: impl Future<Output = ()> + Send + 'static) {
        let closing = self.0.sources.base.closing.clone();
        self.0.background.spawn(async move { closing.run_until_cancelled(task).await });
    }

    /// The configuration of every sandbox.
    pub fn config(&self) -> &SandboxesConfig {
        &self.0.sources.base.config
    }

    /// The images that guests boot from.
    pub fn images(&self) -> &Images {
        &self.0.sources.base.images
    }

    /// The VMM that runs the microVMs.
    pub fn vmm(&self) -> &VmmDescription {
        self.0.sources.base.vmm.description()
    }

    /// Creates a sandbox: takes one from the pool, else restores one from the pack's template,
    /// else boots one, and waits until its guest answers.
    ///
    /// Dropping the future removes everything that was started.
    ///
    /// # Errors
    /// [`CreateError`].
    pub async fn create(&self, pack: &PackName) -> Result<Created, CreateError> {
        self.create_with(pack, SandboxSpec::default()).await.map(|(created, _)| created)
    }

    /// As [`Self::create`], as `spec` says; the caller can be answered before what follows begins.
    ///
    /// # Errors
    /// [`CreateError`].
    pub async fn create_with(
        &self,
        pack: &PackName,
        spec: SandboxSpec,
    ) -> Result<(Created, FollowUp), CreateError> {
        check_env(&spec.env)?;
        let sources = &*self.0.sources;
        let image = sources.base.images.packs.get(pack);
        let image = image.ok_or_else(|| CreateError::UnknownPack(pack.clone()))?;
        let size = sources.base.config.size_of(&spec.resources)?;
        limit::check(&sources.base.vmm, spec.resources.cpu, size.vcpus)?;
        let limits = sources.base.config.limits_of(&spec.resources)?;
        let shape = Shape { pack: pack.clone(), size };
        let wanted = Wanted { shape, image, limits, spec };
        create::create(sources, &self.0.table, wanted).await
    }

    /// Returns a handle to the sandbox.
    ///
    /// # Errors
    /// [`Unknown`].
    pub fn get(&self, id: SandboxId) -> Result<Handle, Unknown> {
        let sandbox = self.0.table.find(id).ok_or(Unknown(id))?;
        let base = &self.0.sources.base;
        Ok(Handle {
            sandbox,
            exec_grace: base.config.exec_grace,
            activity: Arc::clone(&base.activity),
            closing: base.closing.clone(),
        })
    }

    /// Changes the processor time of a sandbox: both parts or none.
    ///
    /// # Errors
    /// [`CpuError`].
    pub fn limit_cpu(&self, sandbox: &Handle, change: CpuChange) -> Result<(), CpuError> {
        let sandbox = &sandbox.sandbox;
        let (vmm, size) = (&self.0.sources.base.vmm, sandbox.shape.size);
        let before = *sandbox.cpu.lock();
        let cpu = before.after(change);
        if cpu == before {
            return Ok(());
        }
        limit::check(vmm, cpu, size.vcpus)?;
        limit::apply(vmm, sandbox, cpu)
    }

    /// Returns a token that is cancelled when the daemon stops; followers end then.
    pub fn closing(&self) -> CancellationToken {
        self.0.sources.base.closing.clone()
    }

    /// Deletes the sandbox: removes it from the table, cancels its creation and its execs, and
    /// returns when its removal is under way. [`Self::reaping`] counts such sandboxes. Dropping
    /// the future does not stop the deletion.
    ///
    /// # Errors
    /// [`Unknown`]. Of several deletions at once, one finds the sandbox.
    pub async fn delete(&self, id: SandboxId) -> Result<(), Unknown> {
        let sandbox = self.0.table.remove(id).ok_or(Unknown(id))?;
        self.0.sources.reaper.reap(sandbox).await;
        Ok(())
    }

    /// Waits until the sandbox is deleted, or its microVM has ended by itself. Returns at once
    /// if the sandbox does not exist.
    pub fn ended(&self, id: SandboxId) -> impl Future<Output = ()> + Send + use<> {
        let ended = self.get(id).map(|handle| handle.ended());
        async move {
            if let Ok(ended) = ended {
                ended.await;
            }
        }
    }

    /// Returns the present state of all sandboxes, oldest first.
    pub fn list(&self) -> Vec<SandboxView> {
        self.list_after(None).into_iter().map(|(_, view)| view).collect()
    }

    /// As [`Self::list`], with the number of each, which grows; only of those with a number
    /// greater than `after`. A number stays that of its sandbox.
    pub fn list_after(&self, after: Option<u64>) -> Vec<(u64, SandboxView)> {
        self.0.table.views(after)
    }

    /// Returns at most `limit` of the kept events of sandboxes after number `after`, or of all
    /// that are kept, which `wanted` takes.
    pub fn events(
        &self,
        after: Option<u64>,
        limit: usize,
        wanted: impl Fn(&SandboxEvent) -> bool,
    ) -> SandboxEventPage {
        self.0.sources.base.signals.events.page(after, limit, wanted)
    }

    /// Waits until there is an event of a sandbox after number `after`.
    pub fn event_after(&self, after: u64) -> impl Future<Output = ()> + Send + use<> {
        self.0.sources.base.signals.events.recorded(after)
    }

    /// Returns the sandboxes that a front end has given a tag ([`SandboxSpec::tag`]), with it,
    /// oldest first.
    pub fn tagged(&self) -> Vec<(SandboxId, String)> {
        self.0.table.tagged()
    }

    /// Returns the microVMs of an earlier daemon that run and are left alone, because their
    /// records cannot be read or are another driver's.
    pub fn unclaimed(&self) -> Vec<UnclaimedView> {
        self.0.unclaimed.iter().map(Unclaimed::view).collect()
    }

    /// Returns the number of sandboxes.
    pub fn count(&self) -> usize {
        self.0.table.count()
    }

    /// Returns the memory of all sandboxes, in MiB, each counted with all it may use.
    pub fn memory_mib(&self) -> u64 {
        self.0.table.memory_mib()
    }

    /// Returns what the sandboxes of each owner have, those under way included.
    pub fn holdings(&self) -> HashMap<Option<Arc<str>>, Holdings> {
        self.0.table.holdings()
    }

    /// Returns the number of deleted sandboxes whose removal is under way.
    pub fn reaping(&self) -> usize {
        self.0.sources.reaper.count()
    }

    /// Returns how most sandboxes are made.
    pub fn boot_path(&self) -> BootPath {
        let pooled = self.0.sources.base.config.pool.as_ref().is_some_and(|pool| pool.size > 0);
        match &self.0.sources.templates {
            Ok(templates) if !templates.have_all_failed() && pooled => BootPath::WarmPool,
            Ok(templates) if !templates.have_all_failed() => BootPath::SnapshotRestore,
            _ => BootPath::ColdBoot,
        }
    }

    /// Returns the templates, by language pack and size; empty if the daemon makes none.
    pub fn templates(&self) -> Vec<TemplateView> {
        self.0.sources.templates.as_ref().map(|templates| templates.views()).unwrap_or_default()
    }

    /// Returns the template of `pack` with the size of `resources` once it is ready; builds it if
    /// it does not exist, and pins it. With `pool_size`, as many microVMs of it are kept ready.
    /// Dropping the future does not stop the build.
    ///
    /// # Errors
    /// [`BuildTemplateError`].
    pub async fn build_template(
        &self,
        pack: &PackName,
        resources: &Resources,
        pool_size: Option<u64>,
    ) -> Result<TemplateView, BuildTemplateError> {
        let sources = &self.0.sources;
        let none = |reason: &String| BuildTemplateError::NoTemplates(reason.clone());
        let templates = sources.templates.as_ref().map_err(none)?;
        let shape = Shape { pack: pack.clone(), size: self.config().size_of(resources)? };
        templates.pin(&shape, || sources.key_of(&shape))?;
        let pool_size = pool_size.map(pool_target).transpose()?;
        if pool_size.is_some() || sources.pools.get(&shape).is_none() {
            sources.pools.keep(&shape, pool_size.unwrap_or_default());
        }
        if pool_size.is_some() || shape.size != self.config().size {
            self.0.pins.keep(&shape, pool_size);
        }
        let built = sources.base.closing.run_until_cancelled(templates.build(&shape)).await;
        built.unwrap_or(Err(BuildTemplateError::ShuttingDown))
    }

    /// Removes the template of `pack` with the size of `resources` and empties its pool; cancels a
    /// build, and unpins the size. Sandboxes boot cold until the template is built again.
    /// Succeeds if the template does not exist. Dropping the future does not stop the removal.
    ///
    /// # Errors
    /// [`RemoveTemplateError`].
    pub async fn remove_template(
        &self,
        pack: &PackName,
        resources: &Resources,
    ) -> Result<(), RemoveTemplateError> {
        let none = |reason: &String| RemoveTemplateError::NoTemplates(reason.clone());
        let templates = Arc::clone(self.0.sources.templates.as_ref().map_err(none)?);
        if !self.images().packs.contains_key(pack) {
            return Err(RemoveTemplateError::UnknownPack(pack.clone()));
        }
        let size = self.config().size_of(resources)?;
        let (sources, shape) = (Arc::clone(&self.0.sources), Shape { pack: pack.clone(), size });
        self.0.pins.drop(&shape);
        let removal = async move {
            let empty = || {
                if shape.size == sources.base.config.size {
                    sources.empty_pool(&shape);
                } else {
                    sources.pools.end(&shape, &sources.reaper);
                }
            };
            templates.remove(&shape, empty).await
        };
        match self.0.background.spawn(removal).await {
            Ok(removed) => removed,
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }

    /// Returns the pools, by language pack and size; empty without templates.
    pub fn pools(&self) -> Vec<PoolView> {
        self.0.sources.pools.views()
    }

    /// Refuses further creations. Everything else goes on.
    pub fn drain(&self) {
        self.0.table.drain_from_now_on();
    }

    /// Whether [`Self::drain`] was called.
    pub fn is_draining(&self) -> bool {
        self.0.table.is_draining()
    }

    /// Refuses further creations, cancels those under way and stops filling the pools.
    pub fn close(&self) {
        self.0.table.close();
        self.0.sources.base.closing.cancel();
    }

    /// Waits until the daemon is about to stop.
    pub fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        self.0.sources.base.closing.clone().cancelled_owned()
    }

    /// Refuses further creations, deletes every sandbox and empties every pool. Returns when
    /// everything is removed.
    pub async fn shutdown(&self) {
        self.end_background().await;
        self.0.sources.pools.clear(&self.0.sources.reaper);
        for sandbox in self.0.table.drain() {
            self.0.sources.reaper.reap_later(sandbox);
        }
        self.finish().await;
    }

    /// Refuses further creations and cancels those under way; lets every other sandbox and every
    /// microVM that waits in a pool run on, for the next daemon. Returns when everything else is
    /// removed.
    pub async fn detach(&self) {
        self.end_background().await;
        let reaper = &self.0.sources.reaper;
        let pools = self.0.sources.pools.all();
        let waiting = pools.iter().flat_map(|(_, pool)| pool.leave(reaper));
        for sandbox in waiting.chain(self.0.table.drain()) {
            // Of others, the creation was cut off. The next daemon tells which ones have ended.
            if sandbox.lives() || matches!(sandbox.read(state), SandboxState::Gone(_)) {
                sandbox.detach().await;
            } else {
                reaper.reap_later(sandbox);
            }
        }
        self.finish().await;
    }

    /// Ends the background tasks first: they make more microVMs.
    async fn end_background(&self) {
        self.close();
        self.0.leaving.cancel();
        self.0.background.close();
        self.0.background.wait().await;
    }

    async fn finish(&self) {
        self.0.sources.reaper.finish().await;
        self.0.sources.sessions.close();
        self.0.sources.sessions.wait().await;
    }
}
