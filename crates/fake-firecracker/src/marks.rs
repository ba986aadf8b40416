//! What a test can wait for: files in the VMM's working directory that grow by a byte each time.
//!
//! `hanging`: a call came that `hang-at` never answers. `waiting`: the host connected while the
//! guest's driver was not loaded or the VM was paused. `turned-away`: `no-listener` ended a
//! connection. `resumed`: a guest that was stopped goes on.

use std::fs::File;
use std::io::Write as _;

/// One more of what `name` counts.
pub fn add(name: &str) {
    let file = File::options().create(true).append(true).open(name);
    // Somebody may have removed the directory; then nobody waits for it either.
    file.and_then(|mut file| file.write_all(b".")).ok();
}
