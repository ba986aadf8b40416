//! Directories listed and made, and things moved and removed.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use emberd_proto::file::BATCH_MAX;
use emberd_proto::{FileEntry, FileOp, FileType, GuestMessage, GuestPath, RefusalCode};

use super::{ask, entry, names, refused};
use crate::guest::{Guest, Host};

/// Lists a directory; says whether it was cut.
fn list(host: &mut Host, path: &str, depth: u32) -> (Vec<FileEntry>, bool) {
    ask(host, FileOp::List { path: path.into(), depth });
    let (mut listed, mut was_cut) = (Vec::new(), false);
    loop {
        match host.answer() {
            GuestMessage::Listed { entries, cut } => {
                assert!(entries.len() <= BATCH_MAX && !was_cut);
                listed.extend(entries);
                was_cut = cut;
            }
            GuestMessage::Done => return (listed, was_cut),
            other => panic!("expected entries, got {other:?}"),
        }
    }
}

#[test]
fn what_things_are() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    let at = |name: &str| guest.dir().join(name);
    fs::write(at("file"), "12345").unwrap();
    symlink("file", at("link")).unwrap();
    symlink("nowhere", at("broken")).unwrap();
    let mut stat = |name: &str| entry(&mut host, FileOp::Stat { path: name.into() });
    let file = stat("file");
    assert_eq!((file.file_type, file.size), (FileType::File, 5));
    assert_eq!(file.path, GuestPath(at("file")));
    let modified = fs::metadata(at("file")).unwrap().modified().unwrap();
    let modified = modified.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    assert_eq!(i128::from(file.modified_ms), i128::try_from(modified).unwrap());
    let link = stat("link");
    assert_eq!((link.file_type, link.target_type), (FileType::Symlink, Some(FileType::File)));
    assert_eq!(link.target, Some("file".into()));
    assert_eq!(stat("broken").target_type, None);
    assert_eq!(stat(".").file_type, FileType::Directory);
    assert_eq!(stat("/dev/null").file_type, FileType::Other);
    assert_eq!(stat("/").owner.as_deref(), Some("root"));
}

#[test]
fn listing_goes_as_deep_as_asked_and_follows_no_link() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    let at = |name: &str| guest.dir().join("tree").join(name);
    fs::create_dir_all(at("a/b/c")).unwrap();
    fs::write(at("a/b/file"), "").unwrap();
    fs::write(at(&"z".repeat(200)), "").unwrap();
    symlink("..", at("a/up")).unwrap();
    fs::write(guest.dir().join("tree").join(OsStr::from_bytes(b"\xff")), "").unwrap();
    let shown = |listed: (Vec<FileEntry>, bool)| {
        assert!(!listed.1);
        let below = |entry: &FileEntry| {
            entry.path.as_path().strip_prefix(at("")).unwrap().as_os_str().len()
        };
        listed.0.iter().map(below).collect::<Vec<_>>()
    };
    assert_eq!(shown(list(&mut host, "tree", 1)), [1, 200, 1]);
    assert_eq!(shown(list(&mut host, "tree", 2)), [1, 3, 4, 200, 1]);
    assert_eq!(shown(list(&mut host, "tree", 256)), [1, 3, 5, 8, 4, 200, 1]);
    for (path, depth, code) in [
        ("tree", 0, RefusalCode::Invalid),
        ("tree", 257, RefusalCode::Invalid),
        ("nowhere", 1, RefusalCode::NotFound),
        ("pack.json", 1, RefusalCode::WrongType),
    ] {
        assert_eq!(refused(&mut host, FileOp::List { path: path.into(), depth }), code);
    }
}

#[test]
fn ten_thousand_files() {
    let guest = Guest::shell();
    let many = guest.dir().join("many");
    fs::create_dir(&many).unwrap();
    for number in 0..10_000 {
        fs::write(many.join(format!("{number:05}")), "").unwrap();
    }
    let (listed, cut) = list(&mut guest.greet(), "many", 3);
    assert_eq!((listed.len(), cut), (10_000, false));
    assert!(listed.is_sorted_by(|one, next| one.path < next.path));
}

#[test]
fn names_at_the_limit_still_fit_into_frames() {
    let guest = Guest::shell();
    // Control characters take six bytes each in JSON.
    let name = "\u{1}".repeat(255);
    let mut dir = guest.dir().join("long");
    fs::create_dir(&dir).unwrap();
    while dir.as_os_str().len() < 3000 {
        dir.push(&name);
        fs::create_dir(&dir).unwrap();
    }
    for number in 0..200 {
        symlink(&dir, dir.join(number.to_string())).unwrap();
    }
    let mut host = guest.greet();
    ask(&mut host, FileOp::List { path: "long".into(), depth: 256 });
    let mut count = 0;
    loop {
        let frame = host.frame().unwrap();
        assert!(frame.payload.len() < 1 << 20);
        match frame.message().unwrap() {
            GuestMessage::Listed { entries, .. } => count += entries.len(),
            GuestMessage::Done => break,
            other => panic!("expected entries, got {other:?}"),
        }
    }
    assert!(count > 200, "{count}");
}

#[test]
fn directories_are_made_with_their_parents_once() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    let making = |path: &str, mode| FileOp::MakeDir { path: path.into(), mode };
    let made = entry(&mut host, making("a/b/c", Some(0o1777)));
    assert_eq!((made.file_type, made.mode), (FileType::Directory, 0o1777));
    let parent = fs::metadata(guest.dir().join("a/b")).unwrap();
    assert_eq!(parent.permissions().mode() & 0o7777, 0o755);
    for there in ["a/b/c", "a", "pack.json", "/"] {
        assert_eq!(refused(&mut host, making(there, None)), RefusalCode::AlreadyExists, "{there}");
    }
    assert_eq!(refused(&mut host, making("pack.json/x", None)), RefusalCode::WrongType);
}

#[test]
fn moving_replaces_files_and_not_directories() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    let at = |name: &str| guest.dir().join(name);
    let moving = |from: &str, to: &str| FileOp::Move { from: from.into(), to: to.into() };
    fs::write(at("one"), "1").unwrap();
    fs::write(at("two"), "2").unwrap();
    fs::create_dir_all(at("dir/in")).unwrap();
    let moved = entry(&mut host, moving("one", "two"));
    assert_eq!(moved.path, GuestPath(at("two")));
    assert_eq!(fs::read(at("two")).unwrap(), b"1");
    assert_eq!(refused(&mut host, moving("two", "dir")), RefusalCode::AlreadyExists);
    assert_eq!(refused(&mut host, moving("dir", "dir/in/self")), RefusalCode::Invalid);
    assert_eq!(refused(&mut host, moving("nowhere", "x/y")), RefusalCode::NotFound);
    assert!(!at("x").exists());
    entry(&mut host, moving("dir", "new/parent/dir"));
    assert_eq!(names(&at("new/parent/dir")), ["in"]);
}

#[test]
fn removal_takes_all_below_and_follows_no_link() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    let at = |name: &str| guest.dir().join(name);
    fs::create_dir_all(at("dir/in")).unwrap();
    fs::create_dir(at("kept")).unwrap();
    fs::write(at("kept/file"), "").unwrap();
    symlink(at("kept"), at("dir/in/link")).unwrap();
    for path in ["dir", "dir", "never/was"] {
        ask(&mut host, FileOp::Remove { path: path.into() });
        assert_eq!(host.answer(), GuestMessage::Done, "{path}");
    }
    assert!(!at("dir").exists() && at("kept/file").exists());
    assert_eq!(refused(&mut host, FileOp::Remove { path: "/".into() }), RefusalCode::Invalid);
}
