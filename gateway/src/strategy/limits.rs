//! What one call of a guest may take, and how it ends when it takes more.

use std::time::Duration;

use wasmtime::{Store, StoreLimits, StoreLimitsBuilder, Trap};

use super::engine::{Engine, MEMORY_BYTES, PARTS, TABLE_ELEMENTS};
use crate::settings::StrategyLimits;

/// Of one call into a fresh instance, `configure` included.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    fuel: u64,
    deadline: Duration,
    memory: usize,
    /// Bytes that results may take on the host's side.
    lifted: usize,
}

/// A guest's store holds nothing but its limits: it has no way to ask for anything.
pub(super) type Guest = Store<StoreLimits>;

/// How a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// It used up its fuel.
    #[error("it used up its {0} units of fuel")]
    Fuel(u64),
    /// It used up its time, and enough fuel to be blamed for it.
    #[error("it ran for longer than {0:?}")]
    Deadline(Duration),
    /// It used up its time without having done much: the machine was busy.
    #[error("it did not get to run within {0:?}")]
    Busy(Duration),
    /// It trapped, or answered with what cannot be read.
    #[error("{0}")]
    Trap(String),
    /// It refuses the settings that it took before.
    #[error("it does not accept its settings any more: {0}")]
    Unconfigured(String),
}

impl Limits {
    pub(super) fn new(settings: &StrategyLimits, lifted: usize) -> Self {
        Self {
            fuel: settings.fuel,
            deadline: settings.deadline,
            memory: usize::try_from(settings.memory.0)
                .unwrap_or(MEMORY_BYTES)
                .min(MEMORY_BYTES),
            lifted,
        }
    }

    /// The same, with more room: for what happens once a version and not once a request.
    pub(super) fn relaxed(&self, times: u32, lifted: usize) -> Self {
        Self {
            fuel: self.fuel.saturating_mul(u64::from(times)),
            deadline: self.deadline * times,
            memory: self.memory,
            lifted,
        }
    }

    /// A store in which all of them hold. A store begins without fuel and with a deadline of now: both are always set.
    pub(super) fn store(&self, engine: &Engine) -> wasmtime::Result<Guest> {
        let limits = StoreLimitsBuilder::new()
            .memory_size(self.memory)
            .memories(2)
            .tables(PARTS as usize)
            .table_elements(TABLE_ELEMENTS)
            .instances(PARTS as usize)
            .build();
        let mut store = Store::new(engine.wasmtime(), limits);
        store.limiter(|limits| limits);
        store.set_fuel(self.fuel)?;
        store.set_epoch_deadline(Engine::ticks(self.deadline));
        store.set_hostcall_fuel(self.lifted);
        Ok(store)
    }

    /// Why a call in `store` ended with `error`.
    pub(super) fn explain(&self, store: &Guest, error: &wasmtime::Error) -> CallError {
        match error.downcast_ref::<Trap>() {
            Some(Trap::OutOfFuel) => CallError::Fuel(self.fuel),
            Some(Trap::Interrupt) => {
                let left = store.get_fuel().unwrap_or(0);
                // Fuel is the limit. Who ran out of time with most of it left was not let run.
                if left > self.fuel / 2 {
                    CallError::Busy(self.deadline)
                } else {
                    CallError::Deadline(self.deadline)
                }
            }
            _ => CallError::Trap(first_lines(&format!("{error:#}"))),
        }
    }
}

/// Enough of a text that a guest may have had a hand in.
pub(super) fn first_lines(text: &str) -> String {
    text.chars().take(400).collect()
}
