//! Request bodies: as JSON, with errors that name the position, and piece by piece.

use std::time::Duration;

use axum::body::{BodyDataStream, Bytes};
use axum::extract::{FromRequest, FromRequestParts as _, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, EXPECT};
use emberd_api::BODY_BYTES_MAX;
use futures::StreamExt as _;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::budget::{Budget, Exhausted, Share};
use super::errors::ApiError;
use super::json::{self, Unread};
use super::limits::Limits;
use super::unknown::{Names, UnknownFields};
use crate::server::principal::Principal;

/// How long a body may take to arrive, once its share of the budget is there.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a client may pause within a body that is held as a whole.
const HELD_PAUSE_MAX: Duration = Duration::from_secs(10);

/// How long a client may pause within a body that is passed on piece by piece.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Most bytes of a refused body that are still read (64 MiB), and for how long: a client that is
/// sending when its connection closes may never see the response.
const UNWANTED_BYTES_MAX: usize = 64 << 20;
const UNWANTED_TIME_MAX: Duration = Duration::from_secs(2);

/// Why the next piece of a body did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum PiecesError {
    /// The client paused for too long.
    #[error("the body stalled for {0:?}")]
    Pause(Duration),
    /// The connection broke, or the body is not HTTP.
    #[error("the body ended early")]
    Broken(#[source] axum::Error),
}

/// Why a whole body could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The body stopped arriving.
    #[error(transparent)]
    Pieces(#[from] PiecesError),
    /// The body arrived too slowly.
    #[error("the body did not arrive within {BODY_TIMEOUT:?}")]
    Late,
    /// The body is too large.
    #[error("the body is over the limit of {BODY_BYTES_MAX} bytes")]
    TooLarge,
    /// The body is not the JSON that was expected.
    #[error("invalid JSON: {0}")]
    Malformed(Unread),
    /// The memory for bodies is used up.
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
}

/// A whole request body, within its limits.
#[derive(Debug)]
pub struct Body {
    bytes: Vec<u8>,
    share: Share,
    unknown: UnknownFields,
}

impl Body {
    /// Reads the body as a `T`. Fields that `T` does not have are ignored, and named in a header
    /// of the response.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, BodyError> {
        let mut names = Names::default();
        let read = json::parse_noting(&self.bytes, |path| names.add(&path));
        self.unknown.keep(names);
        read.map_err(BodyError::Malformed)
    }

    /// As [`Self::json`]; an empty body means every default.
    pub fn json_or_default<T: DeserializeOwned + Default>(&self) -> Result<T, BodyError> {
        if self.bytes.trim_ascii().is_empty() { Ok(T::default()) } else { self.json() }
    }

    /// The bytes, and their share of the memory.
    pub fn into_bytes(self) -> (Vec<u8>, Share) {
        (self.bytes, self.share)
    }

    /// Drops the bytes, and shrinks their share of the memory to `kept` bytes: those that the value
    /// read from them still takes.
    pub fn keep(mut self, kept: usize) -> Share {
        self.bytes = Vec::new();
        self.share.shrink_to(kept);
        self.share
    }
}

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (mut parts, body) = request.into_parts();
        let Ok(principal) = Principal::from_request_parts(&mut parts, &()).await;
        let limits = Limits::of(&parts);
        let mut pieces = Pieces::new(&parts.headers, body).pausing(HELD_PAUSE_MAX);
        let length = content_length(&parts.headers);
        match read(&mut pieces, length, limits.bodies(), principal).await {
            Ok((bytes, share)) => Ok(Self { bytes, share, unknown: UnknownFields::of(&parts) }),
            Err(error) => {
                pieces.drain().await;
                Err(error.into())
            }
        }
    }
}

async fn read(
    pieces: &mut Pieces,
    length: Option<u64>,
    budget: &Budget,
    principal: Principal,
) -> Result<(Vec<u8>, Share), BodyError> {
    let length = usize::try_from(length.unwrap_or_default()).unwrap_or(usize::MAX);
    if length > BODY_BYTES_MAX {
        return Err(BodyError::TooLarge);
    }
    let mut share = budget.take(principal, length).await?;
    // Room for all of it is memory only where it is filled.
    let mut bytes = Vec::with_capacity(length);
    let whole = async {
        while let Some(piece) = pieces.next().await? {
            let length = bytes.len() + piece.len();
            if length > BODY_BYTES_MAX {
                return Err(BodyError::TooLarge);
            }
            share.grow_to(length)?;
            bytes.extend_from_slice(&piece);
        }
        Ok::<_, BodyError>(())
    };
    timeout(BODY_TIMEOUT, whole).await.map_err(|_| BodyError::Late)??;
    Ok((bytes, share))
}

/// Length of the body, if the headers say it.
pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// A request body piece by piece, of any length.
pub struct Pieces {
    stream: BodyDataStream,
    pause_max: Duration,
    /// Whether the client waits for `100 Continue`, which the first read of the stream sends.
    is_held_back: bool,
}

impl Pieces {
    pub fn new(headers: &HeaderMap, body: axum::body::Body) -> Self {
        let is_held_back = headers.contains_key(EXPECT);
        Self { stream: body.into_data_stream(), pause_max: PAUSE_MAX, is_held_back }
    }

    /// Sets the limit of pauses.
    fn pausing(self, pause_max: Duration) -> Self {
        Self { pause_max, ..self }
    }

    /// The next piece; none at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, PiecesError> {
        self.is_held_back = false;
        let Ok(piece) = timeout(self.pause_max, self.stream.next()).await else {
            return Err(PiecesError::Pause(self.pause_max));
        };
        piece.transpose().map_err(PiecesError::Broken)
    }

    /// Reads and drops the rest for a while, so that the client receives the response that refuses
    /// it.
    pub async fn drain(&mut self) {
        if self.is_held_back {
            return;
        }
        let drained = async {
            let mut left = UNWANTED_BYTES_MAX;
            while let Ok(Some(piece)) = self.next().await
                && piece.len() <= left
            {
                left -= piece.len();
            }
        };
        // The response is the same whether or not that was the whole body.
        timeout(UNWANTED_TIME_MAX, drained).await.ok();
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::body::Body as RawBody;
    use axum::http::header::RETRY_AFTER;
    use axum::response::IntoResponse as _;
    use futures::stream;

    use super::super::budget::{PRINCIPAL_BYTES_MAX, SMALL_BYTES_MAX};
    use super::*;
    use crate::server::principal::Source;

    /// The sender of every body here.
    const PRINCIPAL: Principal = Principal::Local(Source::User(7));

    /// The result of reading a body of `pieces` and then `then`.
    async fn of(
        limits: &Limits,
        length: Option<usize>,
        pieces: usize,
        then: impl Future<Output = Option<Bytes>> + Send + 'static,
    ) -> Result<Body, (u16, bool)> {
        let piece = Bytes::from(vec![b' '; 1 << 20]);
        let pieces = stream::iter(vec![piece; pieces]);
        let rest = stream::once(then).filter_map(async |piece| piece);
        let body = RawBody::from_stream(pieces.chain(rest).map(Ok::<_, Infallible>));
        let mut request = Request::builder().extension(limits.clone()).extension(PRINCIPAL);
        if let Some(length) = length {
            request = request.header(CONTENT_LENGTH, length);
        }
        let body = Body::from_request(request.body(body).unwrap(), &()).await;
        body.map_err(|error| {
            let response = error.into_response();
            (response.status().as_u16(), response.headers().contains_key(RETRY_AFTER))
        })
    }

    async fn all_is_free(limits: &Limits) -> bool {
        limits.bodies().take(PRINCIPAL, PRINCIPAL_BYTES_MAX).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn large_bodies_wait_for_their_share_and_small_ones_do_not() {
        let limits = Limits::default();
        let length = Some(BODY_BYTES_MAX);
        let end = async || None;
        let held = [of(&limits, length, 64, end()).await, of(&limits, length, 64, end()).await];
        assert!(held.iter().all(Result::is_ok));
        assert_eq!(of(&limits, length, 0, end()).await.unwrap_err(), (429, true));
        of(&limits, Some(SMALL_BYTES_MAX), 0, end()).await.unwrap();
        drop(held);
        of(&limits, length, 64, end()).await.unwrap();
        assert!(all_is_free(&limits).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_without_a_length_takes_its_share_by_pieces() {
        let limits = Limits::default();
        let end = async || None;
        let held = of(&limits, None, 60, end()).await.unwrap();
        assert!(!all_is_free(&limits).await);
        let other = of(&limits, None, 60, end()).await.unwrap();
        assert_eq!(of(&limits, None, 60, end()).await.unwrap_err(), (429, true));
        drop((held, other));
        assert_eq!(of(&limits, None, 65, end()).await.unwrap_err().0, 413);
        assert_eq!(of(&limits, Some(BODY_BYTES_MAX + 1), 0, end()).await.unwrap_err().0, 413);
        assert!(all_is_free(&limits).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_coming_gives_its_share_back() {
        let limits = Limits::default();
        let silent = of(&limits, Some(BODY_BYTES_MAX), 63, std::future::pending());
        assert_eq!(silent.await.unwrap_err(), (408, false));
        assert!(all_is_free(&limits).await);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_read_keeps_no_more_than_it_takes() {
        let limits = Limits::default();
        let body = of(&limits, Some(BODY_BYTES_MAX), 64, async { None }).await.unwrap();
        let kept = body.keep(SMALL_BYTES_MAX);
        assert!(all_is_free(&limits).await);
        drop(kept);
    }
}
