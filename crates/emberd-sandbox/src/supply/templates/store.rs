//! The directory of templates, which several daemons may share.
//!
//! Each daemon holds a shared lock on the directory. A daemon that gets an exclusive lock at its
//! start is alone, and removes unusable templates: those that are outdated, unfinished or
//! unreadable. Other daemons remove only templates that they know to be broken.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use emberd_image::PackName;
use emberd_vmm::{Template, TemplateError, TemplateKey, UNFINISHED_SUFFIX};

use crate::shape::{Shape, Size};
use crate::supply::run_dir::is_own;

/// Digits of its key's digest in a template's name: enough to tell any two apart.
const DIGEST_DIGITS: usize = 16;

/// Bytes of a block, as `stat` counts them (stat(2)).
const BLOCK_BYTES: u64 = 512;

/// A directory of templates, locked against clean-up while this value lives.
#[derive(Debug)]
pub(crate) struct Store {
    dir: PathBuf,
    _lock: File,
}

impl Store {
    /// Creates `dir` (mode 0700) where it does not exist, and locks it. Where no other daemon
    /// uses it, removes every template that `is_current` does not accept, or that is broken.
    /// Returns the shapes of those accepted. Blocks while another daemon does so.
    pub fn open(
        dir: &Path,
        is_current: impl Fn(&Shape, &TemplateKey) -> bool,
    ) -> io::Result<(Self, Vec<Shape>)> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        if !is_own(dir)? {
            // A user who can write here can put code into every sandbox.
            let reason = "not a directory that only this user can write to";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
        }
        let alone = File::open(dir)?;
        match alone.try_lock() {
            Ok(()) => remove_useless(dir, &is_current)?,
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
        drop(alone);
        let lock = File::open(dir)?;
        lock.lock_shared()?;
        let names = fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name()));
        let names = names.collect::<io::Result<Vec<_>>>()?;
        let shapes = names.iter().filter_map(|name| current(dir, name.to_str()?, &is_current).ok());
        let shapes = shapes.collect();
        Ok((Self { dir: dir.to_owned(), _lock: lock }, shapes))
    }

    /// Returns the path of the template of `pack` with `key`.
    pub fn path(&self, pack: &PackName, key: &TemplateKey) -> PathBuf {
        self.dir.join(name(pack, key))
    }
}

/// Removes the template at `path`, if it exists. No reader sees a partial template.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    /// Distinguishes the templates that one process renames for removal.
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{}-{number}{UNFINISHED_SUFFIX}", std::process::id()));
    match fs::rename(path, &aside) {
        Ok(()) => fs::remove_dir_all(&aside),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Name of the template of `pack` with `key`.
pub(crate) fn name(pack: &PackName, key: &TemplateKey) -> String {
    format!("{pack}-{}", &key.digest()[..DIGEST_DIGITS])
}

/// Opens the template at `path`, holds it against `key`, and reads it whole.
pub(crate) fn open_verified(path: &Path, key: &TemplateKey) -> Result<Template, TemplateError> {
    let template = Template::open(path)?;
    template.check(key)?;
    template.verify()?;
    Ok(template)
}

/// Returns the bytes that the template's files take on disk, and when it was made; none if unknown.
pub(crate) fn size_and_age(template: &Template) -> (Option<u64>, Option<SystemTime>) {
    let files = [template.state(), template.memory()].into_iter().chain(template.disk_file());
    let blocks = files.map(|file| file.metadata().map(|metadata| metadata.blocks()));
    let bytes = blocks.sum::<io::Result<u64>>().map(|blocks| blocks * BLOCK_BYTES);
    let made_at = template.state().metadata().and_then(|metadata| metadata.modified());
    (bytes.ok(), made_at.ok())
}

/// Returns the shape of the template `file_name` in `dir` if it is of today, else why it is not.
fn current(
    dir: &Path,
    file_name: &str,
    is_current: impl Fn(&Shape, &TemplateKey) -> bool,
) -> Result<Shape, &'static str> {
    if file_name.ends_with(UNFINISHED_SUFFIX) {
        return Err("unfinished");
    }
    let template = Template::open(&dir.join(file_name)).map_err(|error| {
        tracing::debug!(error = &error as &dyn std::error::Error, file_name, "unreadable");
        "unreadable"
    })?;
    let key = template.key();
    let size = Size { vcpus: key.machine.vcpu_count, memory_mib: key.machine.mem_size_mib };
    let pack = file_name.rsplit_once('-').and_then(|(pack, _)| pack.parse().ok());
    let shape = pack.map(|pack| Shape { pack, size });
    shape
        .filter(|shape| is_current(shape, key) && name(&shape.pack, key) == file_name)
        .ok_or("made for other images or another host")
}

fn remove_useless(dir: &Path, is_current: impl Fn(&Shape, &TemplateKey) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| is_name(name)) else { continue };
        let Err(useless) = current(dir, name, &is_current) else { continue };
        fs::remove_dir_all(entry.path())?;
        tracing::info!(dir = %entry.path().display(), "removed a template: {useless}");
    }
    Ok(())
}

/// Whether `name` is that of a template, finished or not. Other entries are left alone.
fn is_name(name: &str) -> bool {
    let finished = name.split_once('.').map_or(name, |(finished, _)| finished);
    let Some((pack, digest)) = finished.rsplit_once('-') else { return false };
    let digits = digest.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    let dotted = finished.len() < name.len();
    pack.parse::<PackName>().is_ok()
        && digest.len() == DIGEST_DIGITS
        && digits
        && dotted == name.ends_with(UNFINISHED_SUFFIX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn only_what_templates_are_called_is_touched() {
        for name in [
            "python-0123456789abcdef",
            "my-pack-0123456789abcdef",
            "python-0123456789abcdef.17.unfinished",
            "python-0123456789abcdef.17-3.unfinished",
        ] {
            assert!(is_name(name), "{name}");
        }
        for name in [
            "python",
            "-0123456789abcdef",
            "python-0123456789abcde",
            "python-0123456789ABCDEF",
            "python-0123456789abcdef.bak",
            "notes.unfinished",
        ] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn who_is_alone_cleans_up_and_others_do_not() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("templates");
        let open = || Store::open(&dir, |_, _| true).unwrap();
        let first = open();
        let names = ["shell-0000000000000000", "shell-1111111111111111", "x", "README"];
        let unfinished = "shell-0000000000000000.1.unfinished";
        for name in names.iter().chain(&[unfinished]) {
            fs::create_dir(dir.join(name)).unwrap();
        }
        let second = open();
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 5);
        drop(first);
        open();
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 5);
        drop(second);
        open();
        let left = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name());
        let left: BTreeSet<_> = left.map(|name| name.into_string().unwrap()).collect();
        // The current one has no manifest, so it is not readable.
        assert_eq!(left, BTreeSet::from(["README".to_owned(), "x".to_owned()]));
    }

    #[test]
    fn removal_leaves_nothing_and_finds_nothing_amiss_the_second_time() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("shell-0000000000000000");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("memory"), "x").unwrap();
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 0);
    }

    #[test]
    fn directories_others_can_write_to_are_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let temp = tempfile::tempdir().unwrap();
        fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let refused = Store::open(temp.path(), |_, _| true).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    }
}
