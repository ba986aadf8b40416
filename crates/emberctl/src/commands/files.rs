//! `emberctl files`: what is in a sandbox's directories, and small things done to it.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::process::ExitCode;

use emberd_api::{ChangeKind, FileEntry, FileType};
use emberd_client::{Client, FileOptions};
use serde::Serialize;

use crate::interrupt::Interrupt;
use crate::output::{self, Clock, Output, printable};
use crate::place::SandboxPath;

/// Commands on files.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List a directory.
    Ls {
        /// The directory, ID:PATH.
        path: OsString,
        /// Levels of directories to list.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
        depth: u32,
        #[command(flatten)]
        whose: Whose,
    },
    /// Show the type, size, owner and times of a file.
    Stat {
        /// ID:PATH.
        path: OsString,
        #[command(flatten)]
        whose: Whose,
    },
    /// Make a directory and its parents.
    Mkdir {
        /// The directory, ID:PATH.
        path: OsString,
        #[command(flatten)]
        whose: Whose,
    },
    /// Move a file or a directory, and replace an existing file.
    Mv {
        /// Source, ID:PATH.
        from: OsString,
        /// New path in the same sandbox.
        to: OsString,
        #[command(flatten)]
        whose: Whose,
    },
    /// Remove files, and directories with everything in them.
    Rm {
        /// Files and directories, ID:PATH.
        #[arg(required = true)]
        paths: Vec<OsString>,
        #[command(flatten)]
        whose: Whose,
    },
    /// Print changes as they happen, one per line, until interrupted.
    Watch {
        /// A directory or a file, ID:PATH.
        path: OsString,
        /// Watch directories below it too, new ones included.
        #[arg(long, short)]
        recursive: bool,
        #[command(flatten)]
        whose: Whose,
    },
}

/// For whom.
#[derive(Debug, clap::Args)]
pub struct Whose {
    /// User in the sandbox who owns new files, and whose home relative paths start at.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
}

/// The JSON output of `files rm`.
#[derive(Serialize)]
struct Removed {
    removed: Vec<String>,
}

impl Whose {
    fn options(self) -> FileOptions {
        FileOptions { user: self.user, mode: None }
    }
}

/// Carries out `command`.
///
/// # Errors
/// The daemon's refusal, or no daemon.
pub async fn run(client: &Client, command: Command, output: Output) -> anyhow::Result<ExitCode> {
    match command {
        Command::Ls { path, depth, whose } => {
            let SandboxPath { id, path } = SandboxPath::parse(&path)?;
            let list = client.file_list(&id, &path, depth, &whose.options()).await?;
            output.print(&list, || table(&list.entries))?;
            if list.cut && !output.json {
                writeln!(
                    io::stderr(),
                    "emberctl: the listing was cut at its limit; list a directory below"
                )?;
            }
        }
        Command::Stat { path, whose } => {
            let SandboxPath { id, path } = SandboxPath::parse(&path)?;
            let entry = client.file_stat(&id, &path, &whose.options()).await?;
            output.print(&entry, || facts(&entry))?;
        }
        Command::Mkdir { path, whose } => {
            let SandboxPath { id, path } = SandboxPath::parse(&path)?;
            let entry = client.file_make_dir(&id, &path, &whose.options()).await?;
            output.print(&entry, || line(&entry))?;
        }
        Command::Mv { from, to, whose } => {
            let SandboxPath { id, path } = SandboxPath::parse(&from)?;
            let entry = client.file_move(&id, &path, to.as_ref(), &whose.options()).await?;
            output.print(&entry, || line(&entry))?;
        }
        Command::Rm { paths, whose } => {
            let options = whose.options();
            let mut removed = Vec::new();
            for path in &paths {
                let path = SandboxPath::parse(path)?;
                client.file_remove(&path.id, &path.path, &options).await?;
                removed.push(path.to_string());
            }
            let document = Removed { removed };
            output.print(&document, || {
                document.removed.iter().flat_map(|path| [path, "\n"]).collect()
            })?;
        }
        Command::Watch { path, recursive, whose } => {
            let path = SandboxPath::parse(&path)?;
            return watch(client, path, recursive, &whose.options(), output).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints changes as they come; as JSON one document a line.
async fn watch(
    client: &Client,
    path: SandboxPath,
    recursive: bool,
    options: &FileOptions,
    output: Output,
) -> anyhow::Result<ExitCode> {
    let mut interrupt = Interrupt::listen()?;
    let mut watch = client.file_watch(&path.id, &path.path, recursive, options).await?;
    loop {
        let change = tokio::select! {
            change = watch.next() => change?,
            interrupted = interrupt.next() => return Err(interrupted.into()),
        };
        let Some(change) = change else { return Ok(ExitCode::SUCCESS) };
        let text = if output.json {
            serde_json::to_string(&change)?
        } else {
            let path = change.path.as_path().display().to_string();
            format!("{:<10} {}", word(change.change), one_line(&path))
        };
        writeln!(io::stdout(), "{text}")?;
    }
}

fn table(entries: &[FileEntry]) -> String {
    let clock = Clock::now();
    let rows: Vec<_> = entries.iter().map(|entry| row(entry, clock)).collect();
    output::table(["MODE", "OWNER", "SIZE", "AGE", "PATH"], &rows)
}

fn row(entry: &FileEntry, clock: Clock) -> [String; 5] {
    [
        mode(entry),
        owner(entry),
        output::bytes(entry.size),
        clock.age(u64::try_from(entry.modified_ms).unwrap_or_default()),
        path(entry),
    ]
}

fn facts(entry: &FileEntry) -> String {
    output::facts(&[
        ("path", path(entry)),
        ("type", kind(entry.file_type).to_owned()),
        ("size", format!("{} bytes", entry.size)),
        ("mode", mode(entry)),
        ("owner", owner(entry)),
        ("group", entry.group.clone().unwrap_or_else(|| entry.gid.to_string())),
        ("modified", format!("{} ms since 1970", entry.modified_ms)),
    ])
}

fn line(entry: &FileEntry) -> String {
    format!("{}\n", one_line(&path(entry)))
}

fn path(entry: &FileEntry) -> String {
    let path = entry.path.as_path().display();
    match &entry.target {
        Some(target) => format!("{path} -> {}", target.as_path().display()),
        None => path.to_string(),
    }
}

fn owner(entry: &FileEntry) -> String {
    entry.owner.clone().unwrap_or_else(|| entry.uid.to_string())
}

/// Type and permission bits, as ls(1) begins its lines, the bits in octal.
fn mode(entry: &FileEntry) -> String {
    let letter = match entry.file_type {
        FileType::File => '-',
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::Other => '?',
    };
    format!("{letter} {:04o}", entry.mode)
}

fn kind(file_type: FileType) -> &'static str {
    match file_type {
        FileType::File => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symbolic link",
        FileType::Other => "device, socket or FIFO",
    }
}

fn word(change: ChangeKind) -> &'static str {
    match change {
        ChangeKind::Created => "created",
        ChangeKind::Modified => "modified",
        ChangeKind::Removed => "removed",
        ChangeKind::Renamed => "renamed",
        ChangeKind::Attributes => "attributes",
        ChangeKind::Overflow => "overflow",
    }
}

/// A name is any bytes, line breaks too.
fn one_line(text: &str) -> String {
    printable(text).replace('\n', "\u{fffd}")
}
