//! Makes a root file system from the distribution's packages, as a tar stream from `mmdebstrap`.
//!
//! Its bytes depend only on the packages: file times are limited to [`EPOCH`], and files that
//! differ between builds are removed.

use std::path::Path;
use std::sync::mpsc;

use super::PackDefinition;
use super::squashfs::{Event, RootStream};
use crate::artifact::Digest;
use crate::build::BuildError;
use crate::command::Tool;
use crate::os_release::OsRelease;

/// Maximum time of a pack's files: 2025-01-01, in seconds since the Unix epoch.
pub(super) const EPOCH: u32 = 1_735_689_600;

/// Files that no guest reads. Copyright notices stay.
const LEFT_OUT: [&str; 12] = [
    "path-exclude=/boot/*",
    "path-exclude=/usr/share/bash-completion/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/doc-base/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/share/linda/*",
    "path-exclude=/usr/share/locale/*",
    "path-include=/usr/share/locale/en/*",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/zsh/*",
];

/// Directory of the hooks in mmdebstrap's package.
const MERGED_USR_HOOKS: &str = "/usr/share/mmdebstrap/hooks/merged-usr";

/// Removes files that differ between builds or are not used in a guest; `$1` is the root.
const CLEAN: &str = r#"rm -rf "$1"/boot/* "$1"/var/cache/apt/* "$1"/var/cache/debconf/* \
"$1"/var/cache/ldconfig "$1"/var/lib/apt/lists/* "$1"/var/lib/dpkg/*-old "$1"/var/lib/pam \
"$1"/var/log/* "$1"/etc/*- "$1"/tmp/* "$1"/root/.cache"#;

/// The distribution and its packages: everything that determines the bytes of the root file
/// system, except when the packages are downloaded.
#[derive(Debug, Clone)]
pub(super) struct Distribution {
    suite: String,
    components: &'static str,
    mirrors: Vec<String>,
}

impl Distribution {
    /// Uses the given release and mirrors, or the host's and the defaults.
    pub fn new(suite: Option<&str>, mirrors: &[String]) -> Result<Self, BuildError> {
        let host = OsRelease::of_host();
        let suite = suite.map(str::to_owned).or_else(|| host.codename.clone());
        // Ubuntu has node and pip outside of main.
        let components = if host.is_ubuntu() { "main,universe" } else { "main" };
        let valid = |suite: &String| {
            !suite.starts_with('-')
                && suite.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        };
        let suite = suite.filter(valid).ok_or(BuildError::NoSuite)?;
        Ok(Self { suite, components, mirrors: mirrors.to_vec() })
    }

    pub fn digest(&self) -> Digest {
        let mirrors = self.mirrors.join("\n");
        Digest::of_parts(&[self.suite.as_bytes(), self.components.as_bytes(), mirrors.as_bytes()])
    }

    /// Returns a description for people.
    pub fn source(&self) -> String {
        format!("packages of {}", self.suite)
    }

    /// Starts to make the root file system of `pack`, as root below `scratch`.
    pub fn root(
        &self,
        pack: &PackDefinition,
        scratch: &Path,
        events: mpsc::Sender<Event>,
    ) -> Result<RootStream, BuildError> {
        let root = rustix::process::geteuid().is_root();
        let tool = Tool::leashed("mmdebstrap", "mmdebstrap", root).with(|command| {
            if root {
                // The next build clears this directory after a killed one. The mapped users of an
                // ordinary user's build cannot access it, so that build uses /tmp.
                command.env("TMPDIR", scratch);
            }
            command.env("SOURCE_DATE_EPOCH", EPOCH.to_string());
            command.args(self.arguments(pack, root))
        });
        let mut tool = tool.start(move |line| {
            // The receiver is gone only if the build was cancelled.
            events.send(Event::Line(line.to_owned())).ok();
        })?;
        Ok(RootStream {
            reader: Box::new(tool.take_stdout()),
            tool: Some(tool),
            total_bytes: None,
            origin: self.source().into(),
        })
    }

    fn arguments(&self, pack: &PackDefinition, root: bool) -> Vec<String> {
        let mut arguments = vec![
            "--variant=essential".to_owned(),
            format!("--mode={}", if root { "root" } else { "unshare" }),
            "--format=tar".to_owned(),
            "--architectures=amd64".to_owned(),
            format!("--components={}", self.components),
        ];
        if self.suite == "bookworm" {
            // Starts with a merged /usr instead of merging it with a program that needs Perl.
            arguments.push(format!("--hook-dir={MERGED_USR_HOOKS}"));
        }
        if !pack.packages.is_empty() {
            arguments.push(format!("--include={}", pack.packages.join(",")));
        }
        arguments.extend(LEFT_OUT.map(|option| format!("--dpkgopt={option}")));
        if let Some(snippet) = &pack.customize {
            let quoted = snippet.replace('\'', r"'\''");
            arguments.push(format!("--customize-hook=chroot \"$1\" /bin/sh -euc '{quoted}'"));
        }
        arguments.push(format!("--customize-hook={CLEAN}"));
        arguments.extend([self.suite.clone(), "-".to_owned()]);
        arguments.extend(self.mirrors.iter().cloned());
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distribution(mirrors: &[&str]) -> Distribution {
        let mirrors: Vec<_> = mirrors.iter().map(|mirror| (*mirror).to_owned()).collect();
        Distribution::new(Some("bookworm"), &mirrors).unwrap()
    }

    fn pack() -> PackDefinition {
        PackDefinition::built_in(&"shell".parse().unwrap()).unwrap()
    }

    #[test]
    fn arguments_end_with_suite_target_and_mirrors() {
        let arguments = distribution(&["http://mirror.example"]).arguments(&pack(), false);
        assert!(
            arguments.ends_with(&["bookworm", "-", "http://mirror.example"].map(str::to_owned))
        );
        assert!(arguments.contains(&"--mode=unshare".to_owned()));
        assert!(
            arguments.iter().any(|argument| argument.starts_with("--include=adduser,apt,bash,"))
        );
    }

    #[test]
    fn a_snippet_reaches_the_shell_as_it_is() {
        let snippet = "echo 'it'\"'\"'s'\nprintf '%s' \"$HOME\"";
        let pack = PackDefinition { customize: Some(snippet.to_owned()), ..pack() };
        let arguments = distribution(&[]).arguments(&pack, true);
        let hook = arguments.iter().find_map(|a| a.strip_prefix("--customize-hook=chroot \"$1\" "));
        let shown = hook.unwrap().replacen("/bin/sh -euc", "printf %s", 1);
        let output = std::process::Command::new("sh").args(["-c", &shown]).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), snippet);
    }

    #[test]
    fn suites_are_names_not_options() {
        for suite in ["--aptopt=x", "a b", "a/../b", "-"] {
            assert!(matches!(Distribution::new(Some(suite), &[]), Err(BuildError::NoSuite)));
        }
    }

    #[test]
    fn another_mirror_is_another_input() {
        assert_ne!(distribution(&[]).digest(), distribution(&["http://a"]).digest());
    }
}
