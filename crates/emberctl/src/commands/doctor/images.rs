//! What guests boot from, and room to build it.

use std::path::Path;

use emberd_api::chain;
use emberd_config::Config;

use super::Row;
use crate::output;

/// Free space for building images, in bytes (3 GiB): three packs, and the trees they come from.
const BUILD_BYTES: u64 = 3 << 30;

pub fn images(config: &Config) -> Row {
    const WHAT: &str = "images";
    match config.images() {
        Ok(images) => {
            let packs: Vec<_> = images.packs.keys().map(ToString::to_string).collect();
            let seen = format!("Linux {}, packs {}", images.kernel.release, packs.join(", "));
            Row::ok(WHAT, seen)
        }
        Err(error) => {
            Row::fail(WHAT, chain(&error)).advise("build the missing images: scripts/serve.sh")
        }
    }
}

/// Free space where `dir` is, or will be.
pub fn disk(dir: &Path) -> Row {
    const WHAT: &str = "disk";
    let Some(existing) = dir.ancestors().find(|ancestor| ancestor.exists()) else {
        return Row::unknown(WHAT, &format!("no part of {} exists", dir.display()));
    };
    match rustix::fs::statvfs(existing) {
        Err(error) => Row::unknown(WHAT, &format!("{}: {error}", existing.display())),
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let seen = format!("{} free in {}", output::bytes(free), dir.display());
            if free < BUILD_BYTES {
                Row::warn(WHAT, seen).advise(format!(
                    "building images takes up to {}; free space with: emberctl image prune",
                    output::bytes(BUILD_BYTES)
                ))
            } else {
                Row::ok(WHAT, seen)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_is_judged_where_the_directory_will_be() {
        let dir = tempfile::tempdir().unwrap();
        let row = disk(&dir.path().join("not/yet"));
        assert!(row.seen.contains("free in") && row.seen.ends_with("not/yet"), "{row:?}");
    }
}
