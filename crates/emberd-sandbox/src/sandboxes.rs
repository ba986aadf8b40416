//! All sandboxes of one daemon, by id.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use emberd_image::{Images, PackName};
use emberd_proto::{ExecOutcome, ExecSpec};
use emberd_vmm::{BootSpec, KillError, MicroVm, OrphanError, Vmm};
use tokio_util::task::TaskTracker;

use crate::SandboxId;
use crate::create::{self, CreateError};
use crate::exec::{self, ExecError};
use crate::record::Record;
use crate::run_dir::{RUN_DIR_BYTES_MAX, RunDir};
use crate::sandbox::{Sandbox, SandboxView};

/// Most sandboxes at once, unless configured otherwise.
pub const SANDBOXES_MAX_DEFAULT: usize = 64;

/// How long a guest may take to answer for the first time, unless configured otherwise:
/// several times a software-emulated boot on a busy host.
pub const BOOT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(60);

/// What every sandbox is made like, and how many there may be.
#[derive(Debug, Clone)]
pub struct SandboxesConfig {
    /// Directory of per-sandbox state; at most [`RUN_DIR_BYTES_MAX`] bytes long.
    pub run_dir: PathBuf,
    /// Most sandboxes at once.
    pub sandboxes_max: usize,
    /// How long a guest may take to answer for the first time.
    pub boot_timeout: Duration,
    /// How long after an exec's own time limit its guest may take to say so.
    pub exec_grace: Duration,
    /// Virtual processors of each guest.
    pub vcpu_count: u8,
    /// Memory of each guest, in MiB.
    pub mem_size_mib: u32,
    /// Words added to the kernel arguments of each guest.
    pub kernel_args: Vec<String>,
}

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
    /// What an earlier daemon left behind cannot be removed.
    #[error("cannot clean up after an earlier daemon")]
    Orphans(#[source] OrphanError),
}

/// Why a sandbox could not be deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// No such sandbox.
    #[error("unknown sandbox {0}")]
    Unknown(SandboxId),
    /// Its microVM is gone, its directory is not.
    #[error("sandbox {id} left something behind")]
    Leftover {
        /// Which sandbox.
        id: SandboxId,
        /// What.
        source: KillError,
    },
}

/// All sandboxes of one daemon. Clones share them.
pub struct Sandboxes<V: Vmm>(Arc<Shared<V>>);

struct Shared<V: Vmm> {
    vmm: V,
    images: Images,
    config: SandboxesConfig,
    entries: Mutex<Entries<V::MicroVm>>,
    /// Deletions go on when their caller goes away, and a shutdown waits for them.
    deletions: TaskTracker,
    // Unlocked last.
    run_dir: RunDir,
}

struct Entries<M: MicroVm> {
    by_id: HashMap<SandboxId, Arc<Sandbox<M>>>,
    next_serial: u64,
    closed: bool,
}

impl<V: Vmm> Clone for Sandboxes<V> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<V: Vmm> Sandboxes<V> {
    /// Locks the run directory and removes what an earlier daemon left in it. Blocks.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(config: SandboxesConfig, images: Images, vmm: V) -> Result<Self, OpenError> {
        let run_dir = RunDir::open(&config.run_dir)?;
        let is_sandbox = |name: &str| name.parse::<SandboxId>().is_ok();
        let removed = emberd_vmm::remove_orphans(run_dir.path(), is_sandbox);
        for orphan in removed.map_err(OpenError::Orphans)? {
            tracing::warn!(dir = %orphan.dir.display(), vmm = ?orphan.vmm, "removed an orphan");
        }
        let entries = Entries { by_id: HashMap::new(), next_serial: 0, closed: false };
        Ok(Self(Arc::new(Shared {
            vmm,
            images,
            config,
            entries: Mutex::new(entries),
            deletions: TaskTracker::new(),
            run_dir,
        })))
    }

    /// What every sandbox is made like.
    pub fn config(&self) -> &SandboxesConfig {
        &self.0.config
    }

    /// What guests boot from.
    pub fn images(&self) -> &Images {
        &self.0.images
    }

    /// The driver.
    pub fn vmm(&self) -> &V {
        &self.0.vmm
    }

    /// Creates a sandbox and waits until its guest answers.
    ///
    /// Dropping the future removes whatever was started.
    ///
    /// # Errors
    /// [`CreateError`].
    pub async fn create(&self, pack: &PackName) -> Result<SandboxId, CreateError> {
        let unknown = || CreateError::UnknownPack(pack.clone());
        let rootfs = self.0.images.packs.get(pack).ok_or_else(unknown)?.rootfs.clone();
        let entry = self.enter(pack)?;
        let sandbox = &entry.sandbox;
        let config = &self.0.config;
        let spec = BootSpec {
            dir: sandbox.dir.clone(),
            kernel: self.0.images.kernel.path.clone(),
            kernel_hz: self.0.images.kernel.hz,
            initramfs: self.0.images.initramfs.clone(),
            rootfs,
            kernel_args: config.kernel_args.clone(),
            vcpu_count: config.vcpu_count,
            mem_size_mib: config.mem_size_mib,
        };
        let created = create::create(sandbox, &self.0.vmm, spec, config.boot_timeout).await;
        match created {
            Ok(()) => {
                watch_for_death(Arc::clone(sandbox));
                Ok(entry.keep())
            }
            // A deletion that a shutdown asked for is told as what it is.
            Err(CreateError::Deleted(_)) if self.entries().closed => Err(CreateError::ShuttingDown),
            Err(error) => Err(error),
        }
    }

    /// Runs `spec` in the sandbox and waits for its end.
    ///
    /// Dropping the future ends the program.
    ///
    /// # Errors
    /// [`ExecError`].
    pub async fn exec(
        &self,
        id: SandboxId,
        spec: ExecSpec,
        stdin: &[u8],
    ) -> Result<ExecOutcome, ExecError> {
        let sandbox = self.find(id).ok_or(ExecError::Unknown(id))?;
        exec::check(&spec, stdin)?;
        exec::exec(&sandbox, spec, stdin, self.0.config.exec_grace).await
    }

    /// Deletes the sandbox: its creation and its execs are cut off, its microVM killed.
    /// Goes on when the future is dropped.
    ///
    /// # Errors
    /// [`DeleteError`]. Of several deletions at once, one finds the sandbox.
    pub async fn delete(&self, id: SandboxId) -> Result<(), DeleteError> {
        let sandbox = self.entries().by_id.remove(&id).ok_or(DeleteError::Unknown(id))?;
        let ended = self.0.deletions.spawn(async move { sandbox.end().await });
        match ended.await {
            Ok(ended) => ended.map_err(|source| DeleteError::Leftover { id, source }),
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }

    /// The sandbox as it is now.
    pub fn get(&self, id: SandboxId) -> Option<SandboxView> {
        self.find(id).map(|sandbox| sandbox.view())
    }

    /// All sandboxes as they are now, oldest first.
    pub fn list(&self) -> Vec<SandboxView> {
        let mut sandboxes: Vec<_> = self.entries().by_id.values().cloned().collect();
        sandboxes.sort_unstable_by_key(|sandbox| sandbox.serial);
        sandboxes.iter().map(|sandbox| sandbox.view()).collect()
    }

    /// How many sandboxes there are.
    pub fn count(&self) -> usize {
        self.entries().by_id.len()
    }

    /// Refuses creations from now on and cuts off those under way.
    pub fn close(&self) {
        let mut entries = self.entries();
        entries.closed = true;
        for sandbox in entries.by_id.values().filter(|sandbox| sandbox.ready.get().is_none()) {
            sandbox.ending.cancel();
        }
    }

    /// Refuses creations from now on, deletes every sandbox, and returns when nothing is left.
    pub async fn shutdown(&self) {
        self.close();
        let all: Vec<_> = self.entries().by_id.drain().collect();
        for (id, sandbox) in all {
            self.0.deletions.spawn(async move {
                if let Err(error) = sandbox.end().await {
                    tracing::error!(%id, error = &error as &dyn std::error::Error, "left behind");
                }
            });
        }
        self.0.deletions.close();
        self.0.deletions.wait().await;
    }

    /// Makes an entry for a sandbox about to be created.
    fn enter(&self, pack: &PackName) -> Result<Entry<'_, V>, CreateError> {
        let mut entries = self.entries();
        if entries.closed {
            return Err(CreateError::ShuttingDown);
        }
        if entries.by_id.len() >= self.0.config.sandboxes_max {
            return Err(CreateError::TooMany(entries.by_id.len()));
        }
        let mut id = SandboxId::random();
        while entries.by_id.contains_key(&id) {
            id = SandboxId::random();
        }
        let record = Record { id, pack: pack.clone(), created_at: SystemTime::now() };
        let dir = self.0.run_dir.path().join(id.to_string());
        let sandbox = Arc::new(Sandbox::new(record, entries.next_serial, dir));
        entries.next_serial += 1;
        entries.by_id.insert(id, Arc::clone(&sandbox));
        Ok(Entry { sandboxes: self, sandbox, kept: false })
    }

    fn find(&self, id: SandboxId) -> Option<Arc<Sandbox<V::MicroVm>>> {
        self.entries().by_id.get(&id).cloned()
    }

    /// No code that could panic half-way through a change runs under this lock.
    fn entries(&self) -> MutexGuard<'_, Entries<V::MicroVm>> {
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The entry of a sandbox being created; taken out again when dropped, unless kept.
struct Entry<'a, V: Vmm> {
    sandboxes: &'a Sandboxes<V>,
    sandbox: Arc<Sandbox<V::MicroVm>>,
    kept: bool,
}

impl<V: Vmm> Entry<'_, V> {
    fn keep(mut self) -> SandboxId {
        self.kept = true;
        self.sandbox.record.id
    }
}

impl<V: Vmm> Drop for Entry<'_, V> {
    fn drop(&mut self) {
        if !self.kept {
            self.sandboxes.entries().by_id.remove(&self.sandbox.record.id);
        }
    }
}

/// Says in the log when the microVM ends by itself. Who asks for the state looks himself.
fn watch_for_death<M: MicroVm>(sandbox: Arc<Sandbox<M>>) {
    tokio::spawn(async move {
        let Some(mut exit) = sandbox.ready.get().map(|ready| ready.exit.clone()) else { return };
        let (id, ending) = (sandbox.record.id, sandbox.ending.clone());
        drop(sandbox);
        tokio::select! {
            biased;
            () = ending.cancelled() => {}
            reason = exit.wait() => tracing::warn!(%id, "microVM gone: its VMM {reason}"),
        }
    });
}
