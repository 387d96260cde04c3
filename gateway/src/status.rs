//! How each part of this replica does, as operators are told. A part that is away for everybody is no reason to take a replica out
//! of service, so this is not readiness.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::clock::Clock;

/// All parts. Clones are the same.
#[derive(Debug, Clone)]
pub struct Parts {
    states: Arc<Mutex<BTreeMap<Arc<str>, PartState>>>,
    clock: Clock,
}

impl Collector for Parts {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "Whether a part does what it is there for; tagway status says why not, and since when";
        let mut ready = encoder.encode_descriptor("part_ready", help, None, MetricType::Gauge)?;
        for (name, part) in self.all() {
            let value = if part.ready { 1.0 } else { 0.0 };
            ConstGauge::new(value).encode(ready.encode_family(&[("part", &*name)])?)?;
        }
        Ok(())
    }
}

/// How a part does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartState {
    /// Whether it does what it is there for.
    pub ready: bool,
    /// In words. No tenant is in them.
    pub detail: String,
    /// Since when it has been so, or not.
    pub since: SystemTime,
    /// It has said so itself.
    is_told: bool,
}

/// One part, which says how it does.
#[derive(Debug, Clone)]
pub struct Part {
    parts: Parts,
    name: Arc<str>,
}

impl Parts {
    /// None yet.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self {
            states: Arc::default(),
            clock,
        }
    }

    /// One with that name, which is taken to be like this until it says otherwise: ready, or not yet.
    #[must_use]
    pub fn part(&self, name: &str, ready: bool, detail: &str) -> Part {
        let name: Arc<str> = name.into();
        let state = PartState {
            ready,
            detail: detail.to_owned(),
            since: self.clock.now(),
            is_told: ready,
        };
        self.states().insert(Arc::clone(&name), state);
        Part {
            parts: self.clone(),
            name,
        }
    }

    /// All of them, by name.
    #[must_use]
    pub fn all(&self) -> BTreeMap<Arc<str>, PartState> {
        self.states().clone()
    }

    fn states(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, PartState>> {
        // Nothing in here is left half done.
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Part {
    /// It does what it is there for.
    pub fn is_ready(&self, detail: &str) {
        if self.becomes(true, detail) {
            tracing::info!(part = &*self.name, detail, "a part is ready");
        }
    }

    /// It does not.
    pub fn is_away(&self, detail: &str) {
        if self.becomes(false, detail) {
            tracing::error!(part = &*self.name, detail, "a part is away");
        }
    }

    /// Returns whether it was otherwise before.
    fn becomes(&self, ready: bool, detail: &str) -> bool {
        let now = self.parts.clock.now();
        let mut states = self.parts.states();
        let Some(state) = states.get_mut(&self.name) else {
            return false;
        };
        detail.clone_into(&mut state.detail);
        if state.is_told && state.ready == ready {
            return false;
        }
        state.is_told = true;
        state.ready = ready;
        state.since = now;
        true
    }
}
