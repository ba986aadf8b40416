//! Spans of requests at a collector that is here, dead, or silent. The collector is this test.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use parking_lot::Mutex;
use prost::Message as _;
use rustix::process::Signal;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;

use super::tls::{Ca, Pair};
use super::{Daemon, Room};
use crate::{raw, wait};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "00f067aa0ba902b7";

/// The spans, and the names of the services that they are of.
#[derive(Debug, Default)]
struct Collected {
    spans: Vec<Span>,
    services: Vec<String>,
}

#[derive(Debug, Clone, Default)]
struct Collector(Arc<Mutex<Collected>>);

impl Collector {
    /// Starts one; its endpoint.
    async fn start() -> (Self, String) {
        let collector = Self::default();
        let router = Router::new().route("/v1/traces", post(take)).with_state(collector.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        (collector, endpoint)
    }

    /// As [`Self::start`], over TLS with the certificate `pair`.
    async fn start_secured(pair: &Pair) -> (Self, String) {
        let collector = Self::default();
        let router = Router::new().route("/v1/traces", post(take)).with_state(collector.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("https://{}", listener.local_addr().unwrap());
        let secured = Secured { listener, tls: acceptor(pair) };
        tokio::spawn(async move { axum::serve(secured, router).await });
        (collector, endpoint)
    }

    fn span(&self, name: &str) -> Option<Span> {
        self.0.lock().spans.iter().find(|span| span.name == name).cloned()
    }

    fn children(&self, of: &Span) -> Vec<Span> {
        let collected = self.0.lock();
        let mut children: Vec<_> =
            collected.spans.iter().filter(|span| span.parent_span_id == of.span_id).collect();
        children.sort_by_key(|span| span.start_time_unix_nano);
        children.into_iter().cloned().collect()
    }
}

/// A listener whose connections are those that trust its certificate.
struct Secured {
    listener: TcpListener,
    tls: TlsAcceptor,
}

impl axum::serve::Listener for Secured {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((stream, address)) = self.listener.accept().await else { continue };
            if let Ok(stream) = self.tls.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

fn acceptor(pair: &Pair) -> TlsAcceptor {
    let chain = CertificateDer::pem_file_iter(&pair.cert).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(&pair.key).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

async fn take(State(Collector(collected)): State<Collector>, body: Bytes) {
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    let mut collected = collected.lock();
    for of_resource in request.resource_spans {
        for attribute in of_resource.resource.unwrap().attributes {
            if attribute.key == "service.name" {
                collected.services.push(format!("{:?}", attribute.value.unwrap().value.unwrap()));
            }
        }
        let scopes = of_resource.scope_spans.into_iter();
        collected.spans.extend(scopes.flat_map(|scope| scope.spans));
    }
}

/// A daemon that exports to `endpoint`, quickly.
fn exporting(room: &Room, endpoint: &str) -> Command {
    let mut command = room.command();
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
    command.env("OTEL_BSP_SCHEDULE_DELAY", "20");
    command
}

fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

fn attribute(span: &Span, key: &str) -> String {
    let attribute = span.attributes.iter().find(|attribute| attribute.key == key);
    let value = attribute.and_then(|attribute| attribute.value.clone()?.value);
    value.map(|value| format!("{value:?}")).unwrap_or_default()
}

/// Runs `code` in a request of the span [`CALLER`], and returns the answer.
async fn exec(daemon: &Daemon, id: &str, code: &str) -> raw::Answer {
    let body = serde_json::json!({"code": code}).to_string();
    let request = format!(
        "POST /sandboxes/{id}/exec HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         traceparent: 00-{TRACE}-{CALLER}-01\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let authority = daemon.addr.trim_start_matches("http://");
    raw::send(authority, request.into_bytes()).await
}

#[tokio::test]
async fn a_request_is_a_span_of_its_callers_trace_and_its_stages_are_children() {
    let room = Room::new();
    let (collector, endpoint) = Collector::start().await;
    let daemon = Daemon::spawn(exporting(&room, &endpoint));
    let (id, _) = daemon.create().await;
    let answer = exec(&daemon, &id, "echo $TRACEPARENT").await;
    let name = "POST /sandboxes/{id}/exec";
    wait::until(async || collector.span(name).is_some()).await;
    let span = collector.span(name).unwrap();
    assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (TRACE.into(), CALLER.into()));
    // The program's spans are children of the request's.
    let parent = format!("00-{TRACE}-{}-01", hex(&span.span_id));
    assert!(answer.body.contains(&parent), "{parent} in {answer:?}");
    assert!(attribute(&span, "http.response.status_code").contains("200"), "{span:?}");
    assert!(attribute(&span, "http.route").contains("/sandboxes/{id}/exec"), "{span:?}");
    let request = attribute(&span, "emberd.request.id");
    let request = request.split('"').nth(1).unwrap();
    assert!(answer.head.contains(&format!("x-request-id: {request}")), "{request} {answer:?}");
    wait::until(async || collector.children(&span).len() == 5).await;
    let stages = collector.children(&span);
    let names: Vec<_> = stages.iter().map(|stage| stage.name.as_str()).collect();
    assert_eq!(names, ["turn", "connect", "launch", "run", "channel"]);
    for stage in &stages {
        assert_eq!(stage.trace_id, span.trace_id);
        assert!(stage.start_time_unix_nano >= span.start_time_unix_nano, "{stage:?} {span:?}");
        assert!(stage.end_time_unix_nano <= span.end_time_unix_nano, "{stage:?} {span:?}");
    }
    daemon.client.delete(&id).await.unwrap();
    let log = daemon.stop(Signal::TERM).await;
    // The last one has come before the end; it began a trace of its own.
    let last = collector.span("DELETE /sandboxes/{id}").unwrap();
    assert!(last.parent_span_id.is_empty() && hex(&last.trace_id) != TRACE, "{last:?}");
    let services = collector.0.lock().services.clone();
    assert!(services.iter().all(|service| service.contains("\"emberd\"")), "{services:?}");
    assert!(log.contains("exporting spans"), "{log}");
    room.close().await;
}

#[tokio::test]
async fn a_collector_over_tls_gets_spans_if_the_host_trusts_it() {
    let room = Room::new();
    let (ca, other) = (Ca::new(&room, "ca"), Ca::new(&room, "other"));
    let pair = Pair::at(&room, "collector");
    ca.issue(&["127.0.0.1"], |_| {}, &pair);
    let (collector, endpoint) = Collector::start_secured(&pair).await;
    let trusting = |cert: &Path| {
        let mut command = exporting(&room, &endpoint);
        command.env("SSL_CERT_FILE", cert);
        Daemon::spawn(command)
    };
    let daemon = trusting(&ca.cert);
    daemon.client.healthz().await.unwrap();
    wait::until(async || collector.span("GET /healthz").is_some()).await;
    let log = daemon.stop(Signal::TERM).await;
    assert!(!log.contains("losing spans"), "{log}");
    // Of another issuer: it gets nothing, and requests go on.
    collector.0.lock().spans.clear();
    let daemon = trusting(&other.cert);
    daemon.client.healthz().await.unwrap();
    let log = daemon.stop(Signal::TERM).await;
    assert!(log.contains("losing spans"), "{log}");
    assert!(collector.0.lock().spans.is_empty());
    room.close().await;
}

#[tokio::test]
async fn a_dead_endpoint_costs_spans_and_nothing_else() {
    let room = Room::new();
    // Nobody listens where somebody did.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let daemon = Daemon::spawn(exporting(&room, &endpoint));
    let (id, _) = daemon.create().await;
    for _ in 0..20 {
        assert_eq!(exec(&daemon, &id, "true").await.status, 200);
    }
    daemon.client.delete(&id).await.unwrap();
    let log = daemon.stop(Signal::TERM).await;
    assert_eq!(log.matches("losing spans").count(), 1, "{log}");
    room.close().await;
}

#[tokio::test]
async fn a_silent_endpoint_fills_the_queue_and_delays_nothing() {
    const REQUESTS: usize = 500;
    let room = Room::new();
    // It accepts connections, by its backlog, and answers nothing.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let mut command = exporting(&room, &endpoint);
    command.env("OTEL_BSP_MAX_QUEUE_SIZE", "64").env("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "16");
    let daemon = Daemon::spawn(command);
    daemon.client.healthz().await.unwrap();
    // The first batch is on its way, and stays there.
    let _silent = timeout(wait::PATIENCE, listener.accept()).await.unwrap().unwrap();
    let memory = || resident_kib(&daemon);
    let before = memory();
    for _ in 0..REQUESTS {
        daemon.client.healthz().await.unwrap();
    }
    assert!(memory() < before + (16 << 10), "{before} KiB, then {} KiB", memory());
    let log = daemon.stop(Signal::TERM).await;
    assert!(log.contains("the last spans are lost"), "{log}");
    room.close().await;
}

/// Memory of the daemon that is in RAM.
fn resident_kib(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.process_id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_at_the_start() {
    let room = Room::new();
    let mut command = exporting(&room, "http://127.0.0.1:4318");
    command.env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    let said = Room::refused(command);
    assert!(said.contains("OTEL_EXPORTER_OTLP_PROTOCOL is `grpc`, and emberd speaks"), "{said}");
    let said = Room::refused(exporting(&room, "http://not an endpoint"));
    assert!(said.contains("OTEL_EXPORTER_OTLP_ENDPOINT"), "{said}");
    // An empty variable is as none.
    let daemon = Daemon::spawn(exporting(&room, ""));
    let log = daemon.stop(Signal::TERM).await;
    assert!(!log.contains("exporting spans"), "{log}");
    room.close().await;
}
