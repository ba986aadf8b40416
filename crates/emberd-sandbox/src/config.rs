//! Configuration of the sandboxes and their warm pools.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use emberd_egress::{Egress, Policy};

use crate::id::NodeKey;
use crate::lifecycle::lease::Terms;

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
    /// Key of this daemon in the ids of new sandboxes.
    pub node_key: NodeKey,
    /// Most sandboxes at once. MicroVMs in pools do not count.
    pub sandboxes_max: usize,
    /// Time that a guest may take for its first answer.
    pub boot_timeout: Duration,
    /// Time that the guest may take after an exec's own time limit to report it.
    pub exec_grace: Duration,
    /// Virtual processors of each guest.
    pub vcpu_count: u8,
    /// Memory of each guest, in MiB.
    pub mem_size_mib: u32,
    /// Words added to the kernel arguments of each guest.
    pub kernel_args: Vec<String>,
    /// Directory of templates, which several daemons may share; without one every sandbox
    /// boots cold.
    pub template_dir: Option<PathBuf>,
    /// The warm pool of each language pack; without one sandboxes are restored when asked
    /// for. Needs templates.
    pub pool: Option<PoolConfig>,
    /// Carries the connections of programs; without it they reach nothing.
    pub egress: Option<Arc<Egress>>,
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
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            idle_before_refill: Duration::from_millis(25),
            refill_wait_max: Duration::from_secs(1),
            idle_before_shrink: Duration::from_secs(10),
            health_period: Duration::from_secs(15),
            health_timeout: Duration::from_secs(5),
        }
    }
}
