//! What others pack is unpacked as they would, and what is packed here they unpack.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use emberd_tar::{PackOptions, UnpackOptions, pack_directory, unpack};
use proptest::prelude::*;

use super::tree;

const PACKED: PackOptions =
    PackOptions { depth_max: None, fifos: true, itself: false, left_out: |_| false };
const UNPACKED: UnpackOptions = UnpackOptions { owner: None, special: true, own_mode: true };

/// Runs a program with `input`; what it prints.
fn run(program: &str, arguments: &[&OsStr], input: &[u8]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("input");
    fs::write(&file, input).unwrap();
    let done = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::from(File::open(&file).unwrap()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{program} {arguments:?}: {said}");
    done.stdout
}

fn gnu_packs(directory: &Path, format: &str, sparse: bool) -> Vec<u8> {
    let mut arguments =
        vec!["-c", "-f", "-", format].into_iter().map(OsStr::new).collect::<Vec<_>>();
    if sparse {
        arguments.push(OsStr::new("-S"));
    }
    arguments.extend([OsStr::new("-C"), directory.as_os_str(), OsStr::new(".")]);
    run("tar", &arguments, b"")
}

fn gnu_unpacks(archive: &[u8], directory: &Path) {
    let arguments = ["-x", "-p", "-f", "-", "--no-same-owner", "-C"].map(OsStr::new);
    run("tar", &[&arguments[..], &[directory.as_os_str()]].concat(), archive);
}

fn python_unpacks(archive: &[u8], directory: &Path) {
    let code = "import sys, tarfile; tarfile.open(fileobj=sys.stdin.buffer, mode='r|')\
                .extractall(sys.argv[1], numeric_owner=True)";
    run("python3", &["-c".as_ref(), code.as_ref(), directory.as_os_str()], archive);
}

/// A directory with `from`, made of `nodes`, and an empty `to`.
fn place(nodes: &[tree::Node]) -> (tempfile::TempDir, std::path::PathBuf, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir(&from).unwrap();
    fs::create_dir(&to).unwrap();
    tree::make(nodes, &from);
    (dir, from, to)
}

fn pack(directory: &Path) -> Vec<u8> {
    pack_directory(directory, PACKED, Vec::new()).unwrap()
}

fn unpacked(archive: &[u8], to: &Path) {
    unpack(&mut &archive[..], to, UNPACKED).unwrap();
}

fn check_of_gnu(nodes: &[tree::Node], format: &str, sparse: bool) {
    let (_dir, from, to) = place(nodes);
    let archive = gnu_packs(&from, format, sparse);
    let fine = format.ends_with("pax");
    // Twice: the second finds what the first has made.
    for _ in 0..2 {
        unpacked(&archive, &to);
        assert_eq!(tree::told(&to, fine), tree::told(&from, fine), "{format}, sparse: {sparse}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn gnu_tars_archives_are_unpacked(nodes in tree::nodes(true), sparse: bool) {
        for format in ["--format=gnu", "--format=pax"] {
            check_of_gnu(&nodes, format, sparse);
        }
    }

    #[test]
    fn older_formats_are_unpacked(nodes in tree::nodes(false)) {
        check_of_gnu(&nodes, "--format=ustar", false);
    }

    #[test]
    fn others_unpack_what_is_packed(nodes in tree::nodes(true)) {
        let (_dir, from, to) = place(&nodes);
        let archive = pack(&from);
        gnu_unpacks(&archive, &to);
        assert_eq!(tree::told(&to, true), tree::told(&from, true));
        let again = to.with_file_name("again");
        fs::create_dir(&again).unwrap();
        python_unpacks(&archive, &again);
        // Python sets times as floating-point numbers, and none of links.
        let content = |at: &Path| {
            let told = tree::told(at, false).into_iter();
            told.map(|(name, (mode, _, _, content, first))| (name, mode, content, first))
                .collect::<Vec<_>>()
        };
        assert_eq!(content(&again), content(&from));
        let own = to.with_file_name("own");
        fs::create_dir(&own).unwrap();
        unpacked(&archive, &own);
        assert_eq!(tree::told(&own, true), tree::told(&from, true));
    }
}

#[test]
fn every_way_to_tell_a_sparse_file() {
    use std::os::unix::fs::FileExt as _;
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir(&from).unwrap();
    let file = File::create(from.join("image")).unwrap();
    // More pieces than a header, and one of its extensions, has room for.
    for number in 0..60 {
        file.write_at(b"piece", number << 20).unwrap();
    }
    file.set_len(9 << 30).unwrap();
    drop(file);
    for format in [
        &["--format=gnu"][..],
        &["--format=pax", "--sparse-version=0.0"],
        &["--format=pax", "--sparse-version=0.1"],
        &["--format=pax", "--sparse-version=1.0"],
    ] {
        let mut arguments: Vec<&OsStr> = ["-c", "-S", "-f", "-"].map(OsStr::new).to_vec();
        arguments.extend(format.iter().map(OsStr::new));
        arguments.extend([OsStr::new("-C"), from.as_os_str(), OsStr::new("image")]);
        let archive = run("tar", &arguments, b"");
        fs::create_dir(&to).unwrap();
        unpacked(&archive, &to);
        let made = File::open(to.join("image")).unwrap();
        assert_eq!(made.metadata().unwrap().size(), 9 << 30, "{format:?}");
        let mut piece = [0; 10];
        for number in 0..60 {
            made.read_exact_at(&mut piece, number << 20).unwrap();
            assert_eq!(&piece, b"piece\0\0\0\0\0", "{format:?}");
        }
        assert_eq!(fs::read_dir(&to).unwrap().count(), 1);
        fs::remove_dir_all(&to).unwrap();
    }
}

#[test]
fn times_far_away() {
    for (seconds, nanos) in
        [(-1, 0), (-2, 750_000_000), (-1_000_000_000, 1), (0, 0), (5_000_000_000, 9)]
    {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir_all(from.join("dir")).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(from.join("file"), "x").unwrap();
        for name in ["file", "dir"] {
            tree::touch(&from.join(name), seconds, nanos);
        }
        let archive = gnu_packs(&from, "--format=pax", false);
        unpacked(&archive, &to);
        assert_eq!(tree::told(&to, true), tree::told(&from, true), "{seconds}");
        fs::remove_dir_all(&to).unwrap();
        fs::create_dir(&to).unwrap();
        gnu_unpacks(&pack(&from), &to);
        assert_eq!(tree::told(&to, true), tree::told(&from, true), "{seconds}");
        // Old GNU has whole seconds, in base 256.
        let archive = gnu_packs(&from, "--format=gnu", false);
        unpacked(&archive, &to);
        assert_eq!(tree::told(&to, false), tree::told(&from, false), "{seconds}");
    }
}

#[test]
fn thousands_of_entries_and_deep_ones() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir(&to).unwrap();
    fs::create_dir_all(from.join("d/".repeat(300))).unwrap();
    for number in 0..3000 {
        fs::write(from.join(number.to_string()), "").unwrap();
    }
    let archive = pack(&from);
    unpacked(&archive, &to);
    assert_eq!(tree::told(&to, true), tree::told(&from, true));
}

#[test]
fn v7_has_directories_by_name_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir_all(from.join("a/b")).unwrap();
    fs::create_dir(&to).unwrap();
    fs::write(from.join("a/file"), "x").unwrap();
    fs::hard_link(from.join("a/file"), from.join("a/second")).unwrap();
    let archive = gnu_packs(&from, "--format=v7", false);
    unpacked(&archive, &to);
    assert_eq!(tree::told(&to, false), tree::told(&from, false));
}
