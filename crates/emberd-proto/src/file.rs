//! Files of the guest: what is asked of them and what they are.
//!
//! Names are bytes, JSON is Unicode. A [`GuestPath`] is a string where the name is UTF-8, and
//! an object with the bytes in base64 where it is not, so that no name is out of reach.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest path, in bytes: the kernel's `PATH_MAX`, less its NUL.
pub const PATH_BYTES_MAX: usize = 4095;

/// Deepest listing, in directories below the one that is listed.
pub const DEPTH_MAX: u32 = 256;

/// Most entries of one listing. A longer one is cut and says so.
pub const ENTRIES_MAX: usize = 100_000;

/// Most entries, and most changes, in one frame.
pub const BATCH_MAX: usize = 256;

/// Most directories one recursive watch covers.
pub const WATCHED_DIRS_MAX: usize = 8192;

/// A path in the guest. A relative one starts at the home of the user it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestPath(pub PathBuf);

impl GuestPath {
    /// The path.
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// The rule it breaks.
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
#[derive(Serialize, Deserialize)]
struct Encoded<'a> {
    base64: std::borrow::Cow<'a, str>,
}

impl Serialize for GuestPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Some(text) = self.0.to_str() {
            return serializer.serialize_str(text);
        }
        let base64 = BASE64.encode(self.0.as_os_str().as_bytes()).into();
        Encoded { base64 }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for GuestPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Text(String),
            Encoded(Encoded<'static>),
        }
        match Form::deserialize(deserializer)? {
            Form::Text(text) => Ok(Self(text.into())),
            Form::Encoded(Encoded { base64 }) => {
                let bytes = BASE64.decode(base64.as_bytes()).map_err(serde::de::Error::custom)?;
                Ok(Self(OsString::from_vec(bytes).into()))
            }
        }
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

/// An operation on files, for a user by whose home relative paths are read and to whom new
/// files belong; root when absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRequest {
    /// Whose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// What.
    #[serde(flatten)]
    pub op: FileOp,
}

/// What is asked of files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "file_op", rename_all = "snake_case")]
pub enum FileOp {
    /// Answered by [`crate::GuestMessage::File`].
    Stat {
        /// Of what.
        path: GuestPath,
    },
    /// Answered by [`crate::GuestMessage::Listed`] batches, then [`crate::GuestMessage::Done`].
    List {
        /// The directory.
        path: GuestPath,
        /// Levels below it: 1 is what it holds itself.
        depth: u32,
    },
    /// Makes a directory and its parents. Answered by [`crate::GuestMessage::File`]; one that
    /// is there already is refused as [`crate::RefusalCode::AlreadyExists`].
    MakeDir {
        /// The directory.
        path: GuestPath,
        /// Its mode bits; 0755 when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mode: Option<u32>,
    },
    /// Renames, replacing a file that is there; makes parents. Answered by
    /// [`crate::GuestMessage::File`].
    Move {
        /// What.
        from: GuestPath,
        /// Where to.
        to: GuestPath,
    },
    /// Removes a file, or a directory with all that is in it. Answered by
    /// [`crate::GuestMessage::Done`], also when nothing is there.
    Remove {
        /// What.
        path: GuestPath,
    },
    /// Answered by [`crate::GuestMessage::File`], `Data` frames and one `DataEnd`.
    Read {
        /// The file.
        path: GuestPath,
        /// Where to begin, in bytes.
        #[serde(default)]
        offset: u64,
        /// How many bytes at most; all when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        length: Option<u64>,
    },
    /// Makes or replaces a file by what `Data` frames and one `DataEnd` bring, whole or not at
    /// all; makes parents. Answered by [`crate::GuestMessage::File`].
    Write {
        /// The file.
        path: GuestPath,
        /// Its mode bits; as the file had, else 0644, when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mode: Option<u32>,
    },
    /// Answered by [`crate::GuestMessage::File`], then a tar stream of the directory's content
    /// as `Data` frames and one `DataEnd`.
    Pack {
        /// The directory, or a file.
        path: GuestPath,
    },
    /// Unpacks the tar stream that `Data` frames and one `DataEnd` bring into a directory, which
    /// is made. Answered by [`crate::GuestMessage::Done`].
    Unpack {
        /// The directory.
        path: GuestPath,
    },
    /// Answered by [`crate::GuestMessage::Watching`], then [`crate::GuestMessage::Changes`] until
    /// the host closes the connection.
    Watch {
        /// The directory, or a file.
        path: GuestPath,
        /// Whether directories below it are watched too, new ones included.
        #[serde(default)]
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

/// One file, directory or link.
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
        assert_eq!(serde_json::from_str::<FileRequest>(json).unwrap(), request);
    }

    #[test]
    fn paths_have_limits() {
        let long = "x".repeat(PATH_BYTES_MAX + 1);
        for (path, valid) in [("a", true), ("", false), ("a\0", false), (&long, false)] {
            assert_eq!(GuestPath::from(path).broken_rule().is_none(), valid, "{path:.9}");
        }
    }
}
