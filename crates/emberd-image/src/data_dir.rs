//! The data directory of artifacts, and its layout:
//!
//! ```text
//! kernel.json  initramfs.json  packs/<name>.json     manifests, replaced whole
//! blobs/sha256-<hex>.<kind>                          artifacts, mode 0444, named by manifests
//! known.json                                         blobs that were checked, and when
//! tmp/                                               builds under way
//! lock                                               held while something is built
//! qemu.json                                          not of this crate: the daemon, about QEMU
//! firecracker/  downloads/                           not of this crate: `emberctl setup`
//! ```

use std::env;
use std::path::{Path, PathBuf};

use crate::name::PackName;

/// The data directory of root.
const SYSTEM_DIR: &str = "/var/lib/emberd";

/// The directory of everything that guests boot from. Creating this value does not access the
/// disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataDir(PathBuf);

impl DataDir {
    /// Returns the data directory at `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Returns `/var/lib/emberd` for root, else `$XDG_DATA_HOME/emberd` or
    /// `~/.local/share/emberd`; `None` for a user without a home directory.
    pub fn default_path() -> Option<Self> {
        let absolute =
            |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        choose(
            rustix::process::geteuid().is_root(),
            absolute("XDG_DATA_HOME").as_deref(),
            absolute("HOME").as_deref(),
        )
    }

    /// Returns the path of the directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn kernel_manifest(&self) -> PathBuf {
        self.0.join("kernel.json")
    }

    pub(crate) fn initramfs_manifest(&self) -> PathBuf {
        self.0.join("initramfs.json")
    }

    pub(crate) fn packs(&self) -> PathBuf {
        self.0.join("packs")
    }

    pub(crate) fn pack_manifest(&self, name: &PackName) -> PathBuf {
        self.packs().join(format!("{name}.json"))
    }

    pub(crate) fn blobs(&self) -> PathBuf {
        self.0.join("blobs")
    }

    pub(crate) fn known(&self) -> PathBuf {
        self.0.join("known.json")
    }

    pub(crate) fn scratch(&self) -> PathBuf {
        self.0.join("tmp")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.0.join("lock")
    }
}

fn choose(root: bool, data_home: Option<&Path>, home: Option<&Path>) -> Option<DataDir> {
    if root {
        return Some(DataDir::new(SYSTEM_DIR));
    }
    let data_home = data_home.map(Path::to_owned);
    let parent = data_home.or_else(|| home.map(|home| home.join(".local/share")))?;
    Some(DataDir::new(parent.join("emberd")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_follows_the_user() {
        let (data_home, home) = (Some(Path::new("/d")), Some(Path::new("/h")));
        let path = |root, data_home, home| choose(root, data_home, home).map(|dir| dir.0);
        assert_eq!(path(true, data_home, home), Some(PathBuf::from("/var/lib/emberd")));
        assert_eq!(path(false, data_home, home), Some(PathBuf::from("/d/emberd")));
        assert_eq!(path(false, None, home), Some(PathBuf::from("/h/.local/share/emberd")));
        assert_eq!(path(false, None, None), None);
    }
}
