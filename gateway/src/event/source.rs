//! Where messages come from, as long as this replica runs: its own queue, which is made anew when it is gone, or its operator's.
//! While none comes the sweep is all there is, and operators and watchers are told so.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, interval_at, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::metrics::EventMetrics;
use super::queue::{BEAT, Own, Queues};
use super::receive::{Receiver, Silence};
use super::sweep::Sweep;
use crate::clock::{backoff, jittered};
use crate::status::Part;
use crate::watch::Hub;

/// Between two tries to have a queue.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(5));
/// Within which a queue is removed by who goes. Else another reaps it.
const REMOVAL: Duration = Duration::from_secs(5);

/// Which queue.
pub enum Queue {
    /// One that this replica makes for itself.
    Own(Queues),
    /// The operator's.
    Named(String),
}

/// Receives as long as the gateway runs.
pub struct Source {
    /// From where.
    pub queue: Queue,
    /// What receives, whichever queue it is.
    pub receiver: Receiver,
    /// What finds what was lost.
    pub sweep: Arc<Sweep>,
    /// Who is told that it finds everything, for now.
    pub hub: Arc<Hub>,
    /// And so are operators.
    pub part: Part,
    /// And their metrics.
    pub metrics: EventMetrics,
}

impl Source {
    /// Receives until `stop`, and cleans up.
    pub async fn run(self, stop: CancellationToken) {
        match &self.queue {
            Queue::Own(queues) => self.run_own(queues, &stop).await,
            Queue::Named(url) => {
                stop.run_until_cancelled(self.run_named(url)).await;
            }
        }
    }

    async fn run_named(&self, url: &str) {
        let mut pauses = backoff(PAUSES);
        loop {
            self.receive(url).await;
            sleep(pauses.next().unwrap_or(PAUSES.1)).await;
        }
    }

    async fn run_own(&self, queues: &Queues, stop: &CancellationToken) {
        let mut pauses = backoff(PAUSES);
        loop {
            let Some(made) = stop.run_until_cancelled(Box::pin(queues.make())).await else {
                return;
            };
            match made {
                Ok(own) => {
                    pauses = backoff(PAUSES);
                    // What changed while there was no queue.
                    self.sweep.begin();
                    let goes = tokio::select! {
                        () = self.receive(&own.url) => false,
                        () = Self::keep(queues, &own) => false,
                        () = stop.cancelled() => true,
                    };
                    if goes {
                        if !matches!(timeout(REMOVAL, queues.remove(&own)).await, Ok(Ok(()))) {
                            tracing::warn!(queue = own.url, "this replica's queue was not removed; another will");
                        }
                        return;
                    }
                    // Its rules would be nobody's.
                    _ = queues.remove(&own).await;
                }
                Err(failed) => self.is_silent(&format!("no queue of its own: {failed}")),
            }
            let pause = sleep(pauses.next().unwrap_or(PAUSES.1));
            if stop.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }

    /// Says that its replica is there, and removes what others left behind.
    async fn keep(queues: &Queues, own: &Own) {
        let first = Instant::now() + jittered(BEAT).mul_f64(fastrand::f64());
        let mut beats = interval_at(first, jittered(BEAT));
        loop {
            match Box::pin(queues.reap()).await {
                Ok(0) => {}
                Ok(queues) => tracing::info!(queues, "what other replicas left behind was removed"),
                Err(failed) => tracing::warn!(%failed, "what other replicas left behind was not looked at"),
            }
            beats.tick().await;
            if let Err(failed) = queues.beat(own).await {
                tracing::warn!(%failed, "this replica's queue has missed a heartbeat");
            }
        }
    }

    /// Receives until there is no such queue.
    async fn receive(&self, url: &str) {
        let receiver = Receiver {
            url: url.to_owned(),
            ..self.receiver.clone()
        };
        let told = |silence: Option<&Silence>| match silence {
            None => self.is_heard(url),
            Some(Silence::Gone) => self.is_silent(&format!("there is no queue {url}")),
            Some(Silence::Away(why)) => self.is_silent(&format!("{url}: {why}")),
        };
        receiver.run(told).await;
    }

    fn is_heard(&self, url: &str) {
        self.part.is_ready(url);
        self.metrics.source_is(true);
        self.hub.hears(true);
    }

    fn is_silent(&self, why: &str) {
        self.part
            .is_away(&format!("{why}; the sweep alone finds what others change"));
        self.metrics.source_is(false);
        self.hub.hears(false);
    }
}
