//! Users of the guest, as its `/etc/passwd` has them.
//!
//! The agent is a static binary: no name service is asked, only the files.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// Where users are.
const PASSWD: &str = "/etc/passwd";

/// Most bytes of a file of names that are read (1 MiB).
const ACCOUNTS_BYTES_MAX: u64 = 1 << 20;

/// Why there is no such user.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// Nobody is called that.
    #[error("no such user `{0}`")]
    Unknown(String),
    /// The file of users cannot be read.
    #[error("cannot read {PASSWD}")]
    Read(#[source] io::Error),
}

/// One user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Number of the user.
    pub uid: u32,
    /// Number of the user's group.
    pub gid: u32,
    /// The user's home.
    pub home: PathBuf,
}

impl User {
    /// The user called `name`.
    ///
    /// # Errors
    /// [`UserError`].
    pub fn named(name: &str) -> Result<Self, UserError> {
        let text = read_accounts(Path::new(PASSWD)).map_err(UserError::Read)?;
        find(&text, name).ok_or_else(|| UserError::Unknown(name.to_owned()))
    }
}

/// Reads a file of users or groups, as far as its limit.
///
/// # Errors
/// When it cannot be read.
pub fn read_accounts(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(ACCOUNTS_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The first line of `passwd` (passwd(5)) that is about `name`.
fn find(passwd: &str, name: &str) -> Option<User> {
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
        assert_eq!(find(passwd, "u"), Some(user));
        for nobody in ["", "broken", "U", "x"] {
            assert_eq!(find(passwd, nobody), None, "{nobody}");
        }
        assert!(matches!(User::named("no such user"), Err(UserError::Unknown(_))));
    }
}
