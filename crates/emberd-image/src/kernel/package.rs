//! Downloads and unpacks the distribution's kernel package, without installing it.

use std::fs;
use std::path::{Path, PathBuf};

use super::apt::Apt;
use super::{Parts, read_parts};
use crate::build::BuildError;
use crate::command::{Tool, ToolError};
use crate::os_release::OsRelease;
use crate::progress::Progress;
use crate::store::{Store, StoreError};

const IMAGE_PREFIX: &str = "linux-image-";
/// Prefixes of packages that a kernel image depends on for its modules or its own binary.
const PART_PREFIXES: [&str; 2] = ["linux-modules-", "linux-binary-"];

/// Packages that depend on the newest kernel, in order of preference.
pub(super) fn candidates() -> [&'static str; 2] {
    if OsRelease::of_host().is_ubuntu() {
        ["linux-image-virtual", "linux-image-generic"]
    } else {
        ["linux-image-cloud-amd64", "linux-image-amd64"]
    }
}

/// Downloads the first existing package of `candidates` and reads its files. If the host's
/// package lists are missing or outdated, separate lists are used.
pub(super) fn fetch(
    store: &Store<'_>,
    candidates: &[&str],
    progress: &mut dyn Progress,
) -> Result<Parts, BuildError> {
    let scratch = store.scratch()?;
    let downloads = scratch.path().join("downloads");
    fs::create_dir(&downloads).map_err(StoreError::at(&downloads))?;
    let packages = match download(&Apt::host(), candidates, &downloads, progress) {
        Err(BuildError::NoKernelPackage(_) | BuildError::Tool(ToolError::Failed { .. })) => {
            progress.stage("updating package lists");
            let apt = Apt::updated(&scratch.path().join("apt"))?;
            download(&apt, candidates, &downloads, progress)
        }
        packages => packages,
    }?;
    let archives = archives(&downloads)?;
    let root = scratch.path().join("root");
    progress.stage("unpacking the kernel package");
    for archive in &archives {
        let unpack = Tool::new("dpkg-deb", "dpkg");
        unpack.with(|command| command.arg("-x").arg(archive).arg(&root)).output()?;
    }
    let parts = read_unpacked(&root, &packages)?;
    Ok(Parts { source: source(&archives, &packages[0]), ..parts })
}

/// Resolves and downloads the packages, and returns them, that of the kernel first.
fn download(
    apt: &Apt,
    candidates: &[&str],
    into: &Path,
    progress: &mut dyn Progress,
) -> Result<Vec<String>, BuildError> {
    progress.stage("resolving the kernel package");
    let image = resolve(apt, candidates)?;
    let release = release_of(&image).to_owned();
    let parts = apt.depends(&image)?.into_iter().filter(|name| is_part(name, &release));
    let packages: Vec<_> = [image.clone()].into_iter().chain(parts).collect();
    progress.stage(&format!("downloading {}", packages.join(" ")));
    apt.download(&packages, into)?;
    Ok(packages)
}

/// Finds kernel, modules and config in the places that Debian and its descendants use.
fn read_unpacked(root: &Path, packages: &[String]) -> Result<Parts, BuildError> {
    let release = release_of(&packages[0]);
    let first = |paths: [String; 2]| {
        let mut paths = paths.map(|path| root.join(path)).into_iter();
        paths.find(|path| path.exists())
    };
    let kernel =
        first([format!("boot/vmlinuz-{release}"), format!("usr/lib/modules/{release}/vmlinuz")]);
    let modules = first([format!("lib/modules/{release}"), format!("usr/lib/modules/{release}")]);
    let config =
        first([format!("boot/config-{release}"), format!("usr/lib/modules/{release}/config")]);
    let kernel = kernel.ok_or_else(|| BuildError::NoKernelPackage(packages.join(", ")))?;
    read_parts(&kernel, modules.as_deref(), config.as_deref())
}

/// Returns the kernel package that the first known candidate depends on.
fn resolve(apt: &Apt, candidates: &[&str]) -> Result<String, BuildError> {
    for candidate in candidates {
        // A candidate that this distribution does not have fails; the next one is tried.
        match apt.depends(candidate) {
            Ok(names) => {
                if let Some(image) = names.into_iter().find(|name| is_image(name)) {
                    return Ok(image);
                }
            }
            Err(ToolError::Failed { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(BuildError::NoKernelPackage(candidates.join(", ")))
}

fn release_of(image: &str) -> &str {
    image.strip_prefix(IMAGE_PREFIX).unwrap_or(image)
}

/// Returns whether this is the package of one kernel, in which the release, starting with a
/// digit, follows the prefix.
fn is_image(name: &str) -> bool {
    let release = name.strip_prefix(IMAGE_PREFIX);
    release.is_some_and(|release| release.starts_with(|first: char| first.is_ascii_digit()))
}

fn is_part(name: &str, release: &str) -> bool {
    PART_PREFIXES.iter().any(|prefix| name.strip_prefix(prefix) == Some(release))
}

fn archives(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut archives = Vec::new();
    for entry in dir.read_dir().map_err(StoreError::at(dir))? {
        archives.push(entry.map_err(StoreError::at(dir))?.path());
    }
    archives.retain(|path| path.extension().is_some_and(|extension| extension == "deb"));
    archives.sort();
    Ok(archives)
}

/// Returns `package version` from the name of its archive, `package_version_architecture.deb`.
fn source(archives: &[PathBuf], package: &str) -> String {
    let file_names = archives.iter().filter_map(|path| path.file_name()?.to_str());
    let mut versions = file_names.filter_map(|file_name| {
        let rest = file_name.strip_prefix(package)?.strip_prefix('_')?;
        rest.split('_').next()
    });
    match versions.next() {
        Some(version) => format!("{package} {}", version.replace("%3a", ":")),
        None => package.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_release_makes_a_kernel_package() {
        assert!(is_image("linux-image-6.1.0-56-cloud-amd64"));
        assert!(!is_image("linux-image-cloud-amd64"));
        assert!(!is_image("linux-base"));
        assert!(is_part("linux-modules-6.8.0-31-generic", "6.8.0-31-generic"));
        assert!(!is_part("linux-modules-extra-6.8.0-31-generic", "6.8.0-31-generic"));
    }

    #[test]
    fn version_comes_from_the_archive() {
        let archives = ["/t/linux-image-6.1_1%3a6.1.1_amd64.deb".into(), "/t/x_2_all.deb".into()];
        assert_eq!(source(&archives, "linux-image-6.1"), "linux-image-6.1 1:6.1.1");
        assert_eq!(source(&archives, "y"), "y");
    }
}
