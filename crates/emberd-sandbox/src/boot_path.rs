//! How a microVM came to be, and where the time of its making went.

use std::fmt;
use std::time::Duration;

use emberd_proto::Welcome;

/// How a sandbox's microVM came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BootPath {
    /// Its kernel booted.
    ColdBoot,
    /// It was restored from a template when it was asked for.
    SnapshotRestore,
    /// It was restored ahead of need and waited.
    WarmPool,
}

impl fmt::Display for BootPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ColdBoot => "cold-boot",
            Self::SnapshotRestore => "snapshot-restore",
            Self::WarmPool => "warm-pool",
        })
    }
}

/// Where the time of a microVM's making went. One from the warm pool was made before it was
/// asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BootTimes {
    /// Until the VMM process ran and its channel, or its control socket, was open; nothing
    /// where one stood by.
    pub vmm: Duration,
    /// From then until the guest of a template ran. None after a cold boot.
    pub load: Option<Duration>,
    /// From then until the guest answered.
    pub guest: Duration,
    /// From then until a restored guest had a clock, randomness and names of its own.
    pub renew: Option<Duration>,
    /// From then until the pack's warm-up had run. None where it was not run.
    pub warm_up: Option<Duration>,
    /// Of the guest's own clock: kernel start to PID 1. None where the agent is not PID 1,
    /// and after a restore, whose guest never booted.
    pub kernel: Option<Duration>,
    /// Of the guest's own clock: PID 1 to a serving agent. None as above.
    pub init: Option<Duration>,
}

impl BootTimes {
    /// Those of a guest that booted and said `welcome`.
    pub(crate) fn of_boot(vmm: Duration, guest: Duration, welcome: &Welcome) -> Self {
        let kernel = welcome.init_started_us.map(Duration::from_micros);
        let serving = welcome.serving_us.map(Duration::from_micros);
        let init = serving.zip(kernel).map(|(serving, kernel)| serving.saturating_sub(kernel));
        Self { vmm, load: None, guest, renew: None, warm_up: None, kernel, init }
    }
}
