//! The shapes that callers have pinned, and sizes of their pools, for the next daemon.
//!
//! They are one file of the run directory, written by rename: as sandboxes and pools, pins live as
//! long as that directory.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::shape::{Shape, Size};

/// Name of the file, and its name while it is replaced.
const FILE_NAME: &str = "pins.json";
const UNFINISHED: &str = "pins.json.new";

/// One pin, as it is written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Pin {
    pack: String,
    vcpus: u8,
    memory_mib: u32,
    /// None if the caller asked for no pool of its own.
    pool_size: Option<usize>,
}

/// See the module.
pub(crate) struct Pins {
    dir: PathBuf,
    by_shape: Mutex<BTreeMap<Shape, Option<usize>>>,
}

impl Pins {
    /// Reads the pins in the run directory `dir`. Without a file, or with one that cannot be read,
    /// there are none.
    pub fn read(dir: &Path) -> Self {
        let pins = read(&dir.join(FILE_NAME)).unwrap_or_else(|error| {
            tracing::warn!(%error, "the pinned shapes of an earlier daemon are lost");
            Vec::new()
        });
        let by_shape = pins.into_iter().filter_map(|pin| {
            let size = Size { vcpus: pin.vcpus, memory_mib: pin.memory_mib };
            Some((Shape { pack: pin.pack.parse().ok()?, size }, pin.pool_size))
        });
        Self { dir: dir.to_owned(), by_shape: Mutex::new(by_shape.collect()) }
    }

    /// Returns each shape with the size of its pool.
    pub fn all(&self) -> Vec<(Shape, Option<usize>)> {
        self.by_shape.lock().clone().into_iter().collect()
    }

    /// Records that `shape` is pinned. Without `pool_size`, that of before stays.
    pub fn keep(&self, shape: &Shape, pool_size: Option<usize>) {
        let mut by_shape = self.by_shape.lock();
        let pin = by_shape.entry(shape.clone()).or_default();
        *pin = pool_size.or(*pin);
        self.write(&by_shape);
    }

    /// Records that `shape` is not pinned any more.
    pub fn drop(&self, shape: &Shape) {
        let mut by_shape = self.by_shape.lock();
        if by_shape.remove(shape).is_some() {
            self.write(&by_shape);
        }
    }

    fn write(&self, by_shape: &BTreeMap<Shape, Option<usize>>) {
        let pins: Vec<_> = by_shape
            .iter()
            .map(|(Shape { pack, size }, pool_size)| Pin {
                pack: pack.to_string(),
                vcpus: size.vcpus,
                memory_mib: size.memory_mib,
                pool_size: *pool_size,
            })
            .collect();
        let (file, unfinished) = (self.dir.join(FILE_NAME), self.dir.join(UNFINISHED));
        let json = serde_json::to_vec(&pins).expect("it has string keys only");
        let written = if pins.is_empty() {
            fs::remove_file(file)
        } else {
            fs::write(&unfinished, json).and_then(|()| fs::rename(&unfinished, file))
        };
        if let Err(error) = written {
            tracing::warn!(%error, "a pinned shape is not known to the next daemon");
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<Pin>> {
    match fs::read(path) {
        Ok(json) => Ok(serde_json::from_slice(&json)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_found_again_and_a_torn_file_has_none() {
        let dir = tempfile::tempdir().expect("a directory");
        let shape = |memory_mib| {
            let pack = "shell".parse().expect("a name");
            Shape { pack, size: Size { vcpus: 1, memory_mib } }
        };
        let pins = Pins::read(dir.path());
        assert_eq!(pins.all(), []);
        pins.keep(&shape(64), Some(3));
        pins.keep(&shape(64), None);
        pins.keep(&shape(128), None);
        pins.keep(&shape(256), Some(1));
        pins.drop(&shape(256));
        let expect = [(shape(64), Some(3)), (shape(128), None)];
        assert_eq!(Pins::read(dir.path()).all(), expect);
        fs::write(dir.path().join(FILE_NAME), "[{").expect("it is written");
        assert_eq!(Pins::read(dir.path()).all(), []);
    }
}
