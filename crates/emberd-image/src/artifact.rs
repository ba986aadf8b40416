//! Artifacts as blobs named by their SHA-256, and the small JSON manifests that refer to them.
//!
//! Readers need no lock: a blob never changes once it has its name, and a manifest is replaced by
//! a single rename.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use emberd_proto::PackSpec;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::data_dir::DataDir;
use crate::name::PackName;
use crate::pack::{Compression, Profiles};

/// Maximum size of a manifest that is read, in bytes (1 MiB).
const MANIFEST_BYTES_MAX: u64 = 1 << 20;

/// Version of the manifests and of the build process. It is part of every key, so artifacts of
/// another generation are rebuilt.
pub(crate) const GENERATION: u32 = 1;

/// A SHA-256 digest; its text form is hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

/// The text is not 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a SHA-256 digest of 64 hexadecimal digits")]
pub struct DigestError;

impl Digest {
    /// Returns the digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Returns the digest of the rest of `reader`, and its size in bytes.
    ///
    /// # Errors
    /// If `reader` fails.
    pub fn of_reader(mut reader: impl Read) -> io::Result<(Self, u64)> {
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        let mut size_bytes = 0;
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return Ok((Self(hasher.finalize().into()), size_bytes)),
                Ok(count) => {
                    hasher.update(&buffer[..count]);
                    size_bytes += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns the digest of a sequence of values. It depends on the values, their order and
    /// their boundaries.
    pub(crate) fn of_parts(parts: &[&[u8]]) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(GENERATION.to_le_bytes());
        for part in parts {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Self(hasher.finalize().into())
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        HEXLOWER.encode_display(&self.0).fmt(f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        // Other tools write capital digits.
        let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|_| DigestError)?;
        bytes.try_into().map(Self).map_err(|_| DigestError)
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// The type of a blob, which is the suffix of its file name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BlobKind {
    Vmlinux,
    Config,
    Ko,
    Cpio,
    Squashfs,
}

impl BlobKind {
    fn extension(self) -> &'static str {
        match self {
            Self::Vmlinux => "vmlinux",
            Self::Config => "config",
            Self::Ko => "ko",
            Self::Cpio => "cpio",
            Self::Squashfs => "squashfs",
        }
    }
}

/// A file in the blob directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Blob {
    pub kind: BlobKind,
    pub sha256: Digest,
    pub size_bytes: u64,
}

/// How a file differs from its manifest.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The file cannot be read.
    #[error("the file cannot be read")]
    Read(#[source] io::Error),
    /// The size is wrong.
    #[error("the file has {found} bytes instead of {expected}")]
    Size {
        /// The actual size, in bytes.
        found: u64,
        /// The expected size, in bytes.
        expected: u64,
    },
    /// The content is wrong.
    #[error("the SHA-256 is {0}")]
    Content(Digest),
    /// The manifest does not have the expected form.
    #[error("the manifest is not of this version")]
    Manifest(#[source] serde_json::Error),
}

impl Blob {
    pub fn file_name(&self) -> String {
        format!("sha256-{}.{}", self.sha256, self.kind.extension())
    }

    pub fn path(&self, data_dir: &DataDir) -> PathBuf {
        data_dir.blobs().join(self.file_name())
    }

    /// Reads the whole file and checks its size and digest.
    pub fn verify(&self, data_dir: &DataDir) -> Result<(), BlobError> {
        let file = File::open(self.path(data_dir)).map_err(BlobError::Read)?;
        let found = file.metadata().map_err(BlobError::Read)?.len();
        if found != self.size_bytes {
            return Err(BlobError::Size { found, expected: self.size_bytes });
        }
        let (sha256, _) = Digest::of_reader(file).map_err(BlobError::Read)?;
        if sha256 == self.sha256 { Ok(()) } else { Err(BlobError::Content(sha256)) }
    }
}

/// A JSON file that refers to blobs.
pub(crate) trait Manifest: Serialize + DeserializeOwned {
    /// Digest of all inputs of the artifact.
    fn key(&self) -> Digest;

    fn blobs(&self) -> Vec<&Blob>;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KernelManifest {
    pub key: Digest,
    /// Origin of the kernel, for people.
    pub source: String,
    pub release: String,
    pub hz: Option<u32>,
    pub vmlinux: Blob,
    pub config: Option<Blob>,
    /// Modules, in load order.
    pub modules: Vec<ModuleBlob>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ModuleBlob {
    pub name: String,
    pub blob: Blob,
}

impl Manifest for KernelManifest {
    fn key(&self) -> Digest {
        self.key
    }

    fn blobs(&self) -> Vec<&Blob> {
        let modules = self.modules.iter().map(|module| &module.blob);
        [&self.vmlinux].into_iter().chain(&self.config).chain(modules).collect()
    }
}

impl KernelManifest {
    /// Returns the digest of the modules and their order.
    pub fn modules_digest(&self) -> Digest {
        let digests: Vec<_> =
            self.modules.iter().map(|module| module.blob.sha256.as_bytes()).collect();
        Digest::of_parts(&digests)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InitramfsManifest {
    pub key: Digest,
    /// [`KernelManifest::modules_digest`] of the kernel that it was made for.
    pub modules: Digest,
    pub image: Blob,
}

impl Manifest for InitramfsManifest {
    fn key(&self) -> Digest {
        self.key
    }

    fn blobs(&self) -> Vec<&Blob> {
        vec![&self.image]
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PackManifest {
    pub key: Digest,
    pub name: PackName,
    pub description: String,
    /// Description of the inputs, for people.
    pub source: String,
    pub compression: Compression,
    pub spec: PackSpec,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm_up: Option<String>,
    /// Absent from manifests that were written before there were profiles.
    #[serde(default, skip_serializing_if = "Profiles::is_empty")]
    pub profiles: Profiles,
    pub rootfs: Blob,
}

impl Manifest for PackManifest {
    fn key(&self) -> Digest {
        self.key
    }

    fn blobs(&self) -> Vec<&Blob> {
        vec![&self.rootfs]
    }
}

/// Reads the manifest at `path`; `None` if it does not exist.
pub(crate) fn read_manifest<M: Manifest>(path: &Path) -> Result<Option<M>, BlobError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(BlobError::Read(error)),
    };
    let mut json = Vec::new();
    file.take(MANIFEST_BYTES_MAX).read_to_end(&mut json).map_err(BlobError::Read)?;
    serde_json::from_slice(&json).map(Some).map_err(BlobError::Manifest)
}

/// Returns the names of the packs that have a manifest, whether or not it can be read.
pub(crate) fn pack_names(data_dir: &DataDir) -> io::Result<Vec<PackName>> {
    let entries = match data_dir.packs().read_dir() {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        let file_name = entry?.file_name();
        let stem = file_name.to_str().and_then(|name| name.strip_suffix(".json"));
        names.extend(stem.and_then(|stem| stem.parse().ok()));
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_round_trip_and_hostile_ones_are_refused() {
        let digest = Digest::of(b"");
        assert!(digest.to_string().starts_with("e3b0c44298fc1c14"));
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!(digest.to_string().to_uppercase().parse(), Ok(digest));
        let bad = ["", "e3b0", &"g".repeat(64), &"+1".repeat(32), &"é".repeat(32)];
        for text in bad {
            assert_eq!(text.parse::<Digest>(), Err(DigestError), "{text}");
        }
    }

    #[test]
    fn the_cut_between_parts_counts() {
        assert_ne!(Digest::of_parts(&[b"ab", b"c"]), Digest::of_parts(&[b"a", b"bc"]));
        assert_ne!(Digest::of_parts(&[b"a"]), Digest::of_parts(&[b"a", b""]));
    }

    #[test]
    fn torn_manifest_is_damaged_at_every_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("initramfs.json");
        let blob = Blob { kind: BlobKind::Cpio, sha256: Digest::of(b"x"), size_bytes: 1 };
        let manifest =
            InitramfsManifest { key: Digest::of(b"k"), modules: Digest::of(b"m"), image: blob };
        let json = serde_json::to_vec(&manifest).unwrap();
        assert!(read_manifest::<InitramfsManifest>(&path).unwrap().is_none());
        for cut in 0..json.len() {
            std::fs::write(&path, &json[..cut]).unwrap();
            let read = read_manifest::<InitramfsManifest>(&path);
            assert!(matches!(read, Err(BlobError::Manifest(_))), "cut at {cut}");
        }
        std::fs::write(&path, &json).unwrap();
        assert_eq!(read_manifest(&path).unwrap(), Some(manifest));
    }

    #[test]
    fn blob_is_held_against_size_and_content() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = DataDir::new(dir.path());
        std::fs::create_dir(data_dir.blobs()).unwrap();
        let blob = Blob { kind: BlobKind::Ko, sha256: Digest::of(b"abc"), size_bytes: 3 };
        assert!(matches!(blob.verify(&data_dir), Err(BlobError::Read(_))));
        std::fs::write(blob.path(&data_dir), b"ab").unwrap();
        let size = blob.verify(&data_dir);
        assert!(matches!(size, Err(BlobError::Size { found: 2, expected: 3 })));
        std::fs::write(blob.path(&data_dir), b"abd").unwrap();
        assert!(matches!(blob.verify(&data_dir), Err(BlobError::Content(_))));
        std::fs::write(blob.path(&data_dir), b"abc").unwrap();
        blob.verify(&data_dir).unwrap();
    }
}
