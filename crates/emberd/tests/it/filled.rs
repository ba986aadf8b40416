//! A run directory on a small file system of its own, without a byte or an inode left.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use emberd_testing::run;

/// Size of the file system, and the most files on it.
const OPTIONS: &str = "size=4m,nr_inodes=256,mode=700";

/// Directory of the files that fill it.
pub const FILLING: &str = "filling";

/// The resource that is missing.
#[derive(Clone, Copy)]
pub enum Lack {
    Bytes,
    Inodes,
}

/// Makes `dir`, with an empty file system, in the mount namespace of the test.
pub fn mount(dir: &Path) {
    fs::create_dir(dir).unwrap();
    run(&format!("mount -t tmpfs -o {OPTIONS} none {}", dir.display()));
}

/// Takes what is left of the file system at `dir`.
pub fn fill(dir: &Path, lack: Lack) {
    let dir = dir.join(FILLING);
    fs::create_dir(&dir).unwrap();
    let filled = match lack {
        Lack::Bytes => {
            let mut file = File::create(dir.join("0")).unwrap();
            std::iter::repeat_with(|| file.write_all(&[0; 4096])).find_map(Result::err)
        }
        Lack::Inodes => (0..).find_map(|n| File::create(dir.join(n.to_string())).err()),
    };
    assert_eq!(filled.unwrap().kind(), io::ErrorKind::StorageFull);
}

pub fn make_room(dir: &Path) {
    fs::remove_dir_all(dir.join(FILLING)).unwrap();
}

pub fn unmount(dir: &Path) {
    // A process that has just ended may still hold its files.
    run(&format!("umount --lazy {}", dir.display()));
}
