//! What strategies do, in numbers. No tenant is in them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry as Metrics, Unit};

use super::Registry;
use crate::telemetry::{Durations, durations};

/// What is counted of calls into components. Clones count together.
#[derive(Debug, Clone)]
pub struct StrategyMetrics {
    calls: Family<[(&'static str, String); 2], Counter>,
    took: Durations<[(&'static str, String); 1]>,
}

impl Default for StrategyMetrics {
    fn default() -> Self {
        Self {
            calls: Family::default(),
            took: Durations::new_with_constructor(durations),
        }
    }
}

impl StrategyMetrics {
    /// Has `metrics` tell them, and what serves in `registry`.
    pub fn register(&self, metrics: &mut Metrics, registry: Arc<Registry>) {
        let help = "Calls into strategies, which are made for what is not remembered, by how they ended";
        metrics.register("strategy_calls", help, self.calls.clone());
        let help = "What a call into a strategy took";
        metrics.register_with_unit("strategy_call_duration", help, Unit::Seconds, self.took.clone());
        metrics.register_collector(Box::new(Standings(registry)));
    }

    pub(super) fn called(&self, strategy: &str, outcome: &'static str, took: Duration) {
        let strategy = strategy.to_owned();
        let labels = [("strategy", strategy.clone()), ("outcome", outcome.to_owned())];
        self.calls.get_or_create(&labels).inc();
        self.took
            .get_or_create(&[("strategy", strategy)])
            .observe(took.as_secs_f64());
    }
}

/// Tells which strategies serve.
struct Standings(Arc<Registry>);

impl fmt::Debug for Standings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Standings")
    }
}

impl Collector for Standings {
    #[allow(clippy::cast_precision_loss, reason = "nobody activates 2^52 strategies")]
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let snapshot = self.0.current();
        let help = "Whether a strategy of the settings serves its tags";
        let mut serves = encoder.encode_descriptor("strategy_serves", help, None, MetricType::Gauge)?;
        for (name, state) in snapshot.states() {
            let value = if state.is_ok() { 1.0 } else { 0.0 };
            ConstGauge::new(value).encode(serves.encode_family(&[("strategy", name)])?)?;
        }
        let help = "Counts what became active on this replica: each change of any strategy is one more";
        let generation = encoder.encode_descriptor("strategy_generation", help, None, MetricType::Gauge)?;
        ConstGauge::new(snapshot.generation() as f64).encode(generation)
    }
}
