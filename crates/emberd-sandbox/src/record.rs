//! What a sandbox's directory says about it, for people who look there.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use emberd_image::PackName;
use serde::Serialize;

use crate::SandboxId;

/// Name of the record in the sandbox's directory.
const FILE_NAME: &str = "sandbox.json";

/// Identity and origin of one sandbox; never changes.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub id: SandboxId,
    pub pack: PackName,
    pub created_at: SystemTime,
}

impl Record {
    /// Writes the record into `dir`, as JSON.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        #[derive(Serialize)]
        struct OnDisk {
            id: String,
            pack: String,
            created_at_ms: u128,
        }
        let since_epoch = self.created_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let record = OnDisk {
            id: self.id.to_string(),
            pack: self.pack.to_string(),
            created_at_ms: since_epoch.as_millis(),
        };
        fs::write(dir.join(FILE_NAME), serde_json::to_vec(&record)?)
    }
}
