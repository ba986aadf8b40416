//! URLs of ports that a browser can open.

use bytes::Bytes;
use emberd_api::{CreateUrl, CreatedUrl, paths};
use hyper::Method;

use crate::client::{Client, ClientError, json};

impl Client {
    /// Makes a URL with which everybody who has it reaches one port of a sandbox, for some time.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn create_url(
        &self,
        id: &str,
        wanted: &CreateUrl,
    ) -> Result<CreatedUrl, ClientError> {
        self.call(Method::POST, &paths::urls(id), json(wanted)).await
    }

    /// Revokes every URL of a sandbox.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn revoke_urls(&self, id: &str) -> Result<(), ClientError> {
        self.send(Method::DELETE, &paths::urls(id), Bytes::new()).await?;
        Ok(())
    }
}
