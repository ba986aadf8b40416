//! Results and errors that all builds share.

use std::io;
use std::path::PathBuf;

use crate::artifact::{Blob, Digest, InitramfsManifest, KernelManifest, PackManifest};
use crate::command::ToolError;
use crate::data_dir::DataDir;
use crate::kernel::KernelError;
use crate::load::{self, Artifact, LoadError};
use crate::modules::ModulesError;
use crate::name::PackName;
use crate::pack::{ArchiveError, DefinitionError, Profiles};
use crate::progress::Progress;
use crate::store::{Store, StoreError};

/// Whether a build changed anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The artifact existed, was made from the same inputs, and is intact.
    UpToDate,
    /// The artifact was built.
    Built,
}

/// An artifact in the data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// The artifact.
    pub artifact: Artifact,
    /// A description of the artifact and its inputs, in one line.
    pub summary: String,
    /// The file that a guest boots from.
    pub path: PathBuf,
    /// Digest of that file.
    pub sha256: Digest,
    /// Size of that file, in bytes.
    pub size_bytes: u64,
    /// Where the package managers in it download from; empty but for packs.
    pub profiles: Profiles,
}

/// The result of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// The artifact.
    pub installed: Installed,
    /// Whether it was built now.
    pub outcome: Outcome,
}

/// Why an artifact could not be built. An earlier artifact stays in place.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The data directory cannot be written, for example because the disk is full.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A tool of the host is missing or failed.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// An artifact that this build needs is missing or damaged.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A kernel cannot be used.
    #[error("{} is not a usable kernel", path.display())]
    Kernel {
        /// The kernel's file.
        path: PathBuf,
        /// The cause.
        source: KernelError,
    },
    /// The kernel's modules cannot be used.
    #[error(transparent)]
    Modules(#[from] ModulesError),
    /// A pack's definition cannot be used.
    #[error(transparent)]
    Definition(#[from] DefinitionError),
    /// A root file system cannot be used.
    #[error("{} is not a usable root file system", path.display())]
    Root {
        /// The directory or archive.
        path: PathBuf,
        /// The cause.
        source: ArchiveError,
    },
    /// The agent is not a static program for a 64-bit x86 Linux.
    #[error("{} is not a statically linked x86_64 program; `rootfs/build.sh` builds one", .0.display())]
    Agent(PathBuf),
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The distribution has no kernel package by these names.
    #[error("none of the packages {0} contains a kernel; give a kernel file instead")]
    NoKernelPackage(String),
    /// The host is not a Debian or Ubuntu with a release name.
    #[error(
        "the release of the host is unknown; choose one to build the pack from, such as bookworm"
    )]
    NoSuite,
}

/// The result of removing unused files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pruned {
    /// Number of files.
    pub files: usize,
    /// Their size, in bytes.
    pub size_bytes: u64,
}

/// Lists the artifacts in `data_dir`, from its manifests, in the order of building. The content
/// is not verified; [`crate::Images::load`] does that.
///
/// # Errors
/// [`LoadError`] if a manifest is damaged or cannot be read.
pub fn installed(data_dir: &DataDir) -> Result<Vec<Installed>, LoadError> {
    let mut all = Vec::new();
    let kernel = load::manifest::<KernelManifest>(data_dir, &Artifact::Kernel)?;
    all.extend(kernel.map(|kernel| kernel.installed(data_dir)));
    let initramfs = load::manifest::<InitramfsManifest>(data_dir, &Artifact::Initramfs)?;
    all.extend(initramfs.map(|initramfs| initramfs.installed(data_dir)));
    for name in load::pack_names(data_dir)? {
        let pack = load::manifest::<PackManifest>(data_dir, &Artifact::Pack(name))?;
        all.extend(pack.map(|pack| pack.installed(data_dir)));
    }
    Ok(all)
}

/// Removes the files of `data_dir` that no artifact uses. Running microVMs keep their open files.
///
/// # Errors
/// [`BuildError::Store`], and [`BuildError::Load`] for a damaged manifest.
pub fn prune(data_dir: &DataDir, progress: &mut dyn Progress) -> Result<Pruned, BuildError> {
    let (files, size_bytes) = Store::lock(data_dir, progress)?.prune()?;
    Ok(Pruned { files, size_bytes })
}

/// Removes a pack and returns whether it existed; [`prune`] frees its space.
///
/// # Errors
/// [`StoreError`] if its manifest cannot be removed.
pub fn remove_pack(
    data_dir: &DataDir,
    name: &PackName,
    progress: &mut dyn Progress,
) -> Result<bool, StoreError> {
    let store = Store::lock(data_dir, progress)?;
    let path = store.data_dir().pack_manifest(name);
    match std::fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(StoreError::at(&path)(error)),
    }
}

impl KernelManifest {
    pub(crate) fn installed(&self, data_dir: &DataDir) -> Installed {
        let modules = match self.modules.len() {
            0 => "everything built in".to_owned(),
            count => format!("{count} modules"),
        };
        let summary = format!("Linux {} from {}, {modules}", self.release, self.source);
        installed_blob(Artifact::Kernel, summary, &self.vmlinux, data_dir)
    }
}

impl InitramfsManifest {
    pub(crate) fn installed(&self, data_dir: &DataDir) -> Installed {
        let summary = "the agent and the kernel's modules".to_owned();
        installed_blob(Artifact::Initramfs, summary, &self.image, data_dir)
    }
}

impl PackManifest {
    pub(crate) fn installed(&self, data_dir: &DataDir) -> Installed {
        let artifact = Artifact::Pack(self.name.clone());
        let summary = format!("{}, from {}, {}", self.description, self.source, self.compression);
        let installed = installed_blob(artifact, summary, &self.rootfs, data_dir);
        Installed { profiles: self.profiles.clone(), ..installed }
    }
}

fn installed_blob(
    artifact: Artifact,
    summary: String,
    blob: &Blob,
    data_dir: &DataDir,
) -> Installed {
    Installed {
        artifact,
        summary,
        path: blob.path(data_dir),
        sha256: blob.sha256,
        size_bytes: blob.size_bytes,
        profiles: Profiles::new(),
    }
}
