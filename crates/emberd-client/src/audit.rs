//! The audit journal, in parts and as it grows.

use bytes::Bytes;
use emberd_api::{AuditEvent, AuditPage, ReadAudit, paths};
use hyper::Method;

use crate::client::{Client, ClientError};
use crate::follow::{Events, Form};

/// Longest record that is read, in bytes (1 MiB).
const RECORD_BYTES_MAX: usize = 1 << 20;

impl Client {
    /// Reads the records of the audit journal that `read` asks for. There may be fewer than it
    /// has, even none, unless the answer says that it reaches the end.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn audit(&self, read: &ReadAudit) -> Result<AuditPage, ClientError> {
        self.call(Method::GET, &paths::audit(read, false), Bytes::new()).await
    }

    /// Follows the records of the audit journal that `read` asks for, until the daemon stops.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn follow_audit(&self, read: &ReadAudit) -> Result<Events<AuditEvent>, ClientError> {
        let form = Form::lines(RECORD_BYTES_MAX);
        self.follow(Method::GET, &paths::audit(read, true), Bytes::new(), form).await
    }
}
