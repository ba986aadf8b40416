//! A QEMU process that is ready to load its template.

use std::os::fd::OwnedFd;

use super::QemuMicroVm;
use super::launch::Launched;
use super::migration;
use super::qmp::Qmp;
use crate::{BootError, ExitWatch, RestoreError, Standby};

/// A QEMU process that is ready to load its template.
#[derive(Debug)]
pub struct QemuStandby {
    qmp: Qmp,
    launched: Launched,
}

impl QemuStandby {
    /// Gives `launched` the `state` it is to load.
    pub(super) async fn prepare(launched: Launched, state: &OwnedFd) -> Result<Self, BootError> {
        let mut qmp = launched.control().await?;
        match migration::prepare(&mut qmp, state).await {
            Ok(()) => Ok(Self { qmp, launched }),
            Err(error) => Err(launched.failed("the preparation", error).await),
        }
    }
}

impl Standby for QemuStandby {
    type MicroVm = QemuMicroVm;

    async fn load(mut self) -> Result<QemuMicroVm, RestoreError> {
        match migration::load(&mut self.qmp).await {
            // Its memory is the template's: no template can be made of it.
            Ok(()) => Ok(self.launched.into_microvm(Some(self.qmp), None)),
            Err(error) => Err(self.launched.failed("the load", error).await.into()),
        }
    }

    fn exited(&self) -> ExitWatch {
        self.launched.process.exited()
    }

    fn process_id(&self) -> u32 {
        self.launched.process.process_id()
    }
}
