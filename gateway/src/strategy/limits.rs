//! What one call of a guest may take, and how it ends when it takes more.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
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
    /// It used up its time, and had enough of it on a processor to be blamed for it.
    #[error("it ran for longer than {0:?}")]
    Deadline(Duration),
    /// It used up its time without having had much of it: the machine was busy.
    #[error("it did not get to run within {0:?}")]
    Busy(Duration),
    /// It trapped, or answered with what cannot be read.
    #[error("{0}")]
    Trap(String),
    /// It refuses its settings.
    #[error("it does not accept its settings: {0}")]
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

    /// The same, with more time: for what must not fail because the machine is busy.
    pub(super) fn patient(&self, times: u32) -> Self {
        Self {
            deadline: self.deadline * times,
            ..self.clone()
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

    /// Why a call that took this much of the processor ended with `error`.
    pub(super) fn explain(&self, took: Duration, error: &wasmtime::Error) -> CallError {
        match error.downcast_ref::<Trap>() {
            Some(Trap::OutOfFuel) => CallError::Fuel(self.fuel),
            // Who ran out of time without having had half of it on a processor was not let run. (What fuel is left
            // does not tell: compiled code keeps its count in a register and does not write it back for an interrupt.)
            Some(Trap::Interrupt) if took < self.deadline / 2 => CallError::Busy(self.deadline),
            Some(Trap::Interrupt) => CallError::Deadline(self.deadline),
            _ => CallError::Trap(first_lines(&format!("{error:#}"))),
        }
    }
}

/// How long this thread has been on a processor.
pub(super) fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// Enough of a text that a guest may have had a hand in, without what a terminal would obey.
pub(super) fn first_lines(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    let clean = words.join(" ");
    clean.chars().filter(|c| !c.is_control()).take(400).collect()
}
