//! A request as a span of its caller's trace.

use http::{Request, Response};
use tonic::body::Body;
use tracing::field::Empty;
use tracing::{Instrument as _, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::around::{Around, Next};
use super::measured::{ending, method};
use crate::identity::VerifiedTenant;
use crate::telemetry::{TRACE, context_of};

/// Around everything that a request takes time for.
#[derive(Clone)]
pub(super) struct Traced;

impl Around for Traced {
    async fn around(&self, request: Request<Body>, next: impl Next) -> Response<Body> {
        // Names are those of OpenTelemetry's semantic conventions for RPC.
        let span = tracing::info_span!(
            target: TRACE, "request",
            otel.name = Empty, otel.kind = "server", otel.status_code = Empty,
            rpc.system = "grpc", rpc.method = Empty, rpc.response.status_code = Empty, error.type = Empty,
            tagway.tenant = Empty,
        );
        if span.is_disabled() {
            return next.run(request).await;
        }
        let method = method(request.uri().path());
        span.record("otel.name", method).record("rpc.method", method);
        // It has not begun yet, so it may have a parent.
        _ = span.set_parent(context_of(request.headers()));
        let answer = next.run(request).instrument(span.clone()).await;
        let (code, reason) = ending(&answer);
        span.record("rpc.response.status_code", code);
        if !reason.is_empty() {
            span.record("error.type", reason).record("otel.status_code", "ERROR");
        }
        answer
    }
}

/// Says whose the request is that runs.
pub(super) fn is_of(tenant: &VerifiedTenant) {
    Span::current().record("tagway.tenant", tenant.id().as_str());
}
