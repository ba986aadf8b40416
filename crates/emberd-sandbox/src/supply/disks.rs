//! The disks that microVMs get.
//!
//! ```text
//! usual size ─▶ image ─▶ template, pools ─▶ usual, or grown when it is handed out
//! smaller ────▶ least image, in a file of the size asked for ─▶ cold boot ─▶ grown to that
//! ```

use emberd_image::DiskError;
use emberd_vmm::DiskSpec;

use crate::config::{DISK_MIB_MIN, DiskConfig};

/// The disks of all microVMs; none if guests have no disk.
#[derive(Default)]
pub(crate) struct Disks {
    /// As made ahead.
    pub usual: Option<DiskSpec>,
    /// An image that every disk is larger than.
    least: Option<DiskSpec>,
}

impl Disks {
    /// Makes the empty images. Blocks.
    ///
    /// # Errors
    /// [`DiskError`].
    pub fn open(config: Option<&DiskConfig>) -> Result<Self, DiskError> {
        let Some(DiskConfig { dir, size_mib, .. }) = config else { return Ok(Self::default()) };
        let spec = |size_mib| -> Result<_, DiskError> {
            let image = emberd_image::empty_disk(dir, size_mib)?;
            Ok(Some(DiskSpec { image, dir: dir.clone(), size_mib }))
        };
        Ok(Self { usual: spec(*size_mib)?, least: spec(DISK_MIB_MIN)? })
    }

    /// Size of the disks made ahead, in MiB; 0 if guests have none.
    pub fn usual_mib(&self) -> u32 {
        self.usual.as_ref().map_or(0, |disk| disk.size_mib)
    }

    /// The size asked for, if it is smaller than what is made ahead: a file system in use cannot
    /// shrink.
    pub fn smaller_mib(&self, asked_mib: Option<u64>) -> Option<u32> {
        let asked_mib = u32::try_from(asked_mib?).ok()?;
        (asked_mib < self.usual_mib()).then_some(asked_mib)
    }

    /// The disk of a microVM that boots: as made ahead, or smaller.
    pub fn at_boot(&self, smaller_mib: Option<u32>) -> Option<DiskSpec> {
        match (smaller_mib, &self.least) {
            (Some(size_mib), Some(least)) => Some(DiskSpec { size_mib, ..least.clone() }),
            _ => self.usual.clone(),
        }
    }
}
