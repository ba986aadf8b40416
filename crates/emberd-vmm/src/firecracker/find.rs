//! Finds Firecracker's binaries and looks at them.

use std::ffi::OsStr;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use super::version::VersionRefusal;

/// Program header type of an interpreter's name, that is of dynamic linking (elf(5)).
const PT_INTERP: u32 = 3;

/// Why Firecracker cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The binary does not exist.
    #[error("no firecracker binary found")]
    Missing,
    /// The binary cannot be run.
    #[error("cannot run {}", binary.display())]
    Run {
        /// The binary.
        binary: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The binary's output is not that of Firecracker.
    #[error("unexpected output of {} {question}: {printed:?}", binary.display())]
    Unreadable {
        /// The binary.
        binary: PathBuf,
        /// The argument passed to it.
        question: String,
        /// The first line it printed.
        printed: String,
    },
    /// This release must not be used.
    #[error(transparent)]
    Version(#[from] VersionRefusal),
    /// The cgroup given for VMMs cannot be used.
    #[error("cannot use the cgroup for VMMs: {reason}")]
    Cgroups {
        /// Why not.
        reason: String,
    },
    /// A jail is required and not possible.
    #[error("cannot jail microVMs: {reason}")]
    Jail {
        /// Why.
        reason: String,
    },
    /// A property of this host that templates depend on cannot be read.
    #[error("cannot read {}", path.display())]
    Host {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl FindError {
    /// Returns a hint how to fix the problem.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Missing => Some("install Firecracker 1.16.2 or newer, or name it: --firecracker"),
            Self::Version(_) => Some("install Firecracker 1.16.2 or newer"),
            Self::Unreadable { .. } => Some("give the path of a Firecracker release binary"),
            Self::Jail { .. } => {
                Some("run as root with the jailer of the same release, or --jail off")
            }
            Self::Cgroups { .. } => Some(crate::cgroup::HINT),
            Self::Run { .. } | Self::Host { .. } => None,
        }
    }
}

/// The program `name`: `given` if it is, else the first in `dirs` and then `PATH`.
pub fn find_binary(name: &str, given: Option<&Path>, dirs: &[PathBuf]) -> Option<PathBuf> {
    if let Some(given) = given {
        return given.is_file().then(|| given.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    search(OsStr::new(name), dirs.iter().cloned().chain(std::env::split_paths(&path)))
}

fn search(name: &OsStr, mut dirs: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    dirs.find_map(|dir| Some(dir.join(name)).filter(|path| path.is_file()))
}

/// Whether the program at `path` needs a dynamic linker. `false` for a file that is not 64-bit
/// ELF: running it reports a better error.
pub fn needs_interpreter(path: &Path) -> bool {
    read_needs_interpreter(path).unwrap_or(false)
}

fn read_needs_interpreter(path: &Path) -> io::Result<bool> {
    let mut file = std::fs::File::open(path)?;
    let mut header = [0; 64];
    file.read_exact(&mut header)?;
    let is_elf64 = header.starts_with(b"\x7fELF\x02\x01");
    let table = u64::from_le_bytes(header[32..40].try_into().expect("8 bytes"));
    let [entry_bytes, entries] =
        [54, 56].map(|at| u16::from_le_bytes([header[at], header[at + 1]]));
    if !is_elf64 {
        return Ok(false);
    }
    for index in 0..u64::from(entries) {
        let mut kind = [0; 4];
        file.seek(SeekFrom::Start(table.saturating_add(index * u64::from(entry_bytes))))?;
        file.read_exact(&mut kind)?;
        if u32::from_le_bytes(kind) == PT_INTERP {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_binary_is_taken_or_none() {
        let dir = tempfile::tempdir().unwrap();
        let binary = dir.path().join("firecracker");
        assert_eq!(find_binary("firecracker", Some(&binary), &[]), None);
        std::fs::write(&binary, "").unwrap();
        assert_eq!(find_binary("firecracker", Some(&binary), &[]), Some(binary.clone()));
        let dirs = [PathBuf::from("/nonexistent"), dir.path().to_owned()];
        assert_eq!(search(OsStr::new("firecracker"), dirs.into_iter()), Some(binary));
    }

    #[test]
    fn dynamic_programs_are_told_from_others() {
        let test_binary = std::env::current_exe().unwrap();
        assert!(needs_interpreter(&test_binary), "a test binary is linked dynamically");
        let dir = tempfile::tempdir().unwrap();
        let other = dir.path().join("x");
        for text in ["", "#!/bin/sh\n", &"x".repeat(100)] {
            std::fs::write(&other, text).unwrap();
            assert!(!needs_interpreter(&other));
        }
        let mut bytes = std::fs::read(&test_binary).unwrap();
        bytes[56..58].fill(0);
        std::fs::write(&other, bytes).unwrap();
        assert!(!needs_interpreter(&other), "no program headers, no interpreter");
    }
}
