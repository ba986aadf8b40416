//! The results of a run as a document, for `--json`, `--compare` and the repository.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::measure::{Check, Host};
use crate::statistics::Results;

/// A run as a document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// The host and the time.
    pub host: Host,
    /// Summaries by scenario and series, as integers. The unit is bytes if the name of the series
    /// ends with `_bytes`, bytes per second with `_bytes_per_s`, a number with `_count`, else
    /// microseconds. A series named `A/B` is the stage B of the series A.
    pub scenarios: Results,
    /// Conditions that must hold after a scenario, by scenario.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub checks: BTreeMap<String, Vec<Check>>,
    /// Reasons to doubt figures, by scenario; those of the whole run are under `run`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub warnings: BTreeMap<String, Vec<String>>,
}

/// Why a document cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file does not exist or cannot be opened.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is not such a document.
    #[error("{} is not a result of emberd-bench", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: serde_json::Error,
    },
}

impl Document {
    /// Reads the document at `path`.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read(path: &Path) -> Result<Self, ReadError> {
        let text = fs::read_to_string(path)
            .map_err(|source| ReadError::Read { path: path.to_owned(), source })?;
        serde_json::from_str(&text)
            .map_err(|source| ReadError::Parse { path: path.to_owned(), source })
    }

    /// Returns the document as text, which is the same for the same results.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("documents have string keys only") + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The format that programs rely on.
    const TEXT: &str = r#"{
  "host": {
    "cpu": "Some CPU",
    "cores": 2,
    "memory_bytes": 8,
    "memory_available_bytes": 4,
    "kernel": "6.1",
    "virtualisation": "none",
    "driver": "qemu",
    "vmm_version": "7.2",
    "accelerator": "tcg",
    "guest_ram_mib": 256,
    "emberd_version": "0.1.0",
    "commit": "abc",
    "build": "release",
    "date": "2026-11-23T00:00:00Z",
    "load_before": [
      0.1,
      0.2,
      0.3
    ],
    "load_after": [
      1.0,
      0.5,
      0.3
    ],
    "calibration_ns": 1000
  },
  "scenarios": {
    "exec": {
      "python_zygote": {
        "n": 20,
        "min": 1,
        "p50": 2,
        "p90": 3,
        "p95": 4,
        "max": 5
      }
    }
  },
  "checks": {
    "churn": [
      {
        "what": "left behind",
        "holds": true,
        "seen": "nothing"
      }
    ]
  },
  "warnings": {
    "run": [
      "noisy"
    ]
  }
}
"#;

    #[test]
    fn schema_round_trips() {
        let document: Document = serde_json::from_str(TEXT).unwrap();
        assert_eq!(document.scenarios["exec"]["python_zygote"].p95, Some(4));
        assert_eq!(document.to_json(), TEXT);
    }

    #[test]
    fn files_that_are_no_results_are_refused() {
        let missing = Document::read(Path::new("/nonexistent/x.json")).unwrap_err();
        assert!(matches!(missing, ReadError::Read { .. }));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.json");
        fs::write(&path, "{}").unwrap();
        let error = Document::read(&path).unwrap_err();
        assert!(matches!(error, ReadError::Parse { .. }), "{error}");
        fs::write(&path, TEXT).unwrap();
        assert_eq!(Document::read(&path).unwrap().host.cores, 2);
    }
}
