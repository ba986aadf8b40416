//! Directories packed and unpacked.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use emberd_proto::{
    FileOp, FileRequest, FileType, GuestMessage, GuestPath, HostMessage, RefusalCode,
};
use tar::{Builder, EntryType, Header};

use super::{ask, data, entry, is_root, names, refused, send_data};
use crate::guest::{Guest, Host};

fn pack(host: &mut Host, path: &str) -> Vec<u8> {
    entry(host, FileOp::Pack { path: path.into() });
    data(host)
}

fn unpack(host: &mut Host, path: &str, archive: &[u8]) -> GuestMessage {
    ask(host, FileOp::Unpack { path: path.into() });
    send_data(host, archive);
    let answer = host.answer();
    host.ping();
    answer
}

/// An archive of one entry after another: type, name, link target or content.
fn archive(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
    let mut archive = Builder::new(Vec::new());
    for (entry_type, name, content) in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(*entry_type);
        header.set_mode(0o755);
        // Set by hand: the builder refuses what a hostile archive has.
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        let is_link = matches!(entry_type, EntryType::Symlink | EntryType::Link);
        if is_link {
            header.as_gnu_mut().unwrap().linkname[..content.len()]
                .copy_from_slice(content.as_bytes());
        }
        let content = if is_link { "" } else { content };
        header.set_size(content.len() as u64);
        header.set_cksum();
        archive.append(&header, content.as_bytes()).unwrap();
    }
    archive.into_inner().unwrap()
}

#[test]
fn unpacked_directory_is_like_the_packed_one() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    let at = |name: &str| guest.dir().join(name);
    let long = "long/".repeat(40);
    fs::create_dir_all(at("tree").join(&long)).unwrap();
    fs::create_dir(at("tree/empty")).unwrap();
    fs::set_permissions(at("tree/empty"), Permissions::from_mode(0o1711)).unwrap();
    fs::write(at("tree").join(&long).join("file"), vec![7; 300_000]).unwrap();
    fs::write(at("tree").join(OsStr::from_bytes(b"\xff\xfe")), "odd").unwrap();
    fs::write(at("tree/tool"), "").unwrap();
    fs::set_permissions(at("tree/tool"), Permissions::from_mode(0o4750)).unwrap();
    symlink("/nowhere at all", at("tree/link")).unwrap();
    nix::unistd::mkfifo(&at("tree/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let packed = pack(&mut host, "tree");
    assert_eq!(unpack(&mut host, "some/where", &packed), GuestMessage::Done);
    assert_eq!(fs::read(at("some/where").join(&long).join("file")).unwrap(), vec![7; 300_000]);
    assert_eq!(fs::read(at("some/where").join(OsStr::from_bytes(b"\xff\xfe"))).unwrap(), b"odd");
    let mode = |name| fs::metadata(at(name)).unwrap().mode() & 0o7777;
    assert_eq!((mode("some/where/empty"), mode("some/where/tool")), (0o1711, 0o4750));
    assert_eq!(fs::read_link(at("some/where/link")).unwrap(), Path::new("/nowhere at all"));
    assert!(fs::metadata(at("some/where/fifo")).unwrap().file_type().is_fifo());
    // Once more over what is there.
    assert_eq!(unpack(&mut host, "some/where", &packed), GuestMessage::Done);
}

#[test]
fn one_file_alone() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    fs::write(guest.dir().join("file"), "content").unwrap();
    let packed = pack(&mut host, "file");
    assert_eq!(unpack(&mut host, "dir", &packed), GuestMessage::Done);
    assert_eq!(fs::read(guest.dir().join("dir/file")).unwrap(), b"content");
    assert_eq!(refused(&mut host, FileOp::Pack { path: "no".into() }), RefusalCode::NotFound);
    let device = FileOp::Pack { path: "/dev/null".into() };
    assert_eq!(refused(&mut host, device), RefusalCode::WrongType);
    let told = entry(&mut host, FileOp::Pack { path: ".".into() });
    assert_eq!(told.file_type, FileType::Directory);
    data(&mut host);
}

#[test]
fn empty_archives() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    for archive in [&[][..], &[0; 1024], &[0; 512]] {
        assert_eq!(unpack(&mut host, "made", archive), GuestMessage::Done);
    }
    assert_eq!(names(&guest.dir().join("made")), [""; 0]);
}

#[test]
fn nothing_is_unpacked_outside() {
    use EntryType::{Directory, Link, Regular, Symlink};
    let guest = Guest::shell();
    let mut host = guest.greet();
    let outside = guest.dir().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::set_permissions(&outside, Permissions::from_mode(0o700)).unwrap();
    fs::write(outside.join("file"), "old").unwrap();
    let hostile: &[&[(EntryType, &str, &str)]] = &[
        &[(Regular, "../outside/file", "new")],
        &[(Regular, "a/../../outside/file", "new")],
        &[(Symlink, "a", "../outside"), (Regular, "a/file", "new")],
        &[(Symlink, "a", "../outside"), (Regular, "a/made/file", "new")],
        &[(Symlink, "a", "b"), (Symlink, "b", "../outside"), (Regular, "a/file", "new")],
        &[(Symlink, "a", "../outside"), (Directory, "a", ""), (Regular, "a/file", "new")],
        &[(Symlink, "a", "../outside/file"), (Regular, "a", "new")],
        &[(Link, "a", "../outside/file"), (Regular, "a", "new")],
        &[(Symlink, "b", "../outside"), (Link, "a", "b/file"), (Regular, "a", "new")],
        &[(Symlink, "a", "../outside"), (Directory, "a/", "")],
    ];
    for (number, entries) in hostile.iter().enumerate() {
        unpack(&mut host, &format!("into{number}"), &archive(entries));
        assert_eq!(names(&outside), ["file"], "{entries:?}");
        assert_eq!(fs::read(outside.join("file")).unwrap(), b"old", "{entries:?}");
        assert_eq!(fs::metadata(&outside).unwrap().mode() & 0o777, 0o700, "{entries:?}");
    }
    let absolute = archive(&[(Regular, "/etc/emberd-test", "below")]);
    assert_eq!(unpack(&mut host, "absolute", &absolute), GuestMessage::Done);
    assert!(guest.dir().join("absolute/etc/emberd-test").exists());
}

#[test]
fn archives_that_are_none() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    let whole = archive(&[(EntryType::Regular, "file", &"x".repeat(10_000))]);
    for broken in [&whole[..5000], &[b'x'; 4096], &whole[..100]] {
        match unpack(&mut host, "dir", broken) {
            GuestMessage::Refused(refusal) => assert_eq!(refusal.code, RefusalCode::Invalid),
            other => panic!("expected a refusal, got {other:?}"),
        }
    }
    // What is unpacked over a file that is no directory.
    match unpack(&mut host, "pack.json", &whole) {
        GuestMessage::Refused(refusal) => assert_eq!(refusal.code, RefusalCode::WrongType),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[test]
fn what_is_unpacked_belongs_to_the_user() {
    if !is_root() {
        return;
    }
    let guest = Guest::shell();
    let mut host = guest.greet();
    let entries = [
        (EntryType::Regular, "deep/er/file", "x"),
        (EntryType::Symlink, "link", "/etc/passwd"),
        (EntryType::Directory, "dir", ""),
    ];
    let op = FileOp::Unpack { path: GuestPath::from(&guest.dir().join("new")) };
    host.send(&HostMessage::File(FileRequest { user: Some("daemon".into()), op }));
    send_data(&mut host, &archive(&entries));
    assert_eq!(host.answer(), GuestMessage::Done);
    let user = entry(&mut host, FileOp::Stat { path: "new".into() });
    assert_eq!(user.owner.as_deref(), Some("daemon"));
    for name in ["new/deep", "new/deep/er", "new/deep/er/file", "new/link", "new/dir"] {
        let made = entry(&mut host, FileOp::Stat { path: name.into() });
        assert_eq!((made.uid, made.gid), (user.uid, user.gid), "{name}");
    }
    assert_eq!(fs::metadata("/etc/passwd").unwrap().uid(), 0);
    drop(File::open(guest.dir().join("new/deep/er/file")).unwrap());
}
