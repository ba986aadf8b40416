//! Users of the guest, from `/etc/passwd` and `/etc/group`.
//!
//! The agent is a static program, so it reads the two files itself and supports no other user
//! database. Guest code that is root may write the files, so their size is limited.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// Maximum size of a file of users or groups that is read, in bytes (1 MiB).
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Maximum number of supplementary groups of a program: the kernel's limit before Linux 2.6.4.
const GROUPS_MAX: usize = 32;

/// Shell of a user whose line has none (passwd(5)).
const SHELL_FALLBACK: &str = "/bin/sh";

/// Home directory of root.
pub const ROOT_HOME: &str = "/root";

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// Why a program cannot run as a user.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// There is no user of that name.
    #[error(
        "this guest has no user `{0}`; use one from its /etc/passwd, or add it with `useradd {0}`"
    )]
    Unknown(String),
    /// A file cannot be read.
    #[error("cannot read {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
}

/// A user that a program can run as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// All group ids, the primary one first.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home: PathBuf,
    /// Login shell.
    pub shell: String,
}

/// Looks up the user `name`. A number is also accepted if no user has it.
///
/// # Errors
/// [`UserError`].
pub fn find(name: &str) -> Result<User, UserError> {
    let passwd = read(Path::new(PASSWD))?;
    let user = entry(&passwd, |fields| fields[0] == name).or_else(|| numbered(&passwd, name));
    let mut user = user.ok_or_else(|| UserError::Unknown(name.to_owned()))?;
    // A guest without a group file still has users.
    let group = read(Path::new(GROUP)).unwrap_or_default();
    user.groups.extend(memberships(&group, &user.name, user.gid).take(GROUPS_MAX - 1));
    Ok(user)
}

/// Returns root's shell, or [`SHELL_FALLBACK`] if it is unknown.
pub fn shell_of_root() -> String {
    find("root").map_or_else(|_| SHELL_FALLBACK.to_owned(), |root| root.shell)
}

/// Returns the user with the number `name`. A number without a line has root's group and the home
/// directory `/`, as in container engines.
fn numbered(passwd: &str, name: &str) -> Option<User> {
    // The highest number does not stand for a user (chown(2)).
    let uid: u32 = name.parse().ok().filter(|uid| *uid != u32::MAX)?;
    let nobodys = || User {
        name: uid.to_string(),
        uid,
        gid: 0,
        groups: vec![0],
        home: "/".into(),
        shell: SHELL_FALLBACK.to_owned(),
    };
    Some(entry(passwd, |fields| fields[2].parse() == Ok(uid)).unwrap_or_else(nobodys))
}

fn read(path: &Path) -> Result<String, UserError> {
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut text))
        .map_err(|source| UserError::Read(path.to_owned(), source))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Returns the first line that is `wanted`: `name:password:uid:gid:comment:home:shell`
/// (passwd(5)).
fn entry(passwd: &str, wanted: impl Fn(&[&str; 7]) -> bool) -> Option<User> {
    let or =
        |text: &str, otherwise: &str| if text.is_empty() { otherwise } else { text }.to_owned();
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let fields = [(); 7].map(|()| fields.next());
        let [Some(_), Some(_), Some(_), Some(_), Some(_), Some(_), shell] = fields else {
            return None;
        };
        let fields = fields.map(Option::unwrap_or_default);
        if !wanted(&fields) {
            return None;
        }
        let gid = fields[3].parse().ok()?;
        Some(User {
            name: fields[0].to_owned(),
            uid: fields[2].parse().ok()?,
            gid,
            groups: vec![gid],
            home: or(fields[5], "/").into(),
            shell: or(shell.unwrap_or_default(), SHELL_FALLBACK),
        })
    })
}

/// Returns the groups that list `name`, except `own`: `group:password:gid:member,member`
/// (group(5)).
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
                         user:x:1000:100:A User,,,:/home/user:/bin/ash\nbare:x:5:6::\n";

    #[test]
    fn users_are_found_by_their_whole_name() {
        let entry = |name: &str| super::entry(LINES, |fields| fields[0] == name);
        let user = entry("user").unwrap();
        assert_eq!((user.uid, user.gid, user.groups.as_slice()), (1000, 100, &[100][..]));
        assert_eq!((user.home.as_path(), user.shell.as_str()), ("/home/user".as_ref(), "/bin/ash"));
        let bare = entry("bare").unwrap();
        assert_eq!((bare.home.as_path(), bare.shell.as_str()), ("/".as_ref(), SHELL_FALLBACK));
        for name in ["use", "users", "bad", "short", "", "x"] {
            assert_eq!(entry(name), None, "{name}");
        }
    }

    #[test]
    fn numbers_are_users_with_and_without_a_line() {
        let user = numbered(LINES, "1000").unwrap();
        assert_eq!((user.name.as_str(), user.gid), ("user", 100));
        let nobodys = numbered(LINES, "4321").unwrap();
        assert_eq!((nobodys.name.as_str(), nobodys.uid, nobodys.gid), ("4321", 4321, 0));
        assert_eq!((nobodys.home.as_path(), nobodys.groups), ("/".as_ref(), vec![0]));
        for name in ["-1", "4294967295", "4294967296", "12x", "", "0x1"] {
            assert_eq!(numbered(LINES, name), None, "{name}");
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
