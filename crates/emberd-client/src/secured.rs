//! Clients with files of TLS.

use crate::client::Client;
use crate::tls::{Security, TlsFiles, TlsFilesError};

impl Client {
    /// Uses these files for TLS, from the next connection on.
    ///
    /// # Errors
    /// [`TlsFilesError`].
    pub fn with_tls(mut self, files: &TlsFiles) -> Result<Self, TlsFilesError> {
        self.security = Security::new(files)?;
        Ok(self)
    }
}
