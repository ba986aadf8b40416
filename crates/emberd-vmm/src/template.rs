//! A template: a paused microVM on disk, from which any number can be started.
//!
//! ```text
//! <template>/  state          devices and registers, in the VMM's own format
//!              memory         guest memory, mapped privately by every clone
//!              disk           the guest's own disk, if it has one; every clone gets a copy
//!              manifest.json  what it was made with (the key, below), digests of the files
//! ```
//!
//! A template is published by rename and never changed afterwards: its memory is part of every
//! microVM started from it. A template whose key differs from the present one is not started.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::fs::{PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use data_encoding::HEXLOWER;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::OnceCell;

use crate::disk::Source;
use crate::sparse;

mod sealed;

use sealed::Sealed;

/// Name of the state file in a template.
pub(crate) const STATE_FILE: &str = "state";
/// Name of the memory file in a template.
pub(crate) const MEMORY_FILE: &str = "memory";
/// Name of the disk in a template.
pub(crate) const DISK_FILE: &str = "disk";
const MANIFEST_FILE: &str = "manifest.json";

/// Largest manifest that is read, in bytes (64 KiB).
const MANIFEST_BYTES_MAX: u64 = 64 << 10;

/// Everything that must be the same where a template is made and where it is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TemplateKey {
    /// Driver and VMM version, such as `firecracker 1.16.2`.
    pub vmm: String,
    /// Version of the VMM's snapshot format.
    pub snapshot_format: String,
    /// The processor: vendor, family, model, stepping, microcode.
    pub cpu: String,
    /// The host's kernel: release and build.
    pub host_kernel: String,
    /// Images that the guest was booted from.
    pub images: ImageHashes,
    /// The machine it was booted on.
    pub machine: MachineShape,
}

/// Hashes of the images that a guest is booted from, in the caller's form; only compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageHashes {
    /// Of the kernel.
    pub kernel: String,
    /// Of the initramfs.
    pub initramfs: String,
    /// Of the root image.
    pub rootfs: String,
    /// Of what was run in the guest to warm it up.
    pub warm_up: String,
}

/// The virtual machine a guest sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineShape {
    /// Virtual processors.
    pub vcpu_count: u8,
    /// Guest memory, in MiB.
    pub mem_size_mib: u32,
    /// Size of the guest's own disk, in MiB; 0 if it has none.
    #[serde(default)]
    pub disk_size_mib: u32,
    /// Kernel arguments beyond the driver's own.
    pub kernel_args: Vec<String>,
}

impl MachineShape {
    /// Guest memory in bytes.
    pub fn mem_bytes(&self) -> u64 {
        u64::from(self.mem_size_mib) << 20
    }
}

impl TemplateKey {
    /// SHA-256 of the whole key, in hexadecimal: a name for templates made with it.
    pub fn digest(&self) -> String {
        let json = serde_json::json!(self).to_string();
        HEXLOWER.encode(&Sha256::digest(json))
    }
}

/// The manifest of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Manifest {
    key: TemplateKey,
    /// Digest of the state file (see [`sparse::digest`]), in hexadecimal.
    state: String,
    /// Digest of the memory file.
    memory: String,
    /// Digest of the disk's file, if there is one.
    #[serde(default)]
    disk: Option<String>,
}

/// A published template.
#[derive(Debug, Clone)]
pub struct Template {
    dir: PathBuf,
    manifest: Manifest,
    /// Both files as VMMs get them that could write to the files themselves; made when one
    /// first is started, and shared by all clones of this value.
    sealed: Arc<OnceCell<SealedFiles>>,
}

/// Copies of a template's files.
#[derive(Debug)]
struct SealedFiles {
    state: Sealed,
    memory: Sealed,
}

impl SealedFiles {
    fn of(state: &Path, memory: &Path) -> io::Result<Self> {
        Ok(Self { state: Sealed::of(state)?, memory: Sealed::of(memory)? })
    }
}

impl PartialEq for Template {
    fn eq(&self, other: &Self) -> bool {
        self.dir == other.dir && self.manifest == other.manifest
    }
}

impl Eq for Template {}

impl Template {
    fn new(dir: PathBuf, manifest: Manifest) -> Self {
        Self { dir, manifest, sealed: Arc::default() }
    }

    /// Opens the template in `dir`.
    ///
    /// # Errors
    /// [`TemplateError::Read`] when there is none, [`TemplateError::Manifest`] when its
    /// manifest is damaged, [`TemplateError::Memory`] when its memory is cut short.
    pub fn open(dir: &Path) -> Result<Self, TemplateError> {
        let path = dir.join(MANIFEST_FILE);
        let unreadable = |source| TemplateError::Read { path: path.clone(), source };
        let manifest = File::open(&path).map_err(unreadable)?;
        let manifest = io::Read::take(manifest, MANIFEST_BYTES_MAX);
        let manifest = serde_json::from_reader(manifest)
            .map_err(|source| TemplateError::Manifest { path: path.clone(), source })?;
        let template = Self::new(dir.into(), manifest);
        template.check_memory()?;
        Ok(template)
    }

    /// Reads the files and compares them with their digests; afterwards they are in the page
    /// cache. Blocks until all are read.
    ///
    /// # Errors
    /// [`TemplateError::Read`], [`TemplateError::Damaged`].
    pub fn verify(&self) -> Result<(), TemplateError> {
        let Manifest { state, memory, disk, .. } = &self.manifest;
        let files = [(self.state(), state), (self.memory(), memory)];
        for (path, expected) in files.into_iter().chain(self.disk_file().zip(disk.as_ref())) {
            match digest(&path) {
                Err(source) => return Err(TemplateError::Read { path, source }),
                Ok(found) if found != *expected => return Err(TemplateError::Damaged { path }),
                Ok(_) => {}
            }
        }
        Ok(())
    }

    /// Returns the template's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns the key that the template was made with.
    pub fn key(&self) -> &TemplateKey {
        &self.manifest.key
    }

    /// The file of device state.
    pub fn state(&self) -> PathBuf {
        self.dir.join(STATE_FILE)
    }

    /// The file of guest memory.
    pub fn memory(&self) -> PathBuf {
        self.dir.join(MEMORY_FILE)
    }

    /// Returns sealed descriptors of the state and the guest's memory: neither they nor reopened
    /// ones allow writes. The first call copies both files into the host's memory, where they stay
    /// until the last clone of this value and the last VMM that holds them are gone.
    pub(crate) async fn sealed(&self) -> io::Result<[OwnedFd; 2]> {
        let seal = || async {
            let (state, memory) = (self.state(), self.memory());
            let seal = move || SealedFiles::of(&state, &memory);
            let sealed = tokio::task::spawn_blocking(seal).await;
            sealed.unwrap_or_else(|error| Err(error.into()))
        };
        let sealed = self.sealed.get_or_try_init(seal).await?;
        Ok([sealed.state.open()?, sealed.memory.descriptor()?])
    }

    /// The file of the guest's own disk, if it had one.
    pub fn disk_file(&self) -> Option<PathBuf> {
        self.manifest.disk.as_ref().map(|_| self.dir.join(DISK_FILE))
    }

    /// The origin of a clone's disk, which will be in `dir`, if the guest had one.
    pub(crate) fn disk(&self, dir: Option<&Path>) -> Option<Source> {
        Some(Source { image: self.disk_file()?, dir: dir?.into(), bytes: 0 })
    }

    /// Compares the template's key with the present one, `here`.
    ///
    /// # Errors
    /// [`TemplateError::Differs`] for the first difference, or as [`Template::open`] when the
    /// memory file was truncated: a guest that reads past its end would crash its VMM.
    pub fn check(&self, here: &TemplateKey) -> Result<(), TemplateError> {
        let made = &self.manifest.key;
        let machine = |key: &TemplateKey| format!("{:?}", key.machine);
        let aspects = [
            ("VMM", made.vmm.clone(), here.vmm.clone()),
            ("snapshot format", made.snapshot_format.clone(), here.snapshot_format.clone()),
            ("processor", made.cpu.clone(), here.cpu.clone()),
            ("host kernel", made.host_kernel.clone(), here.host_kernel.clone()),
            ("guest kernel", made.images.kernel.clone(), here.images.kernel.clone()),
            ("initramfs", made.images.initramfs.clone(), here.images.initramfs.clone()),
            ("root image", made.images.rootfs.clone(), here.images.rootfs.clone()),
            ("warm-up", made.images.warm_up.clone(), here.images.warm_up.clone()),
            ("machine", machine(made), machine(here)),
        ];
        match aspects.into_iter().find(|(_, made, here)| made != here) {
            Some((aspect, made, here)) => Err(TemplateError::Differs { aspect, made, here }),
            None => self.check_memory(),
        }
    }

    fn check_memory(&self) -> Result<(), TemplateError> {
        let path = self.memory();
        let expected = self.manifest.key.machine.mem_bytes();
        let metadata = path.metadata();
        let metadata =
            metadata.map_err(|source| TemplateError::Read { path: path.clone(), source })?;
        match metadata.len() {
            bytes if bytes < expected => Err(TemplateError::Memory { path, bytes, expected }),
            _ => Ok(()),
        }
    }
}

/// Why a template cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// A file of the template cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its manifest is damaged.
    #[error("{} is not a template manifest", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A file differs from the published one.
    #[error("{} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The template was made with another key.
    #[error("the template was made for {aspect} {made}, this host has {here}")]
    Differs {
        /// Name of the part that differs.
        aspect: &'static str,
        /// Value of the template.
        made: String,
        /// Present value.
        here: String,
    },
    /// Its memory is cut short.
    #[error("{} has {bytes} bytes instead of {expected}", path.display())]
    Memory {
        /// The memory file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The guest's memory.
        expected: u64,
    },
}

/// Suffix of the name of an unfinished template. After a crash the next daemon removes it.
pub const UNFINISHED_SUFFIX: &str = ".unfinished";

/// A template being made: a directory beside its final place, removed unless published.
#[derive(Debug)]
pub(crate) struct Draft {
    dir: PathBuf,
    into: PathBuf,
    published: bool,
}

impl Draft {
    /// Begins a template that will be published as `into`, which must not exist.
    pub(crate) fn begin(into: &Path) -> io::Result<Self> {
        if into.try_exists()? {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let mut name = into.file_name().unwrap_or_default().to_owned();
        // Another daemon may be making the same one.
        name.push(format!(".{}{UNFINISHED_SUFFIX}", std::process::id()));
        let dir = into.with_file_name(name);
        std::fs::DirBuilder::new().mode(0o700).create(&dir)?;
        Ok(Self { dir, into: into.into(), published: false })
    }

    /// Takes the file `made` as the template's `name`, read-only and the daemon's own.
    /// A compromised VMM may have made it: only a regular file without a second hard link is
    /// taken.
    pub(crate) fn take(&self, made: &Path, name: &str) -> io::Result<()> {
        let path = self.dir.join(name);
        let is_elsewhere = |error: &io::Error| error.kind() == io::ErrorKind::CrossesDevices;
        match std::fs::rename(made, &path) {
            Err(error) if is_elsewhere(&error) => {
                copy(made, &path)?;
                std::fs::remove_file(made)?;
            }
            outcome => outcome?,
        }
        let file = open_own(&path)?;
        fchown(
            &file,
            Some(rustix::process::geteuid().as_raw()),
            Some(rustix::process::getegid().as_raw()),
        )?;
        file.set_permissions(Permissions::from_mode(0o444))
    }

    /// Takes a copy of `disk` as the template's.
    pub(crate) fn copy_disk(&self, disk: &mut File) -> io::Result<()> {
        let path = self.dir.join(DISK_FILE);
        sparse::copy(disk, &mut File::create_new(&path)?)?;
        std::fs::set_permissions(path, Permissions::from_mode(0o444))
    }

    /// Takes a copy of the file `made` as the template's `name`, read-only.
    pub(crate) fn copy(&self, made: &Path, name: &str) -> io::Result<()> {
        let path = self.dir.join(name);
        copy(made, &path)?;
        std::fs::set_permissions(path, Permissions::from_mode(0o444))
    }

    /// Publishes the template with `key`. Reads its files whole.
    pub(crate) fn publish(mut self, key: TemplateKey) -> io::Result<Template> {
        let [state, memory] = [STATE_FILE, MEMORY_FILE].map(|name| digest(&self.dir.join(name)));
        let disk = match digest(&self.dir.join(DISK_FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            disk => Some(disk?),
        };
        let manifest = Manifest { key, state: state?, memory: memory?, disk };
        let json = serde_json::to_vec_pretty(&manifest)?;
        std::fs::write(self.dir.join(MANIFEST_FILE), json)?;
        std::fs::rename(&self.dir, &self.into)?;
        self.published = true;
        Ok(Template::new(self.into.clone(), manifest))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.published
            && let Err(error) = std::fs::remove_dir_all(&self.dir)
        {
            tracing::warn!(%error, dir = %self.dir.display(), "unfinished template not removed");
        }
    }
}

/// Digest of a file's data, in hexadecimal.
fn digest(path: &Path) -> io::Result<String> {
    Ok(HEXLOWER.encode(sparse::digest(&File::open(path)?)?.as_ref()))
}

/// Opens `path` if it is a regular file with this one name.
fn open_own(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).expect("open flags fit");
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() && metadata.nlink() == 1 {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file of its own"))
    }
}

/// Copies a file and leaves its holes.
fn copy(made: &Path, path: &Path) -> io::Result<()> {
    sparse::copy(&mut open_own(made)?, &mut File::create_new(path)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    fn key() -> TemplateKey {
        TemplateKey {
            vmm: "firecracker 1.16.2".into(),
            snapshot_format: "v10.0.0".into(),
            cpu: "GenuineIntel 6 85 7 0x5".into(),
            host_kernel: "6.1.0 #1".into(),
            images: ImageHashes {
                kernel: "k".into(),
                initramfs: "i".into(),
                rootfs: "r".into(),
                warm_up: "w".into(),
            },
            machine: MachineShape {
                vcpu_count: 1,
                mem_size_mib: 1,
                disk_size_mib: 0,
                kernel_args: Vec::new(),
            },
        }
    }

    fn publish(parent: &Path) -> Template {
        let draft = Draft::begin(&parent.join("t")).unwrap();
        for (name, bytes) in [(STATE_FILE, 10), (MEMORY_FILE, 1 << 20)] {
            let made = parent.join("made");
            File::create(&made).unwrap().set_len(bytes).unwrap();
            draft.take(&made, name).unwrap();
        }
        draft.publish(key()).unwrap()
    }

    #[test]
    fn a_published_template_opens_and_is_read_only() {
        let parent = tempfile::tempdir().unwrap();
        let template = publish(parent.path());
        assert_eq!(Template::open(&parent.path().join("t")).unwrap(), template);
        assert_eq!(template.memory().metadata().unwrap().mode() & 0o777, 0o444);
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 1);
        assert!(Draft::begin(&parent.path().join("t")).is_err(), "never replaced");
    }

    #[test]
    fn an_unfinished_template_leaves_nothing() {
        let parent = tempfile::tempdir().unwrap();
        drop(Draft::begin(&parent.path().join("t")).unwrap());
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn every_difference_is_refused_by_name() {
        type Edit = fn(&mut TemplateKey);
        let cases: [(Edit, &str); 9] = [
            (|key| key.vmm.push('x'), "VMM"),
            (|key| key.snapshot_format.push('x'), "snapshot format"),
            (|key| key.cpu.push('x'), "processor"),
            (|key| key.host_kernel.push('x'), "host kernel"),
            (|key| key.images.kernel.push('x'), "guest kernel"),
            (|key| key.images.initramfs.push('x'), "initramfs"),
            (|key| key.images.rootfs.push('x'), "root image"),
            (|key| key.images.warm_up.push('x'), "warm-up"),
            (|key| key.machine.kernel_args.push("x".into()), "machine"),
        ];
        let parent = tempfile::tempdir().unwrap();
        let template = publish(parent.path());
        template.check(&key()).unwrap();
        for (edit, expect) in cases {
            let mut here = key();
            edit(&mut here);
            let error = template.check(&here).unwrap_err();
            assert!(matches!(error, TemplateError::Differs { aspect, .. } if aspect == expect));
        }
    }

    #[test]
    fn damage_is_noticed() {
        let parent = tempfile::tempdir().unwrap();
        let template = publish(parent.path());
        template.verify().unwrap();
        std::fs::remove_file(template.memory()).unwrap();
        assert!(matches!(Template::open(template.dir()), Err(TemplateError::Read { .. })));
        std::fs::write(template.memory(), vec![1; 1 << 20]).unwrap();
        assert!(matches!(template.verify(), Err(TemplateError::Damaged { .. })));
        File::create(template.memory()).unwrap().set_len((1 << 20) - 1).unwrap();
        assert!(matches!(template.check(&key()), Err(TemplateError::Memory { .. })));
        std::fs::write(template.dir().join(MANIFEST_FILE), "{}").unwrap();
        assert!(matches!(Template::open(template.dir()), Err(TemplateError::Manifest { .. })));
    }

    #[test]
    fn a_copy_has_the_data_and_the_holes() {
        let parent = tempfile::tempdir().unwrap();
        let made = parent.path().join("made");
        let file = File::create(&made).unwrap();
        file.set_len(64 << 20).unwrap();
        for at in [0, 5 << 20, (64 << 20) - 3] {
            file.write_all_at(b"abc", at).unwrap();
        }
        let draft = Draft::begin(&parent.path().join("t")).unwrap();
        draft.copy(&made, MEMORY_FILE).unwrap();
        let copied = draft.dir.join(MEMORY_FILE);
        assert_eq!(digest(&copied).unwrap(), digest(&made).unwrap());
        assert!(copied.metadata().unwrap().blocks() <= file.metadata().unwrap().blocks() * 2);
        assert_eq!(copied.metadata().unwrap().mode() & 0o777, 0o444);
        draft.take(&copied, STATE_FILE).unwrap();
        File::create(&copied).unwrap();
        draft.copy(&copied, "empty").unwrap();
    }

    #[test]
    fn files_that_are_not_plain_are_not_taken() {
        let parent = tempfile::tempdir().unwrap();
        let draft = Draft::begin(&parent.path().join("t")).unwrap();
        let secret = parent.path().join("secret");
        std::fs::write(&secret, "x").unwrap();
        let link = parent.path().join("link");
        std::os::unix::fs::symlink(&secret, &link).unwrap();
        assert!(draft.take(&link, STATE_FILE).is_err());
        std::fs::hard_link(&secret, &link).unwrap();
        assert!(draft.take(&link, MEMORY_FILE).is_err());
        assert_eq!(secret.metadata().unwrap().mode() & 0o222, 0o200, "mode not touched");
    }
}
