//! What templates and pools of warm microVMs take: room on a disk, and memory.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use emberd_config::Config;
use rustix::fs::statvfs;

use super::host::meminfo_bytes;
use super::{Reading, Row, read};
use crate::output;

/// Free space for templates, in guests: one template for each of three packs, each with the
/// memory of a guest, and room for one that is replaced.
const FREE_GUESTS: u64 = 4;

/// The unit `st_blocks` counts in (stat(2)), whatever the file system's own.
const BLOCK_BYTES: u64 = 512;

/// Both rows, for the templates and pools of `config`; one without pools.
pub fn rows(config: &Config) -> Vec<Row> {
    let free_bytes = FREE_GUESTS * (u64::from(config.guest_ram_mib) << 20);
    let pool = config.pool_in_use();
    let pool = pool.map(|pool| pool_memory(pool.memory_mib, &read("/proc/meminfo")));
    std::iter::once(templates(&config.template_dir, free_bytes)).chain(pool).collect()
}

/// The space that templates take, and the free space of their file system.
fn templates(dir: &Path, free_bytes: u64) -> Row {
    const WHAT: &str = "templates";
    let taken = match disk_bytes(dir) {
        Ok(taken) => taken,
        Err(error) => return Row::unknown(WHAT, &format!("{}: {error}", dir.display())),
    };
    let existing = dir.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    match statvfs(existing) {
        Err(error) => Row::unknown(WHAT, &format!("{}: {error}", existing.display())),
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let (taken, free_text) = (output::bytes(taken), output::bytes(free));
            let seen = format!("{taken} in {}, {free_text} free", dir.display());
            if free < free_bytes {
                let advice = "a template is as large as the memory of a guest: choose a larger \
                    disk with --template-dir, or switch templates off with --templates off";
                Row::warn(WHAT, seen).advise(advice)
            } else {
                Row::ok(WHAT, seen)
            }
        }
    }
}

/// Bytes that the files in `path` and below it take on disk; none where it is not.
fn disk_bytes(path: &Path) -> io::Result<u64> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        metadata => metadata?,
    };
    if !metadata.is_dir() {
        return Ok(metadata.blocks() * BLOCK_BYTES);
    }
    fs::read_dir(path)?.map(|entry| disk_bytes(&entry?.path())).sum()
}

/// Whether the pools, were they as large as they may be, would fit.
fn pool_memory(mib: u64, meminfo: &Reading) -> Row {
    const WHAT: &str = "pool memory";
    let available = match meminfo.as_ref().map(|text| meminfo_bytes(text, "MemAvailable:")) {
        Err(error) => return Row::unknown(WHAT, error),
        Ok(None) => return Row::unknown(WHAT, "/proc/meminfo has no MemAvailable"),
        Ok(Some(available)) => available,
    };
    let most = mib.saturating_mul(1 << 20);
    let seen = format!("up to {} of {} free", output::bytes(most), output::bytes(available));
    if most > available {
        Row::warn(WHAT, seen).advise(
            "give pools less with --pool-memory-mib, or switch pools off with --pool-size off",
        )
    } else {
        Row::ok(WHAT, seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Verdict;

    #[test]
    fn templates_are_weighed_where_they_are_and_where_they_will_be() {
        let dir = tempfile::tempdir().unwrap();
        let templates_dir = dir.path().join("templates");
        let row = templates(&templates_dir, 0);
        assert!(row.seen.starts_with("0 B in /") && row.seen.ends_with(" free"), "{row:?}");
        fs::create_dir_all(templates_dir.join("python")).unwrap();
        fs::write(templates_dir.join("python/memory"), vec![1; 2 << 20]).unwrap();
        let row = templates(&templates_dir, 0);
        assert!(row.seen.starts_with("2.0 MiB in /"), "{row:?}");
    }

    #[test]
    fn pools_must_fit_into_what_is_free() {
        let meminfo = |available_kib: u64| {
            Ok(format!("MemTotal: 9437184 kB\nMemAvailable: {available_kib} kB\n"))
        };
        let row = pool_memory(2048, &meminfo(3 << 20));
        assert_eq!(
            (row.verdict, row.seen.as_str()),
            (Verdict::Ok, "up to 2.0 GiB of 3.0 GiB free")
        );
        assert_eq!(pool_memory(2048, &meminfo(1 << 20)).verdict, Verdict::Warn);
        assert_eq!(pool_memory(512, &meminfo(1 << 20)).verdict, Verdict::Ok);
        assert_eq!(pool_memory(u64::MAX, &meminfo(1 << 20)).verdict, Verdict::Warn);
        assert_eq!(pool_memory(2048, &Ok(String::new())).verdict, Verdict::Info);
    }
}
