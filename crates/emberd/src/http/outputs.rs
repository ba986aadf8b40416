//! How much output of programs may be on its way to callers: of one caller, and of all together.
//! Room for a piece is taken as it arrives, and given back once the answer is sent or given up.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes};
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use super::budget::{Budget, Share};
use super::limits::Limits;
use crate::server::guarded::guarded;
use crate::server::principal::Principal;

/// Bytes of an answer that the server gets at once (64 KiB): it lets go of a body with the last
/// that it gets, and asks for no more than the client takes.
const PIECE_BYTES: usize = 64 << 10;

/// The room that one program's output takes.
#[derive(Debug)]
pub struct OutputShare {
    share: Share,
    /// Bytes that the output comes to in an answer.
    bytes: usize,
}

impl OutputShare {
    fn of(budget: &Budget, principal: Principal) -> Self {
        Self { share: budget.begin(principal), bytes: 0 }
    }

    /// Takes the room that `piece` needs; `false` where there is none.
    pub fn take(&mut self, piece: &[u8]) -> bool {
        let bytes = self.bytes + json_bytes(piece);
        let has_room = self.share.grow_to(bytes).is_ok();
        if has_room {
            self.bytes = bytes;
        }
        has_room
    }

    /// `answer`, which keeps the room until it is sent or given up.
    pub fn kept_by<T>(self, answer: T) -> Kept<T> {
        Kept { answer, share: self.share }
    }
}

impl<S: Sync> FromRequestParts<S> for OutputShare {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        let principal = Principal::from_request_parts(parts, state).await?;
        Ok(Self::of(Limits::of(parts).outputs(), principal))
    }
}

/// An answer with the room it takes.
#[derive(Debug)]
pub struct Kept<T> {
    answer: T,
    share: Share,
}

impl<T: IntoResponse> IntoResponse for Kept<T> {
    fn into_response(self) -> Response {
        let Self { answer, share } = self;
        answer.into_response().map(|body| {
            let pieces = InPieces { body, rest: Bytes::new() };
            guarded(Body::new(pieces), share)
        })
    }
}

/// A body in pieces of at most [`PIECE_BYTES`].
struct InPieces {
    body: Body,
    /// The rest of the last piece that came from `body`.
    rest: Bytes,
}

impl HttpBody for InPieces {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        let bytes = self.rest.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (of_body, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(of_body.lower() + rest);
        if let Some(upper) = of_body.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

/// Most bytes that `piece` takes in JSON. A control character is escaped with six bytes. Bytes
/// that are not valid UTF-8 appear twice: as replacement characters and as base64.
fn json_bytes(piece: &[u8]) -> usize {
    let byte = |byte: &u8| match byte {
        b'\n' | b'\r' | b'\t' | b'"' | b'\\' => 2,
        0..0x20 => 6,
        0x20..0x80 => 1,
        0x80.. => 5,
    };
    piece.iter().map(byte).sum()
}

#[cfg(test)]
mod tests {
    use axum::Json;
    use emberd_proto::{ExecExit, ExecOutcome};
    use futures::StreamExt as _;

    use super::super::budget::PRINCIPAL_BYTES_MAX;
    use super::*;
    use crate::server::principal::Source;

    fn share(outputs: &Budget) -> OutputShare {
        OutputShare::of(outputs, Principal::Local(Source::Unknown))
    }

    /// Bytes of the JSON of an outcome with this output.
    fn outcome_bytes(stdout: &[u8]) -> usize {
        let outcome = ExecOutcome::new(ExecExit::default(), stdout.to_vec(), Vec::new());
        serde_json::to_vec(&outcome).unwrap().len()
    }

    #[test]
    fn no_output_comes_to_more_than_it_was_thought_to() {
        // What an outcome says without output, and the name of the field with base64.
        let rest = outcome_bytes(b"") + 24;
        for byte in 0..=u8::MAX {
            let output = vec![byte; 600];
            assert!(outcome_bytes(&output) <= json_bytes(&output) + rest, "{byte}");
        }
        let text = "é漢🦀\u{7f}\"".repeat(99);
        assert!(outcome_bytes(text.as_bytes()) <= json_bytes(text.as_bytes()) + rest);
    }

    #[tokio::test]
    async fn an_answer_is_the_same_in_pieces() {
        let outputs = Budget::default();
        let text = "x".repeat(2 * PIECE_BYTES + 7);
        let body = share(&outputs).kept_by(text.clone()).into_response().into_body();
        assert_eq!(body.size_hint().exact(), Some(text.len() as u64));
        let pieces: Vec<_> = body.into_data_stream().map(Result::unwrap).collect().await;
        assert_eq!(pieces.concat(), text.as_bytes());
        assert!(pieces.len() == 3 && pieces.iter().all(|piece| piece.len() <= PIECE_BYTES));
    }

    #[test]
    fn room_is_taken_by_pieces_and_kept_until_the_answer_is_sent() {
        let outputs = Budget::default();
        // Six bytes for each, twice: all but a few of what a caller may have.
        let piece = vec![0; PRINCIPAL_BYTES_MAX / 12];
        let mut one = share(&outputs);
        assert!(one.take(&piece) && one.take(&piece));
        assert!(!one.take(b"a few more"), "as much as a caller may have");
        let mut other = share(&outputs);
        assert!(other.take(b"small"), "what is small needs none");
        assert!(!other.take(&piece));
        let answer = one.kept_by(Json("answer")).into_response().into_body();
        assert!(!other.take(&piece));
        drop(answer);
        assert!(other.take(&piece));
    }
}
