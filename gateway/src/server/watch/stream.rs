//! One stream: who is there and for how long. It begins and ends subscriptions, and goes when the token or the gateway does.

use std::collections::HashMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use prost::Message as _;
use prost_types::Timestamp;
use tagway_proto::v1;
use tagway_proto::v1::watch_configs_request::{Ack, Kind as Asking, Renew, Subscribe, Unsubscribe};
use tagway_proto::v1::watch_configs_response::{Closing, Kind, Progress, Session};
use tokio::sync::watch;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};
use tonic::{Code, Status, Streaming};

use super::Watches;
use super::messages::{asked, checked, ended, is_of_a_message, of};
use crate::clock::until;
use crate::config::ConfigError;
use crate::identity::{IdentityError, Reader, VerifiedTenant};
use crate::quota::{Kept, Share};
use crate::server::shape::shaped;
use crate::server::status::{self, invalid};
use crate::server::within_quota::Sent;
use crate::watch::{Ledger, Listed, Marks, Outbox, Reserve, Room, Subscription};

/// Between two messages that say how far all is, at most.
const PROGRESS: Duration = Duration::from_secs(15);
/// Longest word of a client's on what it refuses, in characters.
const REFUSAL_CHARS: usize = 256;
/// Between two of them in the log.
const REFUSAL_PAUSE: Duration = Duration::from_secs(1);

type Response = v1::WatchConfigsResponse;

/// Why a stream ends.
pub(super) enum End {
    /// Its token is over.
    Token,
    /// It was told to go.
    Closing,
    /// Its client has gone.
    Gone,
    /// Its client said what cannot be.
    Refused(Status),
}

impl End {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Token => "token_over",
            Self::Closing => "closing",
            Self::Gone => "gone",
            Self::Refused(_) => "refused",
        }
    }

    pub(super) fn status(self) -> Status {
        match self {
            Self::Token => status::token_over(),
            Self::Closing => status::closing(),
            Self::Gone => Status::cancelled("the client is gone"),
            Self::Refused(status) => status,
        }
    }
}

/// What a client sends on a stream.
pub(in crate::server) struct Requests {
    pub(in crate::server) requests: Streaming<v1::WatchConfigsRequest>,
    /// What of it has come and is kept, where that is counted.
    pub(in crate::server) sent: Option<Arc<Sent>>,
}

impl Requests {
    async fn next(&mut self) -> Result<Option<v1::WatchConfigsRequest>, Status> {
        let next = self.requests.message().await;
        if let Some(sent) = &self.sent {
            sent.is_whole();
        }
        next
    }
}

/// A subscription that lives.
struct Live {
    task: AbortHandle,
    marks: Arc<Marks>,
    ledger: Arc<Ledger>,
    /// For the word that it has ended.
    room: Room,
    /// What it was begun with.
    _kept: Kept,
}

/// What a stream has of the gateway for as long as it lives.
pub(super) struct Admitted {
    /// Its line in the roster.
    pub(super) listed: Listed,
    /// What is its tenant's.
    pub(super) share: Arc<Share>,
}

/// One stream of one client: who is there and for how long, and which subscriptions live. It goes when the token or the gateway does.
pub(super) struct WatchStream {
    watches: Arc<Watches>,
    admitted: Admitted,
    /// When its connection began: however late a stream begins on it, it ends with it.
    connected: Instant,
    tenant: VerifiedTenant,
    /// Whether the newest token may.
    may_read: Result<(), IdentityError>,
    readers: watch::Sender<Reader>,
    outbox: Outbox<Response>,
    ends: Reserve,
    live: HashMap<Arc<str>, Live>,
    ids: HashMap<Id, Arc<str>>,
    tasks: JoinSet<ConfigError>,
    refusal_logged: Option<Instant>,
}

type Renewed = (Result<VerifiedTenant, IdentityError>, Room);

/// A request, and room for what it is answered: at once, and when the subscription that it begins has ended.
struct Heard {
    request: Result<Option<v1::WatchConfigsRequest>, Status>,
    answer: Room,
    end: Room,
}

impl WatchStream {
    pub(super) fn new(
        watches: Arc<Watches>,
        admitted: Admitted,
        connected: Instant,
        tenant: VerifiedTenant,
        reader: Reader,
        outbox: Outbox<Response>,
    ) -> Self {
        Self {
            admitted,
            connected,
            tenant,
            may_read: Ok(()),
            readers: watch::Sender::new(reader),
            outbox,
            // As many again as may live, so that who reads is never kept waiting.
            ends: Reserve::new(2 * watches.subscriptions),
            live: HashMap::new(),
            ids: HashMap::new(),
            tasks: JoinSet::new(),
            refusal_logged: None,
            watches,
        }
    }

    /// Serves it to its end, and says why that is.
    pub(super) async fn run(mut self, mut requests: Requests) -> End {
        let watches = Arc::clone(&self.watches);
        let mut is_open = true;
        let mut closes_at: Option<Instant> = None;
        let mut is_stopping = false;
        let mut generations = watches.configs.generations();
        let mut renewal: Option<BoxFuture<'static, Renewed>> = None;
        let age = sleep_until(self.connected + crate::clock::jittered(watches.age));
        tokio::pin!(age);
        let mut progress = interval_at(Instant::now() + PROGRESS, PROGRESS);
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.outbox.send_anyway(self.session(None));
        loop {
            let caller = Arc::clone(self.tenant.caller());
            tokio::select! {
                biased;
                () = watches.verifier.until_over(&caller) => return End::Token,
                () = self.outbox.closed() => return End::Gone,
                () = until(closes_at) => return End::Closing,
                () = watches.stop.cancelled(), if !is_stopping => {
                    is_stopping = true;
                    let drained = self.close(watches.drain);
                    closes_at = closes_at.into_iter().chain([drained]).min();
                }
                () = &mut age, if closes_at.is_none() => closes_at = Some(self.close(watches.grace)),
                Some(ended) = self.tasks.join_next_with_id() => self.ended(ended),
                (renewed, room) = answer(&mut renewal) => {
                    renewal = None;
                    self.renewed(renewed, room);
                }
                Ok(()) = generations.changed() => self.fall_behind(),
                _ = progress.tick() => self.progress(),
                // Who does not read what it is answered is not listened to.
                heard = next(&self.outbox, &self.ends, &mut requests), if is_open && renewal.is_none() => {
                    let Heard { request, answer, end } = heard;
                    match request {
                        Ok(Some(request)) => match self.take(request, answer, end) {
                            Ok(next) => renewal = next,
                            Err(status) => return End::Refused(status),
                        },
                        Ok(None) => is_open = false,
                        Err(status) if is_of_a_message(&status) => return End::Refused(shaped(&status)),
                        // It sends more than is kept for it.
                        Err(status) if status.code() == Code::ResourceExhausted => return End::Refused(status),
                        Err(_) => return End::Gone,
                    }
                }
            }
        }
    }

    fn take(
        &mut self,
        request: v1::WatchConfigsRequest,
        answer: Room,
        end: Room,
    ) -> Result<Option<BoxFuture<'static, Renewed>>, Status> {
        match request.kind {
            Some(Asking::Subscribe(subscribe)) => self.subscribe(subscribe, answer, end)?,
            Some(Asking::Unsubscribe(Unsubscribe { id })) => match self.live.get(&*id) {
                // It says so when it has.
                Some(live) => live.task.abort(),
                None => self
                    .outbox
                    .send(of(&checked("unsubscribe.id", &id)?, ended(None)), answer),
            },
            Some(Asking::Ack(ack)) => self.acknowledged(&ack),
            Some(Asking::Renew(Renew { token })) => {
                // To verify one takes as much as a request does.
                if let Err(exceeded) = self.admitted.share.message() {
                    let failure = status::quota(exceeded);
                    self.outbox.send(self.session(Some(&failure)), answer);
                    return Ok(None);
                }
                let (verifier, tenant) = (Arc::clone(&self.watches.verifier), self.tenant.clone());
                let renewal = async move { (verifier.renew(&tenant, &token).await, answer) };
                return Ok(Some(Box::pin(renewal)));
            }
            // Of a newer client than this gateway is.
            None => {}
        }
        Ok(None)
    }

    fn subscribe(&mut self, subscribe: Subscribe, answer: Room, end: Room) -> Result<(), Status> {
        let id = checked("subscribe.id", &subscribe.id)?;
        if self.live.contains_key(&id) {
            return Err(invalid("subscribe.id", "names a subscription that this stream has"));
        }
        let limit = self.watches.subscriptions;
        let kept = self.admitted.share.kept();
        let bytes = subscribe.encoded_len() as u64;
        let asked = match &self.may_read {
            Err(error) => Err(status::identity(error)),
            Ok(()) if self.live.len() >= limit => Err(status::too_many_subscriptions(limit)),
            // It asks for as much as a request does.
            Ok(()) => self
                .admitted
                .share
                .message()
                .and_then(|()| kept.holds(bytes))
                .map_err(status::quota)
                .and_then(|()| asked(&id, subscribe)),
        };
        let asked = match asked {
            Ok(asked) => asked,
            Err(refused) => {
                self.outbox.send(of(&id, ended(Some(&refused))), answer);
                return Ok(());
            }
        };
        let subscription = Subscription::new(
            asked,
            Arc::clone(&self.watches.configs),
            Arc::clone(&self.watches.hub),
            self.outbox.clone(),
            self.readers.subscribe(),
            self.admitted.share.watched(),
        );
        let (marks, ledger) = (Arc::clone(subscription.marks()), Arc::clone(subscription.ledger()));
        self.admitted.listed.stream().begins(&id, &ledger, &marks);
        let task = self.tasks.spawn(subscription.run());
        self.ids.insert(task.id(), Arc::clone(&id));
        let live = Live {
            task,
            marks,
            ledger,
            room: end,
            _kept: kept,
        };
        self.live.insert(id, live);
        Ok(())
    }

    /// A subscription is over: aborted, where its client or its token no longer wants it, or unable to go on.
    fn ended(&mut self, joined: Result<(Id, ConfigError), JoinError>) {
        let (task, failure) = match joined {
            Ok((task, error)) => (task, Some(status::config(error, "subscribe"))),
            Err(error) if error.is_cancelled() => {
                let denied = self.may_read.as_ref().err().map(status::identity);
                (error.id(), denied)
            }
            Err(error) => (error.id(), Some(status::internal("the subscription broke down"))),
        };
        // Each task has its id.
        if let Some(id) = self.ids.remove(&task)
            && let Some(Live { room, .. }) = self.live.remove(&id)
        {
            self.admitted.listed.stream().ends(&id);
            self.outbox.send(of(&id, ended(failure.as_ref())), room);
        }
    }

    fn renewed(&mut self, renewed: Result<VerifiedTenant, IdentityError>, room: Room) {
        let tenant = match renewed {
            Ok(tenant) => tenant,
            Err(error) => {
                let failure = status::identity(&error);
                return self.outbox.send(self.session(Some(&failure)), room);
            }
        };
        self.tenant = tenant.clone();
        self.may_read = tenant.reader().map(|reader| _ = self.readers.send_replace(reader));
        if self.may_read.is_err() {
            // What it may not any more ends at once.
            self.tasks.abort_all();
        }
        // Strategies may decide otherwise for it.
        self.fall_behind();
        self.outbox.send(self.session(None), room);
    }

    /// What subscriptions show is not known to be what they are to show, until they have compared.
    fn fall_behind(&self) {
        for live in self.live.values() {
            live.marks.falls_behind();
        }
    }

    /// For operators: what a client runs with, and what it holds and does not run with.
    fn acknowledged(&mut self, ack: &Ack) {
        let Some(live) = self.live.get(&*ack.subscription_id) else {
            return;
        };
        let clean = |text: &str| -> String { text.chars().filter(|c| !c.is_control()).take(REFUSAL_CHARS).collect() };
        let refusal = (!ack.error.is_empty()).then(|| clean(&ack.error));
        if let Ok(etag) = ack.etag.parse() {
            live.ledger.acknowledge(&ack.key, etag, refusal.clone().map(Into::into));
        }
        let now = Instant::now();
        let was_just_logged = self.refusal_logged.is_some_and(|last| now < last + REFUSAL_PAUSE);
        let Some(refusal) = refusal.filter(|_| !was_just_logged) else {
            return;
        };
        self.refusal_logged = Some(now);
        tracing::warn!(
            tenant = %self.tenant.id(), key = clean(&ack.key), etag = clean(&ack.etag), error = refusal,
            "a watcher refuses a value"
        );
    }

    fn session(&self, failure: Option<&Status>) -> Response {
        let session = Session {
            expire_time: Some(Timestamp::from(self.tenant.caller().expires())),
            progress_interval: PROGRESS.try_into().ok(),
            failure: failure.map(status::failure),
            server_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        of("", Kind::Session(session))
    }

    /// Tells the client to come again, each at another moment; and when the stream is cut.
    fn close(&self, within: Duration) -> Instant {
        let delay = within.mul_f64(fastrand::f64());
        let closing = Closing {
            delay: delay.try_into().ok(),
        };
        self.outbox.send_anyway(of("", Kind::Closing(closing)));
        Instant::now() + delay
    }

    /// How far all is. Who has not read what came before learns it from the next.
    fn progress(&self) {
        let Some(room) = self.outbox.try_room(0) else {
            return;
        };
        let now = self.watches.clock.now();
        let subscriptions = self.live.values().map(|live| live.marks.progress());
        let mut is_stale = !self.watches.hub.is_hearing();
        let mut behind_since = self.watches.hub.untold_since();
        for progress in subscriptions {
            is_stale |= progress.is_stale;
            if progress.is_synced {
                behind_since = behind_since.into_iter().chain(progress.behind_since).min();
            }
        }
        let behind = behind_since.map_or(Duration::ZERO, |since| since.elapsed());
        let progress = Progress {
            as_of: now.checked_sub(behind).map(Timestamp::from),
            stale: is_stale,
        };
        self.outbox.send(of("", Kind::Progress(progress)), room);
    }
}

/// The next request, once there is room for what it is answered.
async fn next(outbox: &Outbox<Response>, ends: &Reserve, requests: &mut Requests) -> Heard {
    let end = ends.room().await;
    let answer = outbox.room(0).await;
    Heard {
        request: requests.next().await,
        answer,
        end,
    }
}

async fn answer(renewal: &mut Option<BoxFuture<'static, Renewed>>) -> Renewed {
    match renewal {
        Some(renewal) => renewal.await,
        None => pending().await,
    }
}
