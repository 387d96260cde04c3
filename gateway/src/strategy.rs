//! The host of strategies: sandboxed components that say where a configuration lives.
//!
//! A strategy is pure, and its answers are hostile input. Each call gets a fresh instance without a single import,
//! bounded in fuel, time, memory and what it may answer; what it answers is checked by `placement` before anything
//! happens, and remembered for as long as component, settings and catalog stay.

mod breaker;
mod component;
mod decide;
mod engine;
mod lifecycle;
mod limits;
mod memory;
mod metrics;
mod registry;
mod source;
mod trial;
mod version;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::key::Malformed;

pub use component::RefusedComponent;
pub use decide::Strategy;
pub use engine::Engine;
pub use lifecycle::stages::{Backend, Rejected, Stage};
pub use lifecycle::{Activated, Activation, Drift, From, Lifecycle, Made, Mode, Record, State, Undone};
pub use limits::CallError;
pub use metrics::StrategyMetrics;
pub use registry::{NotServed, Registry, Snapshot};

/// Most dimensions of a request.
const CONTEXT_ENTRIES: usize = 32;
/// Longest name of a dimension, in bytes.
const CONTEXT_NAME_BYTES: usize = 64;
/// Longest value of a dimension, in bytes.
const CONTEXT_VALUE_BYTES: usize = 256;

/// What a caller says about itself: env, region, tier. A strategy sees what its manifest asked for, as no proof of
/// anything.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Context(BTreeMap<String, String>);

impl Context {
    /// At most 32 dimensions; names of 1 to 64 bytes, values of up to 256.
    pub fn new(dimensions: impl IntoIterator<Item = (String, String)>) -> Result<Self, Malformed> {
        let dimensions: BTreeMap<String, String> = dimensions.into_iter().collect();
        if dimensions.len() > CONTEXT_ENTRIES {
            return Err(Malformed::new("more than 32 dimensions"));
        }
        for (name, value) in &dimensions {
            if !(1..=CONTEXT_NAME_BYTES).contains(&name.len()) {
                return Err(Malformed::new("the name of a dimension has 1 to 64 bytes"));
            }
            if value.len() > CONTEXT_VALUE_BYTES {
                return Err(Malformed::new("the value of a dimension has at most 256 bytes"));
            }
        }
        Ok(Self(dimensions))
    }

    /// The names of its dimensions, ascending.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

/// What a caller wants to do with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// History and watches too.
    Read,
    /// Rollbacks too.
    Write,
    /// Delete.
    Delete,
}

/// A strategy's fair no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The caller may not.
    Denied(String),
    /// The key is not as it should be.
    Invalid(String),
    /// The settings name no place.
    Unplaced(String),
}

impl Refusal {
    fn text(&self) -> &str {
        match self {
            Self::Denied(text) | Self::Invalid(text) | Self::Unplaced(text) => text,
        }
    }
}

/// Why there is no decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecideError {
    /// The strategy says no.
    Refused(Refusal),
    /// The strategy failed or broke its contract; why is in the log.
    Failed,
    /// It failed so often that it is not called for a while.
    Resting(Duration),
    /// The machine is busy.
    Busy,
}

#[cfg(test)]
mod tests;
