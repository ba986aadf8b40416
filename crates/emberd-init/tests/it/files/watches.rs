//! Changes told as they happen.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use emberd_proto::file::ChangeKind::{
    self, Attributes, Created, Modified, Overflow, Removed, Renamed,
};
use emberd_proto::file::WATCHED_DIRS_MAX;
use emberd_proto::{FileOp, GuestMessage, RefusalCode};

use super::{ask, refused, write};
use crate::guest::{Guest, Host};

/// A connection on which changes of `path` will be told.
fn watch(guest: &Guest, path: &str, recursive: bool) -> Host {
    let mut host = guest.greet();
    ask(&mut host, FileOp::Watch { path: path.into(), recursive });
    assert_eq!(host.answer(), GuestMessage::Watching);
    host
}

/// The changes that come until `last` does, of paths below `dir`.
fn changes_until(
    host: &mut Host,
    dir: &Path,
    last: (ChangeKind, &str),
) -> Vec<(ChangeKind, String)> {
    let mut seen = Vec::new();
    loop {
        let GuestMessage::Changes { changes } = host.answer() else { panic!("expected changes") };
        for change in changes {
            let path = change.path.as_path().strip_prefix(dir).unwrap();
            seen.push((change.change, path.display().to_string()));
        }
        if seen.iter().any(|(kind, path)| (*kind, path.as_str()) == last) {
            return seen;
        }
    }
}

fn check(host: &mut Host, dir: &Path, expect: &[(ChangeKind, &str)]) {
    let seen = changes_until(host, dir, *expect.last().unwrap());
    let seen: Vec<_> = seen.iter().map(|(kind, path)| (*kind, path.as_str())).collect();
    assert_eq!(seen, expect);
}

#[test]
fn changes_of_a_directory() {
    let guest = Guest::shell();
    let dir = guest.dir().join("dir");
    fs::create_dir(&dir).unwrap();
    let mut host = watch(&guest, "dir", false);
    let mut file = fs::File::create(dir.join("a")).unwrap();
    check(&mut host, &dir, &[(Created, "a")]);
    file.write_all(b"x").unwrap();
    check(&mut host, &dir, &[(Modified, "a")]);
    fs::set_permissions(dir.join("a"), Permissions::from_mode(0o600)).unwrap();
    check(&mut host, &dir, &[(Attributes, "a")]);
    fs::rename(dir.join("a"), dir.join("b")).unwrap();
    check(&mut host, &dir, &[(Renamed, "a"), (Created, "b")]);
    drop(file);
    fs::remove_file(dir.join("b")).unwrap();
    check(&mut host, &dir, &[(Removed, "b")]);
    fs::create_dir(dir.join("sub")).unwrap();
    fs::write(dir.join("sub/unseen"), "").unwrap();
    fs::remove_dir_all(&dir).unwrap();
    let seen = changes_until(&mut host, &dir, (Removed, ""));
    assert!(seen.iter().all(|(_, path)| path != "sub/unseen"), "{seen:?}");
}

#[test]
fn upload_is_told_as_one_change() {
    let guest = Guest::shell();
    fs::create_dir(guest.dir().join("dir")).unwrap();
    let mut host = watch(&guest, "dir", false);
    write(&mut guest.greet(), Path::new("dir/file"), &vec![7; 500_000]);
    check(&mut host, &guest.dir().join("dir"), &[(Created, "file")]);
}

#[test]
fn file_is_watched_through_being_replaced() {
    let guest = Guest::shell();
    fs::write(guest.dir().join("file"), "").unwrap();
    let mut host = watch(&guest, "file", true);
    fs::write(guest.dir().join("other"), "").unwrap();
    fs::rename(guest.dir().join("other"), guest.dir().join("file")).unwrap();
    check(&mut host, guest.dir(), &[(Created, "file")]);
    OpenOptions::new()
        .append(true)
        .open(guest.dir().join("file"))
        .unwrap()
        .write_all(b"x")
        .unwrap();
    check(&mut host, guest.dir(), &[(Modified, "file")]);
    fs::remove_file(guest.dir().join("file")).unwrap();
    assert_eq!(changes_until(&mut host, guest.dir(), (Removed, "file")).last().unwrap().0, Removed);
}

#[test]
fn directories_made_later_are_watched_with_what_is_in_them() {
    let guest = Guest::shell();
    let dir = guest.dir().join("dir");
    fs::create_dir_all(dir.join("old/deep")).unwrap();
    fs::create_dir_all(guest.dir().join("filled/in")).unwrap();
    fs::write(guest.dir().join("filled/in/file"), "").unwrap();
    let mut host = watch(&guest, "dir", true);
    fs::write(dir.join("old/deep/file"), "").unwrap();
    check(&mut host, &dir, &[(Created, "old/deep/file")]);
    fs::rename(guest.dir().join("filled"), dir.join("new")).unwrap();
    check(&mut host, &dir, &[(Created, "new"), (Created, "new/in"), (Created, "new/in/file")]);
    fs::remove_file(dir.join("new/in/file")).unwrap();
    check(&mut host, &dir, &[(Removed, "new/in/file")]);
    // Moved on within the tree, it is told of under its new name alone.
    fs::rename(dir.join("new"), dir.join("newer")).unwrap();
    check(&mut host, &dir, &[(Renamed, "new"), (Created, "newer"), (Created, "newer/in")]);
    fs::write(dir.join("newer/in/again"), "").unwrap();
    check(&mut host, &dir, &[(Created, "newer/in/again")]);
    // Moved away, it is told of no more.
    fs::rename(dir.join("newer"), guest.dir().join("away")).unwrap();
    check(&mut host, &dir, &[(Renamed, "newer")]);
    fs::write(guest.dir().join("away/in/unseen"), "").unwrap();
    fs::write(dir.join("end"), "").unwrap();
    check(&mut host, &dir, &[(Created, "end")]);
}

#[test]
fn lost_changes_are_told() {
    let guest = Guest::shell();
    let dir = guest.dir().join("dir");
    fs::create_dir(&dir).unwrap();
    let queue = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let queue: usize = queue.trim().parse().unwrap();
    if !emberd_testing::needs(queue <= 100_000, format!("the kernel queues {queue} changes")) {
        return;
    }
    let mut host = watch(&guest, "dir", true);
    // The agent stands still while more happens than the kernel keeps for it.
    let agent = nix::unistd::Pid::from_raw(guest.pid().cast_signed());
    nix::sys::signal::kill(agent, nix::sys::signal::Signal::SIGSTOP).unwrap();
    for number in 0..=queue {
        fs::File::create(dir.join((number % 100).to_string())).unwrap();
        fs::remove_file(dir.join((number % 100).to_string())).unwrap();
    }
    fs::create_dir(dir.join("missed")).unwrap();
    nix::sys::signal::kill(agent, nix::sys::signal::Signal::SIGCONT).unwrap();
    changes_until(&mut host, &dir, (Overflow, ""));
    // What was made meanwhile is watched from then on.
    fs::write(dir.join("missed/file"), "").unwrap();
    changes_until(&mut host, &dir, (Created, "missed/file"));
}

#[test]
fn more_directories_than_one_watch_covers() {
    let guest = Guest::shell();
    let dir = guest.dir().join("dir");
    fs::create_dir(&dir).unwrap();
    for number in 1..WATCHED_DIRS_MAX {
        fs::create_dir(dir.join(number.to_string())).unwrap();
    }
    let mut host = watch(&guest, "dir", true);
    fs::create_dir(dir.join("one more")).unwrap();
    check(&mut host, &dir, &[(Created, "one more"), (Overflow, "one more")]);
    let again = FileOp::Watch { path: "dir".into(), recursive: true };
    assert_eq!(refused(&mut guest.greet(), again), RefusalCode::Invalid);
}

#[test]
fn refusals_and_the_end() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    let nowhere = FileOp::Watch { path: "nowhere".into(), recursive: false };
    assert_eq!(refused(&mut host, nowhere), RefusalCode::NotFound);
    let mut host = watch(&guest, ".", true);
    host.send(&emberd_proto::HostMessage::Ping);
    assert_eq!(host.frame(), None);
}
