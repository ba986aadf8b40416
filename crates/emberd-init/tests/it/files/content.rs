//! Files read and written.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use emberd_proto::{FileOp, FileRequest, FileType, GuestPath, HostMessage, Kind, RefusalCode};

use super::{ask, data, entry, expect_entry, is_root, names, read, refused, send_data, write};
use crate::guest::Guest;

#[test]
fn what_is_written_is_read() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    let content: Vec<u8> = (0..1_000_003_u32).map(|n| n.to_le_bytes()[1]).collect();
    let path = guest.dir().join("deep/er/file");
    let written = write(&mut host, &path, &content);
    assert_eq!((written.size, written.mode), (1_000_003, 0o644));
    assert_eq!((written.file_type, written.path), (FileType::File, GuestPath::from(&path)));
    let (told, bytes) = read(&mut host, &path);
    assert_eq!(told.size, 1_000_003);
    assert!(bytes == content);
    assert_eq!(names(path.parent().unwrap()), ["file"]);
}

#[test]
fn part_of_a_file() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    fs::write(guest.dir().join("digits"), "0123456789").unwrap();
    for (offset, length, expect) in [
        (0, Some(3), "012"),
        (7, None, "789"),
        (8, Some(100), "89"),
        (10, None, ""),
        (u64::MAX, Some(u64::MAX), ""),
        (4, Some(0), ""),
    ] {
        let told = entry(&mut host, FileOp::Read { path: "digits".into(), offset, length });
        assert_eq!(told.size, 10);
        assert_eq!(data(&mut host), expect.as_bytes(), "{offset} {length:?}");
    }
}

#[test]
fn file_that_says_it_is_empty_and_is_not() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    let (told, content) = read(&mut host, Path::new("/proc/sys/kernel/ostype"));
    assert_eq!((told.size, content.as_slice()), (6, b"Linux\n".as_slice()));
    let path = "/proc/sys/kernel/ostype".into();
    entry(&mut host, FileOp::Read { path, offset: 3, length: Some(2) });
    assert_eq!(data(&mut host), b"ux");
    // And one that says it is a page long.
    let uevents = Path::new("/sys/kernel/uevent_seqnum");
    if let Ok(metadata) = fs::metadata(uevents) {
        let (told, content) = read(&mut host, uevents);
        assert!(content.ends_with(b"\n") && told.size == content.len() as u64, "{metadata:?}");
    }
    fs::write(guest.dir().join("empty"), "").unwrap();
    assert_eq!(read(&mut host, Path::new("empty")).1, b"");
}

#[test]
fn names_that_are_not_utf8() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    let path = guest.dir().join(OsStr::from_bytes(b"n\xffme\n"));
    let written = write(&mut host, &path, b"x");
    assert_eq!(written.path, GuestPath(path.clone()));
    assert_eq!(fs::read(&path).unwrap(), b"x");
    assert_eq!(read(&mut host, &path).1, b"x");
}

#[test]
fn replaced_file_keeps_its_mode_and_a_named_one_wins() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    let path = guest.dir().join("script");
    fs::write(&path, "old").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o4750)).unwrap();
    assert_eq!(write(&mut host, &path, b"new").mode, 0o4750);
    ask(&mut host, FileOp::Write { path: GuestPath::from(&path), mode: Some(0o600) });
    send_data(&mut host, b"");
    assert_eq!(expect_entry(&mut host).mode, 0o600);
    assert_eq!(fs::read(&path).unwrap(), b"");
    ask(&mut host, FileOp::Write { path: GuestPath::from(&path), mode: Some(0o10000) });
    send_data(&mut host, b"");
    assert_eq!(host.refusal().code, RefusalCode::Invalid);
    host.ping();
}

#[test]
fn what_is_made_belongs_to_the_user_and_what_is_replaced_to_whom_it_did() {
    if !is_root() {
        return;
    }
    let guest = Guest::shell();
    let mut host = guest.greet();
    let path = guest.dir().join("made/file");
    let op = FileOp::Write { path: GuestPath::from(&path), mode: None };
    host.send(&HostMessage::File(FileRequest { user: Some("daemon".into()), op }));
    send_data(&mut host, b"");
    let written = expect_entry(&mut host);
    assert_eq!(written.owner.as_deref(), Some("daemon"));
    for made in [path.as_path(), path.parent().unwrap()] {
        let metadata = fs::metadata(made).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (written.uid, written.gid));
    }
    assert_eq!(write(&mut host, &path, b"again").uid, written.uid);
    let op = FileOp::Stat { path: "x".into() };
    host.send(&HostMessage::File(FileRequest { user: Some("no such user".into()), op }));
    assert_eq!(host.refusal().code, RefusalCode::NotFound);
}

#[test]
fn links_are_written_through() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    let at = |name: &str| guest.dir().join(name);
    fs::write(at("target"), "old").unwrap();
    symlink("target", at("link")).unwrap();
    symlink("not/there/yet", at("broken")).unwrap();
    let written = write(&mut host, &at("link"), b"new");
    assert_eq!(written.path, GuestPath(at("link")));
    assert_eq!(fs::read(at("target")).unwrap(), b"new");
    write(&mut host, &at("broken"), b"made");
    assert_eq!(fs::read(at("not/there/yet")).unwrap(), b"made");
    assert!(at("link").is_symlink() && at("broken").is_symlink());
}

#[test]
fn half_an_upload_leaves_the_old_file() {
    let guest = Guest::shell();
    let path = guest.dir().join("file");
    fs::write(&path, "old").unwrap();
    let mut host = guest.greet();
    ask(&mut host, FileOp::Write { path: GuestPath::from(&path), mode: None });
    host.send_frame(Kind::Data, b"half of the n");
    host.leave();
    // A later write waits for nothing the first one held; by its end the first has been undone
    // or is being undone, and its name is none a listing here may show for long.
    while names(guest.dir()).iter().any(|name| name.starts_with(".emberd")) {
        guest.greet().ping();
    }
    assert_eq!(fs::read(&path).unwrap(), b"old");
}

#[test]
fn what_is_no_regular_file_is_neither_read_nor_written() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    let at = |name: &str| guest.dir().join(name);
    fs::create_dir(at("dir")).unwrap();
    nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    symlink("loop", at("loop")).unwrap();
    for (name, code) in [
        ("dir", RefusalCode::WrongType),
        ("dir/", RefusalCode::WrongType),
        ("fifo", RefusalCode::WrongType),
        ("agent.sock", RefusalCode::WrongType),
        ("/dev/null", RefusalCode::WrongType),
        ("pack.json/x", RefusalCode::WrongType),
        ("loop", RefusalCode::Invalid),
        ("", RefusalCode::Invalid),
        ("a\0b", RefusalCode::Invalid),
    ] {
        let path = || GuestPath::from(name);
        let read = FileOp::Read { path: path(), offset: 0, length: None };
        assert_eq!(refused(&mut host, read), code, "{name}");
        ask(&mut host, FileOp::Write { path: path(), mode: None });
        send_data(&mut host, &vec![b'x'; 100_000]);
        assert_eq!(host.refusal().code, code, "{name}");
        host.ping();
    }
    assert!(at("fifo").exists());
}
