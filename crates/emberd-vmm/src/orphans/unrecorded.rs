//! Finds the VMM of a microVM whose daemon was killed before it could write its record.
//!
//! A VMM works in its microVM's directory, and its command line has the microVM's id: a
//! process that shows both is it. A person's shell in that directory shows only the first.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::record::ProcessIdentity;

/// How deep in a microVM's directory a VMM may work: that of Firecracker's jailer is four
/// below it.
const DEPTH_MAX: usize = 4;

/// A directory, whatever it is called where one stands.
type Identity = (u64, u64);

/// The process that is the VMM of `dir`, if one runs.
pub(super) fn find(dir: &Path) -> io::Result<Option<ProcessIdentity>> {
    let Some(id) = dir.file_name().and_then(|name| name.to_str()) else { return Ok(None) };
    // Firecracker's ids have no underscores.
    let words = [id.to_owned(), id.replace('_', "-")];
    let mut places = BTreeSet::new();
    add_places(dir, DEPTH_MAX, &mut places);
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        // Read before the checks, and compared again before the kill.
        let Some(process) = ProcessIdentity::of(pid).ok().flatten() else { continue };
        if works_in(pid, &places) && says(pid, &words) {
            return Ok(Some(process));
        }
    }
    Ok(None)
}

fn add_places(dir: &Path, depth: usize, places: &mut BTreeSet<Identity>) {
    let Ok(metadata) = dir.symlink_metadata() else { return };
    if !metadata.is_dir() {
        return;
    }
    places.insert((metadata.dev(), metadata.ino()));
    if depth > 0 {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.for_each(|entry| add_places(&entry.path(), depth - 1, places));
    }
}

/// Whether a process works in one of `places`. In a jail their paths are others, and they
/// are the same.
fn works_in(pid: u32, places: &BTreeSet<Identity>) -> bool {
    let place = fs::metadata(format!("/proc/{pid}/cwd"));
    place.is_ok_and(|place| places.contains(&(place.dev(), place.ino())))
}

fn says(pid: u32, words: &[String]) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|byte| *byte == 0).any(|word| words.iter().any(|own| own.as_bytes() == word))
}
