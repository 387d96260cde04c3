//! What watches do, in numbers. No tenant is in them.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Update;

/// One label and its value.
type Label = [(&'static str, &'static str); 1];

/// The metrics of one gateway's watches. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct WatchMetrics {
    streams: Gauge,
    subscriptions: Gauge,
    ended: Family<Label, Counter>,
    updates: Family<Label, Counter>,
}

/// Counted as long as it lives.
#[derive(Debug)]
pub struct Counted(Gauge);

impl WatchMetrics {
    /// Has `registry` tell them, what never happened among them.
    pub fn register(&self, registry: &mut Registry) {
        for kind in ["put", "removed", "synced", "resync"] {
            drop(self.updates.get_or_create(&[("kind", kind)]));
        }
        for reason in ["token_over", "closing", "gone", "refused"] {
            drop(self.ended.get_or_create(&[("reason", reason)]));
        }
        registry.register("watch_streams", "Streams that are open", self.streams.clone());
        let subscriptions = self.subscriptions.clone();
        registry.register("watch_subscriptions", "Subscriptions on open streams", subscriptions);
        registry.register("watch_streams_ended", "Streams that ended, by why", self.ended.clone());
        let updates = self.updates.clone();
        registry.register("watch_updates", "What subscriptions told their clients", updates);
    }

    /// One stream more.
    #[must_use]
    pub fn stream(&self) -> Counted {
        Counted::new(&self.streams)
    }

    /// Why a stream ended.
    pub fn ended(&self, why: &'static str) {
        self.ended.get_or_create(&[("reason", why)]).inc();
    }

    pub(super) fn subscription(&self) -> Counted {
        Counted::new(&self.subscriptions)
    }

    pub(super) fn told(&self, update: &Update) {
        let kind = match update {
            Update::Put(_) => "put",
            Update::Removed { .. } => "removed",
            Update::Synced { .. } => "synced",
            Update::Resync => "resync",
        };
        self.updates.get_or_create(&[("kind", kind)]).inc();
    }
}

impl Counted {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
