//! HTTP for operators and what probes on their behalf.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use http::header::CONTENT_TYPE;
use http::{HeaderName, StatusCode};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry as Metrics;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::door::{Door, Probes};
use crate::identity::KeySets;
use crate::strategy::Registry;

/// Whether traffic should come here. It should not for what is this replica's own fault: not started, draining, or without a strategy.
/// Nor where it never had the issuer's keys: the replicas that it is to replace may have them still. What goes away for everybody
/// afterwards is no reason: taking every replica out would help nobody.
#[derive(Clone)]
pub struct Readiness {
    registry: Arc<Registry>,
    keys: Arc<KeySets>,
    started: Arc<AtomicBool>,
    stop: CancellationToken,
}

impl Readiness {
    /// Not started yet.
    #[must_use]
    pub fn new(registry: Arc<Registry>, keys: Arc<KeySets>, stop: CancellationToken) -> Self {
        Self {
            registry,
            keys,
            started: Arc::new(AtomicBool::new(false)),
            stop,
        }
    }

    /// From here on it serves.
    pub fn start(&self) {
        self.started.store(true, Ordering::Release);
    }

    /// Why not, if not.
    #[must_use]
    pub fn missing(&self) -> Option<&'static str> {
        if self.stop.is_cancelled() {
            Some("draining")
        } else if !self.started.load(Ordering::Acquire) {
            Some("starting")
        } else if !self.registry.current().serves() {
            Some("no strategy serves")
        } else if !self.keys.were_had() {
            Some("the issuer's keys were never had")
        } else {
            None
        }
    }
}

/// Serves `/livez`, `/readyz` and `/metrics` until `stop`.
pub async fn serve_ops(
    listener: TcpListener,
    door: Door,
    readiness: Readiness,
    metrics: Metrics,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let routes = Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready).with_state(readiness))
        .route("/metrics", get(tell).with_state(Arc::new(metrics)));
    axum::serve(Probes::new(door, listener)?, routes)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

async fn ready(State(readiness): State<Readiness>) -> (StatusCode, String) {
    match readiness.missing() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

/// What Prometheus asks for.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

async fn tell(State(metrics): State<Arc<Metrics>>) -> Result<([(HeaderName, &'static str); 1], String), StatusCode> {
    let mut text = String::new();
    match encode(&mut text, &metrics) {
        Ok(()) => Ok(([(CONTENT_TYPE, OPENMETRICS)], text)),
        Err(_) => Err(StatusCode::INTERNAL_SERVER_ERROR),
    }
}
