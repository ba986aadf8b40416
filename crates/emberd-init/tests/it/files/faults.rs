//! A full disk, and file systems that are not one.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use emberd_proto::{FileOp, GuestMessage, GuestPath, RefusalCode};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{ask, entry, is_root, names, read, send_data, write};
use crate::guest::Guest;

/// A small file system; unmounted when dropped.
struct Small(PathBuf);

impl Small {
    /// One of 1 MiB at `path`.
    fn mount(path: PathBuf) -> Option<Self> {
        fs::create_dir(&path).unwrap();
        let flags = MsFlags::MS_NOSUID;
        match mount(Some("none"), &path, Some("tmpfs"), flags, Some("size=1m")) {
            Ok(()) => Some(Self(path)),
            Err(errno) => {
                emberd_testing::skip(format!("cannot mount a small file system: {errno}"));
                None
            }
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).ok();
    }
}

#[test]
fn full_disk_leaves_the_old_file() {
    if !is_root() {
        return;
    }
    let guest = Guest::shell();
    let Some(small) = Small::mount(guest.dir().join("small")) else { return };
    let mut host = guest.greet();
    let path = small.0.join("file");
    write(&mut host, &path, b"old");
    ask(&mut host, FileOp::Write { path: GuestPath::from(&path), mode: None });
    send_data(&mut host, &vec![b'x'; 8 << 20]);
    assert_eq!(host.refusal().code, RefusalCode::NoSpace);
    host.ping();
    assert_eq!(read(&mut host, &path).1, b"old");
    assert_eq!(names(&small.0), ["file"]);
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(4 << 20);
    archive.append_data(&mut header, "large", &vec![0; 4 << 20][..]).unwrap();
    ask(&mut host, FileOp::Unpack { path: GuestPath::from(&small.0) });
    send_data(&mut host, &archive.into_inner().unwrap());
    assert_eq!(host.refusal().code, RefusalCode::NoSpace);
    host.ping();
}

#[test]
fn moving_from_one_file_system_to_another() {
    if !is_root() {
        return;
    }
    let guest = Guest::shell();
    let Some(small) = Small::mount(guest.dir().join("small")) else { return };
    let mut host = guest.greet();
    fs::create_dir_all(guest.dir().join("dir/in")).unwrap();
    fs::write(guest.dir().join("dir/in/file"), "content").unwrap();
    let moved = entry(&mut host, FileOp::Move { from: "dir".into(), to: "small/dir".into() });
    assert_eq!(moved.path, GuestPath(small.0.join("dir")));
    assert_eq!(fs::read(small.0.join("dir/in/file")).unwrap(), b"content");
    assert!(!guest.dir().join("dir").exists());
    // What does not fit stays where it was.
    fs::write(guest.dir().join("large"), vec![0; 4 << 20]).unwrap();
    ask(&mut host, FileOp::Move { from: "large".into(), to: "small/large".into() });
    assert_eq!(host.refusal().code, RefusalCode::NoSpace);
    assert_eq!(fs::metadata(guest.dir().join("large")).unwrap().size(), 4 << 20);
    assert_eq!(names(&small.0), ["dir"]);
}

#[test]
fn read_only_file_systems_are_said_to_be() {
    let guest = Guest::shell();
    let mut host = guest.greet();
    ask(&mut host, FileOp::Write { path: GuestPath::from("/proc/emberd"), mode: None });
    send_data(&mut host, b"x");
    let GuestMessage::Refused(refusal) = host.answer() else { panic!("expected a refusal") };
    assert!(matches!(refusal.code, RefusalCode::NotFound | RefusalCode::Denied), "{refusal:?}");
    assert!(!Path::new("/proc/emberd").exists());
}
