//! Users of the guest, as its `/etc/passwd` has them.
//!
//! The agent is a static binary: no name service is asked, only the files.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::PathBuf;

/// Where users are.
const PASSWD: &str = "/etc/passwd";

/// Largest file of users that is read, in bytes (1 MiB).
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why there is no such user.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// There is nobody of that name.
    #[error("this guest has no user `{0}`: name one of its /etc/passwd")]
    Unknown(String),
    /// The file cannot be read.
    #[error("cannot read {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
}

/// One user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Their number.
    pub uid: u32,
    /// Their own group.
    pub gid: u32,
    /// Their home.
    pub home: PathBuf,
}

/// Looks up the user `name`.
///
/// # Errors
/// [`UserError`].
pub fn find(name: &str) -> Result<User, UserError> {
    let mut text = Vec::new();
    File::open(PASSWD)
        .and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut text))
        .map_err(|source| UserError::Read(PASSWD.into(), source))?;
    let unknown = || UserError::Unknown(name.to_owned());
    entry(&String::from_utf8_lossy(&text), name).ok_or_else(unknown)
}

/// The first line of `passwd` (passwd(5)) that is about `name`.
fn entry(passwd: &str, name: &str) -> Option<User> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) || name.is_empty() {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1)?.into();
        Some(User { uid, gid, home })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken:x\nu:x:1000:100:U,,:/home/u:/bin/sh\n";
        let user = User { uid: 1000, gid: 100, home: "/home/u".into() };
        assert_eq!(entry(passwd, "u"), Some(user));
        for nobody in ["", "broken", "U", "x"] {
            assert_eq!(entry(passwd, nobody), None, "{nobody}");
        }
        assert!(matches!(find("no such user"), Err(UserError::Unknown(_))));
    }
}
