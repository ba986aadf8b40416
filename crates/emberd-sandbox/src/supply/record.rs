//! The record in a sandbox's directory, for people who look there.

use std::fs;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::lifecycle::sandbox::Sandbox;

/// Name of the record in the sandbox's directory.
const FILE_NAME: &str = "sandbox.json";

/// Writes identity and origin of `sandbox`, whose microVM was just started, into its
/// directory, as JSON. The record never changes: the origin of a sandbox from a pool is earlier
/// than its request.
pub(crate) fn write(sandbox: &Sandbox) -> io::Result<()> {
    #[derive(Serialize)]
    struct OnDisk {
        id: String,
        pack: String,
        made_at_ms: u128,
    }
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let record = OnDisk {
        id: sandbox.id.to_string(),
        pack: sandbox.shape.pack.to_string(),
        made_at_ms: since_epoch.as_millis(),
    };
    fs::write(sandbox.dir.join(FILE_NAME), serde_json::to_vec(&record)?)
}
