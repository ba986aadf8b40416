//! Takes single members out of a compressed tar archive with the host's tar.
//!
//! tar writes a member's content into a pipe and creates no file: what paths, links and
//! owners the archive names does not matter.

use std::fs::{File, Permissions};
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Most of what tar says that is read, in bytes.
const SAID_BYTES_MAX: u64 = 16 << 10;

/// Largest program taken out of an archive, in bytes (128 MiB); Firecracker has some 3 MiB.
pub const PROGRAM_BYTES_MAX: u64 = 128 << 20;

/// Why a member was not extracted.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// tar is not installed, or failed.
    #[error("cannot run tar")]
    Tar(#[source] io::Error),
    /// The archive has no such member.
    #[error("the archive has no {member}: {said}")]
    Missing {
        /// The member.
        member: String,
        /// The first line of tar's errors.
        said: String,
    },
    /// The program is over its size limit.
    #[error("{member} is larger than {PROGRAM_BYTES_MAX} bytes")]
    TooLarge {
        /// The member.
        member: String,
    },
    /// The program cannot be written.
    #[error("cannot write the program")]
    Write(#[source] io::Error),
}

/// Writes the content of `member` of the archive to `program`, a new file that may be run.
///
/// # Errors
/// [`UnpackError`].
pub fn unpack_program(archive: &Path, member: &str, program: &Path) -> Result<(), UnpackError> {
    let archive = File::open(archive).map_err(UnpackError::Tar)?;
    let mut tar = Command::new("tar")
        .args(["--extract", "--gzip", "--to-stdout", "--occurrence=1", "--file", "-", "--", member])
        .env_remove("TAR_OPTIONS")
        .stdin(archive)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(UnpackError::Tar)?;
    let content = tar.stdout.take().expect("it is piped");
    let complaints = tar.stderr.take().expect("it is piped");
    // Closes tar's standard output, which ends a tar that has more to write.
    let stored = store(content.take(PROGRAM_BYTES_MAX + 1), program);
    let mut said = String::new();
    let heard = complaints.take(SAID_BYTES_MAX).read_to_string(&mut said);
    let status = tar.wait().map_err(UnpackError::Tar)?;
    let bytes = stored.map_err(UnpackError::Write)?;
    heard.map_err(UnpackError::Tar)?;
    let member = member.to_owned();
    match bytes {
        bytes if bytes > PROGRAM_BYTES_MAX => Err(UnpackError::TooLarge { member }),
        0 => Err(UnpackError::Missing { member, said: first_line(&said, "the file is empty") }),
        _ if status.success() => Ok(()),
        _ => Err(UnpackError::Missing { member, said: first_line(&said, &status.to_string()) }),
    }
}

fn store(mut content: impl io::Read, program: &Path) -> io::Result<u64> {
    let mut file = File::create_new(program)?;
    let bytes = io::copy(&mut content, &mut file)?;
    file.set_permissions(Permissions::from_mode(0o755))?;
    file.sync_all()?;
    Ok(bytes)
}

fn first_line(said: &str, otherwise: &str) -> String {
    said.lines().next().unwrap_or(otherwise).to_owned()
}
