//! Watches files for changes with inotify(7).
//!
//! In a recursive watch, directories that are created later are watched too. Entries that they
//! have before they are watched are reported as created, some of them twice.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use emberd_proto::file::{BATCH_MAX, ChangeKind, WATCHED_DIRS_MAX};
use emberd_proto::{FileChange, GuestMessage, GuestPath};
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};
use tokio::io::Interest;
use tokio::task::spawn_blocking;

use super::content::is_unfinished;
use super::errors::FileError;
use super::listing::BATCH_BYTES_MAX;
use super::place::Place;
use super::stream::{finished, write_all};
use crate::connection::{Connection, ConnectionError};
use crate::sys;

/// Sends changes to the host until it closes the connection.
pub async fn watch(
    connection: &mut Connection,
    request: impl FnOnce() -> Result<(Place, GuestPath, bool), FileError> + Send + 'static,
) -> Result<(), ConnectionError> {
    let open = move || {
        let (place, path, recursive) = request()?;
        let watcher = Watcher::open(place.resolve(&path)?, recursive)?;
        let readiness = watcher.readiness().map_err(FileError::system("watch", &watcher.root))?;
        Ok((watcher, readiness))
    };
    let (mut watcher, readiness) = match finished(spawn_blocking(open).await) {
        Ok(opened) => opened,
        Err::<_, FileError>(error) => {
            connection.outgoing.push(&GuestMessage::Refused(error.refusal()));
            return write_all(&mut connection.outgoing).await;
        }
    };
    let readiness = sys::watch(readiness, Interest::READABLE)?;
    connection.outgoing.push(&GuestMessage::Watching);
    loop {
        write_all(&mut connection.outgoing).await?;
        let mut ready = tokio::select! {
            frame = connection.incoming.frame() => return match frame? {
                Some(frame) => Err(ConnectionError::Unexpected(frame.kind)),
                None => Ok(()),
            },
            ready = readiness.readable() => ready?,
        };
        let read = spawn_blocking(move || {
            let changes = watcher.read();
            (watcher, changes)
        });
        let (back, changes) = finished(read.await);
        watcher = back;
        match changes? {
            Some(changes) => tell(connection, changes),
            None => ready.clear_ready(),
        }
    }
}

/// Appends `changes` in batches that fit a frame.
fn tell(connection: &mut Connection, changes: Vec<FileChange>) {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for change in changes {
        // JSON encodes a control character as six bytes; the rest takes less than 100.
        let change_bytes = 100 + 6 * change.path.as_path().as_os_str().len();
        if batch.len() == BATCH_MAX || bytes + change_bytes > BATCH_BYTES_MAX {
            let changes = std::mem::take(&mut batch);
            connection.outgoing.push(&GuestMessage::Changes { changes });
            bytes = 0;
        }
        batch.push(change);
        bytes += change_bytes;
    }
    if !batch.is_empty() {
        connection.outgoing.push(&GuestMessage::Changes { changes: batch });
    }
}

struct Watcher {
    inotify: Inotify,
    /// The watched directories.
    root: PathBuf,
    /// The watch of the root, or of the directory that contains it.
    root_watch: WatchDescriptor,
    /// The only name to report if the root is not a directory. The watch is on its directory, so
    /// that it continues after the file is replaced.
    only: Option<OsString>,
    recursive: bool,
    dirs: HashMap<WatchDescriptor, PathBuf>,
}

impl Watcher {
    fn open(root: PathBuf, recursive: bool) -> Result<Self, FileError> {
        let failed = |errno: Errno| FileError::system("watch", &root)(errno);
        let metadata = fs::metadata(&root).map_err(FileError::system("watch", &root))?;
        let inotify =
            Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).map_err(failed)?;
        let (dir, only) = match (root.parent(), root.file_name()) {
            (Some(parent), Some(name)) if !metadata.is_dir() => {
                (parent.to_owned(), Some(name.to_owned()))
            }
            _ => (root.clone(), None),
        };
        let mask = events() | AddWatchFlags::IN_ONLYDIR;
        let root_watch = inotify.add_watch(&dir, mask).map_err(failed)?;
        let dirs = HashMap::from([(root_watch, dir)]);
        let recursive = recursive && only.is_none();
        let mut watcher = Self { inotify, root, root_watch, only, recursive, dirs };
        if recursive {
            let root = watcher.root.clone();
            watcher.scan(&root, None)?;
        }
        Ok(watcher)
    }

    /// Returns the descriptor that becomes readable when something has changed.
    fn readiness(&self) -> io::Result<OwnedFd> {
        self.inotify.as_fd().try_clone_to_owned()
    }

    /// Returns the changes since the last call.
    fn read(&mut self) -> io::Result<Option<Vec<FileChange>>> {
        let events = match self.inotify.read_events() {
            Err(Errno::EAGAIN) => return Ok(None),
            events => events?,
        };
        let mut changes = Vec::new();
        for event in events {
            self.take(&event, &mut changes);
        }
        Ok(Some(changes))
    }

    fn take(&mut self, event: &InotifyEvent, changes: &mut Vec<FileChange>) {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            push(changes, ChangeKind::Overflow, &self.root);
            // Directories that were created meanwhile are watched from now on.
            self.rescan(&self.root.clone(), None, changes);
            return;
        }
        let Some(dir) = self.dirs.get(&event.wd).cloned() else { return };
        if event.mask.contains(AddWatchFlags::IN_IGNORED) {
            self.dirs.remove(&event.wd);
            return;
        }
        let Some(name) = &event.name else {
            if event.wd == self.root_watch {
                self.take_own(event.mask, changes);
            }
            return;
        };
        if is_unfinished(name) || self.only.as_ref().is_some_and(|only| only != name) {
            return;
        }
        let (Some(change), path) = (change(event.mask), dir.join(name)) else { return };
        push(changes, change, &path);
        if self.recursive && event.mask.contains(AddWatchFlags::IN_ISDIR) {
            match change {
                ChangeKind::Created => {
                    let mut found = Vec::new();
                    self.rescan(&path, Some(&mut found), changes);
                    changes.append(&mut found);
                }
                // Its new path is reported if that is watched.
                ChangeKind::Renamed => self.forget(&path),
                _ => {}
            }
        }
    }

    /// Handles an event of the root itself.
    fn take_own(&mut self, mask: AddWatchFlags, changes: &mut Vec<FileChange>) {
        let root = self.root.clone();
        if mask.contains(AddWatchFlags::IN_DELETE_SELF) {
            push(changes, ChangeKind::Removed, &root);
        } else if mask.contains(AddWatchFlags::IN_MOVE_SELF) {
            push(changes, ChangeKind::Renamed, &root);
        } else if mask.contains(AddWatchFlags::IN_ATTRIB) && self.only.is_none() {
            push(changes, ChangeKind::Attributes, &root);
        }
    }

    /// As [`Self::scan`]; directories that cannot be watched are reported as overflow.
    fn rescan(
        &mut self,
        dir: &Path,
        found: Option<&mut Vec<FileChange>>,
        changes: &mut Vec<FileChange>,
    ) {
        if self.recursive && self.scan(dir, found).is_err() {
            push(changes, ChangeKind::Overflow, dir);
        }
    }

    /// Watches `dir` and the directories below it, and records their entries as created.
    fn scan(
        &mut self,
        dir: &Path,
        mut found: Option<&mut Vec<FileChange>>,
    ) -> Result<(), FileError> {
        let mut left = vec![dir.to_owned()];
        while let Some(dir) = left.pop() {
            if dir != self.root && !self.add(&dir)? {
                continue;
            }
            let Ok(entries) = fs::read_dir(&dir) else { continue };
            for entry in entries.flatten().filter(|entry| !is_unfinished(&entry.file_name())) {
                let path = entry.path();
                if let Some(found) = &mut found {
                    push(found, ChangeKind::Created, &path);
                }
                if entry.file_type().is_ok_and(|file_type| file_type.is_dir()) {
                    left.push(path);
                }
            }
        }
        Ok(())
    }

    /// Watches one directory; returns whether it exists.
    fn add(&mut self, dir: &Path) -> Result<bool, FileError> {
        let mask = events() | AddWatchFlags::IN_ONLYDIR | AddWatchFlags::IN_DONT_FOLLOW;
        if self.dirs.len() >= WATCHED_DIRS_MAX {
            return Err(FileError::Invalid("more directories than one watch covers (8192)"));
        }
        match self.inotify.add_watch(dir, mask) {
            Ok(watch) => {
                self.dirs.insert(watch, dir.to_owned());
                Ok(true)
            }
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(false),
            Err(errno) => Err(FileError::system("watch", dir)(errno)),
        }
    }

    /// Stops watching the directory that was at `path`.
    fn forget(&mut self, path: &Path) {
        let inotify = &self.inotify;
        self.dirs.retain(|watch, dir| {
            let stays = !dir.starts_with(path);
            if !stays {
                // Fails if the directory is gone, and its watch with it.
                inotify.rm_watch(*watch).ok();
            }
            stays
        });
    }
}

fn events() -> AddWatchFlags {
    AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_MODIFY
        | AddWatchFlags::IN_ATTRIB
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE
        | AddWatchFlags::IN_MOVE_SELF
}

/// Returns the change for an event of a directory entry.
fn change(mask: AddWatchFlags) -> Option<ChangeKind> {
    let kinds = [
        (AddWatchFlags::IN_CREATE, ChangeKind::Created),
        (AddWatchFlags::IN_MOVED_TO, ChangeKind::Created),
        (AddWatchFlags::IN_MODIFY, ChangeKind::Modified),
        (AddWatchFlags::IN_DELETE, ChangeKind::Removed),
        (AddWatchFlags::IN_MOVED_FROM, ChangeKind::Renamed),
        (AddWatchFlags::IN_ATTRIB, ChangeKind::Attributes),
    ];
    kinds.into_iter().find_map(|(bit, change)| mask.contains(bit).then_some(change))
}

/// Records a change, unless it equals the last one.
fn push(changes: &mut Vec<FileChange>, change: ChangeKind, path: &Path) {
    let same = |last: &FileChange| last.change == change && last.path.as_path() == path;
    if !changes.last().is_some_and(same) {
        changes.push(FileChange { change, path: GuestPath(path.into()) });
    }
}
