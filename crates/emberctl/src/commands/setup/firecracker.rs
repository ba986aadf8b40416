//! `emberctl setup firecracker`: a release in the data directory, where the daemon looks.
//!
//! ```text
//! <data dir>/firecracker/<version>/firecracker, jailer, release.json
//! <data dir>/firecracker/current ─▶ <version>
//! ```
//!
//! The link is changed last, by one rename: what it leads to is always whole.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use emberd_api::chain;
use emberd_image::{DataDir, Digest, Progress};
use emberd_vmm::firecracker::{FindError, Version};
use serde::{Deserialize, Serialize};

use super::source::{Published, SourceArgs};
use super::workshop::Workshop;
use super::{Installed, archive};
use crate::report::Hinted;

/// The release installed unless another is named.
const VERSION: &str = "1.16.2";

/// Releases whose archive for `x86_64` is known.
const ARCHIVES: [(&str, &str); 2] = [
    (VERSION, "32e3cdcd4081f91fe2b024a266f57dcb3b4e5fec5033e0cb22467ad7f7820bda"),
    ("1.15.1", "d4a32ab2322d887ca1bc4a4e7afa9cc35393e6362dfc2b3becb389d362e4275a"),
];

/// Where Firecracker's makers publish releases.
const BASE_URL: &str = "https://github.com/firecracker-microvm/firecracker/releases/download";

/// Largest archive that is fetched, in bytes (256 MiB); the one of 1.16.2 has 7 MiB.
const ARCHIVE_BYTES_MAX: u64 = 256 << 20;

/// The programs that are taken out of an archive.
const PROGRAMS: [&str; 2] = ["firecracker", "jailer"];

/// Says in a release's directory what is in it.
const RECORD: &str = "release.json";

/// Where releases are in the data directory.
const DIR: &str = "firecracker";

/// The link to the release in use, beside the releases.
const CURRENT: &str = "current";

/// Arguments of `setup firecracker`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Release to install.
    #[arg(long, value_name = "VERSION", default_value = VERSION, value_parser = version)]
    version: Version,
    #[command(flatten)]
    source: SourceArgs,
}

/// SHA-256 of a release's archive and of what was taken out of it.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Release {
    archive: Digest,
    firecracker: Digest,
    jailer: Digest,
}

fn version(text: &str) -> Result<Version, String> {
    let is_name = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte));
    let version = Version::parse(&format!("Firecracker v{}", text.trim_start_matches('v')));
    version.filter(|_| is_name).ok_or_else(|| format!("expected a version such as {VERSION}"))
}

/// Where the daemon, `vmconfig` and `doctor` look for Firecracker in `data_dir`.
pub fn current(data_dir: &DataDir) -> PathBuf {
    data_dir.path().join(DIR).join(CURRENT)
}

/// Installs the release `args` name, unless it is there and intact, and makes it the one in
/// use.
pub(super) fn install(
    args: &Args,
    data_dir: &DataDir,
    progress: &mut dyn Progress,
) -> anyhow::Result<Installed> {
    let version = &args.version;
    version.check().map_err(|refusal| {
        let error = FindError::from(refusal);
        let hint = error.hint().unwrap_or_default().to_owned();
        Hinted { message: chain(&error), hint }
    })?;
    let published = published(version);
    let sha256 = args.source.digest(&published)?;
    let workshop = Workshop::open(data_dir, progress)?;
    let dir = data_dir.path().join(DIR).join(version.to_string());
    let up_to_date = is_intact(&dir, sha256);
    if !up_to_date {
        let archive = args.source.fetch(&published, &workshop, progress)?;
        progress.stage("unpacking");
        let tree = workshop.tree()?;
        unpack(archive.path(), version, tree.path())?;
        let release = Release::read_programs(tree.path(), sha256)?;
        fs::write(tree.path().join(RECORD), serde_json::to_vec_pretty(&release)?)?;
        publish(tree.path(), &dir)
            .with_context(|| format!("cannot install into {}", dir.display()))?;
    }
    let link = current(data_dir);
    point(&workshop, &link, &version.to_string())
        .with_context(|| format!("cannot change {}", link.display()))?;
    Ok(installed(version, &dir, sha256, up_to_date, &link))
}

fn published(version: &Version) -> Published<'static> {
    let known = |(known, _): &&(&str, &str)| *known == version.to_string();
    let sha256 = ARCHIVES.iter().find(known).map(|(_, sha256)| *sha256);
    Published {
        base_url: BASE_URL,
        path: format!("v{version}/firecracker-v{version}-x86_64.tgz"),
        sha256: sha256.map(|text| text.parse().expect("constants are digests")),
        bytes_max: ARCHIVE_BYTES_MAX,
    }
}

fn installed(
    version: &Version,
    dir: &Path,
    sha256: Digest,
    up_to_date: bool,
    link: &Path,
) -> Installed {
    let binary = link.join(PROGRAMS[0]);
    Installed {
        what: format!("Firecracker {version} with its jailer"),
        path: dir.display().to_string(),
        sha256,
        up_to_date,
        next: vec![
            "emberctl doctor --vmm firecracker".to_owned(),
            "emberctl vmconfig python > vm.json".to_owned(),
            format!("{} --no-api --config-file vm.json", binary.display()),
        ],
    }
}

/// Takes both programs out of a verified archive.
fn unpack(archive: &Path, version: &Version, tree: &Path) -> anyhow::Result<()> {
    for program in PROGRAMS {
        let member = format!("release-v{version}-x86_64/{program}-v{version}-x86_64");
        archive::unpack_program(archive, &member, &tree.join(program)).map_err(|error| {
            let hint =
                "nothing was installed; check that the archive is that of Firecracker for x86_64";
            Hinted { message: chain(&error), hint: hint.to_owned() }
        })?;
    }
    Ok(())
}

impl Release {
    fn read_programs(dir: &Path, archive: Digest) -> io::Result<Self> {
        let digest = |name| Ok::<_, io::Error>(Digest::of_reader(File::open(dir.join(name))?)?.0);
        let [firecracker, jailer] = PROGRAMS;
        Ok(Self { archive, firecracker: digest(firecracker)?, jailer: digest(jailer)? })
    }
}

/// Whether `dir` holds what the archive held when it was installed.
fn is_intact(dir: &Path, archive: Digest) -> bool {
    let recorded = fs::read(dir.join(RECORD)).ok();
    let recorded = recorded.and_then(|json| serde_json::from_slice::<Release>(&json).ok());
    let found = Release::read_programs(dir, archive).ok();
    recorded.is_some() && recorded == found
}

/// Moves the finished files of `tree` into `dir`, each by a rename, the record last.
fn publish(tree: &Path, dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    for name in PROGRAMS.into_iter().chain([RECORD]) {
        fs::rename(tree.join(name), dir.join(name))?;
    }
    File::open(dir)?.sync_all()
}

/// Makes `link` lead to `target`, its neighbour.
fn point(workshop: &Workshop, link: &Path, target: &str) -> io::Result<()> {
    let tree = workshop.tree()?;
    let new = tree.path().join(CURRENT);
    symlink(target, &new)?;
    fs::rename(&new, link)?;
    File::open(link.parent().unwrap_or(Path::new("/")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_archives_are_where_their_makers_put_them() {
        let published = published(&version("1.16.2").unwrap());
        assert_eq!(published.path, "v1.16.2/firecracker-v1.16.2-x86_64.tgz");
        assert_eq!(published.name(), "firecracker-v1.16.2-x86_64.tgz");
        assert!(published.sha256.is_some());
        for (text, _) in ARCHIVES {
            let version = version(text).unwrap();
            assert_eq!(version.check(), Ok(()), "{text} may be used");
            assert!(super::published(&version).sha256.is_some());
        }
        assert!(super::published(&version("1.17.0").unwrap()).sha256.is_none());
    }

    #[test]
    fn versions_are_no_paths() {
        assert_eq!(version("v1.16.2").unwrap(), version("1.16.2").unwrap());
        for bad in ["", "1.16", "latest", "1.16.2-/../..", "1.16.2-a b"] {
            assert!(version(bad).is_err(), "{bad:?}");
        }
    }
}
