//! Loads and verifies everything that a guest boots from, for the start of the daemon.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::artifact::{
    self, BlobError, Digest, InitramfsManifest, KernelManifest, Manifest, PackManifest,
};
use crate::data_dir::DataDir;
use crate::known::Known;
use crate::name::PackName;
use crate::pack::Profiles;

/// The images for guests: every file exists and has the content that its manifest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    /// The kernel.
    pub kernel: KernelImage,
    /// The initramfs.
    pub initramfs: InitramfsImage,
    /// The language packs, at least one.
    pub packs: BTreeMap<PackName, PackImage>,
}

/// A guest kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelImage {
    /// Uncompressed 64-bit x86 ELF file.
    pub path: PathBuf,
    /// Output of `uname -r` in the guest.
    pub release: String,
    /// Ticks per second (`CONFIG_HZ`), if known.
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
    /// Returns the kernel at `path`, about which nothing else is known. Reads the whole file.
    ///
    /// # Errors
    /// [`LoadError::Read`].
    pub fn given(path: PathBuf) -> Result<Self, LoadError> {
        let sha256 = digest(&path)?;
        Ok(Self { path, release: "given by its path".to_owned(), hz: None, sha256 })
    }
}

impl InitramfsImage {
    /// Returns the initramfs at `path`. Reads the whole file.
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
    /// A description of the pack, in one line.
    pub description: String,
    /// Code that uses what most programs of the pack use. It leaves nothing behind and exits with
    /// 0.
    pub warm_up: Option<String>,
    /// Where its package managers download from.
    pub profiles: Profiles,
}

/// An artifact that is built and loaded.
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
    /// Returns the command that builds the artifact.
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

/// Why images cannot be loaded. Every message names the command that solves it.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// An artifact was never built.
    #[error("{artifact} is missing from {}; build it with `{}`", dir.display(), artifact.command())]
    Missing {
        /// The missing artifact.
        artifact: Artifact,
        /// The data directory.
        dir: PathBuf,
    },
    /// An artifact or its manifest is damaged.
    #[error(
        "{artifact} is damaged ({}); rebuild it with `{}`",
        path.display(),
        artifact.command()
    )]
    Damaged {
        /// The damaged artifact.
        artifact: Artifact,
        /// The damaged file.
        path: PathBuf,
        /// The difference.
        source: BlobError,
    },
    /// The initramfs has the modules of another kernel.
    #[error(
        "the initramfs was built for another kernel; rebuild it with `{}`",
        Artifact::Initramfs.command()
    )]
    Stale,
    /// No language pack was built.
    #[error("no language pack in {}; build one with `emberctl image build pack python`", .0.display())]
    NoPacks(PathBuf),
    /// The data directory cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl LoadError {
    /// Returns the artifact to build, if a build would help.
    pub fn artifact(&self) -> Option<&Artifact> {
        match self {
            Self::Missing { artifact, .. } | Self::Damaged { artifact, .. } => Some(artifact),
            Self::Stale => Some(&Artifact::Initramfs),
            Self::NoPacks(_) | Self::Read { .. } => None,
        }
    }
}

impl Images {
    /// Finds and verifies every artifact of `data_dir`. Reads each file completely that has changed
    /// since it was last verified.
    ///
    /// # Errors
    /// [`LoadError`] for the first artifact that is missing, damaged or stale, in the order of
    /// building.
    pub fn load(data_dir: &DataDir) -> Result<Self, LoadError> {
        let mut known = Known::read(data_dir.known());
        let images = Self::load_by(data_dir, &mut known)?;
        // Everything is verified again at the next start, if this fails.
        drop(known.save());
        Ok(images)
    }

    fn load_by(data_dir: &DataDir, known: &mut Known) -> Result<Self, LoadError> {
        let kernel: KernelManifest = verified(data_dir, Artifact::Kernel, known)?;
        let initramfs: InitramfsManifest = verified(data_dir, Artifact::Initramfs, known)?;
        if initramfs.modules != kernel.modules_digest() {
            return Err(LoadError::Stale);
        }
        let names = pack_names(data_dir)?;
        if names.is_empty() {
            return Err(LoadError::NoPacks(data_dir.path().to_owned()));
        }
        let packs = names.into_iter().map(|name| {
            let pack: PackManifest = verified(data_dir, Artifact::Pack(name.clone()), known)?;
            let image = PackImage {
                rootfs: pack.rootfs.path(data_dir),
                sha256: pack.rootfs.sha256,
                description: pack.description,
                warm_up: pack.warm_up,
                profiles: pack.profiles,
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

/// Returns the names of the packs that have a manifest.
pub(crate) fn pack_names(data_dir: &DataDir) -> Result<Vec<PackName>, LoadError> {
    artifact::pack_names(data_dir)
        .map_err(|source| LoadError::Read { path: data_dir.packs(), source })
}

/// Reads an artifact's manifest; `None` if it was never built.
pub(crate) fn manifest<M: Manifest>(
    data_dir: &DataDir,
    artifact: &Artifact,
) -> Result<Option<M>, LoadError> {
    let path = artifact.manifest(data_dir);
    artifact::read_manifest(&path).map_err(|source| damaged(artifact, path, source))
}

/// Reads an artifact's manifest and verifies its blobs.
pub(crate) fn verified<M: Manifest>(
    data_dir: &DataDir,
    artifact: Artifact,
    known: &mut Known,
) -> Result<M, LoadError> {
    let Some(manifest) = manifest::<M>(data_dir, &artifact)? else {
        return Err(LoadError::Missing { artifact, dir: data_dir.path().to_owned() });
    };
    for blob in manifest.blobs() {
        let verified = known.check(&blob.path(data_dir), || blob.verify(data_dir));
        verified.map_err(|source| damaged(&artifact, blob.path(data_dir), source))?;
    }
    Ok(manifest)
}

fn damaged(artifact: &Artifact, path: PathBuf, source: BlobError) -> LoadError {
    LoadError::Damaged { artifact: artifact.clone(), path, source }
}
