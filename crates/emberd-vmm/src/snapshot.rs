//! What a microVM is restored with, and why one could not be paused, saved or restored.

use std::io;
use std::path::PathBuf;

use crate::{BootError, ImageHashes, MachineShape, TemplateError};

/// What a microVM is started with, besides its template.
#[derive(Debug, Clone)]
pub struct RestoreSpec {
    /// Directory the driver creates for this microVM alone, as for [`crate::BootSpec`].
    pub dir: PathBuf,
    /// Root image; must be the one the template was booted from.
    pub rootfs: PathBuf,
    /// Hashes of what the caller would boot from now: the template must have been made from
    /// the same.
    pub images: ImageHashes,
    /// The machine the caller would boot now, likewise.
    pub machine: MachineShape,
}

/// Why a microVM could not be paused or resumed.
#[derive(Debug, thiserror::Error)]
pub enum PauseError {
    /// This VMM must not do that.
    #[error("{vmm} cannot pause a microVM safely")]
    Unsupported {
        /// The VMM and its version.
        vmm: String,
    },
    /// The VMM did not do it.
    #[error("the VMM did not complete {step}")]
    Step {
        /// The step, in the VMM's terms.
        step: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Why no template was made.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The microVM could not be paused.
    #[error("the microVM is not paused")]
    Pause(#[from] PauseError),
    /// The VMM did not write its files.
    #[error("the VMM did not write the snapshot")]
    Create(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The template could not be made of the VMM's files.
    #[error("cannot publish {}", template.display())]
    Publish {
        /// The template.
        template: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Why no microVM was started from a template.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The template does not fit; another must be made.
    #[error("the template cannot be used")]
    Template(#[from] TemplateError),
    /// This VMM must not do that.
    #[error("{vmm} cannot restore a microVM safely")]
    Unsupported {
        /// The VMM and its version.
        vmm: String,
    },
    /// The VMM could not be started, or could not load the template.
    #[error("the VMM could not start from the template")]
    Start(#[from] BootError),
}
