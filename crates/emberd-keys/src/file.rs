//! The file of keys: JSON, for its owner's eyes only.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::record::KeyRecord;

/// Name of the file in the data directory.
pub const FILE_NAME: &str = "keys.json";

/// Most keys.
pub const KEYS_MAX: usize = 10_000;

/// Largest file that is read, in bytes (16 MiB): more than the most keys take, without long lists
/// among their limits.
pub(crate) const FILE_BYTES_MAX: u64 = 16 << 20;

/// Version of the file. One of another version is unreadable.
const VERSION: u32 = 1;

/// Content of the file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content<K> {
    version: u32,
    keys: K,
}

/// Why the keys cannot be read. None of them is guessed then.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file cannot be opened or read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something else than a file is at the path.
    #[error("{} is not a file", .0.display())]
    NotAFile(PathBuf),
    /// Others than the owner may read or write the file.
    #[error("{} has mode {mode:o}, not 600: others may have read or changed the keys", path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// The file belongs to a user who has no business with it.
    #[error("{} belongs to user {uid}, not to this user, root or the owner of the directory", path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        uid: u32,
    },
    /// The file is larger than any file of keys.
    #[error("{} has more than {FILE_BYTES_MAX} bytes", .0.display())]
    TooLarge(PathBuf),
    /// The content is torn, or of another program.
    #[error("{} is not a file of keys", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The fault.
        source: serde_json::Error,
    },
    /// Another version of emberd wrote the file.
    #[error("{} is of version {version}, not {VERSION}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// The file has too many keys, or two that are alike.
    #[error("{} has {what}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// The fault.
        what: String,
    },
}

impl KeysError {
    /// A remedy that the operator can try.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Mode { .. } => {
                "replace the keys if others may have them, then set the mode: chmod 600"
            }
            Self::Owner { .. } => "give the file to the user of the daemon: chown",
            Self::Read { .. } => "let the user of the daemon read the file",
            Self::Version { .. } => "use the emberctl and the emberd of one release",
            Self::NotAFile(_) | Self::TooLarge(_) | Self::Malformed { .. } | Self::Wrong { .. } => {
                "restore the file from a copy, or move it away and create new keys"
            }
        }
    }
}

/// Tells one content of the file from another without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
    bytes: u64,
    /// Modified and changed, in nanoseconds; the second notes a change of mode or owner.
    times: [(i64, i64); 2],
}

/// The file of keys in one data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeysFile {
    dir: PathBuf,
    path: PathBuf,
}

impl KeysFile {
    /// The file in the data directory `dir`.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), path: dir.join(FILE_NAME) }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory that it is in.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Which content is there now; none if there is no file, or it cannot be looked at.
    pub fn identity(&self) -> Option<Identity> {
        self.path.metadata().ok().map(|metadata| identity(&metadata))
    }

    /// Reads the keys; none if there is no file. Blocks.
    ///
    /// # Errors
    /// [`KeysError`].
    pub fn read(&self) -> Result<Option<Vec<KeyRecord>>, KeysError> {
        let failed = |source| KeysError::Read { path: self.path.clone(), source };
        // A pipe at the path would have an open wait.
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let opened = File::options().read(true).custom_flags(flags).open(&self.path);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        self.check(&file.metadata().map_err(failed)?)?;
        let mut text = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut text).map_err(failed)?;
        self.parse(&text).map(Some)
    }

    /// Checks whose file it is, and who may read it.
    fn check(&self, metadata: &std::fs::Metadata) -> Result<(), KeysError> {
        let path = || self.path.clone();
        if !metadata.is_file() {
            return Err(KeysError::NotAFile(path()));
        }
        let mode = metadata.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeysError::Mode { path: path(), mode });
        }
        let uid = metadata.uid();
        let of_dir = self.dir.metadata().map(|dir| dir.uid()).ok();
        let own = rustix::process::geteuid().as_raw();
        if ![Some(own), Some(0), of_dir].contains(&Some(uid)) {
            return Err(KeysError::Owner { path: path(), uid });
        }
        if metadata.len() >= FILE_BYTES_MAX {
            return Err(KeysError::TooLarge(path()));
        }
        Ok(())
    }

    fn parse(&self, text: &[u8]) -> Result<Vec<KeyRecord>, KeysError> {
        let path = || self.path.clone();
        let malformed = |source| KeysError::Malformed { path: path(), source };
        // The version first: another one has other keys.
        let Content { version, .. }: Content<serde::de::IgnoredAny> =
            serde_json::from_slice(text).map_err(malformed)?;
        if version != VERSION {
            return Err(KeysError::Version { path: path(), version });
        }
        let content: Content<Vec<KeyRecord>> = serde_json::from_slice(text).map_err(malformed)?;
        match problem(&content.keys) {
            None => Ok(content.keys),
            Some(what) => Err(KeysError::Wrong { path: path(), what }),
        }
    }
}

/// The file that holds `keys`.
pub(crate) fn text(keys: &[KeyRecord]) -> Vec<u8> {
    let content = Content { version: VERSION, keys };
    let mut text = serde_json::to_vec_pretty(&content).expect("it has string keys only");
    text.push(b'\n');
    text
}

/// The fault of `keys` together.
fn problem(keys: &[KeyRecord]) -> Option<String> {
    if keys.len() > KEYS_MAX {
        return Some(format!("{} keys, more than {KEYS_MAX}", keys.len()));
    }
    let (mut ids, mut names) = (std::collections::HashSet::new(), std::collections::HashSet::new());
    let twice = keys.iter().find(|key| !ids.insert(key.id) || !names.insert(&key.name));
    if let Some(twice) = twice {
        let KeyRecord { id, name, .. } = twice;
        return Some(format!("two keys with the id {id} or the name {name}"));
    }
    keys.iter().find_map(|key| {
        let fault = key.limits.check().err()?;
        Some(format!("a key {} of which {fault}", key.name))
    })
}

fn identity(metadata: &std::fs::Metadata) -> Identity {
    Identity {
        device: metadata.dev(),
        inode: metadata.ino(),
        bytes: metadata.len(),
        times: [
            (metadata.mtime(), metadata.mtime_nsec()),
            (metadata.ctime(), metadata.ctime_nsec()),
        ],
    }
}
