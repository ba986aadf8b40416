//! Files of a sandbox.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use bytes::Bytes;
use emberd_api::{ErrorBody, FileChange, FileEntry, FileList, paths};
use hyper::header::{CONTENT_TYPE, RANGE};
use hyper::{Method, StatusCode};

use crate::client::{Client, ClientError};
use crate::sse::ServerEvents;
use crate::stream::{self, Download, Upload};

/// Largest event of a watch, in bytes (1 MiB): a change has one path.
const EVENT_BYTES_MAX: usize = 1 << 20;

/// Options of an operation on files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileOptions {
    /// User whose home relative paths begin at and who owns new files. Root when absent.
    pub user: Option<String>,
    /// Mode bits of the new file or directory.
    pub mode: Option<u32>,
}

/// A part of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FileSpan {
    /// Offset of the first byte.
    pub offset: u64,
    /// Largest number of bytes, at least one. All the rest when absent.
    pub length: Option<u64>,
}

/// Why a watch ended.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The daemon ended the watch with an error.
    #[error("{}", .0.error)]
    Ended(ErrorBody),
    /// The connection broke.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The daemon sent anything but events.
    #[error("the events of the daemon are malformed")]
    Malformed,
}

/// Names and values of a query.
type Values<'a> = Vec<(&'a str, Vec<u8>)>;

impl FileOptions {
    fn values<'a>(&self, paths: &[(&'a str, &Path)]) -> Values<'a> {
        let bytes = |path: &Path| OsStr::as_bytes(path.as_os_str()).to_vec();
        let paths = paths.iter().map(|(name, path)| (*name, bytes(path)));
        let user = self.user.iter().map(|user| ("user", user.clone().into_bytes()));
        let mode = self.mode.iter().map(|mode| ("mode", format!("{mode:o}").into_bytes()));
        paths.chain(user).chain(mode).collect()
    }
}

fn route(route: &str, id: &str, values: &Values<'_>) -> String {
    let values: Vec<_> = values.iter().map(|(name, value)| (*name, value.as_slice())).collect();
    paths::files(route, id, &values)
}

impl Client {
    /// Shows the type, size, owner and mode of a file.
    ///
    /// # Errors
    /// [`ClientError`], as all calls.
    pub async fn file_stat(
        &self,
        id: &str,
        path: &Path,
        options: &FileOptions,
    ) -> Result<FileEntry, ClientError> {
        let path = route(paths::FILES_STAT, id, &options.values(&[("path", path)]));
        self.call(Method::GET, &path, Bytes::new()).await
    }

    /// Lists a directory, `depth` levels deep.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn file_list(
        &self,
        id: &str,
        path: &Path,
        depth: u32,
        options: &FileOptions,
    ) -> Result<FileList, ClientError> {
        let mut values = options.values(&[("path", path)]);
        values.push(("depth", depth.to_string().into_bytes()));
        self.call(Method::GET, &route(paths::FILES_LIST, id, &values), Bytes::new()).await
    }

    /// Makes a directory and its parents.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn file_make_dir(
        &self,
        id: &str,
        path: &Path,
        options: &FileOptions,
    ) -> Result<FileEntry, ClientError> {
        let path = route(paths::FILES_DIR, id, &options.values(&[("path", path)]));
        self.call(Method::POST, &path, Bytes::new()).await
    }

    /// Moves a file or a directory. A file at the new path is replaced; parents are made.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn file_move(
        &self,
        id: &str,
        from: &Path,
        to: &Path,
        options: &FileOptions,
    ) -> Result<FileEntry, ClientError> {
        let values = options.values(&[("from", from), ("to", to)]);
        self.call(Method::POST, &route(paths::FILES_MOVE, id, &values), Bytes::new()).await
    }

    /// Deletes a file, or a directory with its content. A path that does not exist is not an
    /// error.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn file_remove(
        &self,
        id: &str,
        path: &Path,
        options: &FileOptions,
    ) -> Result<(), ClientError> {
        let path = route(paths::FILES, id, &options.values(&[("path", path)]));
        self.send(Method::DELETE, &path, Bytes::new()).await?;
        Ok(())
    }

    /// Reads a file, or a part of it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn file_read(
        &self,
        id: &str,
        path: &Path,
        span: FileSpan,
        options: &FileOptions,
    ) -> Result<Download, ClientError> {
        let path = route(paths::FILES, id, &options.values(&[("path", path)]));
        let mut request = self.streamed(Method::GET, &path, "application/octet-stream");
        if span != FileSpan::default() {
            let first = span.offset;
            let last =
                span.length.map(|length| first.saturating_add(length.max(1) - 1).to_string());
            let range = format!("bytes={first}-{}", last.unwrap_or_default());
            request = request.header(RANGE, range);
        }
        self.exchange(request, Upload::bytes(Bytes::new())).await
    }

    /// Writes a file, whole or not at all. Parents are made.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn file_write(
        &self,
        id: &str,
        path: &Path,
        content: Upload,
        options: &FileOptions,
    ) -> Result<FileEntry, ClientError> {
        let path = route(paths::FILES, id, &options.values(&[("path", path)]));
        let request = self.streamed(Method::PUT, &path, "application/octet-stream");
        let answer = self.exchange(request, content).await?;
        let body = answer.small().await?;
        serde_json::from_slice(&body).map_err(|source| self.protocol(StatusCode::OK, source))
    }

    /// Reads a directory, or one file, as a tar archive.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn file_pack(
        &self,
        id: &str,
        path: &Path,
        options: &FileOptions,
    ) -> Result<Download, ClientError> {
        let path = route(paths::FILES_ARCHIVE, id, &options.values(&[("path", path)]));
        let request = self.streamed(Method::GET, &path, "application/x-tar");
        self.exchange(request, Upload::bytes(Bytes::new())).await
    }

    /// Unpacks a tar archive into a directory, which is made if it does not exist.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn file_unpack(
        &self,
        id: &str,
        path: &Path,
        archive: Upload,
        options: &FileOptions,
    ) -> Result<(), ClientError> {
        let path = route(paths::FILES_ARCHIVE, id, &options.values(&[("path", path)]));
        let request = self.streamed(Method::PUT, &path, "application/x-tar");
        let answer = self.exchange(request, archive).await?;
        answer.small().await?;
        Ok(())
    }

    /// Watches a file, or the files in a directory; with `recursive`, all files below it. Changes
    /// after this returns are reported.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn file_watch(
        &self,
        id: &str,
        path: &Path,
        recursive: bool,
        options: &FileOptions,
    ) -> Result<Watch, ClientError> {
        let mut values = options.values(&[("path", path)]);
        values.push(("recursive", recursive.to_string().into_bytes()));
        let path = route(paths::FILES_WATCH, id, &values);
        let request = self.streamed(Method::GET, &path, "application/octet-stream");
        let download = self.exchange(request, Upload::bytes(Bytes::new())).await?;
        Ok(Watch { download, events: ServerEvents::new(EVENT_BYTES_MAX) })
    }

    fn streamed(&self, method: Method, path: &str, content: &str) -> hyper::http::request::Builder {
        self.head(method, path).header(CONTENT_TYPE, content)
    }

    async fn exchange(
        &self,
        request: hyper::http::request::Builder,
        body: Upload,
    ) -> Result<Download, ClientError> {
        let request = request.body(body).expect("paths are encoded");
        let asked = stream::ask(self, request).await;
        let (status, download) = asked.map_err(|error| self.unanswered(error))?;
        if status.is_success() {
            return Ok(download);
        }
        let body = download.small().await?;
        Err(self.refused(status, &body))
    }
}

/// Changes of watched files. Dropping it ends the watch.
#[derive(Debug)]
pub struct Watch {
    download: Download,
    events: ServerEvents,
}

impl Watch {
    /// Waits for the next change; none once the daemon stops. Cancel safe.
    ///
    /// # Errors
    /// [`WatchError`]; the watch has ended.
    pub async fn next(&mut self) -> Result<Option<FileChange>, WatchError> {
        loop {
            while let Some(event) = self.events.event().map_err(|_| WatchError::Malformed)? {
                let malformed = |_| WatchError::Malformed;
                match event.name.as_str() {
                    "change" => {
                        return serde_json::from_str(&event.data).map(Some).map_err(malformed);
                    }
                    "error" => {
                        let body = serde_json::from_str(&event.data).map_err(malformed)?;
                        return Err(WatchError::Ended(body));
                    }
                    // An event that this version does not know.
                    _ => {}
                }
            }
            match self.download.next().await? {
                Some(piece) => self.events.push(&piece),
                None => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_sent_byte_by_byte() {
        let path = Path::new(OsStr::from_bytes(b"/a b\xff"));
        let options = FileOptions { user: Some("u".into()), mode: Some(0o755) };
        let sent = route(paths::FILES, "x", &options.values(&[("path", path)]));
        assert_eq!(sent, "/sandboxes/x/files?path=%2Fa%20b%FF&user=u&mode=755");
    }
}
