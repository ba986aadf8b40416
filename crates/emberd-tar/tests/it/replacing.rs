//! What is in the way when an archive is unpacked: as GNU tar has it.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use emberd_tar::{Entry, Kind, Time, UnpackOptions, Writer, unpack};

const UNPACKED: UnpackOptions = UnpackOptions { owner: None, special: true, own_mode: true };

pub fn entry(name: &str, kind: Kind) -> Entry {
    let size = if kind == Kind::File { 3 } else { 0 };
    Entry {
        name: name.into(),
        kind,
        mode: 0o755,
        uid: 0,
        gid: 0,
        modified: Time { seconds: 1000, nanos: 0 },
        size,
        segments: None,
    }
}

pub fn archive(entries: &[(&str, Kind)]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for (name, kind) in entries {
        writer.append(&entry(name, kind.clone()), &b"new"[..]).unwrap();
    }
    writer.finish().unwrap()
}

fn link(to: &str) -> Kind {
    Kind::Symlink(to.into())
}

fn hard(to: &str) -> Kind {
    Kind::HardLink(to.into())
}

/// Whether an archive of `name` could be unpacked over what `before` makes, here and by GNU tar,
/// which must have the same left.
fn check(before: fn(&Path), entries: &[(&str, Kind)]) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let archive = archive(entries);
    let file = dir.path().join("archive");
    fs::write(&file, &archive).unwrap();
    let place = |name: &str| {
        let at = dir.path().join(name);
        fs::create_dir(&at).unwrap();
        before(&at);
        at
    };
    let (ours, gnus) = (place("ours"), place("gnus"));
    let unpacked = unpack(&mut &archive[..], &ours, UNPACKED);
    let gnu = std::process::Command::new("tar")
        .args(["-x", "-p", "--no-same-owner", "-f"])
        .arg(&file)
        .arg("-C")
        .arg(&gnus)
        .output()
        .unwrap();
    assert_eq!(unpacked.is_ok(), gnu.status.success(), "{entries:?}: {unpacked:?}, {gnu:?}");
    let kept = |at: &Path| {
        let told = super::tree::told(at, false).into_iter();
        told.map(|(name, (mode, _, _, content, first))| (name, mode, content, first))
            .collect::<Vec<_>>()
    };
    assert_eq!(kept(&ours), kept(&gnus), "{entries:?}");
    unpacked.is_ok()
}

#[test]
fn everything_over_everything() {
    let befores: [fn(&Path); 6] = [
        |at| fs::write(at.join("a"), "old").unwrap(),
        |at| fs::create_dir(at.join("a")).unwrap(),
        |at| {
            fs::create_dir(at.join("a")).unwrap();
            fs::write(at.join("a/in"), "old").unwrap();
        },
        |at| symlink("nowhere", at.join("a")).unwrap(),
        |at| {
            fs::create_dir(at.join("b")).unwrap();
            symlink("b", at.join("a")).unwrap();
        },
        |at| {
            fs::write(at.join("a"), "old").unwrap();
            fs::hard_link(at.join("a"), at.join("b")).unwrap();
        },
    ];
    let afters = [
        vec![("a", Kind::File)],
        vec![("a/", Kind::Directory)],
        vec![("a", link("elsewhere"))],
        vec![("c", Kind::File), ("a", hard("c"))],
        vec![("a", Kind::Fifo)],
        vec![("a", Kind::File), ("a", Kind::File)],
    ];
    let mut replaced = 0;
    for before in befores {
        for after in &afters {
            replaced += usize::from(check(before, after));
        }
    }
    // All but the five things that are no directory, over one that is not empty.
    assert_eq!(replaced, 31);
}

#[test]
fn hard_links_of_hard_links_and_to_nothing() {
    let nothing: fn(&Path) = |_| {};
    assert!(check(nothing, &[("a", Kind::File), ("b", hard("a")), ("c", hard("./b"))]));
    assert!(check(nothing, &[("a", link("nowhere")), ("b", hard("a"))]));
    assert!(check(nothing, &[("a", Kind::File), ("b", hard("/a"))]));
    assert!(!check(nothing, &[("b", hard("a"))]));
    assert!(check(|at| fs::write(at.join("a"), "old").unwrap(), &[("a", hard("a"))]));
}

#[test]
fn the_directory_itself() {
    let dir = tempfile::tempdir().unwrap();
    let archive = archive(&[("./", Kind::Directory), ("./a", Kind::File)]);
    for (own_mode, mode) in [(false, 0o700), (true, 0o755)] {
        let options = UnpackOptions { own_mode, ..UNPACKED };
        let to = dir.path().join(own_mode.to_string());
        fs::create_dir(&to).unwrap();
        fs::set_permissions(&to, Permissions::from_mode(0o700)).unwrap();
        unpack(&mut &archive[..], &to, options).unwrap();
        let made = fs::metadata(&to).unwrap();
        assert_eq!((made.mode() & 0o7777, made.mtime()), (mode, 1000));
    }
}

#[test]
fn what_stays_outside() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "old").unwrap();
    let before = super::tree::told(&outside, true);
    let absolute = outside.to_str().unwrap();
    for (number, entries) in [
        vec![("../outside/file", Kind::File)],
        vec![("a", link("../outside")), ("a/new", Kind::File)],
        vec![("a", link(absolute)), ("a/new", Kind::File)],
        vec![("a", link("../outside")), ("a/dir/", Kind::Directory)],
        vec![("a", link("../outside")), ("b", hard("a/file"))],
        vec![("b", hard("../outside/file")), ("b", Kind::File)],
        vec![("a", link("../outside/file")), ("a", Kind::File)],
        vec![("a", link("../outside")), ("a/", Kind::Directory), ("a/new", Kind::File)],
        vec![("a", link("b")), ("b", link("../outside")), ("a/new", Kind::File)],
        vec![("a", link("/proc/self/cwd")), ("a/new", Kind::File)],
        // A directory whose mode is set last is a link by then.
        vec![("a/", Kind::Directory), ("a", link("../outside"))],
    ]
    .into_iter()
    .enumerate()
    {
        let to = dir.path().join(number.to_string());
        fs::create_dir(&to).unwrap();
        let unpacked = unpack(&mut &archive(&entries)[..], &to, UNPACKED);
        assert_eq!(super::tree::told(&outside, true), before, "{entries:?}: {unpacked:?}");
    }
    // What stays inside is followed, also by an absolute link.
    let to = dir.path().join("inside");
    fs::create_dir(&to).unwrap();
    let there = to.join("b");
    let entries =
        [("b/", Kind::Directory), ("a", link(there.to_str().unwrap())), ("a/new", Kind::File)];
    unpack(&mut &archive(&entries)[..], &to, UNPACKED).unwrap();
    assert_eq!(fs::read(there.join("new")).unwrap(), b"new");
}

#[test]
fn host_gets_nothing_special() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::new(Vec::new());
    let file = Entry { mode: 0o6755, ..entry("file", Kind::File) };
    writer.append(&file, &b"new"[..]).unwrap();
    writer.append(&entry("fifo", Kind::Fifo), io::empty()).unwrap();
    let archive = writer.finish().unwrap();
    unpack(&mut &archive[..], dir.path(), UnpackOptions::default()).unwrap();
    assert_eq!(fs::metadata(dir.path().join("file")).unwrap().mode() & 0o7777, 0o755);
    assert!(!dir.path().join("fifo").exists());
}
