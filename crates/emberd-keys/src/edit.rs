//! Changes of the file of keys: one writer at a time, and readers find the old file or the new one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::file::{self, FILE_BYTES_MAX, KEYS_MAX, KeysError, KeysFile};
use crate::limits::{KeyLimits, LimitError};
use crate::record::{KeyName, KeyRecord};
use crate::scope::{Role, Scope};
use crate::secret::{Form, Secret};

/// Name of the file whose lock a writer holds. It stays: a lock on a file that is replaced would
/// exclude nobody.
const LOCK: &str = "keys.json.lock";

/// Name of the file until it is whole.
const UNFINISHED: &str = "keys.json.new";

/// How long a writer waits for another, and between two attempts.
const LOCK_MAX: Duration = Duration::from_secs(10);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Longest life of a key that ends (ten years).
pub const KEY_TTL_MAX: Duration = Duration::from_secs(3_650 * 24 * 60 * 60);

/// A key to create.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// Its name.
    pub name: KeyName,
    /// How the secret is written.
    pub form: Form,
    /// Its role, if it has one.
    pub role: Option<Role>,
    /// Scopes beside those of the role.
    pub scopes: Vec<Scope>,
    /// The most that it may use.
    pub limits: KeyLimits,
    /// When it ends, from now on; never if absent. At most [`KEY_TTL_MAX`].
    pub ttl: Option<Duration>,
}

impl NewKey {
    /// A key of `role`, written as [`Form::Emb`], that has no more scopes, no limits and no end.
    pub fn of_role(name: KeyName, role: Role) -> Self {
        let (scopes, limits) = (Vec::new(), KeyLimits::default());
        Self { name, form: Form::Emb, role: Some(role), scopes, limits, ttl: None }
    }
}

/// Why the keys were not changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// The present keys cannot be read. They are left alone.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The file cannot be written. The old one is left.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another program holds the lock.
    #[error("another program has been changing the keys for {LOCK_MAX:?}")]
    Busy,
    /// The name belongs to another key.
    #[error("there is a key with the name {0} already")]
    NameTaken(KeyName),
    /// No key has that id or name.
    #[error("there is no key {0}")]
    NoSuchKey(String),
    /// There are as many keys as allowed.
    #[error("there are {KEYS_MAX} keys, as many as allowed")]
    TooMany,
    /// A key that permits nothing is of no use.
    #[error("the key has neither a role nor a scope")]
    Powerless,
    /// A limit cannot be one.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// The keys with their limits are more than is read.
    #[error("the keys have more than {FILE_BYTES_MAX} bytes together with their limits")]
    TooLarge,
    /// The key would live for too long, or not at all.
    #[error("a key lives for 1 second to {} days, or without an end", KEY_TTL_MAX.as_secs() / 86_400)]
    Ttl,
}

impl EditError {
    /// A remedy that the operator can try.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Keys(error) => error.hint(),
            Self::Write { .. } => "run emberctl as the user of the daemon, or as root",
            Self::Busy => "wait until it is done, or end it",
            Self::NameTaken(_) => "choose another name, or replace the secret: emberctl key rotate",
            Self::NoSuchKey(_) => "list the keys: emberctl key ls",
            Self::TooMany => "remove keys that are not needed: emberctl key rm",
            Self::Powerless => "give it --role or --scope",
            Self::TooLarge => "remove keys that are not needed, or shorten lists of limits",
            Self::Ttl | Self::Limit(_) => return None,
        })
    }
}

/// Returns the keys, oldest first; none if there is no file. Blocks.
///
/// # Errors
/// [`KeysError`].
pub fn list(file: &KeysFile) -> Result<Option<Vec<KeyRecord>>, KeysError> {
    file.read()
}

/// Creates a key; the secret is shown nowhere else. Blocks.
///
/// # Errors
/// [`EditError`].
pub fn create(file: &KeysFile, new: NewKey) -> Result<(KeyRecord, Secret), EditError> {
    if new.role.is_none() && new.scopes.is_empty() {
        return Err(EditError::Powerless);
    }
    new.limits.check()?;
    let created_at_ms = now_ms();
    let expires_at_ms = new.ttl.map(|ttl| expiry(created_at_ms, ttl)).transpose()?;
    edit(file, |keys| {
        if keys.len() >= KEYS_MAX {
            return Err(EditError::TooMany);
        }
        if keys.iter().any(|key| key.name == new.name) {
            return Err(EditError::NameTaken(new.name));
        }
        let (id, secret) = Secret::generate(new.form, |id| keys.iter().any(|key| key.id == id));
        let NewKey { name, form, role, scopes, limits, .. } = new;
        let sha256 = secret.digest();
        let rotated_at_ms = None;
        let record = KeyRecord {
            id,
            name,
            form,
            sha256,
            role,
            scopes,
            limits,
            created_at_ms,
            rotated_at_ms,
            expires_at_ms,
        };
        keys.push(record.clone());
        Ok((record, secret))
    })
}

/// Removes the keys with these ids or names: all of them, or none. Blocks.
///
/// # Errors
/// [`EditError`].
pub fn remove(file: &KeysFile, which: &[String]) -> Result<Vec<KeyRecord>, EditError> {
    edit(file, |keys| {
        let mut removed = Vec::new();
        for which in which {
            let at = find(keys, which)?;
            removed.push(keys.remove(at));
        }
        Ok(removed)
    })
}

/// Replaces the secret of the key with this id or name, and when it ends if `ttl` is given. The
/// old secret is worth nothing from then on; what belongs to the key goes on to. Blocks.
///
/// # Errors
/// [`EditError`].
pub fn rotate(
    file: &KeysFile,
    which: &str,
    ttl: Option<Duration>,
) -> Result<(KeyRecord, Secret), EditError> {
    let now_ms = now_ms();
    let expires_at_ms = ttl.map(|ttl| expiry(now_ms, ttl)).transpose()?;
    edit(file, |keys| {
        let at = find(keys, which)?;
        let key = &mut keys[at];
        let secret = Secret::of(key.form, key.id);
        key.sha256 = secret.digest();
        key.rotated_at_ms = Some(now_ms);
        key.expires_at_ms = expires_at_ms.or(key.expires_at_ms);
        Ok((key.clone(), secret))
    })
}

/// Changes the limits of the key with this id or name as `change` does. What the key has begun goes
/// on. Blocks.
///
/// # Errors
/// [`EditError`].
pub fn limit(
    file: &KeysFile,
    which: &str,
    change: impl FnOnce(&mut KeyLimits),
) -> Result<KeyRecord, EditError> {
    edit(file, |keys| {
        let at = find(keys, which)?;
        let key = &mut keys[at];
        change(&mut key.limits);
        key.limits.check()?;
        Ok(key.clone())
    })
}

fn find(keys: &[KeyRecord], which: &str) -> Result<usize, EditError> {
    let by_id = keys.iter().position(|key| key.id.as_str() == which);
    let by_name = || keys.iter().position(|key| key.name.as_str() == which);
    by_id.or_else(by_name).ok_or_else(|| EditError::NoSuchKey(which.to_owned()))
}

fn now_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}

fn expiry(now_ms: u64, ttl: Duration) -> Result<u64, EditError> {
    if !(Duration::from_secs(1)..=KEY_TTL_MAX).contains(&ttl) {
        return Err(EditError::Ttl);
    }
    Ok(now_ms.saturating_add(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)))
}

/// Changes the keys under the lock, and writes them if `change` succeeds.
fn edit<T>(
    file: &KeysFile,
    change: impl FnOnce(&mut Vec<KeyRecord>) -> Result<T, EditError>,
) -> Result<T, EditError> {
    let failed = |source| EditError::Write { path: file.path().to_owned(), source };
    fs::create_dir_all(file.dir()).map_err(failed)?;
    let _lock = lock(file)?;
    let mut keys = file.read()?.unwrap_or_default();
    let changed = change(&mut keys)?;
    let text = file::text(&keys);
    if text.len() as u64 >= FILE_BYTES_MAX {
        return Err(EditError::TooLarge);
    }
    write(file, &text).map_err(failed)?;
    Ok(changed)
}

/// Waits for the lock, which is held until the file is dropped.
fn lock(file: &KeysFile) -> Result<File, EditError> {
    let path = file.dir().join(LOCK);
    let failed = |source| EditError::Write { path: path.clone(), source };
    let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let lock = lock.map_err(failed)?;
    give_to_owner_of_dir(file, &lock).map_err(failed)?;
    let began = Instant::now();
    loop {
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(lock),
            Err(Errno::WOULDBLOCK | Errno::INTR) if began.elapsed() < LOCK_MAX => {
                std::thread::sleep(LOCK_PAUSE);
            }
            Err(Errno::WOULDBLOCK | Errno::INTR) => return Err(EditError::Busy),
            Err(error) => return Err(failed(error.into())),
        }
    }
}

/// Replaces the file: a crash at any moment leaves the old one or the new one.
fn write(file: &KeysFile, text: &[u8]) -> io::Result<()> {
    let unfinished = file.dir().join(UNFINISHED);
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    give_to_owner_of_dir(file, &new)?;
    new.write_all(text)?;
    new.sync_all()?;
    fs::rename(&unfinished, file.path())?;
    File::open(file.dir())?.sync_all()
}

/// Gives `new` to the owner of the directory, where root made it: the daemon may be another user.
fn give_to_owner_of_dir(file: &KeysFile, new: &File) -> io::Result<()> {
    let (dir, metadata) = (file.dir().metadata()?, new.metadata()?);
    if rustix::process::geteuid().is_root() && metadata.uid() != dir.uid() {
        fchown(new, Some(dir.uid()), Some(dir.gid()))?;
    }
    Ok(())
}
