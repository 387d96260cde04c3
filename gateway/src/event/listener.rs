//! Where messages come from, as long as this replica runs: its own queue, which is made anew when it is gone, or its operator's.
//! While none comes the sweep is all there is, and operators and watchers are told so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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
/// Of comparisons, that none was asked for.
const NOTHING: u64 = 0;
/// Until a new queue's policy is known everywhere ("can take up to 60 seconds": API reference, `SetQueueAttributes`), and what
/// was sent before that is lost.
const SETTLED: Duration = Duration::from_secs(75);
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
pub struct Listener {
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

impl Listener {
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
            if self.receive(url).await {
                pauses = backoff(PAUSES);
            }
            sleep(pauses.next().unwrap_or(PAUSES.1)).await;
        }
    }

    async fn run_own(&self, queues: &Queues, stop: &CancellationToken) {
        let mut pauses = backoff(PAUSES);
        while !stop.is_cancelled() {
            let mut making = Box::pin(queues.make());
            let made = tokio::select! {
                made = &mut making => made,
                // What is made by half would be nobody's.
                () = stop.cancelled() => match timeout(REMOVAL, making).await {
                    Ok(made) => made,
                    Err(_) => return,
                },
            };
            match made {
                Ok(own) => {
                    // What changed while there was no queue.
                    self.sweep.begin();
                    let has_heard = tokio::select! {
                        has_heard = self.receive(&own.url) => has_heard,
                        has_heard = self.keep(queues, &own) => has_heard,
                        () = stop.cancelled() => false,
                    };
                    if has_heard {
                        pauses = backoff(PAUSES);
                    }
                    if !matches!(timeout(REMOVAL, Box::pin(queues.remove(&own))).await, Ok(Ok(()))) {
                        tracing::warn!(queue = own.url, "this replica's queue was not removed; another will");
                    }
                }
                Err(failed) => {
                    self.is_silent(&format!("no queue of its own: {failed}"));
                    // There may be no room for it, because of what others left behind.
                    _ = stop.run_until_cancelled(Self::reap(queues)).await;
                }
            }
            let pause = sleep(pauses.next().unwrap_or(PAUSES.1));
            _ = stop.run_until_cancelled(pause).await;
        }
    }

    /// Says that its replica is there, and removes what others left behind. Never ends.
    async fn keep(&self, queues: &Queues, own: &Own) -> bool {
        let first = Instant::now() + jittered(BEAT).mul_f64(fastrand::f64());
        let mut beats = interval_at(first, jittered(BEAT));
        let settled = sleep(SETTLED);
        tokio::pin!(settled);
        let mut is_settled = false;
        Self::reap(queues).await;
        loop {
            tokio::select! {
                _ = beats.tick() => {
                    if let Err(failed) = queues.beat(own).await {
                        tracing::warn!(%failed, "this replica's queue has missed a heartbeat");
                    }
                    Self::reap(queues).await;
                }
                () = &mut settled, if !is_settled => {
                    is_settled = true;
                    self.sweep.begin();
                }
            }
        }
    }

    async fn reap(queues: &Queues) {
        match Box::pin(queues.reap()).await {
            Ok(0) => {}
            Ok(queues) => tracing::info!(queues, "what other replicas left behind was removed"),
            Err(failed) => tracing::warn!(%failed, "not all that other replicas left behind was looked at"),
        }
    }

    /// Receives until there is no such queue. Returns whether there ever was.
    async fn receive(&self, url: &str) -> bool {
        let receiver = Receiver {
            url: url.to_owned(),
            ..self.receiver.clone()
        };
        // What is yet to be compared since it fell silent, or since the start.
        let compares = AtomicU64::new(NOTHING);
        let has_heard = AtomicBool::new(false);
        let told = |silence: Option<&Silence>| match silence {
            None => {
                has_heard.store(true, Ordering::Relaxed);
                self.is_heard(url, &compares);
            }
            Some(Silence::Gone) => {
                compares.store(NOTHING, Ordering::Relaxed);
                self.is_silent(&format!("there is no queue {url}"));
            }
            Some(Silence::Away(why)) => {
                compares.store(NOTHING, Ordering::Relaxed);
                self.is_silent(&format!("{url}: {why}"));
            }
        };
        receiver.run(told).await;
        has_heard.into_inner()
    }

    /// Messages come. What was lost before that is found when all is compared, and then watchers miss nothing any more.
    fn is_heard(&self, url: &str, compares: &AtomicU64) {
        self.part.is_ready(url);
        self.metrics.source_is(true);
        if self.hub.is_hearing() {
            return;
        }
        if compares.load(Ordering::Relaxed) == NOTHING {
            compares.store(self.sweep.begin(), Ordering::Relaxed);
        }
        if self.sweep.has_answered(compares.load(Ordering::Relaxed)) {
            self.hub.hears(true);
        }
    }

    fn is_silent(&self, why: &str) {
        self.part
            .is_away(&format!("{why}; the sweep alone finds what others change"));
        self.metrics.source_is(false);
        self.hub.hears(false);
    }
}
