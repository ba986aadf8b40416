//! A daemon in this process: its routes are called, without a connection.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Body;
use hyper::http::response::Parts;
use hyper::{Request, Response};

/// Why bytes could not be received or sent.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Body of a request to a [`Local`], and of its response.
pub type LocalBody = UnsyncBoxBody<Bytes, Cause>;

type Responding = Pin<Box<dyn Future<Output = Response<LocalBody>> + Send>>;

/// Answers requests in this process. Clones share it.
#[derive(Clone)]
pub(crate) struct Local(Arc<dyn Fn(Request<LocalBody>) -> Responding + Send + Sync>);

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Local")
    }
}

impl Local {
    /// Has `respond` answer.
    pub fn new<F, R, B>(respond: F) -> Self
    where
        F: Fn(Request<LocalBody>) -> R + Send + Sync + 'static,
        R: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Cause>,
    {
        Self(Arc::new(move |request| {
            let responding = respond(request);
            Box::pin(async move { responding.await.map(boxed) })
        }))
    }

    /// Sends a request and returns once the response begins.
    pub async fn begin<B>(&self, request: Request<B>) -> (Parts, LocalBody)
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Cause>,
    {
        let respond = &self.0;
        respond(request.map(boxed)).await.into_parts()
    }
}

fn boxed<B>(body: B) -> LocalBody
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Cause>,
{
    body.map_err(Into::into).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::Full;
    use hyper::body::Frame;

    use crate::{Client, ClientError, Upload};

    use super::*;

    async fn answer(request: Request<LocalBody>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let asked = body.collect().await.unwrap().to_bytes();
        let text = match head.uri.path() {
            "/healthz" => r#"{"status":"ok"}"#.to_owned(),
            "/sandboxes/sb_1/files" if head.method == "PUT" => {
                format!(
                    r#"{{"path":"/a","type":"file","size":{},"mode":420,"uid":0,"gid":0,"#,
                    asked.len()
                ) + r#""modified_ms":0}"#
            }
            "/sandboxes/sb_1/logs" => "two lines\nof a log\n".to_owned(),
            _ => {
                let body = r#"{"error":"no","code":"not_found"}"#;
                return Response::builder().status(404).body(Full::from(body)).unwrap();
            }
        };
        Response::new(Full::from(text))
    }

    #[tokio::test]
    async fn calls_streams_and_uploads_need_no_connection() {
        let client = Client::over(answer);
        assert_eq!(client.healthz().await.unwrap().status, "ok");
        let mut log = client.logs("sb_1", None, false).await.unwrap();
        assert_eq!(log.next().await.unwrap().unwrap(), "two lines\nof a log\n");
        assert!(log.next().await.unwrap().is_none());
        let options = crate::FileOptions::default();
        let content = Upload::bytes("12345");
        let written = client.file_write("sb_1", "/a".as_ref(), content, &options).await.unwrap();
        assert_eq!(written.size, 5);
        let error = client.get("sb_2").await.unwrap_err();
        assert!(matches!(error, ClientError::Api { status: 404, .. }), "{error:?}");
    }

    #[tokio::test]
    async fn what_needs_a_connection_is_refused() {
        let client = Client::over(answer);
        let error = client.attach("sb_1", 1, 0).await.unwrap_err();
        assert!(matches!(error, ClientError::Connect { .. }), "{error:?}");
        let error = client.connect_port("sb_1", 80).await.unwrap_err();
        assert!(matches!(error, ClientError::Connect { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn a_response_that_breaks_off_is_an_error() {
        let client = Client::over(async |_: Request<LocalBody>| {
            let frames = [Ok::<_, Cause>(Frame::data(Bytes::from("a"))), Err("cut".into())];
            Response::new(http_body_util::StreamBody::new(futures::stream::iter(frames)))
        });
        let error = client.healthz().await.unwrap_err();
        assert!(matches!(error, ClientError::Broken { .. }), "{error:?}");
        let _: fn(Infallible) -> Cause = |never| match never {};
    }
}
