//! Files of the guest: operations and attributes.
//!
//! Names are bytes, but JSON is Unicode. A [`GuestPath`] is a string if the name is UTF-8, and
//! otherwise an object with the bytes in base64, so that every name can be used.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Maximum length of a path, in bytes: the kernel's `PATH_MAX`, without its NUL.
pub const PATH_BYTES_MAX: usize = 4095;

/// Maximum depth of a listing.
pub const DEPTH_MAX: u32 = 256;

/// Maximum number of entries of one listing. A longer one is cut and flagged.
pub const ENTRIES_MAX: usize = 100_000;

/// Maximum number of entries or changes in one frame.
pub const BATCH_MAX: usize = 256;

/// Maximum number of directories of one recursive watch.
pub const WATCHED_DIRS_MAX: usize = 8192;

/// A path in the guest. A relative path starts at the home directory of the request's user.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestPath(pub PathBuf);

impl GuestPath {
    /// Returns the path.
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// Returns the rule that the path breaks.
    pub fn broken_rule(&self) -> Option<&'static str> {
        let bytes = self.0.as_os_str().as_bytes();
        if bytes.is_empty() {
            return Some("a path is empty");
        }
        if bytes.len() > PATH_BYTES_MAX {
            return Some("a path is longer than 4095 bytes");
        }
        bytes.contains(&0).then_some("a path contains a NUL byte")
    }
}

impl<T: AsRef<OsStr> + ?Sized> From<&T> for GuestPath {
    fn from(path: &T) -> Self {
        Self(path.as_ref().into())
    }
}

/// The JSON of a name that is not UTF-8.
#[derive(Serialize)]
struct Encoded {
    base64: String,
}

impl Serialize for GuestPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Some(text) = self.0.to_str() {
            return serializer.serialize_str(text);
        }
        let base64 = BASE64.encode(self.0.as_os_str().as_bytes());
        Encoded { base64 }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for GuestPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Form)
    }
}

/// Reads either form of a path.
struct Form;

impl<'de> Visitor<'de> for Form {
    type Value = GuestPath;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a path")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<GuestPath, E> {
        Ok(text.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<GuestPath, A::Error> {
        let mut path = None;
        while let Some(name) = map.next_key::<String>()? {
            let text: String = map.next_value()?;
            if name == "base64" {
                let bytes = BASE64.decode(text).map_err(Error::custom)?;
                path = Some(GuestPath(OsString::from_vec(bytes).into()));
            }
        }
        path.ok_or_else(|| Error::missing_field("base64"))
    }
}

#[cfg(feature = "schema")]
impl utoipa::PartialSchema for GuestPath {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::SchemaType::AnyValue)
            .description(Some("A string, or `{\"base64\": …}` where the name is not UTF-8."))
            .into()
    }
}

#[cfg(feature = "schema")]
impl utoipa::ToSchema for GuestPath {}

/// A file operation for a user. Relative paths start at the user's home directory, and new files
/// belong to the user; by default root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileRequest {
    /// The user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The operation.
    #[serde(flatten)]
    pub op: FileOp,
}

/// A file operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "file_op", rename_all = "snake_case")]
pub enum FileOp {
    /// Reads the attributes of a path. Answered by [`crate::GuestMessage::File`].
    Stat {
        /// The path.
        path: GuestPath,
    },
    /// Lists a directory. Answered by [`crate::GuestMessage::Listed`] batches, then
    /// [`crate::GuestMessage::Done`].
    List {
        /// The directory.
        path: GuestPath,
        /// Number of levels; 1 is the directory's own entries.
        depth: u32,
    },
    /// Creates a directory and its parents. Answered by [`crate::GuestMessage::File`]; an
    /// existing one is refused as [`crate::RefusalCode::AlreadyExists`].
    MakeDir {
        /// The directory.
        path: GuestPath,
        /// Mode bits; 0755 by default.
        #[serde(skip_serializing_if = "Option::is_none")]
        mode: Option<u32>,
    },
    /// Renames, replacing an existing file, and creates parents. Answered by
    /// [`crate::GuestMessage::File`].
    Move {
        /// The old path.
        from: GuestPath,
        /// The new path.
        to: GuestPath,
    },
    /// Removes a file, or a directory with its contents. Answered by
    /// [`crate::GuestMessage::Done`], also if the path does not exist.
    Remove {
        /// The path.
        path: GuestPath,
    },
    /// Reads a file. Answered by [`crate::GuestMessage::File`], `Data` frames and one `DataEnd`.
    Read {
        /// The file.
        path: GuestPath,
        /// Offset, in bytes.
        offset: u64,
        /// Maximum number of bytes; by default all.
        #[serde(skip_serializing_if = "Option::is_none")]
        length: Option<u64>,
    },
    /// Creates or replaces a file atomically with the content of `Data` frames and one `DataEnd`,
    /// and creates parents. Answered by [`crate::GuestMessage::File`].
    Write {
        /// The file.
        path: GuestPath,
        /// Mode bits; by default those of the existing file, else 0644.
        #[serde(skip_serializing_if = "Option::is_none")]
        mode: Option<u32>,
    },
    /// Packs a directory. Answered by [`crate::GuestMessage::File`], then a tar stream of its
    /// contents as `Data` frames and one `DataEnd`.
    Pack {
        /// The directory, or a file.
        path: GuestPath,
    },
    /// Unpacks the tar stream of `Data` frames and one `DataEnd` into a directory, which is
    /// created if missing. Answered by [`crate::GuestMessage::Done`].
    Unpack {
        /// The directory.
        path: GuestPath,
    },
    /// Watches for changes. Answered by [`crate::GuestMessage::Watching`], then
    /// [`crate::GuestMessage::Changes`] until the host closes the connection.
    Watch {
        /// The directory, or a file.
        path: GuestPath,
        /// Whether directories below it are watched too, including new ones.
        recursive: bool,
    },
}

/// Type of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum FileType {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A device, socket or FIFO.
    Other,
}

/// The attributes of a file, directory or link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct FileEntry {
    /// Absolute path of the request. Links in it are not resolved.
    pub path: GuestPath,
    /// Type of the file itself: a symbolic link is a link.
    #[serde(rename = "type")]
    pub file_type: FileType,
    /// Size in bytes.
    pub size: u64,
    /// Permission bits as a number, 0 to 4095 (0o7777).
    pub mode: u32,
    /// Number of the owner.
    pub uid: u32,
    /// Number of the group.
    pub gid: u32,
    /// Name of the owner. Absent if the guest does not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Name of the group. Absent if the guest does not know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// When the content changed last, in milliseconds since the Unix epoch.
    pub modified_ms: i64,
    /// Path that a symbolic link contains. Absent for other files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<GuestPath>,
    /// Type of the file that a symbolic link leads to. Absent for other files, and for a broken
    /// link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_type: Option<FileType>,
}

/// One change below a watched path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct FileChange {
    /// Kind of the change.
    pub change: ChangeKind,
    /// Absolute path of the file.
    pub path: GuestPath,
}

/// Kind of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// The file was made, or moved here.
    Created,
    /// The content changed.
    Modified,
    /// The file was deleted.
    Removed,
    /// The file was moved away from here.
    Renamed,
    /// Mode, owner or times changed.
    Attributes,
    /// Changes here and below were lost: list the files again.
    Overflow,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_not_utf8_survive() {
        let check = |path: &GuestPath, json: &str| {
            assert_eq!(serde_json::to_string(path).unwrap(), json);
            assert_eq!(serde_json::from_str::<GuestPath>(json).unwrap(), *path);
        };
        check(&GuestPath::from("/tmp/é"), r#""/tmp/é""#);
        check(&GuestPath::from(OsStr::from_bytes(b"a\xff")), r#"{"base64":"Yf8="}"#);
        assert!(serde_json::from_str::<GuestPath>(r#"{"base64":"?"}"#).is_err());
    }

    #[test]
    fn requests_are_flat() {
        let request = FileRequest {
            user: Some("user".into()),
            op: FileOp::List { path: "a".into(), depth: 1 },
        };
        let json = r#"{"user":"user","file_op":"list","path":"a","depth":1}"#;
        assert_eq!(serde_json::to_string(&request).unwrap(), json);
        let message = json.replacen('{', r#"{"op":"file","#, 1);
        let read: crate::HostMessage = serde_json::from_str(&message).unwrap();
        assert_eq!(read, crate::HostMessage::File(request));
    }

    #[test]
    fn paths_have_limits() {
        let long = "x".repeat(PATH_BYTES_MAX + 1);
        for (path, valid) in [("a", true), ("", false), ("a\0", false), (&long, false)] {
            assert_eq!(GuestPath::from(path).broken_rule().is_none(), valid, "{path:.9}");
        }
    }
}
