//! Configuration of the sandboxes and their warm pools.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::thread::available_parallelism;
use std::time::Duration;

use emberd_egress::{Egress, Policy};
use emberd_proto::GuestLimits;
use emberd_proto::limits::{PIDS_DEFAULT, PIDS_MAX, PIDS_MIN};

use crate::bounds::{ResourceError, bounded};
use crate::cpu::Cpu;
use crate::id::NodeKey;
use crate::lifecycle::holdings::Quota;
use crate::lifecycle::lease::Terms;
use crate::shape::Size;

/// Default time that the guest may take after an exec's own time limit to report it.
pub const EXEC_GRACE_DEFAULT: Duration = Duration::from_secs(10);

/// Configuration of the sandboxes of one daemon.
#[derive(Debug, Clone)]
pub struct SandboxesConfig {
    /// Directory of per-sandbox state; at most [`RUN_DIR_BYTES_MAX`] bytes long, less the length
    /// of the node key.
    ///
    /// [`RUN_DIR_BYTES_MAX`]: crate::RUN_DIR_BYTES_MAX
    pub run_dir: PathBuf,
    /// Whether to take over the sandboxes of an earlier daemon; else they are removed.
    pub adopt: bool,
    /// Key of this daemon in the ids of new sandboxes.
    pub node_key: NodeKey,
    /// Most sandboxes at once. MicroVMs in pools do not count.
    pub sandboxes_max: usize,
    /// Most memory of all sandboxes together, in MiB, each counted with all it may use. MicroVMs
    /// in pools do not count.
    pub memory_mib_total: u64,
    /// Time that a guest may take for its first answer.
    pub boot_timeout: Duration,
    /// Time that the guest may take after an exec's own time limit to report it.
    pub exec_grace: Duration,
    /// Size of sandboxes whose creation names none.
    pub size: Size,
    /// Most memory of one sandbox, in MiB.
    pub memory_mib_max: u32,
    /// Timeout of sandboxes whose caller asks for none; none for never.
    pub timeout: Option<Duration>,
    /// Longest timeout that a caller may ask for. Front ends check it.
    pub timeout_max: Duration,
    /// Time without use after which a sandbox is frozen whose caller does not say when; none for
    /// never.
    pub idle_freeze: Option<Duration>,
    /// Words added to the kernel arguments of each guest.
    pub kernel_args: Vec<String>,
    /// Directory of templates, which several daemons may share; without one every sandbox
    /// boots cold.
    pub template_dir: Option<PathBuf>,
    /// Most disk space of the templates together, in bytes.
    pub template_disk_bytes: u64,
    /// The disks of guests; without them they write to their memory only.
    pub disk: Option<DiskConfig>,
    /// The warm pool of each language pack; without one sandboxes are restored when asked
    /// for. Needs templates.
    pub pool: Option<PoolConfig>,
    /// Carries the connections of programs; without it they reach nothing.
    pub egress: Option<Arc<Egress>>,
}

/// The disks of guests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskConfig {
    /// Directory in whose file system they are.
    pub dir: PathBuf,
    /// Size of those whose creation names none, in MiB.
    pub size_mib: u32,
    /// Largest that a creation may ask for, in MiB.
    pub size_mib_max: u32,
}

/// A sandbox to create.
#[derive(Clone, Default)]
pub struct SandboxSpec {
    /// Timeout and metadata.
    pub terms: Terms,
    /// Egress policy that is in force when the sandbox is ready. Without one it reaches nothing.
    pub policy: Option<Arc<Policy>>,
    /// Environment variables of every program that does not set them itself.
    pub env: BTreeMap<String, String>,
    /// Its size.
    pub resources: Resources,
    /// Text of a front end, which means nothing here. The next daemon has it as well.
    pub tag: Option<String>,
    /// Owner of the sandbox, in words of the front end, which decides what that means. The events
    /// of the sandbox have it, and the next daemon.
    pub owner: Option<Arc<str>>,
    /// The most that the sandboxes of its owner may have, this one included.
    pub quota: Quota,
}

/// Resources that a caller asks for. What is none is the daemon's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resources {
    /// Virtual processors.
    pub vcpus: Option<u64>,
    /// Memory, in MiB.
    pub memory_mib: Option<u64>,
    /// Processor time.
    pub cpu: Cpu,
    /// Processes and threads of all its programs.
    pub pids: Option<u64>,
    /// Size of its disk, in MiB.
    pub disk_mib: Option<u64>,
}

/// Most virtual processors of one guest: the limit of Firecracker.
const VCPUS_MAX: u64 = 32;

/// Most virtual processors that a creation may ask for. Asking the host reads files.
static PROCESSORS: LazyLock<u64> = LazyLock::new(|| {
    available_parallelism().map_or(1, |processors| VCPUS_MAX.min(processors.get() as u64))
});

/// Most microVMs that one pool keeps ready.
const POOL_SIZE_MAX: u64 = 256;

/// Least disk of a guest, in MiB: a language pack writes a few.
pub(crate) const DISK_MIB_MIN: u32 = 64;

/// Least memory of a guest, in MiB; with less, none boots.
const MEMORY_MIB_MIN: u64 = 64;

impl SandboxesConfig {
    /// The size that `resources` asks for.
    ///
    /// # Errors
    /// [`ResourceError`].
    pub(crate) fn size_of(&self, resources: &Resources) -> Result<Size, ResourceError> {
        let Size { vcpus, memory_mib } = self.size;
        // The operator's default is always allowed.
        let vcpus_max = u64::from(vcpus).max(*PROCESSORS);
        let vcpus = bounded("vcpus", resources.vcpus, vcpus.into(), 1, vcpus_max)?;
        let memory_max = self.memory_mib_max.max(memory_mib).into();
        let memory = bounded(
            "memory_mib",
            resources.memory_mib,
            memory_mib.into(),
            MEMORY_MIB_MIN,
            memory_max,
        )?;
        if resources.memory_mib.is_some() && memory % 2 != 0 {
            return Err(ResourceError::Odd(memory));
        }
        let narrow = "it is within bounds of this type";
        Ok(Size {
            vcpus: u8::try_from(vcpus).expect(narrow),
            memory_mib: u32::try_from(memory).expect(narrow),
        })
    }

    /// The limits in the guest that `resources` asks for, with the size of its disk in any case.
    ///
    /// # Errors
    /// [`ResourceError`].
    pub(crate) fn limits_of(&self, resources: &Resources) -> Result<GuestLimits, ResourceError> {
        bounded("pids", resources.pids, PIDS_DEFAULT, PIDS_MIN, PIDS_MAX)?;
        let disk_mib = match &self.disk {
            Some(disk) => {
                let usual = u64::from(disk.size_mib);
                let (least, most) = (DISK_MIB_MIN.into(), usual.max(disk.size_mib_max.into()));
                Some(bounded("disk_mib", resources.disk_mib, usual, least, most)?)
            }
            None if resources.disk_mib.is_some() => return Err(ResourceError::NoDisk),
            None => None,
        };
        Ok(GuestLimits { pids: resources.pids, disk_mib })
    }
}

/// The number of microVMs that a pool of `pool_size` keeps ready.
///
/// # Errors
/// [`ResourceError`].
pub(crate) fn pool_target(pool_size: u64) -> Result<usize, ResourceError> {
    let size = bounded("pool_size", Some(pool_size), 0, 0, POOL_SIZE_MAX)?;
    Ok(usize::try_from(size).unwrap_or_default())
}

/// Configuration of the warm pools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolConfig {
    /// MicroVMs of each language pack that are to be ready.
    pub size: usize,
    /// Most memory the guests of all pools may come to, in MiB, each counted with all it may
    /// use.
    pub memory_mib_max: u64,
    /// How the pools are kept.
    pub pace: Pace,
    /// File in which the host measures how long tasks wait for memory; where there is none, the
    /// pools keep their memory.
    pub pressure: PathBuf,
}

impl PoolConfig {
    /// The measure of Linux.
    pub const PRESSURE: &str = "/proc/pressure/memory";
}

/// Timing of refills, shrinking and health checks of the pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Idle time, without a sandbox handed out or a program running, before a refill. A new
    /// sandbox is used at once, and a refill would compete for the processor.
    pub idle_before_refill: Duration,
    /// Longest wait for idle time. A daemon that is never idle refills at this interval.
    pub refill_wait_max: Duration,
    /// Time without a request that finds the pool empty after which a raised ceiling falls by
    /// one.
    pub idle_before_shrink: Duration,
    /// Time between two health checks of the waiting microVMs.
    pub health_period: Duration,
    /// Time that a waiting guest may take to answer a health check.
    pub health_timeout: Duration,
    /// Time since the beginning of a health check in which a creation that finds nothing else ready
    /// takes the microVM that is checked. A busy guest answers late; one that still does not is
    /// doubtful.
    pub health_trust: Duration,
    /// Time over which the host's shortage of memory is measured.
    pub pressure_period: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            idle_before_refill: Duration::from_millis(25),
            refill_wait_max: Duration::from_secs(1),
            idle_before_shrink: Duration::from_secs(10),
            health_period: Duration::from_secs(15),
            health_timeout: Duration::from_secs(5),
            health_trust: Duration::from_secs(1),
            pressure_period: Duration::from_secs(5),
        }
    }
}
