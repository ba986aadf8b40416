//! Language packs: read-only root images, and a description of how code runs in them.
//!
//! Every source is a tar stream that is piped into a SquashFS image, after entries made here,
//! such as the [`PackSpec`] for the guest agent. An untrusted archive is never unpacked on the
//! host: its device nodes and links are only entries of an image.

use std::fmt;
use std::path::Path;
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
mod context;
mod debian;
mod definition;
mod profiles;
mod rootfs;
mod squashfs;
mod zygote;

pub use archive::{ArchiveError, ROOT_BYTES_MAX, ROOT_ENTRIES_MAX};
pub use context::{ContextDefinition, SHELL_CONTEXT};
pub use definition::{DefinitionError, PackDefinition};
pub use profiles::Profiles;
pub use rootfs::{RootPack, run_words};
pub use zygote::ZygoteDefinition;

use archive::Prelude;
use debian::Distribution;
use squashfs::{Event, RootStream};

/// Compression of a pack's root image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Smallest image.
    #[default]
    Zstd,
    /// Larger image, faster to read.
    Lz4,
    /// Largest image, fastest to read.
    None,
}

/// The text is not a compression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown compression `{0}`; use zstd, lz4 or none")]
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

/// Options for building a pack.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackOptions {
    /// Whether to build even if the pack is up to date.
    pub force: bool,
    /// Compression of the root image.
    pub compression: Compression,
    /// Release of the distribution, such as `bookworm`; by default the host's.
    pub suite: Option<String>,
    /// Package sources: URLs or lines of sources.list; by default the distribution's own mirrors.
    pub mirrors: Vec<String>,
}

/// Builds a pack from the distribution's packages, unless it exists and was made from the same
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
    let mut own_files = vec![
        ("etc/hostname".to_owned(), &b"emberd\n"[..]),
        ("etc/hosts".to_owned(), HOSTS),
        ("etc/resolv.conf".to_owned(), b""),
    ];
    own_files.extend(pack.programs());
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
        warm_up: pack.warm_up.as_deref(),
        own_files: &own_files,
        newest: debian::EPOCH,
        stage: "installing packages",
    };
    build.run(
        data_dir,
        options,
        &|scratch, events| distribution.root(pack, scratch, events),
        progress,
    )
}

/// Builds a pack from a root file system, unless it exists and was made from the same one.
///
/// # Errors
/// [`BuildError`]; [`BuildError::Root`] for an archive that is damaged or over a limit, and
/// [`BuildError::Tool`] for one that the squashfs tool refuses, such as one with `..` in a name.
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
        warm_up: None,
        own_files: &[],
        newest: surveyed.newest,
        stage: "packing the root file system",
    };
    build.run(data_dir, options, &|_scratch, events| pack.stream(events), progress)
}

fn spec_json(spec: &PackSpec) -> Vec<u8> {
    serde_json::to_vec(spec).expect("string keys only")
}

const HOSTS: &[u8] = b"127.0.0.1 localhost emberd\n::1 localhost ip6-localhost ip6-loopback\n";

/// Directories that the agent mounts on, which an archive may not have.
const MOUNT_POINTS: [&str; 3] = ["dev", "proc", "sys"];

/// A pack that is about to be built.
struct PackBuild<'a> {
    name: &'a PackName,
    description: &'a str,
    source: String,
    /// Everything that determines the pack's bytes, except its compression.
    inputs: Digest,
    spec: PackSpec,
    warm_up: Option<&'a str>,
    /// Files that replace those of the root file system, without their leading slash.
    own_files: &'a [(String, &'a [u8])],
    /// Newest time in the image, in seconds since the Unix epoch.
    newest: u32,
    stage: &'a str,
}

/// Starts to read or create the root file system; the path is that of a scratch directory.
type OpenRoot<'a> = dyn Fn(&Path, mpsc::Sender<Event>) -> Result<RootStream, BuildError> + 'a;

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
        // The last part is what a manifest holds since packs have profiles.
        let parts = [self.inputs.as_bytes(), compression_name.as_bytes(), b"profiles"];
        let key = Digest::of_parts(&parts);
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
        let root = open_root(scratch.path(), sender.clone())?;
        let prelude = self.prelude();
        let events = (sender, receiver);
        squashfs::write(&image, prelude, root, compression, self.newest, events, progress)?;
        progress.stage("reading the package managers' configuration");
        let profiles = profiles::of_image(&image, &self.spec.env)?;
        progress.stage("storing the image");
        let manifest = PackManifest {
            key,
            name: self.name.clone(),
            description: self.description.to_owned(),
            source: self.source,
            compression,
            spec: self.spec,
            warm_up: self.warm_up.map(str::to_owned),
            profiles,
            rootfs: store.publish(&image, BlobKind::Squashfs)?,
        };
        store.write_manifest(&path, &manifest)?;
        Ok(Build { installed: manifest.installed(data_dir), outcome: Outcome::Built })
    }

    /// Returns the entries that precede, and so replace, those of the root file system.
    fn prelude(&self) -> Vec<u8> {
        let mut prelude = Prelude::default();
        for directory in MOUNT_POINTS.iter().chain(&["etc", "etc/emberd"]) {
            prelude.directory(directory, self.newest);
        }
        let spec = spec_json(&self.spec);
        prelude.file(PACK_FILE.trim_start_matches('/'), &spec, self.newest);
        if self.own_files.iter().any(|(path, _)| path.starts_with(zygote::PROGRAM_DIR)) {
            for directory in ["usr", "usr/lib", zygote::PROGRAM_DIR] {
                prelude.directory(directory, self.newest);
            }
        }
        for (path, content) in self.own_files {
            prelude.file(path, content, self.newest);
        }
        prelude.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_zygotes_program_is_put_in_front_with_its_directories() {
        let pack = PackDefinition::built_in(&"python".parse().unwrap()).unwrap();
        let zygote = pack.zygote.as_ref().unwrap();
        let build = PackBuild {
            name: &pack.name,
            description: "",
            source: String::new(),
            inputs: Digest::of(b""),
            spec: pack.spec(),
            warm_up: None,
            own_files: &[(zygote.installed(), b"the program")],
            newest: 0,
            stage: "",
        };
        let prelude = build.prelude();
        let at = |text: &str| {
            let found = prelude.windows(text.len()).position(|window| window == text.as_bytes());
            found.unwrap_or_else(|| panic!("no {text}"))
        };
        assert!(at("usr/lib/emberd\0") < at("usr/lib/emberd/zygote.py\0"));
        assert!(at("usr/lib/emberd/zygote.py\0") < at("the program"));
        let run = r#"["/usr/bin/python3","-P","-X","emberd","/usr/lib/emberd/zygote.py","#;
        assert!(at(&format!(r#""zygote":{{"run":{run}"#)) > 0);
    }
}
