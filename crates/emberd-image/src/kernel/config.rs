//! A kernel's build options, from its package's config file or from the kernel itself
//! (`CONFIG_IKCONFIG`: gzip between `IKCFG_ST` and `IKCFG_ED`).

use std::collections::BTreeMap;
use std::io::{BufReader, Read};

use flate2::bufread::GzDecoder;
use memchr::memmem;

/// Maximum size of a config file, in bytes (4 MiB; those of distributions have 0.3).
pub(crate) const CONFIG_BYTES_MAX: u64 = 4 << 20;

/// The bytes before the config in a kernel: the marker and the start of a gzip stream.
const MARKER: &[u8] = b"IKCFG_ST\x1f\x8b\x08";
const MARKER_NAME_BYTES: usize = 8;

/// The options of a kernel, without `CONFIG_`. Options that are not set are absent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct KernelConfig(BTreeMap<String, String>);

impl KernelConfig {
    /// Parses a config file; lines that set nothing are skipped.
    pub fn parse(text: &str) -> Self {
        let options = text.lines().filter_map(|line| {
            let (name, value) = line.trim_end().strip_prefix("CONFIG_")?.split_once('=')?;
            (value != "n").then(|| (name.to_owned(), value.trim_matches('"').to_owned()))
        });
        Self(options.collect())
    }

    /// Returns the config that a kernel contains, as text; `None` if it has none.
    pub fn text_in(vmlinux: &[u8]) -> Option<String> {
        memmem::find_iter(vmlinux, MARKER).find_map(|at| {
            let gzip = BufReader::new(&vmlinux[at + MARKER_NAME_BYTES..]);
            let mut text = String::new();
            GzDecoder::new(gzip).take(CONFIG_BYTES_MAX).read_to_string(&mut text).ok()?;
            Some(text)
        })
    }

    /// Returns the value of an option: `y`, `m`, a number or a string.
    pub fn get(&self, option: &str) -> Option<&str> {
        self.0.get(option).map(String::as_str)
    }

    /// Returns the ticks per second.
    pub fn hz(&self) -> Option<u32> {
        self.get("HZ")?.parse().ok()
    }
}

/// Maximum length of a release name, in bytes (the kernel's own limit, with its NUL, is 65).
const RELEASE_BYTES_MAX: usize = 64;
const BANNER: &[u8] = b"Linux version ";

/// Returns the output of `uname -r` under this kernel, from its banner.
pub(crate) fn release(vmlinux: &[u8]) -> Option<String> {
    memmem::find_iter(vmlinux, BANNER).find_map(|at| {
        let rest = &vmlinux[at + BANNER.len()..];
        let rest = &rest[..rest.len().min(RELEASE_BYTES_MAX + 1)];
        let (release, _) = rest.split_at(rest.iter().position(|byte| *byte == b' ')?);
        let plausible = release.first()?.is_ascii_digit()
            && release.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'/');
        plausible.then(|| String::from_utf8_lossy(release).into_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decompress::synthetic::gzip;

    const TEXT: &str = "# Linux/x86 6.1.0 Kernel Configuration\nCONFIG_HZ=250\n\
        CONFIG_SQUASHFS=m\n# CONFIG_OVERLAY_FS is not set\nCONFIG_CC_VERSION_TEXT=\"gcc\"\n\
        CONFIG_UNIX=n\nCONFIG_TMPFS=y\n";

    #[test]
    fn options_are_read_and_unset_ones_are_absent() {
        let config = KernelConfig::parse(TEXT);
        let options = ["SQUASHFS", "TMPFS", "OVERLAY_FS", "UNIX", "CC_VERSION_TEXT"];
        let values = options.map(|option| config.get(option));
        assert_eq!(values, [Some("m"), Some("y"), None, None, Some("gcc")]);
        assert_eq!(config.hz(), Some(250));
    }

    #[test]
    fn config_is_found_in_a_kernel() {
        let decoy = b"IKCFG_ST\x1f\x8b\x08 not gzip, the marker as a string";
        let kernel = [b"code", &decoy[..], b"IKCFG_ST", &gzip(TEXT.as_bytes()), b"IKCFG_ED"];
        assert_eq!(KernelConfig::text_in(&kernel.concat()).as_deref(), Some(TEXT));
    }

    #[test]
    fn no_config_and_every_damaged_one_is_nothing() {
        assert_eq!(KernelConfig::text_in(b"no marker"), None);
        let kernel = [b"IKCFG_ST", &gzip(TEXT.as_bytes())[..]].concat();
        for cut in 0..kernel.len() {
            assert_eq!(KernelConfig::text_in(&kernel[..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn release_is_the_word_after_the_banner() {
        let check = |text: &[u8], expect: Option<&str>| {
            assert_eq!(release(text).as_deref(), expect, "{}", text.escape_ascii());
        };
        check(b"\0Linux version 6.1.0-56-cloud-amd64 (debian) #1", Some("6.1.0-56-cloud-amd64"));
        check(b"Linux version %s Linux version 5.10.1 x", Some("5.10.1"));
        check(b"Linux version 6.1/../.. x", None);
        check(b"Linux version 6.1", None);
        check(b"Linux version ", None);
        check(&[b"Linux version 6", &[b'x'; 70][..], b" "].concat(), None);
    }
}
