//! `WatchConfigs`: streams of clients, each with all of its subscriptions. What a subscription sends is its own matter.

mod messages;
mod responses;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;

use super::peer::Peer;
use super::status;
use crate::clock::Clock;
use crate::config::Configs;
use crate::identity::{VerifiedTenant, Verifier};
use crate::quota::Quotas;
use crate::settings::{LimitSettings, ServerSettings};
use crate::watch::{Hub, outbox};

pub(super) use responses::Responses;
use stream::{Admitted, WatchStream};

pub(super) use stream::Requests;

/// The watches of one gateway.
pub(crate) struct Watches {
    configs: Arc<Configs>,
    verifier: Arc<Verifier>,
    hub: Arc<Hub>,
    quotas: Arc<Quotas>,
    clock: Clock,
    /// Of one stream.
    subscriptions: usize,
    age: Duration,
    /// Over how long streams are told to go.
    grace: Duration,
    drain: Duration,
    stop: CancellationToken,
    streams: TaskTracker,
}

impl Watches {
    pub(crate) fn new(
        configs: Arc<Configs>,
        verifier: Arc<Verifier>,
        hub: Arc<Hub>,
        quotas: Arc<Quotas>,
        server: &ServerSettings,
        limits: &LimitSettings,
        stop: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            configs,
            verifier,
            hub,
            quotas,
            clock: Clock::system(),
            subscriptions: limits.subscriptions as usize,
            age: server.max_connection_age,
            grace: server.max_connection_grace,
            // The rest is for what comes after it.
            drain: server.drain / 2,
            stop,
            streams: TaskTracker::new(),
        })
    }

    /// Waits until all streams have ended, once they were told to.
    pub(super) async fn ended(&self) {
        self.streams.close();
        self.streams.wait().await;
    }

    /// Begins one.
    pub(super) fn open(
        self: &Arc<Self>,
        tenant: VerifiedTenant,
        peer: Option<&Peer>,
        requests: Requests,
    ) -> Result<Responses, Status> {
        let reader = tenant.clone().reader().map_err(|error| status::identity(&error))?;
        let share = self.quotas.of(tenant.id());
        let counted_stream = share.stream().map_err(status::quota)?;
        let (outbox, outgoing) = outbox();
        let (end, ended) = oneshot::channel();
        let address = peer.map(|peer| peer.address.to_string()).unwrap_or_default();
        let listed = self.hub.roster().list(address, tenant.clone(), self.clock.now());
        let counted = Arc::clone(listed.stream());
        let admitted = Admitted { listed, share };
        let connected = peer.map_or_else(Instant::now, |peer| peer.since);
        let stream = WatchStream::new(Arc::clone(self), admitted, connected, tenant, reader, outbox);
        let metrics = self.hub.metrics().clone();
        self.streams.spawn(async move {
            let counted = metrics.stream();
            let why = stream.run(requests).await;
            drop(counted);
            metrics.ended(why.name());
            // Where nobody is there any more, nobody is told.
            _ = end.send(why.status());
        });
        Ok(Responses {
            outgoing,
            ended: Some(ended),
            stream: counted,
            _counted: counted_stream,
        })
    }
}
