//! The distribution of the host: os-release(5).

use std::fs;

/// The relevant fields of os-release.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct OsRelease {
    /// `debian`, `ubuntu`, …
    pub id: String,
    /// Distributions that it is derived from.
    pub id_like: Vec<String>,
    /// Name of the release, such as `bookworm`.
    pub codename: Option<String>,
}

impl OsRelease {
    /// Reads the host's file; empty if there is none.
    pub fn of_host() -> Self {
        let read = |path| fs::read_to_string(path);
        let text = read("/etc/os-release").or_else(|_absent| read("/usr/lib/os-release"));
        Self::parse(&text.unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            line.map(|value| value.trim().trim_matches(['"', '\'']).to_owned())
        };
        Self {
            id: value("ID").unwrap_or_default(),
            id_like: value("ID_LIKE")
                .map(|like| like.split_whitespace().map(str::to_owned).collect())
                .unwrap_or_default(),
            codename: value("VERSION_CODENAME").filter(|name| !name.is_empty()),
        }
    }

    /// Returns whether it is Ubuntu or derived from it.
    pub fn is_ubuntu(&self) -> bool {
        self.id == "ubuntu" || self.id_like.iter().any(|id| id == "ubuntu")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_and_plain_values_are_read() {
        let mint = "NAME=\"Linux Mint\"\nID=linuxmint\nID_LIKE=\"ubuntu debian\"\n\
            VERSION_CODENAME='wilma'\n";
        let release = OsRelease::parse(mint);
        assert_eq!(release.codename.as_deref(), Some("wilma"));
        assert!(release.is_ubuntu());
        let debian = OsRelease::parse("ID=debian\nVERSION_CODENAME=\n");
        assert_eq!((debian.id.as_str(), debian.codename.as_deref()), ("debian", None));
        assert!(!debian.is_ubuntu());
        assert_eq!(OsRelease::parse(""), OsRelease::default());
    }
}
