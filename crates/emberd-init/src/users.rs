//! Users of the guest, as `/etc/passwd` and `/etc/group` name them.
//!
//! The agent is a static program: it reads the two files itself, and asks nobody else who
//! might know users. Whoever is root in the guest may write them, so they are bounded.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// Largest file of users or groups that is read, in bytes (1 MiB).
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Most supplementary groups a program is given: what the kernel took before Linux 2.6.4,
/// and more than anybody has.
const GROUPS_MAX: usize = 32;

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// Why a program cannot run as somebody.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// There is nobody of that name.
    #[error(
        "this guest has no user `{0}`: name one of its /etc/passwd, or add it with `useradd {0}`"
    )]
    Unknown(String),
    /// One of the files cannot be read.
    #[error("cannot read {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
}

/// Somebody a program can run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Their name.
    pub name: String,
    /// Their number.
    pub uid: u32,
    /// Their own group.
    pub gid: u32,
    /// All groups they are in, their own first.
    pub groups: Vec<u32>,
    /// Their home.
    pub home: PathBuf,
}

/// Looks up the user `name`.
///
/// # Errors
/// [`UserError`].
pub fn find(name: &str) -> Result<User, UserError> {
    let passwd = read(Path::new(PASSWD))?;
    let unknown = || UserError::Unknown(name.to_owned());
    let mut user = entry(&passwd, name).ok_or_else(unknown)?;
    // A guest without groups has users all the same.
    let group = read(Path::new(GROUP)).unwrap_or_default();
    user.groups.extend(memberships(&group, name, user.gid).take(GROUPS_MAX - 1));
    Ok(user)
}

fn read(path: &Path) -> Result<String, UserError> {
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut text))
        .map_err(|source| UserError::Read(path.to_owned(), source))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The line of `name`: `name:password:uid:gid:comment:home:shell` (passwd(5)).
fn entry(passwd: &str, name: &str) -> Option<User> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != name {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = match fields.nth(1)? {
            "" => "/",
            home => home,
        };
        Some(User { name: name.to_owned(), uid, gid, groups: vec![gid], home: home.into() })
    })
}

/// Groups that list `name`, but for `own`: `group:password:gid:member,member` (group(5)).
fn memberships(group: &str, name: &str, own: u32) -> impl Iterator<Item = u32> {
    group.lines().filter_map(move |line| {
        let mut fields = line.split(':');
        let gid = fields.nth(2)?.parse().ok()?;
        let listed = fields.next()?.split(',').any(|member| member == name);
        (listed && gid != own).then_some(gid)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = "root:x:0:0:root:/root:/bin/sh\nbad:x:-1:0::/:\nshort:x\n\
                         user:x:1000:100:A User,,,:/home/user:/bin/sh\nbare:x:5:6::\n";

    #[test]
    fn users_are_found_by_their_whole_name() {
        let user = entry(LINES, "user").unwrap();
        assert_eq!((user.uid, user.gid, user.groups.as_slice()), (1000, 100, &[100][..]));
        assert_eq!(user.home, Path::new("/home/user"));
        assert_eq!(entry(LINES, "bare").unwrap().home, Path::new("/"));
        for name in ["use", "users", "bad", "short", "", "x"] {
            assert_eq!(entry(LINES, name), None, "{name}");
        }
    }

    #[test]
    fn groups_are_those_that_list_the_user() {
        let group = "root:x:0:\naudio:x:29:user,other\nusers:x:100:user\nwheel:x:10:other,user\n\
                     broken:x:y:user\nshort:x:1\n";
        assert_eq!(memberships(group, "user", 100).collect::<Vec<_>>(), [29, 10]);
        assert_eq!(memberships(group, "use", 100).count(), 0);
    }

    #[test]
    fn everybody_knows_root_and_nobody_knows_no_one() {
        assert_eq!(find("root").unwrap().uid, 0);
        let error = find("no-such-user").unwrap_err();
        assert!(matches!(error, UserError::Unknown(_)), "{error}");
    }
}
