//! Snapshot files: a state file in the double's own format, and a sparse memory file of the size
//! of the guest's memory.
//!
//! State file: magic, `v<format>` and a newline, then the configuration as JSON.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::resources::Resources;

/// The first bytes of a state file. Firecracker's own is a number for the architecture.
const MAGIC: &[u8] = b"FAKE-FIRECRACKER-SNAPSHOT ";

/// Content of a snapshot. Logger, metrics and serial are not included: reference §1.4.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Devices, machine and boot source.
    pub resources: Resources,
    /// The last host port that was assigned; saved since 1.15.
    pub host_port_last: u32,
}

/// Why a state file is invalid, with the messages of firecracker's `snapshot/mod.rs`.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file cannot be read.
    #[error("Failed to open snapshot file: {0}")]
    Open(#[from] io::Error),
    /// The file is not a state file.
    #[error(
        "Failed to load snapshot state from file: An error occurred during bitcode \
         serialization: bitcode error"
    )]
    NotState,
    /// The file has the format of another version.
    #[error("Failed to load snapshot state from file: Invalid data version: {0}")]
    Format(String),
    /// The file is damaged.
    #[error("Failed to load snapshot state from file: CRC64 validation failed")]
    Damaged,
}

/// Writes both files.
///
/// # Errors
/// Firecracker's message for the file that could not be written.
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
