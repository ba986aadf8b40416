//! Version of a Firecracker release, whether emberd supports it, and its features.

use std::fmt;
use std::path::Path;

use super::FindError;

/// Oldest release line with `/serial`, fixed clocks after a restore, and fixes that last.
const OLDEST: (u32, u32, u32) = (1, 14, 4);

/// A Firecracker release. Ordered by its numbers; a suffix such as `-dev` does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    numbers: (u32, u32, u32),
    suffix: String,
}

impl Version {
    /// Parses the output of `--version`, which begins with `Firecracker v1.16.2`.
    pub fn parse(printed: &str) -> Option<Self> {
        let word = printed.lines().next()?.split_whitespace().nth(1)?;
        Self::from_text(word.strip_prefix('v')?)
    }

    /// Parses `1.16.2`, as it is displayed.
    pub(super) fn from_text(text: &str) -> Option<Self> {
        let numbers_end = text.find('-').unwrap_or(text.len());
        let (numbers, suffix) = text.split_at(numbers_end);
        let mut parts = numbers.split('.').map(str::parse);
        let mut part = || parts.next()?.ok();
        let numbers = (part()?, part()?, part()?);
        parts.next().is_none().then(|| Self { numbers, suffix: suffix.to_owned() })
    }

    /// Whether this release may run microVMs at all.
    ///
    /// # Errors
    /// Why not, and what to install instead.
    pub fn check(&self) -> Result<(), VersionRefusal> {
        match self.numbers {
            // CVE-2026-5747: a guest writes out of bounds in the VMM (virtio-PCI).
            (1, 13, _) | (1, 14, 0..=3) | (1, 15, 0) => {
                Err(VersionRefusal::Vulnerable(self.clone()))
            }
            numbers if numbers < OLDEST => Err(VersionRefusal::TooOld(self.clone())),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor, patch) = self.numbers;
        write!(f, "{major}.{minor}.{patch}{}", self.suffix)
    }
}

/// Why a release is not supported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VersionRefusal {
    /// The release lacks features that emberd needs.
    #[error("Firecracker {0} is too old")]
    TooOld(Version),
    /// A guest can break out of this release.
    #[error("Firecracker {0} lets a guest write outside of its memory (CVE-2026-5747)")]
    Vulnerable(Version),
}

/// Features of one release. A field that is newer than the binary fails its whole call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// `PUT /serial` takes a `rate_limiter`: since 1.16.
    pub serial_rate_limiter: bool,
    /// Pausing does not break vsock: 1.16.0 loses it for good after a restore, 1.16.1 after
    /// any resume.
    pub snapshots: bool,
}

impl From<&Version> for Features {
    fn from(version: &Version) -> Self {
        Self {
            serial_rate_limiter: version.numbers >= (1, 16, 0),
            snapshots: !matches!(version.numbers, (1, 16, 0 | 1)),
        }
    }
}

/// Version of the snapshot format, as Firecracker prints it: `v10.0.0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotFormat(pub String);

impl SnapshotFormat {
    fn parse(printed: &str) -> Option<Self> {
        let word = printed.split_whitespace().next()?;
        let numbers = word.strip_prefix('v')?.split('.');
        let well_formed = numbers.clone().count() == 3
            && numbers.into_iter().all(|number| number.parse::<u32>().is_ok());
        well_formed.then(|| Self(word.to_owned()))
    }

    /// The format `binary` writes and reads.
    ///
    /// # Errors
    /// [`FindError::Run`] or [`FindError::Unreadable`].
    pub fn of_binary(binary: &Path) -> Result<Self, FindError> {
        ask(binary, &["--snapshot-version".as_ref()], Self::parse)
    }

    /// The format the state file `state` is in, by `binary`'s reading.
    ///
    /// # Errors
    /// [`FindError::Run`], or [`FindError::Unreadable`] when `state` is not a state file.
    pub fn of_state(binary: &Path, state: &Path) -> Result<Self, FindError> {
        ask(binary, &["--describe-snapshot".as_ref(), state.as_ref()], Self::parse)
    }
}

impl fmt::Display for SnapshotFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The version of `binary`, firecracker's or jailer's.
///
/// # Errors
/// [`FindError::Run`] or [`FindError::Unreadable`].
pub(super) fn of_binary(binary: &Path) -> Result<Version, FindError> {
    ask(binary, &["--version".as_ref()], Version::parse)
}

fn ask<T>(
    binary: &Path,
    question: &[&std::ffi::OsStr],
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, FindError> {
    let output = crate::process::command(binary)
        .args(question)
        .stdin(std::process::Stdio::null())
        .output()
        .map_err(|source| FindError::Run { binary: binary.into(), source })?;
    let printed = String::from_utf8_lossy(&output.stdout);
    parse(&printed).ok_or_else(|| FindError::Unreadable {
        binary: binary.into(),
        question: question[0].to_string_lossy().into_owned(),
        printed: printed.lines().next().unwrap_or_default().chars().take(80).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        Version::parse(&format!("Firecracker v{text}\n")).unwrap()
    }

    #[test]
    fn versions_are_read_and_printed_back() {
        for text in ["1.16.2", "1.17.0-dev", "2.0.0"] {
            assert_eq!(version(text).to_string(), text);
        }
        let with_log = "Jailer v1.15.1\n\n2026-11-23T18:26:05 [anonymous-instance:main] bye\n";
        assert_eq!(Version::parse(with_log).unwrap(), version("1.15.1"));
        for bad in
            ["", "Firecracker", "Firecracker 1.2.3", "Firecracker v1.2", "x v1.2.3.4", "x va.b.c"]
        {
            assert_eq!(Version::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn releases_below_the_floor_and_on_the_list_are_refused() {
        type Refusal = Option<fn(Version) -> VersionRefusal>;
        let too_old: Refusal = Some(VersionRefusal::TooOld);
        let vulnerable: Refusal = Some(VersionRefusal::Vulnerable);
        let cases: [(&str, Refusal); 11] = [
            ("0.25.2", too_old),
            ("1.12.1", too_old),
            ("1.13.0", vulnerable),
            ("1.14.3", vulnerable),
            ("1.14.4", None),
            ("1.15.0", vulnerable),
            ("1.15.1", None),
            ("1.16.0", None),
            ("1.16.2", None),
            ("1.17.0-dev", None),
            ("2.0.0", None),
        ];
        for (text, refusal) in cases {
            let expect = refusal.map_or(Ok(()), |refusal| Err(refusal(version(text))));
            assert_eq!(version(text).check(), expect, "{text}");
        }
    }

    #[test]
    fn features_follow_the_release() {
        let cases = [
            ("1.14.4", false, true),
            ("1.15.1", false, true),
            ("1.16.0", true, false),
            ("1.16.1", true, false),
            ("1.16.2", true, true),
            ("1.17.0-dev", true, true),
        ];
        for (text, serial_rate_limiter, snapshots) in cases {
            let expect = Features { serial_rate_limiter, snapshots };
            assert_eq!(Features::from(&version(text)), expect, "{text}");
        }
    }

    #[test]
    fn snapshot_formats_are_read_strictly() {
        let printed = "v10.0.0\n2026 [anonymous-instance:main] exiting\n";
        assert_eq!(SnapshotFormat::parse(printed), Some(SnapshotFormat("v10.0.0".into())));
        for bad in ["", "10.0.0", "v10", "vx.y.z", "error: no such file"] {
            assert_eq!(SnapshotFormat::parse(bad), None, "{bad:?}");
        }
    }
}
