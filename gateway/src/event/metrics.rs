//! What events do, in numbers. No tenant is in them.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// A gauge of fractions.
type Fraction = Gauge<f64, AtomicU64>;
/// One label and its value.
type Label = [(&'static str, &'static str); 1];
type Backend = [(&'static str, String); 1];

/// The metrics of one gateway's events. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct EventMetrics {
    received: Family<Label, Counter>,
    published: Family<Label, Counter>,
    source_ready: Gauge,
    swept: Family<Backend, Counter>,
    sweep_period: Family<Backend, Fraction>,
    sweep_failures: Family<Backend, Counter>,
}

impl EventMetrics {
    /// Has `registry` tell them, what never happened among them.
    pub fn register(&self, registry: &mut Registry) {
        for told in ["own", "known", "changed", "strategy", "nothing", "unreadable"] {
            drop(self.received.get_or_create(&[("told", told)]));
        }
        for result in ["published", "failed", "overflow"] {
            drop(self.published.get_or_create(&[("result", result)]));
        }
        let received = self.received.clone();
        registry.register("events_received", "Events, by what they told", received);
        let published = self.published.clone();
        registry.register("events_published", "Writes that others were told of, or not", published);
        let ready = self.source_ready.clone();
        registry.register("events_source_ready", "Whether events come", ready);
        let swept = self.swept.clone();
        registry.register(
            "sweep_differences",
            "Changes that no event had told of, by backend",
            swept,
        );
        let period = self.sweep_period.clone();
        registry.register_with_unit(
            "sweep_period",
            "From one comparison of all that is watched to the next, by backend",
            Unit::Seconds,
            period,
        );
        let failures = self.sweep_failures.clone();
        registry.register("sweep_failures", "Comparisons that failed, by backend", failures);
    }

    pub(super) fn received(&self, what: &'static str) {
        self.received.get_or_create(&[("told", what)]).inc();
    }

    pub(super) fn published(&self, result: &'static str, events: usize) {
        self.published
            .get_or_create(&[("result", result)])
            .inc_by(events as u64);
    }

    pub(super) fn source_is(&self, ready: bool) {
        self.source_ready.set(i64::from(ready));
    }

    /// So much time is between what was compared last and what is, or is yet to be.
    pub(super) fn sweeps_since(&self, backend: &str, period: Duration) {
        let label = [("backend", backend.to_owned())];
        self.sweep_period.get_or_create(&label).set(period.as_secs_f64());
    }

    pub(super) fn swept(&self, backend: &str, differences: u64, failures: u64) {
        let label = [("backend", backend.to_owned())];
        self.swept.get_or_create(&label).inc_by(differences);
        self.sweep_failures.get_or_create(&label).inc_by(failures);
    }
}
