//! Logs and journals that daemons of tests have written, kept for a look at all of it after a run.
//!
//! Each is a file in the directory that `EMBERD_KEPT` names. Without it, nothing is kept.

use std::env;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use tempfile::Builder;

/// A file of one daemon's, or nothing.
#[derive(Debug)]
pub struct Kept(Option<File>);

impl Kept {
    /// Begins a file whose name ends with `.` and `kind`.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn begin(kind: &str) -> Self {
        Self(env::var_os("EMBERD_KEPT").map(PathBuf::from).map(|dir| {
            let file = Builder::new().suffix(&format!(".{kind}")).tempfile_in(dir);
            file.expect("a file can be made").keep().expect("a file can be kept").0
        }))
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
    let files = files.map(|entry| entry.expect("a directory can be read").path());
    for file in files.filter(|path| path.is_file()) {
        Kept::begin(kind).add(&fs::read(&file).expect("a file can be read"));
    }
}
