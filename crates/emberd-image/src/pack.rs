//! Language packs: read-only root images and how code runs in them.
//!
//! Every source is a tar stream, which is piped into a SquashFS image behind entries of our
//! own, above all the [`PackSpec`] the guest agent reads. A stranger's archive is thus never
//! unpacked on the host: its device nodes and links are entries of an image, no more.

use std::fmt;
use std::str::FromStr;
use std::sync::mpsc;

use emberd_proto::PackSpec;
use emberd_proto::pack::PACK_FILE;
use serde::{Deserialize, Serialize};

use crate::artifact::{BlobKind, Digest, PackManifest};
use crate::build::{Build, BuildError, Outcome};
use crate::data_dir::DataDir;
use crate::load::Artifact;
use crate::name::PackName;
use crate::progress::Progress;
use crate::store::Store;

mod archive;
mod debian;
mod definition;
mod rootfs;
mod squashfs;

pub use archive::{ArchiveError, ROOT_BYTES_MAX, ROOT_ENTRIES_MAX};
pub use definition::{DefinitionError, PackDefinition};
pub use rootfs::{RootPack, run_words};

use archive::Prelude;
use debian::Distribution;
use squashfs::{Event, RootStream};

/// How a pack's root image is compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Small.
    #[default]
    Zstd,
    /// Larger, faster to read.
    Lz4,
    /// Largest, fastest to read.
    None,
}

/// The text names no compression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no compression: one of zstd, lz4, none")]
pub struct CompressionError(String);

impl FromStr for Compression {
    type Err = CompressionError;

    fn from_str(text: &str) -> Result<Self, CompressionError> {
        match text {
            "zstd" => Ok(Self::Zstd),
            "lz4" => Ok(Self::Lz4),
            "none" => Ok(Self::None),
            _ => Err(CompressionError(text.to_owned())),
        }
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Zstd => "zstd",
            Self::Lz4 => "lz4",
            Self::None => "none",
        })
    }
}

/// How a pack is built.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackOptions {
    /// Build even if the pack is up to date.
    pub force: bool,
    /// How the root image is compressed.
    pub compression: Compression,
    /// Release of the distribution, such as `bookworm`; the host's when absent.
    pub suite: Option<String>,
    /// Where packages come from: URLs or lines of sources.list; the distribution's own
    /// mirrors when empty.
    pub mirrors: Vec<String>,
}

/// Builds a pack from the distribution's packages, unless it is there, made from the same
/// definition and options. Needs root, or user namespaces and the package `uidmap`.
///
/// # Errors
/// [`BuildError`].
pub fn build_pack(
    data_dir: &DataDir,
    pack: &PackDefinition,
    options: &PackOptions,
    progress: &mut dyn Progress,
) -> Result<Build, BuildError> {
    let distribution = Distribution::new(options.suite.as_deref(), &options.mirrors)?;
    let build = PackBuild {
        name: &pack.name,
        description: &pack.description,
        source: distribution.source(),
        inputs: Digest::of_parts(&[
            b"packages",
            pack.digest().as_bytes(),
            distribution.digest().as_bytes(),
        ]),
        spec: pack.spec(),
        own_files: &[("etc/hostname", "emberd\n"), ("etc/hosts", HOSTS), ("etc/resolv.conf", "")],
        newest: debian::EPOCH,
        stage: "installing packages",
    };
    build.run(data_dir, options, &|events| distribution.root(pack, events), progress)
}

/// Builds a pack from a root file system, unless it is there, made from the same one.
///
/// # Errors
/// [`BuildError`]; [`BuildError::Root`] for an archive over a limit or damaged, and
/// [`BuildError::Tool`] for one the squashfs tool refuses, such as one with `..` in a name.
pub fn build_pack_from_rootfs(
    data_dir: &DataDir,
    pack: &RootPack,
    options: &PackOptions,
    progress: &mut dyn Progress,
) -> Result<Build, BuildError> {
    let spec = pack.spec()?;
    progress.stage("reading the root file system");
    let surveyed = pack.survey()?;
    let spec_json = spec_json(&spec);
    let description = pack.description.as_bytes();
    let build = PackBuild {
        name: &pack.name,
        description: &pack.description,
        source: pack.root.display().to_string(),
        inputs: Digest::of_parts(&[b"root", surveyed.digest.as_bytes(), &spec_json, description]),
        spec,
        own_files: &[],
        newest: surveyed.newest,
        stage: "packing the root file system",
    };
    build.run(data_dir, options, &|events| pack.stream(events), progress)
}

fn spec_json(spec: &PackSpec) -> Vec<u8> {
    serde_json::to_vec(spec).expect("string keys only")
}

const HOSTS: &str = "127.0.0.1 localhost emberd\n::1 localhost ip6-localhost ip6-loopback\n";

/// Directories the agent mounts on, which an archive may lack.
const MOUNT_POINTS: [&str; 3] = ["dev", "proc", "sys"];

/// A pack about to be built.
struct PackBuild<'a> {
    name: &'a PackName,
    description: &'a str,
    source: String,
    /// What decides the pack's bytes, but for its compression.
    inputs: Digest,
    spec: PackSpec,
    /// Files that replace the root file system's own, without their leading slash.
    own_files: &'a [(&'a str, &'a str)],
    /// Newest time in the image, in seconds since the Unix epoch.
    newest: u32,
    stage: &'a str,
}

type OpenRoot<'a> = dyn Fn(mpsc::Sender<Event>) -> Result<RootStream, BuildError> + 'a;

impl PackBuild<'_> {
    fn run(
        self,
        data_dir: &DataDir,
        options: &PackOptions,
        open_root: &OpenRoot<'_>,
        progress: &mut dyn Progress,
    ) -> Result<Build, BuildError> {
        let store = Store::lock(data_dir, progress)?;
        let compression = options.compression;
        let compression_name = compression.to_string();
        let key = Digest::of_parts(&[self.inputs.as_bytes(), compression_name.as_bytes()]);
        let path = Artifact::Pack(self.name.clone()).manifest(data_dir);
        if let Some(manifest) = store.current::<PackManifest>(&path, key).filter(|_| !options.force)
        {
            let installed = manifest.installed(data_dir);
            return Ok(Build { installed, outcome: Outcome::UpToDate });
        }
        progress.stage(self.stage);
        let scratch = store.scratch()?;
        let image = scratch.path().join("rootfs");
        let (sender, receiver) = mpsc::channel();
        let root = open_root(sender.clone())?;
        let prelude = self.prelude();
        let events = (sender, receiver);
        squashfs::write(&image, prelude, root, compression, self.newest, events, progress)?;
        progress.stage("storing the image");
        let manifest = PackManifest {
            key,
            name: self.name.clone(),
            description: self.description.to_owned(),
            source: self.source,
            compression,
            spec: self.spec,
            rootfs: store.publish(&image, BlobKind::Squashfs)?,
        };
        store.write_manifest(&path, &manifest)?;
        Ok(Build { installed: manifest.installed(data_dir), outcome: Outcome::Built })
    }

    /// Entries that come before, and so replace, the root file system's own.
    fn prelude(&self) -> Vec<u8> {
        let mut prelude = Prelude::default();
        for directory in MOUNT_POINTS.iter().chain(&["etc", "etc/emberd"]) {
            prelude.directory(directory, self.newest);
        }
        let spec = spec_json(&self.spec);
        prelude.file(PACK_FILE.trim_start_matches('/'), &spec, self.newest);
        for (path, content) in self.own_files {
            prelude.file(path, content.as_bytes(), self.newest);
        }
        prelude.into_bytes()
    }
}
