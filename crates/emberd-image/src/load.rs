//! Everything a guest boots from, verified, as the daemon needs it at start-up.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::artifact::{
    self, BlobError, Digest, InitramfsManifest, KernelManifest, Manifest, PackManifest,
};
use crate::data_dir::DataDir;
use crate::name::PackName;

/// What guests boot from: every file exists and has the content its manifest names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    /// The kernel.
    pub kernel: KernelImage,
    /// The initramfs.
    pub initramfs: InitramfsImage,
    /// At least one language pack.
    pub packs: BTreeMap<PackName, PackImage>,
}

/// A guest kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelImage {
    /// Uncompressed 64-bit x86 ELF file.
    pub path: PathBuf,
    /// What `uname -r` prints in the guest.
    pub release: String,
    /// Ticks per second (`CONFIG_HZ`), where known.
    pub hz: Option<u32>,
    /// Digest of the file.
    pub sha256: Digest,
}

/// An initramfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitramfsImage {
    /// Uncompressed newc cpio with the agent as `/init` and the kernel's modules.
    pub path: PathBuf,
    /// Digest of the file.
    pub sha256: Digest,
}

impl KernelImage {
    /// The kernel at `path`, of which nothing is known. Reads it whole.
    ///
    /// # Errors
    /// [`LoadError::Read`].
    pub fn given(path: PathBuf) -> Result<Self, LoadError> {
        let sha256 = digest(&path)?;
        Ok(Self { path, release: "given by its path".to_owned(), hz: None, sha256 })
    }
}

impl InitramfsImage {
    /// The initramfs at `path`. Reads it whole.
    ///
    /// # Errors
    /// [`LoadError::Read`].
    pub fn given(path: PathBuf) -> Result<Self, LoadError> {
        let sha256 = digest(&path)?;
        Ok(Self { path, sha256 })
    }
}

fn digest(path: &Path) -> Result<Digest, LoadError> {
    let (digest, _) = File::open(path)
        .and_then(Digest::of_reader)
        .map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
    Ok(digest)
}

/// A language pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackImage {
    /// Root image, SquashFS.
    pub rootfs: PathBuf,
    /// Digest of the root image.
    pub sha256: Digest,
    /// What the pack is, in one line.
    pub description: String,
    /// Code that, run once, touches what most programs of the pack touch; it leaves nothing
    /// behind and its exit code is 0.
    pub warm_up: Option<String>,
}

/// One thing that is built and loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Artifact {
    /// The guest kernel and its modules.
    Kernel,
    /// The initramfs.
    Initramfs,
    /// A language pack.
    Pack(PackName),
}

impl Artifact {
    /// The command that makes it.
    pub fn command(&self) -> String {
        match self {
            Self::Kernel => "emberctl image build kernel".to_owned(),
            Self::Initramfs => "emberctl image build initramfs".to_owned(),
            Self::Pack(name) => format!("emberctl image build pack {name}"),
        }
    }

    pub(crate) fn manifest(&self, data_dir: &DataDir) -> PathBuf {
        match self {
            Self::Kernel => data_dir.kernel_manifest(),
            Self::Initramfs => data_dir.initramfs_manifest(),
            Self::Pack(name) => data_dir.pack_manifest(name),
        }
    }
}

impl fmt::Display for Artifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel => f.write_str("the kernel"),
            Self::Initramfs => f.write_str("the initramfs"),
            Self::Pack(name) => write!(f, "the language pack `{name}`"),
        }
    }
}

/// Why there is nothing to boot from. Every message names the command that mends it.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// An artifact was never built here.
    #[error("{artifact} is missing from {}; build it with `{}`", dir.display(), artifact.command())]
    Missing {
        /// What is missing.
        artifact: Artifact,
        /// The data directory.
        dir: PathBuf,
    },
    /// An artifact or its manifest is not what was built.
    #[error(
        "{artifact} is damaged ({}); rebuild it with `{}`",
        path.display(),
        artifact.command()
    )]
    Damaged {
        /// What is damaged.
        artifact: Artifact,
        /// The damaged file.
        path: PathBuf,
        /// What is wrong with it.
        source: BlobError,
    },
    /// The initramfs carries the modules of another kernel.
    #[error(
        "the initramfs was built for another kernel; rebuild it with `{}`",
        Artifact::Initramfs.command()
    )]
    Stale,
    /// No language pack was ever built here.
    #[error("there is no language pack in {}; build one with `emberctl image build pack python`", .0.display())]
    NoPacks(PathBuf),
    /// The data directory cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// What cannot be read.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl LoadError {
    /// The artifact to build, where one is to blame.
    pub fn artifact(&self) -> Option<&Artifact> {
        match self {
            Self::Missing { artifact, .. } | Self::Damaged { artifact, .. } => Some(artifact),
            Self::Stale => Some(&Artifact::Initramfs),
            Self::NoPacks(_) | Self::Read { .. } => None,
        }
    }
}

impl Images {
    /// Finds and verifies every artifact of `data_dir`: reads each file whole.
    ///
    /// # Errors
    /// [`LoadError`] for the first artifact that is missing, damaged or stale, in the order
    /// in which they are built.
    pub fn load(data_dir: &DataDir) -> Result<Self, LoadError> {
        let kernel: KernelManifest = verified(data_dir, Artifact::Kernel)?;
        let initramfs: InitramfsManifest = verified(data_dir, Artifact::Initramfs)?;
        if initramfs.modules != kernel.modules_digest() {
            return Err(LoadError::Stale);
        }
        let names = pack_names(data_dir)?;
        if names.is_empty() {
            return Err(LoadError::NoPacks(data_dir.path().to_owned()));
        }
        let packs = names.into_iter().map(|name| {
            let pack: PackManifest = verified(data_dir, Artifact::Pack(name.clone()))?;
            let image = PackImage {
                rootfs: pack.rootfs.path(data_dir),
                sha256: pack.rootfs.sha256,
                description: pack.description,
                warm_up: pack.warm_up,
            };
            Ok((name, image))
        });
        Ok(Self {
            packs: packs.collect::<Result<_, LoadError>>()?,
            initramfs: InitramfsImage {
                path: initramfs.image.path(data_dir),
                sha256: initramfs.image.sha256,
            },
            kernel: KernelImage {
                path: kernel.vmlinux.path(data_dir),
                release: kernel.release,
                hz: kernel.hz,
                sha256: kernel.vmlinux.sha256,
            },
        })
    }
}

/// Names of the packs that have a manifest.
pub(crate) fn pack_names(data_dir: &DataDir) -> Result<Vec<PackName>, LoadError> {
    artifact::pack_names(data_dir)
        .map_err(|source| LoadError::Read { path: data_dir.packs(), source })
}

/// Reads an artifact's manifest; nothing where it was never built.
pub(crate) fn manifest<M: Manifest>(
    data_dir: &DataDir,
    artifact: &Artifact,
) -> Result<Option<M>, LoadError> {
    let path = artifact.manifest(data_dir);
    artifact::read_manifest(&path).map_err(|source| damaged(artifact, path, source))
}

/// Reads an artifact's manifest and verifies every blob it names.
pub(crate) fn verified<M: Manifest>(
    data_dir: &DataDir,
    artifact: Artifact,
) -> Result<M, LoadError> {
    let Some(manifest) = manifest::<M>(data_dir, &artifact)? else {
        return Err(LoadError::Missing { artifact, dir: data_dir.path().to_owned() });
    };
    for blob in manifest.blobs() {
        let verified = blob.verify(data_dir);
        verified.map_err(|source| damaged(&artifact, blob.path(data_dir), source))?;
    }
    Ok(manifest)
}

fn damaged(artifact: &Artifact, path: PathBuf, source: BlobError) -> LoadError {
    LoadError::Damaged { artifact: artifact.clone(), path, source }
}
