//! Creations of sandboxes, also over connections that break.

use std::time::Duration;

use emberd_api::{
    CreateSandbox, CreatedSandbox, ErrorBody, ErrorCode, IDEMPOTENCY_KEY_HEADER, paths,
};
use hyper::Method;
use hyper::header::HeaderValue;

use crate::client::{Client, ClientError, Traced, json};

/// Most times that a creation is asked for again after its connection broke.
const RETRIES_MAX: u32 = 5;

/// Pause before the first of these; each is twice as long as the one before.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

impl Client {
    /// Creates a sandbox of `language_pack`, or of the daemon's default, and waits until it is
    /// ready.
    ///
    /// # Errors
    /// [`ClientError`], as all calls.
    pub async fn create(&self, language_pack: Option<&str>) -> Result<CreatedSandbox, ClientError> {
        Ok(self.create_traced(language_pack).await?.answer)
    }

    /// As [`Self::create`], with the time that each stage took.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn create_traced(
        &self,
        language_pack: Option<&str>,
    ) -> Result<Traced<CreatedSandbox>, ClientError> {
        let language_pack = language_pack.map(str::to_owned);
        self.create_with(&CreateSandbox { language_pack, ..CreateSandbox::default() }).await
    }

    /// Creates a sandbox as `wanted` says, and waits until it is ready.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn create_with(
        &self,
        wanted: &CreateSandbox,
    ) -> Result<Traced<CreatedSandbox>, ClientError> {
        self.call_traced(Method::POST, paths::SANDBOXES, json(wanted)).await
    }

    /// As [`Self::create_with`], and at most once: where the connection breaks before the answer
    /// is here, asks again with the same key, which is `key` or a random one.
    ///
    /// # Errors
    /// [`ClientError`]. One that is [`ClientError::Broken`] leaves open whether the sandbox was
    /// created; another call with the same `key` finds out.
    pub async fn create_once(
        &self,
        wanted: &CreateSandbox,
        key: Option<&str>,
    ) -> Result<Traced<CreatedSandbox>, ClientError> {
        let key = key.map_or_else(random_key, str::to_owned);
        let key = HeaderValue::from_str(&key).map_err(|_| unfit_key())?;
        let body = json(wanted);
        let mut pauses = (0..RETRIES_MAX).map(|retry| RETRY_PAUSE * (1 << retry));
        let mut was_sent = false;
        loop {
            let mut request = self.json_request(Method::POST, paths::SANDBOXES, body.clone());
            request.headers_mut().insert(IDEMPOTENCY_KEY_HEADER, key.clone());
            let error = match self.ask(request).await {
                Ok(answer) => return self.traced(answer),
                Err(error) => error,
            };
            let is_cut = match error {
                ClientError::Broken { .. } => true,
                // The daemon may be about to start again.
                ClientError::Connect { .. } => was_sent,
                _ => false,
            };
            was_sent |= is_cut;
            match pauses.next().filter(|_| is_cut) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(error),
            }
        }
    }
}

/// The daemon's own answer to a key that no header can carry.
fn unfit_key() -> ClientError {
    let error = "`Idempotency-Key` has characters that are not visible ASCII".to_owned();
    let body = ErrorBody { error, code: ErrorCode::InvalidRequest, hint: None, limit: None };
    ClientError::Api { status: 400, body }
}

/// A key that nobody else has.
fn random_key() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the kernel has random bytes");
    format!("{:032x}", u128::from_ne_bytes(bytes))
}
