//! What the cache does, in numbers: counted as it happens, and told when somebody asks.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use quick_cache::Lifecycle;
use tokio::time::Instant;

use super::Cache;
use super::known::Known;
use crate::placement::Place;

/// Events since the start.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Served without asking the store.
    pub(super) hits: Count,
    /// So, that there is none.
    pub(super) negatives: Count,
    /// Served past their time.
    pub(super) stale: Count,
    /// Waited for the store.
    pub(super) misses: Count,
    /// What made room for others.
    pub(super) evictions: Arc<Count>,
}

/// Goes up.
#[derive(Debug, Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn up(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts what makes room, and keeps what has to stay whoever needs room: not even for another tenant is a write forgotten that a store may
/// not show yet. Such stores take few writes a second.
#[derive(Clone)]
pub(super) struct Evictions(pub(super) Arc<Count>);

impl Lifecycle<Place, Arc<Known>> for Evictions {
    type RequestState = ();

    fn is_pinned(&self, _: &Place, known: &Arc<Known>) -> bool {
        known.is_all_there_is(Instant::now())
    }

    fn on_evict(&self, (): &mut Self::RequestState, _: Place, _: Arc<Known>) {
        self.0.up();
    }
}

/// Tells them.
pub struct CacheMetrics(pub Arc<Cache>);

impl fmt::Debug for CacheMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.counts.fmt(f)
    }
}

impl Collector for CacheMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Cache { counts, known, .. } = &*self.0;
        let reads = "Reads of single places, by how they were served";
        let mut reads = encoder.encode_descriptor("cache_reads", reads, None, MetricType::Counter)?;
        for (result, count) in [
            ("hit", &counts.hits),
            ("negative", &counts.negatives),
            ("stale", &counts.stale),
            ("miss", &counts.misses),
        ] {
            ConstCounter::new(count.get()).encode(reads.encode_family(&[("result", result)])?)?;
        }
        let evictions = "What made room for others";
        let evictions = encoder.encode_descriptor("cache_evictions", evictions, None, MetricType::Counter)?;
        ConstCounter::new(counts.evictions.get()).encode(evictions)?;
        for (name, help, value) in [
            ("cache_entries", "Places of which something is kept", known.len() as u64),
            (
                "cache_bytes",
                "Of what is kept, its names and its overhead included",
                known.weight(),
            ),
            (
                "cache_under_way",
                "Places that are being read or written",
                self.0.under_way() as u64,
            ),
        ] {
            let gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            #[allow(
                clippy::cast_precision_loss,
                reason = "bytes and counts of one process are far below 2^52"
            )]
            ConstGauge::new(value as f64).encode(gauge)?;
        }
        Ok(())
    }
}
