//! Exports spans over OTLP (HTTP, protobuf), if the environment names an endpoint. The variables
//! are those of OpenTelemetry.
//!
//! Nothing waits for the endpoint: spans go into a bounded queue, and those that do not fit are
//! lost. A thread of the SDK sends them.

use std::env;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{ExporterBuildError, RetryPolicy, SpanExporter, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, SpanData};
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use super::post::Post;

/// Variables that name an endpoint; without one of them, nothing is exported.
const ENDPOINT_VARIABLES: [&str; 2] =
    ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// Variables that name a protocol, of which there is one.
const PROTOCOL_VARIABLES: [&str; 2] =
    ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
const PROTOCOL: &str = "http/protobuf";

/// Name of the service in its spans, unless this variable has another.
const SERVICE_NAME: &str = "emberd";
const SERVICE_NAME_VARIABLE: &str = "OTEL_SERVICE_NAME";

/// How long the last spans may take when the daemon stops.
const LAST_SPANS_MAX: Duration = Duration::from_secs(2);

/// The tracer of the process; none until [`Traces::start`], and without an endpoint.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// Why spans cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// Another protocol is asked for.
    #[error("{variable} is `{protocol}`, and emberd speaks {PROTOCOL}")]
    Protocol {
        /// The variable.
        variable: &'static str,
        /// Its value.
        protocol: String,
    },
    /// A variable of OpenTelemetry cannot be used.
    #[error(transparent)]
    Exporter(#[from] ExporterBuildError),
}

/// The export of spans, if there is any.
#[derive(Debug)]
pub struct Traces(Option<SdkTracerProvider>);

/// The tracer, if spans are exported.
pub fn tracer() -> Option<&'static SdkTracer> {
    TRACER.get()
}

impl Traces {
    /// Starts to export spans, if the environment names an endpoint. On a Tokio runtime, which
    /// sends them.
    ///
    /// # Errors
    /// [`TracesError`].
    pub fn start() -> Result<Self, TracesError> {
        if !ENDPOINT_VARIABLES.into_iter().any(|name| value(name).is_some()) {
            return Ok(Self(None));
        }
        for variable in PROTOCOL_VARIABLES {
            if let Some(protocol) = value(variable).filter(|protocol| protocol != PROTOCOL) {
                return Err(TracesError::Protocol { variable, protocol });
            }
        }
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Post::new(Handle::current()))
            // The queue is full by then.
            .with_retry_policy(RetryPolicy::disabled())
            .build()?;
        let mut resource = Resource::builder()
            .with_attribute(opentelemetry::KeyValue::new("service.version", VERSION));
        if value(SERVICE_NAME_VARIABLE).is_none() {
            resource = resource.with_service_name(SERVICE_NAME);
        }
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(Telling { exporter, is_failing: AtomicBool::new(false) })
            .with_resource(resource.build())
            .build();
        TRACER.get_or_init(|| provider.tracer(SERVICE_NAME));
        tracing::info!("exporting spans");
        Ok(Self(Some(provider)))
    }

    /// Exports what is left, for at most [`LAST_SPANS_MAX`].
    pub async fn close(self) {
        let Some(provider) = self.0 else { return };
        let closed = spawn_blocking(move || provider.shutdown_with_timeout(LAST_SPANS_MAX));
        match closed.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the last spans are lost"),
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }
}

/// Version of the service in its spans.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Value of a variable. An empty one is as none.
fn value(variable: &str) -> Option<String> {
    env::var(variable).ok().filter(|value| !value.is_empty())
}

/// Exports spans, and tells in the log when that fails, and when it works again.
#[derive(Debug)]
struct Telling {
    exporter: SpanExporter,
    is_failing: AtomicBool,
}

impl opentelemetry_sdk::trace::SpanExporter for Telling {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let exported = self.exporter.export(batch).await;
        let was_failing = self.is_failing.swap(exported.is_err(), Ordering::Relaxed);
        match &exported {
            Err(error) if !was_failing => {
                tracing::warn!(error = error as &dyn std::error::Error, "losing spans");
            }
            Ok(()) if was_failing => tracing::info!("exporting spans again"),
            _ => {}
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> Result<(), OTelSdkError> {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
