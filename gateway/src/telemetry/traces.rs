//! Traces, as OpenTelemetry has them: a span for a request and one for each thing that it takes time for, sent to a collector. The
//! caller's context (W3C Trace Context) is the parent, and what stores are sent says so in its turn.

use std::time::Duration;

use http::HeaderMap;
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tonic::transport::ClientTlsConfig;
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;

use crate::settings::TelemetrySettings;

/// What spans are called by, to be told from what is logged. Where there are no traces, none of them is made.
pub const TRACE: &str = "tagway::trace";

/// Traces cannot go where they should.
#[derive(Debug, thiserror::Error)]
#[error("telemetry.otlp_endpoint: {0}")]
pub struct TracesError(#[from] ExporterBuildError);

/// Where this process's traces go, if they do.
pub struct Traces(Option<SdkTracerProvider>);

impl Traces {
    pub(super) fn open(settings: &TelemetrySettings) -> Result<Self, TracesError> {
        let Some(endpoint) = settings.otlp_endpoint() else {
            return Ok(Self(None));
        };
        let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint);
        let exporter = if endpoint.starts_with("https") {
            // By itself it believes nobody.
            exporter.with_tls_config(ClientTlsConfig::new().with_enabled_roots())
        } else {
            exporter
        };
        let exporter = exporter.build()?;
        // Who calls decides for its own trace.
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(settings.trace_share)));
        let resource = Resource::builder()
            .with_service_name("tagway")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_sampler(sampler)
            .with_resource(resource)
            .build();
        Ok(Self(Some(provider)))
    }

    pub(super) fn layer<S>(&self) -> Option<impl Layer<S> + use<S>>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let tracer = self.0.as_ref()?.tracer("tagway");
        let layer = tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_level(false)
            .with_tracked_inactivity(false);
        Some(layer.with_filter(filter_fn(|metadata| metadata.target() == TRACE)))
    }

    /// Sends what is left, as far as that goes within this.
    pub fn end(self, within: Duration) {
        if let Some(provider) = self.0
            && let Err(error) = provider.shutdown_with_timeout(within)
        {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

/// The trace that a request belongs to, if it says so.
#[must_use]
pub fn context_of(headers: &HeaderMap) -> Context {
    TraceContextPropagator::new().extract(&Headers(headers))
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// The span that runs, as a request says that belongs to it (W3C Trace Context, 3.2). None: nothing is traced.
#[must_use]
pub fn traceparent() -> Option<String> {
    let span = Span::current();
    if span.is_none() {
        return None;
    }
    let context = span.context();
    let context = context.span().span_context().clone();
    context.is_valid().then(|| {
        let flags = context.trace_flags().to_u8();
        format!("00-{}-{}-{flags:02x}", context.trace_id(), context.span_id())
    })
}
