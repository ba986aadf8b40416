//! `emberctl setup`: fetches what emberd does not build itself: Firecracker and a guest kernel.
//!
//! Every file has a SHA-256 known before it is fetched. Nothing is unpacked or installed
//! before it matches, so where a file comes from decides nothing but speed.

use std::process::ExitCode;

use emberd_image::{DataDir, Digest};
use serde::Serialize;

use super::image::progress;
use crate::output::{self, Output};

mod archive;
mod download;
mod firecracker;
mod kernel;
mod source;
mod workshop;

pub use firecracker::current as firecracker_dir;

/// The program or image to install.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Install a supported release of Firecracker and its jailer.
    Firecracker(firecracker::Args),
    /// Install a kernel of Firecracker's test suite as the kernel of the guests.
    Kernel(kernel::Args),
}

/// The JSON output of `setup`.
#[derive(Debug, Serialize)]
struct Installed {
    what: String,
    path: String,
    sha256: Digest,
    up_to_date: bool,
    /// Commands worth running now.
    next: Vec<String>,
}

/// Carries out `command` for `data_dir`.
///
/// # Errors
/// A file could not be fetched, verified or installed. The files of before are then untouched.
pub fn run(command: Command, data_dir: &DataDir, output: Output) -> anyhow::Result<ExitCode> {
    let mut progress = progress::of(output);
    let installed = match command {
        Command::Firecracker(args) => firecracker::install(&args, data_dir, progress.as_mut()),
        Command::Kernel(args) => kernel::install(&args, data_dir, progress.as_mut()),
    };
    drop(progress);
    let installed = installed?;
    output.print(&installed, || text(&installed))?;
    Ok(ExitCode::SUCCESS)
}

fn text(installed: &Installed) -> String {
    let verb = if installed.up_to_date { "already installed" } else { "installed" };
    let labels = ["next"].into_iter().chain(std::iter::repeat(""));
    let next = labels.zip(installed.next.iter().cloned());
    let facts: Vec<_> = [("path", installed.path.clone())].into_iter().chain(next).collect();
    format!("{}: {verb}\n{}", installed.what, output::facts(&facts))
}
