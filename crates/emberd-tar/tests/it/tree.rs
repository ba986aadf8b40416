//! Trees of files, made and told apart.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use proptest::prelude::*;

/// One thing of a tree.
#[derive(Debug, Clone)]
pub struct Node {
    name: Vec<u8>,
    what: What,
    mode: u32,
    seconds: i64,
    nanos: u32,
}

#[derive(Debug, Clone)]
enum What {
    File(Vec<u8>),
    /// Pieces of content and where they are, in pages; the size of all, in pages.
    Sparse(Vec<(u16, u8)>, u16),
    Directory(Vec<Node>),
    Symlink(Vec<u8>),
    /// Another name of the file made last.
    HardLink,
    Fifo,
}

fn name(long: bool) -> BoxedStrategy<Vec<u8>> {
    let short = prop_oneof![
        4 => "[a-z]{1,12}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 1..20),
        1 => "[a-z \n\\\\]{1,9}".prop_map(String::into_bytes),
    ];
    let all = if long {
        let long = prop_oneof![Just(99_usize), Just(100), Just(101), Just(155), Just(255)];
        prop_oneof![6 => short, 1 => long.prop_map(|length| vec![b'n'; length])].boxed()
    } else {
        "[a-z]{1,12}".prop_map(String::into_bytes).boxed()
    };
    let usable = |name: &Vec<u8>| {
        !name.iter().any(|byte| matches!(byte, 0 | b'/')) && !matches!(&name[..], b"." | b"..")
    };
    all.prop_filter("a name", usable).boxed()
}

fn node(long: bool) -> BoxedStrategy<Node> {
    let leaf = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..2000).prop_map(What::File),
        2 => (prop::collection::vec((0_u16..400, 1..5_u8), 0..30), 0_u16..500)
            .prop_map(|(pieces, size)| What::Sparse(pieces, size)),
        1 => name(long).prop_map(What::Symlink),
        2 => Just(What::HardLink),
        1 => Just(What::Fifo),
    ];
    let of = move |what: BoxedStrategy<What>| {
        let mode = prop_oneof![Just(0o644_u32), Just(0o755), 0_u32..0o10000];
        let seconds = prop_oneof![0_i64..5_000_000_000, Just(0)];
        (name(long), what, mode, seconds, 0_u32..1_000_000_000).prop_map(
            |(name, what, mode, seconds, nanos)| Node { name, what, mode, seconds, nanos },
        )
    };
    of(leaf.boxed())
        .prop_recursive(4, 24, 6, move |inner| {
            of(prop::collection::vec(inner, 0..6).prop_map(What::Directory).boxed()).boxed()
        })
        .boxed()
}

/// Some nodes. Without `long`, only what every format has room for.
pub fn nodes(long: bool) -> impl Strategy<Value = Vec<Node>> {
    prop::collection::vec(node(long), 1..8)
}

/// Makes `nodes` in `directory`. What has a name that is taken is left out.
pub fn make(nodes: &[Node], directory: &Path) {
    make_below(nodes, directory, &mut None);
}

fn make_below(nodes: &[Node], directory: &Path, last: &mut Option<PathBuf>) {
    for node in nodes {
        let path = directory.join(OsStr::from_bytes(&node.name));
        if fs::symlink_metadata(&path).is_ok() {
            continue;
        }
        match &node.what {
            What::File(content) => {
                fs::write(&path, content).unwrap();
                *last = Some(path.clone());
            }
            What::Sparse(pieces, size) => sparse(&path, pieces, *size),
            What::Directory(nodes) => {
                fs::create_dir(&path).unwrap();
                make_below(nodes, &path, last);
            }
            What::Symlink(to) => symlink(OsStr::from_bytes(to), &path).unwrap(),
            What::HardLink => {
                let Some(last) = last else { continue };
                fs::hard_link(last, &path).unwrap();
                continue;
            }
            What::Fifo => nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
        }
        if !matches!(node.what, What::Symlink(_)) {
            // Who is not root could not read them otherwise.
            let readable = if matches!(node.what, What::Directory(_)) { 0o500 } else { 0o400 };
            fs::set_permissions(&path, Permissions::from_mode(node.mode | readable)).unwrap();
        }
        touch(&path, node.seconds, node.nanos);
    }
}

fn sparse(path: &Path, pieces: &[(u16, u8)], size: u16) {
    use std::os::unix::fs::FileExt as _;
    let file = File::create(path).unwrap();
    for (page, byte) in pieces {
        file.write_at(&[*byte; 4096], u64::from(*page) * 4096).unwrap();
    }
    file.set_len(u64::from(size) * 4096 + 7).unwrap();
}

pub fn touch(path: &Path, seconds: i64, nanos: u32) {
    let time = TimeSpec::new(seconds, nanos.into());
    utimensat(AT_FDCWD, path, &time, &time, UtimensatFlags::NoFollowSymlink).unwrap();
}

/// What a thing is: type and mode, time, content or target, the first of its names.
pub type Told = (u32, i64, i64, Vec<u8>, PathBuf);

/// What is below `directory`, by name. Times in whole seconds unless `fine`.
pub fn told(directory: &Path, fine: bool) -> BTreeMap<PathBuf, Told> {
    let mut all = BTreeMap::new();
    let mut firsts = BTreeMap::new();
    let mut left = vec![PathBuf::new()];
    while let Some(below) = left.pop() {
        let entries = fs::read_dir(directory.join(&below)).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| below.join(entry.unwrap().file_name())).collect();
        names.sort();
        for name in names {
            let path = directory.join(&name);
            let metadata = fs::symlink_metadata(&path).unwrap();
            let content = if metadata.is_symlink() {
                fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
            } else if metadata.is_file() {
                fs::read(&path).unwrap()
            } else {
                Vec::new()
            };
            let nanos = if fine { metadata.mtime_nsec() } else { 0 };
            let first = firsts.entry(metadata.ino()).or_insert_with(|| name.clone()).clone();
            let told = (metadata.mode(), metadata.mtime(), nanos, content, first);
            if metadata.is_dir() {
                left.push(name.clone());
            }
            all.insert(name, told);
        }
    }
    all
}
