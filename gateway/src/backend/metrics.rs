//! What stores are asked, in numbers. No tenant is in them.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::{Registry, Unit};

use crate::telemetry::{Durations, durations};

/// What is counted of operations of stores; one may be several calls, or a part of one. Clones count together.
#[derive(Debug, Clone)]
pub struct BackendMetrics {
    ended: Family<[(&'static str, String); 3], Counter>,
    took: Durations<[(&'static str, String); 2]>,
}

impl Default for BackendMetrics {
    fn default() -> Self {
        Self {
            ended: Family::default(),
            took: Durations::new_with_constructor(durations),
        }
    }
}

impl BackendMetrics {
    /// Has `registry` tell them.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Operations of stores, by how they ended; what a precondition refuses is answered";
        registry.register("backend_operations", help, self.ended.clone());
        let help = "What an operation of a store took";
        registry.register_with_unit("backend_operation_duration", help, Unit::Seconds, self.took.clone());
    }

    /// There is that store: what an alert looks at is told from the beginning, for what begins as 1 never rose.
    pub(super) fn begin(&self, backend: &str) {
        for operation in ["write", "delete"] {
            let of = [("backend", backend), ("operation", operation), ("outcome", "full")];
            drop(
                self.ended
                    .get_or_create(&of.map(|(name, value)| (name, value.to_owned()))),
            );
        }
    }

    pub(super) fn ended(&self, backend: &str, operation: &'static str, outcome: &'static str, took: Duration) {
        let of = [("backend", backend.to_owned()), ("operation", operation.to_owned())];
        self.took.get_or_create(&of).observe(took.as_secs_f64());
        let [backend, operation] = of;
        let labels = [backend, operation, ("outcome", outcome.to_owned())];
        self.ended.get_or_create(&labels).inc();
    }
}
