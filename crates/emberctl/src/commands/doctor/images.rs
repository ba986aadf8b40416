//! What guests boot from, and room to build it.

use std::path::Path;

use emberd_api::chain;
use emberd_config::Config;
use emberd_image::DataDir;
use emberd_image::check::{self, ConfigSource, Report};
use emberd_image::pack::Compression;

use super::Row;
use crate::output;

/// Free space for building images, in bytes (3 GiB): three packs, and the trees they come from.
const BUILD_BYTES: u64 = 3 << 30;

/// Name of the check of the network.
const EGRESS: &str = "egress";

/// Checks the images that guests boot from, and what their kernel lets guests do.
pub fn rows(config: &Config) -> Vec<Row> {
    const WHAT: &str = "images";
    match config.images() {
        Ok(images) => {
            let packs: Vec<_> = images.packs.keys().map(ToString::to_string).collect();
            let seen = format!("Linux {}, packs {}", images.kernel.release, packs.join(", "));
            vec![Row::ok(WHAT, seen), egress(&images.kernel.path, &config.data_dir)]
        }
        Err(error) => {
            let row = Row::fail(WHAT, chain(&error));
            vec![row.advise("build the missing images: scripts/serve.sh")]
        }
    }
}

/// Checks whether guests can reach other hosts under the kernel at `path`.
fn egress(path: &Path, data_dir: &DataDir) -> Row {
    match check::kernel(path, None, Compression::default(), data_dir) {
        Ok(report) => egress_of(&report),
        Err(error) => Row::unknown(EGRESS, &chain(&error)),
    }
}

fn egress_of(report: &Report) -> Row {
    if report.config == ConfigSource::Nowhere {
        return Row::unknown(EGRESS, "the kernel does not contain its configuration");
    }
    let missing: Vec<_> =
        report.missing_for_egress().map(|option| format!("CONFIG_{}", option.option)).collect();
    if missing.is_empty() {
        return Row::ok(EGRESS, "the guests' kernel can capture connections".to_owned());
    }
    let seen = format!("sandboxes reach no other host: their kernel lacks {}", missing.join(", "));
    Row::warn(EGRESS, seen).advise("use a kernel with these options; see: emberctl image check")
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
    use emberd_image::check::{Need, OptionReport, Provision};

    use super::*;
    use crate::check::Verdict;

    #[test]
    fn options_that_the_kernel_lacks_are_named() {
        let report = |source, provision| Report {
            release: "6.1.0".to_owned(),
            config: source,
            hz: None,
            options: vec![OptionReport {
                option: "BPF_SYSCALL",
                need: Need::Optional,
                purpose: "connections to the outside",
                provision,
            }],
        };
        let row = egress_of(&report(ConfigSource::Kernel, Provision::Missing));
        assert_eq!(row.verdict, Verdict::Warn);
        assert!(row.seen.ends_with("lacks CONFIG_BPF_SYSCALL"), "{row:?}");
        let row = egress_of(&report(ConfigSource::Kernel, Provision::BuiltIn));
        assert_eq!(row.verdict, Verdict::Ok);
        let row = egress_of(&report(ConfigSource::Nowhere, Provision::Unknown));
        assert!(row.seen.contains("configuration"), "{row:?}");
    }

    #[test]
    fn disk_is_judged_where_the_directory_will_be() {
        let dir = tempfile::tempdir().unwrap();
        let row = disk(&dir.path().join("not/yet"));
        assert!(row.seen.contains("free in") && row.seen.ends_with("not/yet"), "{row:?}");
    }
}
