//! How a microVM was made, and how long each part took.

use std::fmt;
use std::time::Duration;

use emberd_proto::Welcome;
use serde::{Deserialize, Serialize};

/// How a sandbox's microVM was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootPath {
    /// The guest's kernel booted.
    ColdBoot,
    /// The microVM was restored from a template on request.
    SnapshotRestore,
    /// The microVM was restored ahead of need and waited in the warm pool.
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

/// How long each part of making a microVM took. A microVM from the warm pool was made before
/// its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootTimes {
    /// Until the VMM process ran and its channel, or its control socket, was open; zero for a
    /// standby.
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
    /// The times of a guest that booted and sent `welcome`.
    pub(crate) fn of_boot(vmm: Duration, guest: Duration, welcome: &Welcome) -> Self {
        let kernel = welcome.init_started_us.map(Duration::from_micros);
        let serving = welcome.serving_us.map(Duration::from_micros);
        let init = serving.zip(kernel).map(|(serving, kernel)| serving.saturating_sub(kernel));
        Self { vmm, load: None, guest, renew: None, warm_up: None, kernel, init }
    }
}
