//! The HTTP server, with the limits and the messages of firecracker's micro-http: an empty reason
//! phrase, and errors below the API that are not JSON (`{ "error": "…` with a raw newline in it).
//! reference §1.1.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Collected, Full};
use hyper::body::{Body as _, Incoming};
use hyper::ext::ReasonPhrase;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, SERVER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, Semaphore};

use crate::api::request::{self, Call};
use crate::cli::Config;
use crate::exits::Exits;
use crate::faults::Fault;
use crate::log::Log;
use crate::machine::{Machine, Refusal};
use crate::marks;

/// Maximum number of connections; a further one gets an error and is closed. reference §1.1.
const CONNECTIONS_MAX: usize = 10;
/// Maximum length of a header line, in bytes. reference §1.1.
const HEADER_LINE_BYTES_MAX: usize = 1024;
/// The error for a connection over the limit.
const SERVER_FULL: &[u8] = b"HTTP/1.1 503\r\nServer: Firecracker API\r\nConnection: close\r\n\
    Content-Length: 40\r\n\r\n{ \"error\": \"Too many open connections\" }";

/// State that all connections share. The lock on the machine serves one request at a time.
#[derive(Debug)]
pub struct Api {
    /// The VM.
    pub machine: Mutex<Machine>,
    /// Behaviour of the double.
    pub config: Arc<Config>,
    /// The log.
    pub log: Arc<Log>,
    /// The exit of the process.
    pub exits: Exits,
}

/// Serves `listener` until the process ends.
pub async fn serve(listener: UnixListener, api: Arc<Api>) {
    let free = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { continue };
        if let Ok(place) = free.clone().try_acquire_owned() {
            let api = api.clone();
            tokio::spawn(async move {
                serve_connection(stream, &api).await;
                drop(place);
            });
        } else {
            // A client that does not read the answer loses it.
            stream.write_all(SERVER_FULL).await.ok();
        }
    }
}

async fn serve_connection(stream: UnixStream, api: &Arc<Api>) {
    let stream = CutStream { stream, left: api.config.faults.api_cut() };
    let answers = service_fn(async |request| Ok::<_, Infallible>(answer(api, request).await));
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .title_case_headers(true)
            .auto_date_header(false)
            .serve_connection(TokioIo::new(stream), answers)
    );
    let code = tokio::select! {
        // A failure does not affect the next connection.
        _ = connection.as_mut() => return,
        code = api.exits.wait_after_answer() => code,
    };
    connection.as_mut().graceful_shutdown();
    connection.await.ok();
    api.exits.now(code);
}

async fn answer(api: &Api, request: Request<Incoming>) -> Response<Full<Bytes>> {
    if let Some(reason) = broken_rule(api, &request) {
        return parse_error(&reason);
    }
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let called = format!("{} {path}", head.method);
    let body = body.collect().await.map(Collected::to_bytes);
    let Ok(body) = body else { return parse_error("Invalid request.") };
    let mut machine = api.machine.lock().await;
    api.log.info(&format!("The API server received a request: {called}."));
    match api.config.faults.at(&called) {
        Some(Fault::HangAt(_)) => {
            marks::add("hanging");
            std::future::pending::<()>().await;
        }
        Some(Fault::DieAt(_, code)) => {
            Exits::last_words(&api.log, *code);
            api.exits.now(*code);
            std::future::pending::<()>().await;
        }
        Some(_) => return fault(api, &format!("{called} is refused by fault injection")),
        None => {}
    }
    let call = match request::parse(&head.method, path, &body, &api.config.version) {
        Ok(call) => call,
        Err(error) => return fault(api, &error.to_string()),
    };
    let is_deprecated = call.is_deprecated();
    let mut response = handle(api, &mut machine, call);
    if is_deprecated {
        response.headers_mut().insert("deprecation", HeaderValue::from_static("true"));
    }
    response
}

fn handle(api: &Api, machine: &mut Machine, call: Call) -> Response<Full<Bytes>> {
    match machine.handle(call) {
        Ok(None) => response(StatusCode::NO_CONTENT, Bytes::new()),
        Ok(Some(json)) => response(StatusCode::OK, json.into()),
        Err(Refusal { message, fatal }) => {
            if let Some(code) = fatal {
                api.exits.after_answer(code);
            }
            fault(api, &message)
        }
    }
}

/// Checks the rules below the API: method, header lines, size of the body.
fn broken_rule(api: &Api, request: &Request<Incoming>) -> Option<String> {
    if ![Method::GET, Method::PUT, Method::PATCH, Method::DELETE].contains(request.method()) {
        return Some("Invalid HTTP Method: Unsupported HTTP method.".to_owned());
    }
    let line_bytes = |(name, value): (&hyper::header::HeaderName, &HeaderValue)| {
        name.as_str().len() + ": ".len() + value.len() + "\r\n".len()
    };
    if request.headers().iter().map(line_bytes).any(|bytes| bytes > HEADER_LINE_BYTES_MAX) {
        return Some("Invalid request.".to_owned());
    }
    // Chunks are read as the next request. reference §1.1: always send `Content-Length`.
    let Some(size) = request.body().size_hint().exact() else {
        return Some("Invalid request.".to_owned());
    };
    let limit = api.config.body_bytes_max;
    (size > limit as u64).then(|| {
        format!(
            "Request payload with size {size} is larger than the limit of {limit} allowed by \
             server."
        )
    })
}

fn parse_error(reason: &str) -> Response<Full<Bytes>> {
    let body =
        format!("{{ \"error\": \"{reason}\nAll previous unanswered requests will be dropped.\" }}");
    response(StatusCode::BAD_REQUEST, body.into())
}

/// reference §1.1: `400` and `{"fault_message":"..."}`.
fn fault(api: &Api, message: &str) -> Response<Full<Bytes>> {
    api.log.error(&format!("Received Error. Status code: 400 Bad Request. Message: {message}"));
    response(StatusCode::BAD_REQUEST, json!({ "fault_message": message }).to_string().into())
}

fn response(status: StatusCode, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.extensions_mut().insert(ReasonPhrase::from_static(b""));
    let headers = response.headers_mut();
    headers.insert(SERVER, HeaderValue::from_static("Firecracker API"));
    headers.insert(CONNECTION, HeaderValue::from_static("keep-alive"));
    if status != StatusCode::NO_CONTENT {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    response
}

/// A stream that ends after a number of written bytes.
struct CutStream {
    stream: UnixStream,
    left: Option<usize>,
}

impl AsyncRead for CutStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for CutStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let end = bytes.len().min(self.left.unwrap_or(usize::MAX));
        if end == 0 && !bytes.is_empty() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let written = Pin::new(&mut self.stream).poll_write(context, &bytes[..end]);
        if let (Poll::Ready(Ok(bytes)), Some(left)) = (&written, &mut self.left) {
            *left -= bytes;
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
