//! All metrics of a gateway, gathered where all parts are known.

use std::sync::Arc;

use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry as Metrics;
use tokio::runtime::Handle;

use super::events::Events;
use crate::audit::Audit;
use crate::backend::BackendMetrics;
use crate::cache::{Cache, CacheMetrics};
use crate::clock::Clock;
use crate::server::{ConnectionMetrics, RequestMetrics};
use crate::settings::Settings;
use crate::status::Parts;
use crate::strategy::{Registry, StrategyMetrics};
use crate::telemetry::ProcessMetrics;
use crate::tls::{CertificateMetrics, Certificates};
use crate::watch::Hub;

/// What has something to count.
pub(super) struct Sources<'a> {
    pub(super) settings: &'a Settings,
    pub(super) parts: &'a Parts,
    pub(super) cache: &'a Arc<Cache>,
    pub(super) certificates: Option<&'a Arc<Certificates>>,
    pub(super) stores: &'a BackendMetrics,
    pub(super) calls: &'a StrategyMetrics,
    pub(super) registry: &'a Arc<Registry>,
    pub(super) hub: &'a Hub,
    pub(super) events: &'a Events,
    pub(super) audit: &'a Audit,
}

/// What tells them all, and what those count into who serve.
pub(super) struct Gathered {
    pub(super) registry: Metrics,
    pub(super) requests: RequestMetrics,
    pub(super) connections: ConnectionMetrics,
}

pub(super) fn gather(sources: &Sources<'_>) -> Gathered {
    let mut registry = Metrics::default();
    let process = ProcessMetrics::new(Handle::current(), Clock::system().now());
    registry.register_collector(Box::new(process));
    let ours = registry.sub_registry_with_prefix("tagway");
    let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
    ours.register("build", "Which gateway it is", build);
    ours.register_collector(Box::new(sources.parts.clone()));
    ours.register_collector(Box::new(CacheMetrics(Arc::clone(sources.cache))));
    if let Some(certificates) = sources.certificates {
        ours.register_collector(Box::new(CertificateMetrics(Arc::clone(certificates))));
    }
    let requests = RequestMetrics::new(sources.settings.limits.in_flight);
    requests.register(ours);
    let connections = ConnectionMetrics::default();
    connections.register(ours);
    sources.stores.register(ours);
    sources.calls.register(ours, Arc::clone(sources.registry));
    sources.hub.metrics().register(ours);
    sources.events.register(ours);
    sources.audit.register(ours);
    Gathered {
        registry,
        requests,
        connections,
    }
}
