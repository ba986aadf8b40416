//! URLs of a sandbox's ports: the key that signs them, while there are any.

use std::path::PathBuf;

use super::handle::Handle;
use super::url_key::UrlKey;

/// A change of a sandbox's key could not be written to its journal.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to {}", dir.display())]
pub struct NotRecorded {
    /// Directory of the sandbox.
    pub dir: PathBuf,
    /// Why.
    pub source: std::io::Error,
}

impl Handle {
    /// Returns the key that signs URLs of the sandbox; none if no URL of it is valid.
    pub fn url_key(&self) -> Option<UrlKey> {
        self.sandbox.url_key.lock().clone()
    }

    /// As [`Self::url_key`]; makes a key if there is none. The next daemon has it as well.
    ///
    /// # Errors
    /// [`NotRecorded`]: no key was made.
    pub fn url_key_or_new(&self) -> Result<UrlKey, NotRecorded> {
        if let Some(key) = self.url_key() {
            return Ok(key);
        }
        let key = self.sandbox.url_key.lock().get_or_insert_with(UrlKey::generate).clone();
        self.record().inspect_err(|_| self.end_url_key()).map(|()| key)
    }

    /// Revokes every URL of the sandbox: what was begun with one ends.
    ///
    /// # Errors
    /// [`NotRecorded`]: the URLs are revoked, but for a daemon that is started before the change
    /// is written, which is tried again.
    pub fn revoke_urls(&self) -> Result<(), NotRecorded> {
        self.end_url_key();
        self.record().inspect_err(|_| self.sandbox.signals.journals.notify_one())
    }

    fn end_url_key(&self) {
        if let Some(key) = self.sandbox.url_key.lock().take() {
            key.revoke();
        }
    }

    fn record(&self) -> Result<(), NotRecorded> {
        let dir = || self.sandbox.dir.clone();
        self.sandbox.record_change().map_err(|source| NotRecorded { dir: dir(), source })
    }
}
