//! Snapshot files: a state file of the double's own format, and a memory file as long as the
//! guest's memory and all hole.
//!
//! State file: magic, `v<format>` and a newline, then the configuration as JSON.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::resources::Resources;

/// First bytes of a state file. Firecracker's own is a number that names the architecture.
const MAGIC: &[u8] = b"FAKE-FIRECRACKER-SNAPSHOT ";

/// What a snapshot holds. Logger, metrics and serial are not in it: reference §1.4.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Devices, machine and boot source.
    pub resources: Resources,
    /// The last port a host's connection was given; saved since 1.15.
    pub host_port_last: u32,
}

/// Why a state file is none, worded as in firecracker's `snapshot/mod.rs`.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It cannot be read.
    #[error("Failed to open snapshot file: {0}")]
    Open(#[from] io::Error),
    /// It is not a state file.
    #[error(
        "Failed to load snapshot state from file: An error occurred during bitcode \
         serialization: bitcode error"
    )]
    NotState,
    /// Another version wrote it.
    #[error("Failed to load snapshot state from file: Invalid data version: {0}")]
    Format(String),
    /// It is damaged.
    #[error("Failed to load snapshot state from file: CRC64 validation failed")]
    Damaged,
}

/// Writes both files.
///
/// # Errors
/// The sentence Firecracker has for the file that could not be written.
pub fn create(
    state: &State,
    format: &str,
    state_path: &Path,
    memory_path: &Path,
) -> Result<(), String> {
    let json = serde_json::to_vec(state).expect("the state is plain data");
    let bytes = [MAGIC, b"v", format.as_bytes(), b"\n", &json].concat();
    fs::write(state_path, bytes)
        .map_err(|error| format!("Cannot perform open on the snapshot backing file: {error}"))?;
    // reference §3: the memory file is as long as the guest's memory and can be sparse.
    File::create(memory_path)
        .and_then(|file| file.set_len(u64::from(state.resources.machine_config.mem_size_mib) << 20))
        .map_err(|error| format!("Cannot perform open on the memory backing file: {error}"))
}

/// Reads a state file of any format.
///
/// # Errors
/// [`StateError::Open`] and [`StateError::NotState`].
pub fn format_of(path: &Path) -> Result<String, StateError> {
    split(&fs::read(path)?).map(|(format, _)| format.to_owned())
}

/// Reads a state file of this `format`.
///
/// # Errors
/// [`StateError`].
pub fn load(path: &Path, format: &str) -> Result<State, StateError> {
    let bytes = fs::read(path)?;
    match split(&bytes)? {
        (written, json) if written == format => {
            serde_json::from_slice(json).map_err(|_| StateError::Damaged)
        }
        (written, _) => Err(StateError::Format(written.to_owned())),
    }
}

fn split(bytes: &[u8]) -> Result<(&str, &[u8]), StateError> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(StateError::NotState)?;
    let line_end = rest.iter().position(|byte| *byte == b'\n').ok_or(StateError::NotState)?;
    let (line, json) = (&rest[..line_end], &rest[line_end + 1..]);
    let format = std::str::from_utf8(line).ok().and_then(|line| line.strip_prefix('v'));
    format.map(|format| (format, json)).ok_or(StateError::NotState)
}
