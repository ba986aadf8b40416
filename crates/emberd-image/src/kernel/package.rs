//! The distribution's kernel: its package is downloaded and unpacked, never installed.

use std::path::{Path, PathBuf};

use super::{Parts, read_parts};
use crate::build::BuildError;
use crate::command::{Tool, ToolError};
use crate::os_release::OsRelease;
use crate::progress::Progress;
use crate::store::{Store, StoreError};

const IMAGE_PREFIX: &str = "linux-image-";
/// Packages a kernel image depends on for its modules or its own binary.
const PART_PREFIXES: [&str; 2] = ["linux-modules-", "linux-binary-"];

/// Packages that stand for the newest kernel, the best suited first.
pub(super) fn candidates() -> [&'static str; 2] {
    if OsRelease::of_host().is_ubuntu() {
        ["linux-image-virtual", "linux-image-generic"]
    } else {
        ["linux-image-cloud-amd64", "linux-image-amd64"]
    }
}

/// Downloads the first of `candidates` there is and reads what it holds.
pub(super) fn fetch(
    store: &Store<'_>,
    candidates: &[&str],
    progress: &mut dyn Progress,
) -> Result<Parts, BuildError> {
    progress.stage("resolving the kernel package");
    let image = resolve(candidates)?;
    let release = image.strip_prefix(IMAGE_PREFIX).unwrap_or(&image).to_owned();
    let mut packages = vec![image];
    packages.extend(depends(&packages[0])?.into_iter().filter(|name| is_part(name, &release)));
    progress.stage(&format!("downloading {}", packages.join(" ")));
    let scratch = store.scratch()?;
    download(scratch.path(), &packages)?;
    let archives = archives(scratch.path())?;
    let root = scratch.path().join("root");
    progress.stage("unpacking the kernel package");
    for archive in &archives {
        let unpack = Tool::new("dpkg-deb", "dpkg");
        unpack.with(|command| command.arg("-x").arg(archive).arg(&root)).output()?;
    }
    let first = |paths: [String; 2]| {
        let mut paths = paths.map(|path| root.join(path)).into_iter();
        paths.find(|path| path.exists())
    };
    let name_nothing = || BuildError::NoKernelPackage(packages.join(" "));
    let kernel =
        first([format!("boot/vmlinuz-{release}"), format!("usr/lib/modules/{release}/vmlinuz")]);
    let modules = first([format!("lib/modules/{release}"), format!("usr/lib/modules/{release}")]);
    let config =
        first([format!("boot/config-{release}"), format!("usr/lib/modules/{release}/config")]);
    let kernel = kernel.ok_or_else(name_nothing)?;
    let parts = read_parts(&kernel, modules.as_deref(), config.as_deref())?;
    Ok(Parts { source: source(&archives, &packages[0]), ..parts })
}

/// The package of an actual kernel the first known candidate stands for.
fn resolve(candidates: &[&str]) -> Result<String, BuildError> {
    for candidate in candidates {
        // A candidate this distribution does not have fails; the next may do.
        match depends(candidate) {
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

/// Whether this is the package of one kernel: its release, which starts with a digit,
/// follows the prefix.
fn is_image(name: &str) -> bool {
    let release = name.strip_prefix(IMAGE_PREFIX);
    release.is_some_and(|release| release.starts_with(|first: char| first.is_ascii_digit()))
}

fn is_part(name: &str, release: &str) -> bool {
    PART_PREFIXES.iter().any(|prefix| name.strip_prefix(prefix) == Some(release))
}

fn depends(package: &str) -> Result<Vec<String>, ToolError> {
    let tool = Tool::new("apt-cache", "apt");
    let output = tool.with(|command| command.args(["depends", package])).output()?;
    Ok(parse_depends(&String::from_utf8_lossy(&output)))
}

/// The packages `apt-cache depends` lists as needed, alternatives included.
fn parse_depends(output: &str) -> Vec<String> {
    let lines = output.lines().map(|line| line.trim_start().trim_start_matches('|'));
    let needed = lines.filter_map(|line| {
        line.strip_prefix("Depends: ").or_else(|| line.strip_prefix("PreDepends: "))
    });
    needed.map(|name| name.trim().to_owned()).collect()
}

/// `apt-get` verifies what it downloads against the distribution's signatures.
fn download(dir: &Path, packages: &[String]) -> Result<(), ToolError> {
    let fetch = Tool::new("apt-get", "apt").with(|command| {
        // Root would otherwise download as a user who cannot write here.
        command.args(["-q", "-o", "APT::Sandbox::User=root", "download"]);
        command.args(packages).current_dir(dir)
    });
    fetch.output().map(drop)
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

/// `package version` from the name of its archive, `package_version_architecture.deb`.
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
    fn needed_packages_are_listed() {
        let output = "linux-image-virtual\n  Depends: linux-image-6.8.0-31-generic\n \
            |Depends: linux-a\n  PreDepends: debconf\n  Suggests: linux-doc\n";
        let expect = ["linux-image-6.8.0-31-generic", "linux-a", "debconf"];
        assert_eq!(parse_depends(output), expect);
    }

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
