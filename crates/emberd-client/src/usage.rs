//! What callers use, and what they may.

use bytes::Bytes;
use emberd_api::{UsageList, paths};
use hyper::Method;

use crate::client::{Client, ClientError};

impl Client {
    /// Shows what this caller uses and may use; with `all`, what every key does, for
    /// administrators.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn usage(&self, all: bool) -> Result<UsageList, ClientError> {
        self.call(Method::GET, &paths::usage(all), Bytes::new()).await
    }
}
