//! A QEMU process that has loaded its template's devices, and maps its memory.
//!
//! The load of the devices needs some milliseconds and touches little of the memory, so it is
//! done ahead. The guest runs only once the standby is needed.

use std::os::fd::OwnedFd;

use super::QemuMicroVm;
use super::launch::Launched;
use super::migration;
use super::mux::Stand;
use super::qmp::Qmp;
use crate::{BootError, ExitWatch, RestoreError, Standby};

/// A QEMU process whose guest is paused where its template was made.
#[derive(Debug)]
pub struct QemuStandby {
    qmp: Qmp,
    launched: Launched,
}

impl QemuStandby {
    /// Loads `state`, the devices of a template, into `launched`.
    pub(super) async fn load_devices(
        launched: Launched,
        state: &OwnedFd,
    ) -> Result<Self, BootError> {
        let mut qmp = launched.control().await?;
        match migration::load(&mut qmp, state).await {
            Ok(()) => Ok(Self { qmp, launched }),
            Err(error) => Err(launched.failed("the load", error).await),
        }
    }
}

impl Standby for QemuStandby {
    type MicroVm = QemuMicroVm;

    async fn load(mut self) -> Result<QemuMicroVm, RestoreError> {
        match migration::run(&mut self.qmp).await {
            // Its memory is the template's: no template can be made of it.
            Ok(()) => Ok(self.launched.into_microvm(Stand::Begun, Some(self.qmp), None)),
            Err(error) => Err(self.launched.failed("the start of the guest", error).await.into()),
        }
    }

    fn exited(&self) -> ExitWatch {
        self.launched.process.exited()
    }

    fn process_id(&self) -> u32 {
        self.launched.process.process_id()
    }
}
