//! Telling others of what is written here. A place waits once, however often it is written, and is told as it stands then: so
//! what is told is bounded by what there is, and not by how fast it changes. What cannot be told is counted, and found by the
//! others' sweeps.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_eventbridge::Client;
use aws_sdk_eventbridge::types::PutEventsRequestEntry;
use futures_util::{StreamExt as _, stream};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::SOURCE;
use super::envelope::{CONFIG_CHANGED, ConfigChanged, STRATEGY_PUBLISHED};
use super::metrics::EventMetrics;
use crate::backend::describe_failure;
use crate::cache::{Cache, Changes, Taken};
use crate::clock::backoff;
use crate::placement::Place;

/// Most events of one call (API reference, `PutEvents`). Of 256 KB together, of which ours have 2 at most each.
const EVENTS: usize = 10;
/// Calls at once.
const CALLS: usize = 8;
/// How often a call is made again, and the pauses between.
const ATTEMPTS: usize = 5;
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// A strategy became active out of its configured source because an operator said so: the other replicas are to look there too.
#[derive(Debug, Clone)]
pub struct Published {
    /// The operator's name for it.
    pub name: Arc<str>,
    /// `sha256:<hex>` of the component. Others believe their source, and not this.
    pub digest: String,
}

/// Publishes what is written here.
pub struct Publisher {
    client: Client,
    bus: String,
    replica: Arc<str>,
    cache: Arc<Cache>,
    written: Arc<Changes>,
    strategies: mpsc::Receiver<Published>,
    metrics: EventMetrics,
}

impl Publisher {
    /// Of what `cache` writes and which `strategies` are published, as `replica`. None: it was made to tell nobody.
    #[must_use]
    pub fn new(
        client: Client,
        bus: String,
        replica: Arc<str>,
        cache: Arc<Cache>,
        strategies: mpsc::Receiver<Published>,
        metrics: EventMetrics,
    ) -> Option<Self> {
        let written = Arc::clone(cache.written()?);
        Some(Self {
            client,
            bus,
            replica,
            cache,
            written,
            strategies,
            metrics,
        })
    }

    /// Publishes until `stop`, and then what waits.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                taken = self.written.take() => self.publish(taken).await,
                Some(published) = self.strategies.recv() => self.put(vec![self.strategy(&published)]).await,
            }
        }
        if let Some(taken) = self.written.take_now() {
            self.publish(taken).await;
        }
    }

    async fn publish(&self, taken: Taken) {
        if taken.more {
            tracing::warn!("more was written than could be published; the other replicas' sweeps find it");
            self.metrics.published("overflow", 1);
        }
        let places: Vec<Place> = taken.places.into_keys().collect();
        let batches: Vec<Vec<_>> = places
            .chunks(EVENTS)
            .map(|places| places.iter().map(|place| self.event(place)).collect())
            .collect();
        let calls = batches.into_iter().map(|events| self.put(events));
        let calls = stream::iter(calls).buffer_unordered(CALLS);
        calls.for_each(|()| async {}).await;
        self.written.told();
    }

    async fn put(&self, mut events: Vec<PutEventsRequestEntry>) {
        for pause in backoff(PAUSES).take(ATTEMPTS) {
            let sent = self.client.put_events().set_entries(Some(events.clone())).send();
            match sent.await {
                Ok(answer) => {
                    // In the order of the request; those that failed have a code.
                    let results = answer.entries().iter();
                    let before = events.len();
                    events = events
                        .into_iter()
                        .zip(results)
                        .filter(|(_, result)| result.error_code().is_some())
                        .map(|(event, _)| event)
                        .collect();
                    self.metrics.published("published", before - events.len());
                    if events.is_empty() {
                        return;
                    }
                }
                Err(error) => tracing::debug!(error = describe_failure(&error), "events were not taken"),
            }
            sleep(pause).await;
        }
        tracing::warn!(
            events = events.len(),
            "writes could not be published; the other replicas' sweeps find them"
        );
        self.metrics.published("failed", events.len());
    }

    fn strategy(&self, published: &Published) -> PutEventsRequestEntry {
        let Published { name, digest } = published;
        let detail = json!({ "name": **name, "digest": digest, "replica": *self.replica });
        PutEventsRequestEntry::builder()
            .source(SOURCE)
            .detail_type(STRATEGY_PUBLISHED)
            .event_bus_name(&self.bus)
            .detail(detail.to_string())
            .build()
    }

    fn event(&self, place: &Place) -> PutEventsRequestEntry {
        let (tenant, _) = place.name.range().parts();
        let changed = ConfigChanged {
            backend: place.backend.to_string(),
            name: place.name.to_string(),
            tenant: tenant.map(ToString::to_string),
            key: place.name.key(),
            etag: self.cache.believed(place).and_then(|(etag, _)| Some(etag?.to_string())),
            replica: self.replica.to_string(),
        };
        PutEventsRequestEntry::builder()
            .source(SOURCE)
            .detail_type(CONFIG_CHANGED)
            .event_bus_name(&self.bus)
            // Texts alone, which JSON has a form for.
            .detail(serde_json::to_string(&changed).unwrap_or_default())
            .build()
    }
}
