//! A root file system given by the user: a directory, or a tar archive such as the output of
//! `docker export`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use emberd_proto::PackSpec;
use emberd_proto::pack::FILE_PLACEHOLDER;

use super::archive::{self, ArchiveError, ROOT_ENTRIES_MAX};
use super::definition::{DefinitionError, check_spec};
use super::squashfs::{Event, RootStream};
use crate::artifact::Digest;
use crate::build::BuildError;
use crate::command::Tool;
use crate::decompress::plain;
use crate::name::PackName;

/// Maximum depth of a directory in a root file system.
const DEPTH_MAX: usize = 128;

/// A language pack from an existing root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootPack {
    /// The pack's name.
    pub name: PackName,
    /// Description of the pack, in one line.
    pub description: String,
    /// A directory, or a tar archive: plain, gzip, xz or zstd.
    pub root: PathBuf,
    /// Program and arguments that run the code; `{file}` stands for its file.
    pub run: Vec<String>,
    /// Name of the file the code is written to, such as `main.py`.
    pub file_name: String,
    /// Environment variables of every exec.
    pub env: BTreeMap<String, String>,
}

/// Splits a command line at white space, without quoting, and adds `{file}` if it is missing.
pub fn run_words(command: &str) -> Vec<String> {
    let mut words: Vec<_> = command.split_whitespace().map(str::to_owned).collect();
    if !words.iter().any(|word| word == FILE_PLACEHOLDER) {
        words.push(FILE_PLACEHOLDER.to_owned());
    }
    words
}

/// Result of inspecting a root file system, before anything is built from it.
pub(super) struct Surveyed {
    /// Digest of its content; for a directory, of names, sizes and times of change.
    pub digest: Digest,
    /// Newest modification time in it, in seconds since the Unix epoch.
    pub newest: u32,
}

impl RootPack {
    /// Returns the description for the guest agent.
    pub(super) fn spec(&self) -> Result<PackSpec, DefinitionError> {
        let spec = PackSpec {
            name: self.name.to_string(),
            run: self.run.clone(),
            file_name: self.file_name.clone(),
            env: self.env.clone(),
            zygote: None,
            contexts: Vec::new(),
        };
        check_spec(&self.name, &spec)?;
        Ok(spec)
    }

    /// Reads the archive, or lists the directory, and checks it against the limits.
    pub(super) fn survey(&self) -> Result<Surveyed, BuildError> {
        let surveyed = if self.root.is_dir() {
            survey_directory(&self.root)
        } else {
            survey_archive(&self.root)
        };
        surveyed.map_err(|source| BuildError::Root { path: self.root.clone(), source })
    }

    /// Starts to read it.
    pub(super) fn stream(&self, events: mpsc::Sender<Event>) -> Result<RootStream, BuildError> {
        let origin = self.root.clone();
        if !self.root.is_dir() {
            let unreadable = |error| BuildError::Root {
                path: self.root.clone(),
                source: ArchiveError::Read(error),
            };
            let file = File::open(&self.root).map_err(unreadable)?;
            let reader = plain(file).map_err(unreadable)?;
            return Ok(RootStream { reader, tool: None, total_bytes: None, origin });
        }
        let tool = Tool::new("tar", "tar").with(|command| {
            command.args(["--create", "--sort=name", "--numeric-owner", "--format=gnu"]);
            if !rustix::process::geteuid().is_root() {
                // Files that an ordinary user unpacked all belong to that user; in the guest, to
                // root.
                command.args(["--owner=0", "--group=0"]);
            }
            command.args(["--directory"]).arg(&self.root).arg(".")
        });
        let mut tool = tool.start(move |line| {
            // The receiver is gone only if the build was cancelled.
            events.send(Event::Line(line.to_owned())).ok();
        })?;
        let reader = Box::new(tool.take_stdout());
        Ok(RootStream { reader, tool: Some(tool), total_bytes: None, origin })
    }
}

fn survey_archive(path: &Path) -> Result<Surveyed, ArchiveError> {
    let open = || File::open(path).map_err(ArchiveError::Read);
    let survey = archive::survey(plain(open()?).map_err(ArchiveError::Read)?)?;
    let (digest, _) = Digest::of_reader(open()?).map_err(ArchiveError::Read)?;
    Ok(Surveyed { digest, newest: survey.newest })
}

fn survey_directory(path: &Path) -> Result<Surveyed, ArchiveError> {
    let mut listing = Listing::default();
    listing.add(path, 0)?;
    if listing.entries == 0 {
        return Err(ArchiveError::Empty);
    }
    let root = path.as_os_str().as_encoded_bytes();
    Ok(Surveyed { digest: Digest::of_parts(&[root, &listing.lines]), newest: listing.newest })
}

#[derive(Default)]
struct Listing {
    lines: Vec<u8>,
    entries: u64,
    newest: u32,
}

impl Listing {
    /// Adds the entries of `dir`, sorted. The time of change (ctime) detects any edit.
    fn add(&mut self, dir: &Path, depth: usize) -> Result<(), ArchiveError> {
        let mut paths = fs::read_dir(dir)
            .and_then(|entries| {
                entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()
            })
            .map_err(ArchiveError::Read)?;
        paths.sort();
        for path in paths {
            let meta = fs::symlink_metadata(&path).map_err(ArchiveError::Read)?;
            self.entries += 1;
            if self.entries > ROOT_ENTRIES_MAX || depth > DEPTH_MAX {
                return Err(ArchiveError::TooMany);
            }
            self.newest = self.newest.max(u32::try_from(meta.mtime()).unwrap_or(0));
            let facts = [i64::from(meta.mode()), meta.ctime(), meta.ctime_nsec()];
            self.lines.extend(path.as_os_str().as_encoded_bytes());
            self.lines.extend(format!("\0{facts:?} {} {}\0", meta.size(), meta.ino()).bytes());
            if meta.is_dir() {
                self.add(&path, depth + 1)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_becomes_words() {
        assert_eq!(run_words("/bin/lua  -i"), ["/bin/lua", "-i", "{file}"]);
        assert_eq!(run_words("/bin/x {file} -v"), ["/bin/x", "{file}", "-v"]);
    }

    #[test]
    fn any_edit_changes_a_directorys_digest() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        fs::write(dir.path().join("etc/a"), "1").unwrap();
        let digest = || survey_directory(dir.path()).unwrap().digest;
        let first = digest();
        assert_eq!(digest(), first);
        fs::rename(dir.path().join("etc/a"), dir.path().join("etc/b")).unwrap();
        let renamed = digest();
        assert_ne!(renamed, first);
        fs::write(dir.path().join("etc/b"), "23").unwrap();
        assert_ne!(digest(), renamed);
    }

    #[test]
    fn an_empty_directory_is_no_root() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(survey_directory(dir.path()), Err(ArchiveError::Empty)));
    }
}
