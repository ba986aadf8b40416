//! What daemons of tests have written, kept for a look at all of it after a run.
//!
//! Each piece is a file in the directory that `EMBERD_KEPT` names. Without it, nothing is kept.

use std::env;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A file of one daemon's, or nothing.
#[derive(Debug)]
pub struct Kept(Option<File>);

impl Kept {
    /// Begins a file of this kind.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn begin(kind: &str) -> Self {
        Self(path(kind).map(|path| File::create(path).expect("a file can be made")))
    }

    /// Adds to it.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn add(&mut self, bytes: &[u8]) {
        if let Some(file) = &mut self.0 {
            file.write_all(bytes).expect("a file can be written");
        }
    }
}

/// Keeps the files in `dir`, if there is such a directory.
///
/// # Panics
/// When they cannot be read or kept.
pub fn keep_files(dir: &Path, kind: &str) {
    let files = fs::read_dir(dir).into_iter().flatten();
    for file in files.map(|entry| entry.expect("a directory can be read").path()) {
        if let Some(to) = path(kind).filter(|_| file.is_file()) {
            fs::copy(&file, to).expect("a file can be copied");
        }
    }
}

/// A new path in the directory of what is kept.
fn path(kind: &str) -> Option<PathBuf> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let dir = env::var_os("EMBERD_KEPT").map(PathBuf::from)?;
    let (process, number) = (process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    // Tests of one run may have the same process id one after the other.
    let is_new = |path: &PathBuf| !path.exists();
    (0..).map(|again| dir.join(format!("{process}-{number}-{again}.{kind}"))).find(is_new)
}
