//! `emberctl image prune`: removes files no image uses any more.

use std::process::ExitCode;

use emberd_image::DataDir;
use serde::Serialize;

use super::progress;
use crate::output::{self, Output};

/// The JSON output of `image prune`.
#[derive(Serialize)]
struct Removed {
    files: usize,
    size_bytes: u64,
}

/// Removes the files and says how many they were.
///
/// # Errors
/// The data directory's records are damaged, or a file cannot be removed.
pub fn run(data_dir: &DataDir, output: Output) -> anyhow::Result<ExitCode> {
    let pruned = emberd_image::prune(data_dir, progress::of(output).as_mut())?;
    let removed = Removed { files: pruned.files, size_bytes: pruned.size_bytes };
    output.print(&removed, || {
        format!("{} files removed, {}\n", removed.files, output::bytes(removed.size_bytes))
    })?;
    Ok(ExitCode::SUCCESS)
}
