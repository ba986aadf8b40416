//! A file with one secret: how a container or a service manager gives a daemon its key.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::limits::KeyLimits;
use crate::record::{KeyName, KeyRecord};
use crate::scope::Role;
use crate::secret::{Form, Presented};

/// Largest file that is read, in bytes. A secret is shorter.
const FILE_BYTES_MAX: u64 = 4096;

/// Name of the key.
const NAME: &str = "key-file";

/// Why a file gives no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file has something else.
    #[error("{} does not hold a key", .0.display())]
    NotAKey(PathBuf),
}

/// Reads the key in the file at `path`, which may do everything and never expires. White space
/// around the secret is left out.
///
/// # Errors
/// [`KeyFileError`].
///
/// # Panics
/// Never: its name is that of a key.
pub fn read_key_file(path: &Path) -> Result<KeyRecord, KeyFileError> {
    let mut content = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut content));
    read.map_err(|source| KeyFileError::Read { path: path.to_owned(), source })?;
    let secret = content.trim_ascii();
    let presented = Presented::parse(secret);
    let Presented { id, digest } =
        presented.ok_or_else(|| KeyFileError::NotAKey(path.to_owned()))?;
    let name: KeyName = NAME.parse().expect("letters and a dash are the name of a key");
    Ok(KeyRecord {
        id,
        name,
        form: if secret.starts_with(b"e2b_") { Form::E2b } else { Form::Emb },
        sha256: digest,
        role: Some(Role::Admin),
        scopes: Vec::new(),
        limits: KeyLimits::default(),
        created_at_ms: 0,
        rotated_at_ms: None,
        expires_at_ms: None,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const SECRET: &str = "emb_static00_0123456789abcdefghijABCDEFGHIJ01";

    #[test]
    fn a_file_with_one_secret_is_a_key_that_may_do_everything() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        for text in [SECRET.to_owned(), format!(" {SECRET}\n")] {
            fs::write(&path, text).unwrap();
            let record = read_key_file(&path).unwrap();
            assert_eq!((record.id.as_str(), record.role), ("static00", Some(Role::Admin)));
            assert_eq!(record.sha256, Presented::parse(SECRET.as_bytes()).unwrap().digest);
        }
    }

    #[test]
    fn anything_else_is_refused_and_not_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        for text in ["", "secret", &SECRET[..40], &format!("{SECRET}\n{SECRET}")] {
            fs::write(&path, text).unwrap();
            let error = read_key_file(&path).unwrap_err();
            assert_eq!(error.to_string(), format!("{} does not hold a key", path.display()));
        }
        fs::remove_file(&path).unwrap();
        assert!(matches!(read_key_file(&path), Err(KeyFileError::Read { .. })));
    }
}
