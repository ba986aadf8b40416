//! Inputs of a restore, and the errors of pausing, saving and restoring.

use std::io;
use std::path::PathBuf;

use crate::{BootError, ImageHashes, MachineShape, TemplateError};

/// Inputs of a restore besides the template.
#[derive(Debug, Clone)]
pub struct RestoreSpec {
    /// Directory the driver creates for this microVM alone, as for [`crate::BootSpec`].
    pub dir: PathBuf,
    /// Root image; must be the one the template was booted from.
    pub rootfs: PathBuf,
    /// Directory for the guest's own disk, as [`crate::DiskSpec::dir`]; needed if the machine has
    /// one.
    pub disk_dir: Option<PathBuf>,
    /// Hashes of the caller's present images: the template must have been made from the same.
    pub images: ImageHashes,
    /// The caller's present machine, which must also be the template's.
    pub machine: MachineShape,
}

/// Why a microVM could not be paused or resumed.
#[derive(Debug, thiserror::Error)]
pub enum PauseError {
    /// This VMM does not support it safely.
    #[error("{vmm} cannot pause a microVM safely")]
    Unsupported {
        /// The VMM and its version.
        vmm: String,
    },
    /// The VMM did not complete the step.
    #[error("the VMM did not complete {step}")]
    Step {
        /// The step, in the VMM's terms.
        step: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Why making a template failed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The microVM could not be paused.
    #[error("the microVM is not paused")]
    Pause(#[from] PauseError),
    /// The VMM did not write its files.
    #[error("the VMM did not write the snapshot")]
    Create(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The template could not be made from the VMM's files.
    #[error("cannot publish {}", template.display())]
    Publish {
        /// The template.
        template: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Why a restore failed.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The template does not fit; another must be made.
    #[error("the template cannot be used")]
    Template(#[from] TemplateError),
    /// This VMM does not support it safely.
    #[error("{vmm} cannot restore a microVM safely")]
    Unsupported {
        /// The VMM and its version.
        vmm: String,
    },
    /// The VMM could not be started, or could not load the template.
    #[error("the VMM could not start from the template")]
    Start(#[from] BootError),
}
