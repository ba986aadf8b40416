//! Where something is: in a sandbox, `ID:PATH`, or on this host.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

use crate::report::Hinted;

/// A place something is copied from or to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A path in a sandbox.
    Sandbox(SandboxPath),
    /// A path of this host.
    Host(PathBuf),
    /// Standard input or output.
    Standard,
}

/// A path in a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxPath {
    /// The sandbox.
    pub id: String,
    /// The path; a relative one begins at the user's home.
    pub path: PathBuf,
}

impl Place {
    /// The place `text` names. A path of this host whose first part has a colon is written with
    /// `./` before it.
    pub fn parse(text: &OsStr) -> Self {
        if text == "-" {
            return Self::Standard;
        }
        match SandboxPath::split(text) {
            Some(path) => Self::Sandbox(path),
            None => Self::Host(text.into()),
        }
    }
}

impl SandboxPath {
    /// The path in a sandbox that `text` names.
    ///
    /// # Errors
    /// When it names none.
    pub fn parse(text: &OsStr) -> Result<Self, Hinted> {
        Self::split(text).ok_or_else(|| Hinted {
            message: format!("`{}` is not a path in a sandbox", text.display()),
            hint: "write the path as ID:PATH, such as sb_0123456789ab:/tmp/file".to_owned(),
        })
    }

    fn split(text: &OsStr) -> Option<Self> {
        let bytes = text.as_bytes();
        let colon = bytes.iter().position(|byte| *byte == b':')?;
        let id = std::str::from_utf8(&bytes[..colon]).ok()?;
        if id.is_empty() || id.contains('/') {
            return None;
        }
        let path = match &bytes[colon + 1..] {
            // The home itself.
            b"" => ".".into(),
            path => OsString::from_vec(path.to_vec()).into(),
        };
        Some(Self { id: id.to_owned(), path })
    }

    /// The same sandbox's `path`.
    pub fn with(&self, path: PathBuf) -> Self {
        Self { id: self.id.clone(), path }
    }
}

impl std::fmt::Display for SandboxPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.id, self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_apart() {
        let sandbox =
            |id: &str, path: &str| Place::Sandbox(SandboxPath { id: id.into(), path: path.into() });
        for (text, expect) in [
            ("sb_1:/a:b", sandbox("sb_1", "/a:b")),
            ("sb_1:", sandbox("sb_1", ".")),
            ("-", Place::Standard),
            ("file", Place::Host("file".into())),
            ("./a:b", Place::Host("./a:b".into())),
            (":x", Place::Host(":x".into())),
        ] {
            assert_eq!(Place::parse(text.as_ref()), expect, "{text}");
        }
        let odd = OsStr::from_bytes(b"sb_1:\xff");
        assert_eq!(SandboxPath::parse(odd).unwrap().path.as_os_str(), OsStr::from_bytes(b"\xff"));
    }
}
