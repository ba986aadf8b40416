//! `emberctl image`: builds, lists, checks and prunes what guests boot from.

use std::process::ExitCode;

use emberd_image::DataDir;

use crate::output::Output;

mod build;
mod check;
mod ls;
pub mod progress;
mod prune;

/// Commands on images.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Build images that are missing or out of date.
    Build(Box<build::Args>),
    /// List the images of the data directory.
    Ls,
    /// Check whether a kernel has the options that guests need.
    Check(check::Args),
    /// Remove files that no image uses.
    Prune,
}

/// Carries out `command` on the images in `data_dir`.
///
/// # Errors
/// An image could not be built, read or removed.
pub fn run(command: Command, data_dir: &DataDir, output: Output) -> anyhow::Result<ExitCode> {
    match command {
        Command::Build(args) => build::run(*args, data_dir, output),
        Command::Ls => ls::run(data_dir, output),
        Command::Check(args) => check::run(&args, data_dir, output),
        Command::Prune => prune::run(data_dir, output),
    }
}
