//! Templates, and the pools of pinned sizes.

use bytes::Bytes;
use emberd_api::{BuildTemplate, Resources, Template, TemplateList, paths};
use hyper::Method;

use crate::client::{Client, ClientError, json};

impl Client {
    /// Lists the templates, by language pack and size.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn templates(&self) -> Result<TemplateList, ClientError> {
        self.call(Method::GET, paths::TEMPLATES, Bytes::new()).await
    }

    /// Builds the template of a language pack unless it exists, and waits until it is ready. The
    /// daemon goes on building if the future is dropped.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn build_template(&self, language_pack: &str) -> Result<Template, ClientError> {
        self.call(Method::POST, &paths::template(language_pack), Bytes::new()).await
    }

    /// As [`Self::build_template`], for one size, which is pinned, and with a pool.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn build_template_of(
        &self,
        language_pack: &str,
        wanted: &BuildTemplate,
    ) -> Result<Template, ClientError> {
        self.call(Method::POST, &paths::template(language_pack), json(wanted)).await
    }

    /// Deletes the template of a language pack. A template that does not exist is not an error.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn delete_template(&self, language_pack: &str) -> Result<(), ClientError> {
        self.delete_template_of(language_pack, &Resources::default()).await
    }

    /// As [`Self::delete_template`], for one size, which is not pinned any more, and its pool.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn delete_template_of(
        &self,
        language_pack: &str,
        size: &Resources,
    ) -> Result<(), ClientError> {
        self.send(Method::DELETE, &paths::template_of(language_pack, size), Bytes::new()).await?;
        Ok(())
    }
}
