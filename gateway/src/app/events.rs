//! What hears of others' changes and tells them of ours, put together.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_eventbridge::Client as EventBridge;
use aws_sdk_sqs::Client as Sqs;
use prometheus_client::registry::Registry as Metrics;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::StartError;
use crate::backend::{AwsSettings, Catalog};
use crate::cache::Cache;
use crate::clock::Clock;
use crate::event::{Dispatch, EventMetrics, Listener, Published, Publisher, Queue, Queues, Receiver, Stores, Sweep};
use crate::settings::{self, EventsKind, EventsSettings, Settings};
use crate::status::Parts;
use crate::watch::Hub;

/// Of one call to SQS or EventBridge, retries included: a call for messages waits for 20 seconds by itself.
const CALL: Duration = Duration::from_mins(1);

/// What a replica is known by, and what it is made of.
pub(super) struct Replica<'r> {
    pub(super) name: Arc<str>,
    pub(super) settings: &'r Settings,
    pub(super) catalog: &'r Catalog,
    pub(super) cache: &'r Arc<Cache>,
    pub(super) hub: &'r Arc<Hub>,
    pub(super) parts: &'r Parts,
    /// Who looks at the sources of strategies.
    pub(super) strategies: &'r Arc<Notify>,
    pub(super) clock: &'r Clock,
}

/// All of it.
pub(super) struct Events {
    metrics: EventMetrics,
    sweep: Arc<Sweep>,
    dispatch: Arc<Dispatch>,
    listener: Option<Listener>,
    publisher: Option<Publisher>,
}

/// All of it, at work.
pub(super) struct Running {
    listener: Option<JoinHandle<()>>,
    publisher: Option<JoinHandle<()>>,
    /// Nothing more will be written.
    over: CancellationToken,
    /// What just runs.
    others: Vec<JoinHandle<()>>,
}

impl Events {
    /// Prepares it. Nobody is asked yet.
    pub(super) async fn open(replica: &Replica<'_>, published: mpsc::Receiver<Published>) -> Result<Self, StartError> {
        let Replica {
            settings,
            catalog,
            cache,
            hub,
            ..
        } = *replica;
        let events = &settings.events;
        let metrics = EventMetrics::default();
        let sweep = Arc::new(Sweep::new(
            catalog.clone(),
            Arc::clone(cache),
            Arc::clone(hub),
            events.sweep,
            metrics.clone(),
        ));
        let dispatch = Arc::new(Dispatch::new(
            Stores::new(&settings.backends),
            Arc::clone(&replica.name),
            catalog.clone(),
            Arc::clone(cache),
            Arc::clone(replica.strategies),
            metrics.clone(),
        ));
        let mut opened = Self {
            metrics,
            sweep,
            dispatch,
            listener: None,
            publisher: None,
        };
        match events.kind {
            EventsKind::None => {}
            EventsKind::Sqs => opened.open_sqs(replica, published).await?,
        }
        Ok(opened)
    }

    async fn open_sqs(
        &mut self,
        replica: &Replica<'_>,
        published: mpsc::Receiver<Published>,
    ) -> Result<(), StartError> {
        let Replica {
            settings, cache, hub, ..
        } = *replica;
        // Until they come.
        hub.hears(false);
        let events = &settings.events;
        let config = at_aws(events).load().await.map_err(StartError::EventsRegion)?;
        let (sqs, bridge) = (Sqs::new(&config), EventBridge::new(&config));
        let stores = Stores::new(&settings.backends);
        let queue = match events.queue() {
            settings::Queue::Url(url) => Queue::Named(url),
            settings::Queue::Auto => Queue::Own(Queues::new(
                sqs.clone(),
                bridge.clone(),
                events.bus().to_owned(),
                stores.roots().map(str::to_owned),
                buckets(settings),
                replica.clock.clone(),
            )),
        };
        let receiver = Receiver {
            client: sqs,
            url: String::new(),
            dispatch: Arc::clone(&self.dispatch),
        };
        self.listener = Some(Listener {
            queue,
            receiver,
            sweep: Arc::clone(&self.sweep),
            hub: Arc::clone(hub),
            part: replica.parts.part("events:sqs", false, "starting"),
            metrics: self.metrics.clone(),
        });
        self.publisher = Publisher::new(
            bridge,
            events.bus().to_owned(),
            Arc::clone(&replica.name),
            Arc::clone(cache),
            published,
            self.metrics.clone(),
        );
        Ok(())
    }

    /// What takes events, wherever they come from.
    pub(super) fn dispatch(&self) -> &Arc<Dispatch> {
        &self.dispatch
    }

    /// Has `registry` tell its metrics.
    pub(super) fn register(&self, registry: &mut Metrics) {
        self.metrics.register(registry);
    }

    /// Begins. What comes from others is heard until `stop`.
    pub(super) fn run(self, stop: CancellationToken) -> Running {
        let sweep = self.sweep;
        let mut others = vec![tokio::spawn(async move { sweep.run().await })];
        let dispatch = self.dispatch;
        others.push(tokio::spawn(async move { dispatch.run().await }));
        let listener = self.listener.map(|listener| tokio::spawn(listener.run(stop)));
        let over = CancellationToken::new();
        let publisher = self.publisher.map(|publisher| {
            let over = over.clone();
            tokio::spawn(async move { publisher.run(over).await })
        });
        Running {
            listener,
            publisher,
            over,
            others,
        }
    }
}

impl Running {
    /// Tells what is untold and cleans up.
    pub(super) async fn finish(self) {
        self.over.cancel();
        for other in &self.others {
            other.abort();
        }
        // What is left untold, if nobody waits so long, others' sweeps find, and what is left behind they reap.
        for task in [self.publisher, self.listener].into_iter().flatten() {
            _ = task.await;
        }
    }
}

/// Where components of strategies are.
fn buckets(settings: &Settings) -> impl Iterator<Item = String> {
    let sources = settings.strategies.values().map(|strategy| &strategy.source);
    let buckets: BTreeSet<String> = sources.filter_map(|source| Some(source.s3()?.0.to_owned())).collect();
    buckets.into_iter()
}

/// How bus and queue are reached.
pub(crate) fn at_aws(events: &EventsSettings) -> AwsSettings {
    AwsSettings {
        id: "events".into(),
        region: events.region.clone(),
        endpoint_url: events.endpoint_url.clone(),
        sts_endpoint_url: None,
        tenant_role: None,
        timeout: CALL,
        in_flight: 64,
        tenants: 1,
    }
}
