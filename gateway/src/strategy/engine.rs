//! The one wasmtime engine: how guests are compiled, where their memory comes from, and the clock that ends them.

use std::num::NonZero;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::Semaphore;
use wasmtime::{Cache, CacheConfig, Config, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::metrics::StrategyMetrics;
use crate::folder::PrivateFolder;

/// How often the epoch moves: what a wall deadline is counted in.
const TICK: Duration = Duration::from_millis(5);
/// Most linear memory of any guest. A store's own limit is what bites; this sizes the pool's slots.
pub(super) const MEMORY_BYTES: usize = 64 << 20;
/// Most table elements of one table: a table of ten thousand functions belongs to a large program.
pub(super) const TABLE_ELEMENTS: usize = 10_000;
/// What is kept of what was compiled, more or less: what was not used for longest goes first.
const KEPT_FILES: u64 = 64;
const KEPT_BYTES: u64 = 128 << 20;
/// Core instances, memories and tables of one component. What `wit-component` wraps has one to three of each.
pub(super) const PARTS: u32 = 8;

/// Runs guests, a few at once.
#[derive(Clone)]
pub struct Engine {
    wasmtime: wasmtime::Engine,
    slots: Arc<Semaphore>,
    /// For who prepares a version, beside the slots: requests do not wait for it.
    preparing: Arc<Semaphore>,
    calls: usize,
    metrics: StrategyMetrics,
}

impl Engine {
    /// An engine for this machine: at most one guest call less than there are cores at once, so that guests never hold
    /// all of the runtime's threads.
    pub fn new() -> wasmtime::Result<Self> {
        Self::with(None)
    }

    /// One that keeps what it has compiled, by component and engine, in a folder of the gateway's own: what lies there is run.
    pub fn that_keeps(compiled: &PrivateFolder) -> wasmtime::Result<Self> {
        let mut config = CacheConfig::new();
        config
            .with_directory(std::path::absolute(compiled.path())?)
            .with_file_count_soft_limit(KEPT_FILES)
            .with_files_total_size_soft_limit(KEPT_BYTES);
        Self::with(Some(Cache::new(config)?))
    }

    fn with(cache: Option<Cache>) -> wasmtime::Result<Self> {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let calls = cores.saturating_sub(1).max(1);
        let mut config = Config::new();
        config
            .cache(cache)
            // What a strategy may cost is fuel: deterministic, so that the same request ends the same way everywhere.
            .consume_fuel(true)
            // The clock is the backstop for what fuel does not see: the host's own work for a guest, a busy machine.
            .epoch_interruption(true)
            // Calls are synchronous; this would allocate a fiber for each.
            .concurrency_support(false)
            // A megabyte of guest stack on a runtime thread of two is too much; recursion ends at this.
            .max_wasm_stack(256 << 10)
            // Traps are for operators, who get the reason; walking the stack of a hostile guest only costs.
            .wasm_backtrace_max_frames(None)
            // The same answer on every machine and every time: it is remembered.
            .cranelift_nan_canonicalization(true)
            .wasm_relaxed_simd(false)
            // What no strategy needs, and what would escape the limits below.
            .wasm_memory64(false)
            .wasm_multi_memory(false);
        let mut pooled = config.clone();
        pooled.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(calls + 1)));
        // The pool reserves address space, which a container may be short of; on demand is slower, not worse.
        let wasmtime = wasmtime::Engine::new(&pooled).or_else(|error| {
            tracing::warn!(%error, "no pool for guests' memory; each call allocates its own");
            wasmtime::Engine::new(&config)
        })?;
        start_ticking(&wasmtime)?;
        Ok(Self {
            wasmtime,
            slots: Arc::new(Semaphore::new(calls)),
            preparing: Arc::new(Semaphore::new(1)),
            calls,
            metrics: StrategyMetrics::default(),
        })
    }

    /// What is counted of the calls of requests.
    #[must_use]
    pub fn metrics(&self) -> &StrategyMetrics {
        &self.metrics
    }

    pub(crate) fn wasmtime(&self) -> &wasmtime::Engine {
        &self.wasmtime
    }

    /// One permit a guest call. A full pool is an error, not a wait, so the wait is here.
    pub(super) fn slots(&self) -> &Semaphore {
        &self.slots
    }

    /// One permit a version that is prepared, on a thread that is not the runtime's.
    pub(super) fn preparing(&self) -> &Arc<Semaphore> {
        &self.preparing
    }

    /// How many guest calls of requests run at once.
    pub(super) fn calls(&self) -> usize {
        self.calls
    }

    /// A wall deadline as the store counts it: ticks, the one under way not among them.
    pub(super) fn ticks(deadline: Duration) -> u64 {
        let ticks = deadline.as_millis().div_ceil(TICK.as_millis());
        u64::try_from(ticks).unwrap_or(u64::MAX).saturating_add(1)
    }
}

fn pool(calls: usize) -> PoolingAllocationConfig {
    let calls = u32::try_from(calls).unwrap_or(u32::MAX / PARTS).min(u32::MAX / PARTS);
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(calls)
        .total_core_instances(calls * PARTS)
        .total_memories(calls * 2)
        .total_tables(calls * PARTS)
        .max_core_instances_per_component(PARTS)
        .max_memories_per_component(2)
        .max_tables_per_component(PARTS)
        .max_memory_size(MEMORY_BYTES)
        .table_elements(TABLE_ELEMENTS)
        // A strategy touches little; wiping so much by hand is cheaper than giving the pages back.
        .linear_memory_keep_resident(1 << 20)
        .table_keep_resident(64 << 10);
    pool
}

/// Moves the epoch for as long as the engine lives. One thread of its own: a ticker on the runtime would stand still
/// with it, which is when it is needed.
fn start_ticking(engine: &wasmtime::Engine) -> wasmtime::Result<()> {
    let engine = engine.weak();
    thread::Builder::new().name("tagway-epoch".to_owned()).spawn(move || {
        while let Some(engine) = engine.upgrade() {
            engine.increment_epoch();
            drop(engine);
            #[allow(clippy::disallowed_methods, reason = "a thread of its own, not the runtime's")]
            thread::sleep(TICK);
        }
    })?;
    Ok(())
}
