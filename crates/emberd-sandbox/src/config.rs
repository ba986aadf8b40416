//! What every sandbox is made like, how many there may be, and how far ahead they are made.

use std::path::PathBuf;
use std::time::Duration;

use crate::id::NodeKey;

/// How long after an exec's own time limit its guest may take to say so, unless configured
/// otherwise.
pub const EXEC_GRACE_DEFAULT: Duration = Duration::from_secs(10);

/// What every sandbox is made like, and how many there may be.
#[derive(Debug, Clone)]
pub struct SandboxesConfig {
    /// Directory of per-sandbox state; at most [`RUN_DIR_BYTES_MAX`] bytes long, less the length
    /// of the node key.
    ///
    /// [`RUN_DIR_BYTES_MAX`]: crate::RUN_DIR_BYTES_MAX
    pub run_dir: PathBuf,
    /// Key of this daemon in the ids of new sandboxes.
    pub node_key: NodeKey,
    /// Most sandboxes at once; microVMs in pools are none yet.
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
    /// Directory of templates, which several daemons may share; without one every sandbox
    /// boots cold.
    pub template_dir: Option<PathBuf>,
    /// The warm pool of each language pack; without one sandboxes are restored when asked
    /// for. Needs templates.
    pub pool: Option<PoolConfig>,
}

/// What the warm pools are like.
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

/// How the pools are kept: what may wait for what, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// How long nothing must have been handed out, and no program run, before a microVM is
    /// made ahead: who is given a sandbox uses it at once, and is not to share the processor.
    pub idle_before_refill: Duration,
    /// Longest wait for that. A daemon that is never idle makes a microVM ahead this often.
    pub refill_wait_max: Duration,
    /// How long no sandbox must have been asked for in vain before a raised ceiling sinks by
    /// one.
    pub idle_before_shrink: Duration,
    /// Time between two looks at the health of the microVMs that wait.
    pub health_period: Duration,
    /// How long a waiting guest may take to answer such a look.
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
