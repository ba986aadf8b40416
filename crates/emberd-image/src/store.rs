//! The data directory during a build, with one builder at a time.
//!
//! ```text
//! lock ─▶ clear tmp/ ─▶ build in tmp/ ─▶ publish blobs ─▶ replace manifest ─▶ unlock
//! ```
//!
//! A build that is killed leaves files only in `tmp/`, which the next one clears.

use std::collections::BTreeSet;
use std::fs::{self, File, Permissions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::artifact::{
    self, Blob, BlobKind, Digest, InitramfsManifest, KernelManifest, Manifest, PackManifest,
};
use crate::build::BuildError;
use crate::data_dir::DataDir;
use crate::load::{self, Artifact, LoadError};
use crate::progress::Progress;

/// A file or directory that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
pub struct StoreError {
    /// The file or directory.
    pub path: PathBuf,
    /// The cause.
    pub source: io::Error,
}

impl StoreError {
    /// Returns a function for `map_err`.
    pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> Self {
        |source| Self { path: path.to_owned(), source }
    }
}

/// The locked data directory.
pub(crate) struct Store<'a> {
    data_dir: &'a DataDir,
    /// Closing this file releases the lock, even if the process is killed.
    _lock: File,
}

impl<'a> Store<'a> {
    /// Creates the directory if it is missing, and waits for other builders.
    pub fn lock(data_dir: &'a DataDir, progress: &mut dyn Progress) -> Result<Self, StoreError> {
        for dir in [data_dir.packs(), data_dir.blobs(), data_dir.scratch()] {
            fs::create_dir_all(&dir).map_err(StoreError::at(&dir))?;
        }
        let path = data_dir.lock();
        let lock = File::options().create(true).write(true).truncate(false).open(&path);
        let lock = lock.map_err(StoreError::at(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                progress.stage("waiting for another build to finish");
                lock.lock().map_err(StoreError::at(&path))?;
            }
            Err(TryLockError::Error(error)) => return Err(StoreError::at(&path)(error)),
        }
        let store = Self { data_dir, _lock: lock };
        store.clear_scratch()?;
        Ok(store)
    }

    /// Removes files of killed builds.
    fn clear_scratch(&self) -> Result<(), StoreError> {
        let scratch = self.data_dir.scratch();
        let failed = StoreError::at;
        for entry in scratch.read_dir().map_err(failed(&scratch))? {
            let entry = entry.map_err(failed(&scratch))?;
            let path = entry.path();
            let is_dir = entry.file_type().map_err(failed(&path))?.is_dir();
            let removed = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.map_err(failed(&path))?;
        }
        Ok(())
    }

    pub fn data_dir(&self) -> &DataDir {
        self.data_dir
    }

    /// Returns a directory for intermediate files, on the file system of the blobs. Other users
    /// may enter it, because apt downloads as a separate user.
    pub fn scratch(&self) -> Result<TempDir, StoreError> {
        let scratch = self.data_dir.scratch();
        let readable = Permissions::from_mode(0o755);
        let made = tempfile::Builder::new().permissions(readable).tempdir_in(&scratch);
        made.map_err(StoreError::at(&scratch))
    }

    /// Returns the manifest at `path` if it was made from the inputs of `key` and all its blobs
    /// are intact.
    pub fn current<M: Manifest>(&self, path: &Path, key: Digest) -> Option<M> {
        let manifest: M = artifact::read_manifest(path).ok()??;
        let intact = manifest.blobs().iter().all(|blob| blob.verify(self.data_dir).is_ok());
        (manifest.key() == key && intact).then_some(manifest)
    }

    /// Moves a finished file of the scratch directory to the blobs.
    pub fn publish(&self, path: &Path, kind: BlobKind) -> Result<Blob, StoreError> {
        let file = File::open(path).map_err(StoreError::at(path))?;
        let (sha256, size_bytes) = Digest::of_reader(&file).map_err(StoreError::at(path))?;
        file.set_permissions(Permissions::from_mode(0o444)).map_err(StoreError::at(path))?;
        file.sync_all().map_err(StoreError::at(path))?;
        let blob = Blob { kind, sha256, size_bytes };
        replace(path, &blob.path(self.data_dir))?;
        Ok(blob)
    }

    /// Writes `content` to a blob.
    pub fn publish_bytes(&self, content: &[u8], kind: BlobKind) -> Result<Blob, StoreError> {
        let scratch = self.scratch()?;
        let path = scratch.path().join("blob");
        fs::write(&path, content).map_err(StoreError::at(&path))?;
        self.publish(&path, kind)
    }

    /// Replaces the manifest at `path`.
    pub fn write_manifest(&self, path: &Path, manifest: &impl Manifest) -> Result<(), StoreError> {
        let mut json = serde_json::to_vec_pretty(manifest).expect("manifests are plain data");
        json.push(b'\n');
        let scratch = self.scratch()?;
        let new = scratch.path().join("manifest");
        write_synced(&new, &json).map_err(StoreError::at(&new))?;
        replace(&new, path)
    }

    /// Removes every blob that no manifest refers to, and returns their number and size in bytes.
    ///
    /// # Errors
    /// Also if a manifest is damaged: its blobs are unknown then, so nothing is removed.
    pub fn prune(&self) -> Result<(usize, u64), BuildError> {
        let blobs = self.data_dir.blobs();
        let named = self.named_blobs()?;
        let (mut count, mut bytes) = (0, 0);
        for entry in blobs.read_dir().map_err(StoreError::at(&blobs))? {
            let entry = entry.map_err(StoreError::at(&blobs))?;
            if entry.file_name().to_str().is_some_and(|name| named.contains(name)) {
                continue;
            }
            let path = entry.path();
            bytes += entry.metadata().map_err(StoreError::at(&path))?.len();
            fs::remove_file(&path).map_err(StoreError::at(&path))?;
            count += 1;
        }
        Ok((count, bytes))
    }

    /// Returns the file names of all blobs that manifests refer to.
    fn named_blobs(&self) -> Result<BTreeSet<String>, LoadError> {
        let kernel = load::manifest::<KernelManifest>(self.data_dir, &Artifact::Kernel)?;
        let initramfs = load::manifest::<InitramfsManifest>(self.data_dir, &Artifact::Initramfs)?;
        let mut named = BTreeSet::new();
        let mut add = |blobs: Vec<&Blob>| named.extend(blobs.into_iter().map(Blob::file_name));
        add(kernel.iter().flat_map(Manifest::blobs).collect());
        add(initramfs.iter().flat_map(Manifest::blobs).collect());
        for name in load::pack_names(self.data_dir)? {
            let pack = load::manifest::<PackManifest>(self.data_dir, &Artifact::Pack(name))?;
            add(pack.iter().flat_map(Manifest::blobs).collect());
        }
        Ok(named)
    }
}

/// Renames durably, so that the rename survives a power failure.
pub(crate) fn replace(from: &Path, to: &Path) -> Result<(), StoreError> {
    let parent = to.parent().unwrap_or(Path::new("/"));
    fs::rename(from, to).and_then(|()| File::open(parent)?.sync_all()).map_err(StoreError::at(to))
}

/// Writes a whole file durably.
pub(crate) fn write_synced(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    fn store(data_dir: &DataDir) -> Store<'_> {
        Store::lock(data_dir, &mut Silent).unwrap()
    }

    fn initramfs(store: &Store<'_>, content: &[u8]) -> InitramfsManifest {
        let image = store.publish_bytes(content, BlobKind::Cpio).unwrap();
        let manifest =
            InitramfsManifest { key: Digest::of(content), modules: Digest::of(b""), image };
        let path = store.data_dir().initramfs_manifest();
        store.write_manifest(&path, &manifest).unwrap();
        manifest
    }

    #[test]
    fn blobs_are_read_only_and_named_by_content() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = DataDir::new(dir.path());
        let store = store(&data_dir);
        let blob = store.publish_bytes(b"abc", BlobKind::Ko).unwrap();
        let again = store.publish_bytes(b"abc", BlobKind::Ko).unwrap();
        assert_eq!(blob, again);
        assert!(blob.file_name().starts_with("sha256-ba7816bf8f01cfea"));
        let mode = fs::metadata(blob.path(&data_dir)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o444);
        assert_eq!(data_dir.scratch().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn current_means_same_inputs_and_intact() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = DataDir::new(dir.path());
        let store = store(&data_dir);
        let manifest = initramfs(&store, b"one");
        let path = data_dir.initramfs_manifest();
        let current = |key| store.current::<InitramfsManifest>(&path, key);
        assert_eq!(current(Digest::of(b"one")), Some(manifest.clone()));
        assert_eq!(current(Digest::of(b"two")), None);
        fs::remove_file(manifest.image.path(&data_dir)).unwrap();
        fs::write(manifest.image.path(&data_dir), b"onf").unwrap();
        assert_eq!(current(Digest::of(b"one")), None);
    }

    #[test]
    fn prune_keeps_what_a_manifest_names() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = DataDir::new(dir.path());
        let store = store(&data_dir);
        let old = initramfs(&store, b"old one");
        let new = initramfs(&store, b"new");
        assert_eq!(store.prune().unwrap(), (1, 7));
        assert!(!old.image.path(&data_dir).exists());
        new.image.verify(&data_dir).unwrap();
        assert_eq!(store.prune().unwrap(), (0, 0));
    }

    #[test]
    fn prune_keeps_everything_beside_a_damaged_manifest() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = DataDir::new(dir.path());
        let store = store(&data_dir);
        initramfs(&store, b"old");
        let new = initramfs(&store, b"new");
        fs::write(data_dir.kernel_manifest(), b"{").unwrap();
        assert!(matches!(store.prune(), Err(BuildError::Load(LoadError::Damaged { .. }))));
        new.image.verify(&data_dir).unwrap();
    }

    #[test]
    fn locking_clears_what_a_killed_build_left() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = DataDir::new(dir.path());
        let left = store(&data_dir).scratch().unwrap().keep();
        fs::write(left.join("half"), b"x").unwrap();
        drop(store(&data_dir));
        assert!(!left.exists());
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), b"").unwrap();
        let data_dir = DataDir::new(dir.path().join("file/data"));
        let error = Store::lock(&data_dir, &mut Silent).err().unwrap();
        assert!(error.to_string().contains("file/data"), "{error}");
    }
}
