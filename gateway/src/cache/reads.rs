//! Reads. What is not near is asked for: once for all who come meanwhile, and together where one caller wants many.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, join_all};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use tracing::{Instrument as _, info_span};

use super::fence::{Fence, ReadTicket};
use super::known::{Known, Look, Verdict};
use super::{Cache, Changed, Consistency, Doubt, Freshness, Read, Source};
use crate::backend::{Access, Backend, BackendError, Entry, ReadMany, scope_root};
use crate::clock::backoff;
use crate::identity::VerifiedTenant;
use crate::key::TenantId;
use crate::placement::{CachePolicy, Place};
use crate::telemetry::TRACE;

/// How often a store is asked again that answered with what stood before what was seen.
const BEHIND: usize = 5;
/// Waits before that.
const WAITS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// What a read brought. None: it went with others, and their values took all the room there was.
type Landed = Result<Option<Arc<Known>>, BackendError>;

/// A read that others may wait for.
#[derive(Clone)]
pub(super) struct Flight {
    /// By whose credentials, and in whose turn.
    tenant: TenantId,
    began: Instant,
    landing: Shared<BoxFuture<'static, Landed>>,
}

/// Who wants to know what stands where.
struct Asker<'a> {
    tenant: &'a VerifiedTenant,
    backend: &'a Arc<dyn Backend>,
    place: &'a Place,
    policy: CachePolicy,
    consistency: Consistency,
    came: Instant,
}

/// What is kept of a place, for one who reads it.
enum Near {
    Fresh(Arc<Known>),
    /// It is served, and asked for behind the caller.
    Stale(Arc<Known>),
    /// The store is to be asked. What is kept is better than nothing.
    Not(Option<Arc<Known>>),
}

/// Whose read one goes with, narrower from one to the next.
#[derive(Clone, Copy)]
enum Company {
    /// Any that is as young as what is kept may be.
    Recent,
    /// One's own tenant's, that began since one came.
    Own,
    /// Only one's own.
    Nobody,
}

/// A read that is waited for, and in which company.
struct Boarded {
    flight: Flight,
    company: Company,
}

impl Cache {
    /// What stands at `place`, in `backend`.
    pub async fn read(
        self: &Arc<Self>,
        tenant: &VerifiedTenant,
        backend: &Arc<dyn Backend>,
        place: &Place,
        policy: CachePolicy,
        consistency: Consistency,
    ) -> Result<Read<Option<Entry>>, BackendError> {
        // The third wall stands before the cache too: what is kept was once read for somebody.
        scope_root(tenant, place.name.range(), Access::Read)?;
        let came = Instant::now();
        let kept = match self.near(place, policy, consistency, came) {
            Near::Fresh(known) => {
                if self.is_to_be_looked_at(&known, backend, came)
                    && let Some(departure) = self.revalidate(tenant, place)
                {
                    tokio::spawn(departure.read(tenant.clone(), Arc::clone(backend)).in_current_span());
                }
                return Ok(served(&known, Source::Cache));
            }
            Near::Stale(known) => {
                if let Some(departure) = self.revalidate(tenant, place) {
                    tokio::spawn(departure.read(tenant.clone(), Arc::clone(backend)).in_current_span());
                }
                return Ok(self.stale(&known));
            }
            Near::Not(kept) => kept,
        };
        let asker = Asker {
            tenant,
            backend,
            place,
            policy,
            consistency,
            came,
        };
        let span = info_span!(target: TRACE, "cache", tagway.backend = &*place.backend);
        // Apart, for the room that it takes is room that each read of what is near would have to make too.
        Box::pin(self.ask(asker, kept).instrument(span)).await
    }

    /// Asks for what is not near, or not any more.
    async fn ask(
        self: &Arc<Self>,
        asker: Asker<'_>,
        kept: Option<Arc<Known>>,
    ) -> Result<Read<Option<Entry>>, BackendError> {
        let (boarded, departure) = self.board(&asker, Company::of(asker.consistency));
        if let Some(departure) = departure {
            tokio::spawn(
                departure
                    .read(asker.tenant.clone(), Arc::clone(asker.backend))
                    .in_current_span(),
            );
        }
        let landed = self.land(&asker, boarded).await;
        let landed = landed.and_then(|known| known.ok_or_else(unanswered));
        match (landed, kept) {
            (Ok(known), _) => Ok(served(&known, Source::Backend)),
            (Err(_), Some(kept)) if kept.stands_in(asker.policy, Instant::now()) => Ok(self.stale(&kept)),
            (Err(error), _) => Err(error),
        }
    }

    /// What stands at each of these places of one `backend`, in their order: what is not known is asked for at once. No further
    /// value once so many `bytes` of those are together.
    pub async fn read_many(
        self: &Arc<Self>,
        tenant: &VerifiedTenant,
        backend: &Arc<dyn Backend>,
        places: &[(&Place, CachePolicy, Consistency)],
        bytes: usize,
    ) -> Vec<Result<Read<ReadMany>, BackendError>> {
        let came = Instant::now();
        let (mut departures, mut revalidations) = (Vec::new(), Vec::new());
        let mut answers = Vec::with_capacity(places.len());
        for &(place, policy, consistency) in places {
            if let Err(foreign) = scope_root(tenant, place.name.range(), Access::Read) {
                answers.push(Answer::Near(Err(foreign)));
                continue;
            }
            let kept = match self.near(place, policy, consistency, came) {
                Near::Fresh(known) => {
                    if self.is_to_be_looked_at(&known, backend, came) {
                        revalidations.extend(self.revalidate(tenant, place));
                    }
                    answers.push(Answer::Near(Ok(of_many(served(&known, Source::Cache)))));
                    continue;
                }
                Near::Stale(known) => {
                    revalidations.extend(self.revalidate(tenant, place));
                    answers.push(Answer::Near(Ok(of_many(self.stale(&known)))));
                    continue;
                }
                Near::Not(kept) => kept,
            };
            let asker = Asker {
                tenant,
                backend,
                place,
                policy,
                consistency,
                came,
            };
            let (boarded, departure) = self.board(&asker, Company::of(consistency));
            departures.extend(departure);
            answers.push(Answer::Far { asker, boarded, kept });
        }
        // What somebody waits for comes first, should there be no room for all.
        departures.append(&mut revalidations);
        if !departures.is_empty() {
            tokio::spawn(read_together(departures, tenant.clone(), Arc::clone(backend), bytes).in_current_span());
        }
        let answers = answers.into_iter().map(async |answer| {
            let (asker, boarded, kept) = match answer {
                Answer::Near(near) => return near,
                Answer::Far { asker, boarded, kept } => (asker, boarded, kept),
            };
            match (self.land(&asker, boarded).await, kept) {
                (Ok(Some(known)), _) => Ok(of_many(served(&known, Source::Backend))),
                (Ok(None), _) => Ok(Read {
                    found: ReadMany::Unread,
                    freshness: Freshness::now(),
                }),
                (Err(_), Some(kept)) if kept.stands_in(asker.policy, Instant::now()) => Ok(of_many(self.stale(&kept))),
                (Err(error), _) => Err(error),
            }
        });
        let span = info_span!(target: TRACE, "cache", tagway.places = places.len());
        join_all(answers).instrument(span).await
    }

    /// What is near, as far as it may be served.
    fn near(&self, place: &Place, policy: CachePolicy, consistency: Consistency, came: Instant) -> Near {
        let known = match consistency {
            Consistency::Latest => None,
            Consistency::Cached | Consistency::Since(_) | Consistency::After(_) => self.known.get(place),
        };
        let Some(known) = known else {
            return Near::Not(None);
        };
        match (known.look(policy, came), consistency) {
            (_, Consistency::Since(since) | Consistency::After(since)) if known.holds() && known.as_of >= since => {}
            (_, Consistency::After(_)) => return Near::Not(Some(known)),
            (Look::Fresh, _) => {}
            (Look::Stale, Consistency::Cached) => return Near::Stale(known),
            _ => return Near::Not(Some(known)),
        }
        match known.entry {
            Some(_) => self.counts.hits.up(),
            None => self.counts.negatives.up(),
        }
        Near::Fresh(known)
    }

    /// Whether others may have changed it since it was looked at last, and no event told of it: so what is read is compared
    /// with its store behind the reader's back, though its time is not over.
    fn is_to_be_looked_at(&self, known: &Known, backend: &Arc<dyn Backend>, now: Instant) -> bool {
        let is_due = |after| now.saturating_duration_since(known.as_of) >= after;
        self.look_again.is_some_and(is_due) && backend.capabilities().others_write
    }

    fn stale(&self, known: &Arc<Known>) -> Read<Option<Entry>> {
        self.counts.stale.up();
        served(known, Source::Stale)
    }

    /// The read that `asker` waits for; and the same to be begun, if none is under way for that company.
    fn board(self: &Arc<Self>, asker: &Asker<'_>, company: Company) -> (Boarded, Option<Departure>) {
        self.counts.misses.up();
        let mut shard = self.shard(asker.place);
        let flight = shard.at(asker.place).and_then(|fence| fence.flight());
        if let Some(flight) = flight.filter(|flight| asker.may_join(flight, company)) {
            let flight = flight.clone();
            return (Boarded { flight, company }, None);
        }
        let (flight, departure) = self.depart(shard.fence(asker.place), asker.tenant, asker.place);
        let company = Company::Nobody;
        (Boarded { flight, company }, Some(departure))
    }

    /// A read behind everybody's back, if none is under way.
    fn revalidate(self: &Arc<Self>, tenant: &VerifiedTenant, place: &Place) -> Option<Departure> {
        let mut shard = self.shard(place);
        let fence = shard.fence(place);
        if fence.flight().is_some() {
            return None;
        }
        Some(self.depart(fence, tenant, place).1)
    }

    fn depart(
        self: &Arc<Self>,
        fence: &mut Fence<Flight>,
        tenant: &VerifiedTenant,
        place: &Place,
    ) -> (Flight, Departure) {
        let (tell, told) = oneshot::channel();
        let landing = told.map(|told: Result<Landed, _>| told.unwrap_or_else(|_| Err(unanswered())));
        let departure = Departure {
            cache: Arc::clone(self),
            place: place.clone(),
            ticket: Some(fence.begin_read()),
            tell: Some(tell),
        };
        let flight = Flight {
            tenant: tenant.id().clone(),
            began: Instant::now(),
            landing: landing.boxed().shared(),
        };
        fence.let_wait(flight.clone());
        (flight, departure)
    }

    /// What the read brings that was boarded. Who is not served by what another's brought asks again.
    async fn land(self: &Arc<Self>, asker: &Asker<'_>, mut boarded: Boarded) -> Landed {
        loop {
            let Boarded { flight, company } = boarded;
            let landed = flight.landing.await;
            let is_answer = match (&landed, company) {
                (_, Company::Nobody) => true,
                (Ok(Some(known)), _) => asker.is_since(known.as_of) || asker.is_content(known),
                // It was another batch that had no room.
                (Ok(None), _) => false,
                // What another tenant meets with is no answer to this one.
                (Err(_), _) => flight.tenant == *asker.tenant.id(),
            };
            if is_answer {
                return landed;
            }
            let (next, departure) = self.board(asker, company.narrower());
            if let Some(departure) = departure {
                tokio::spawn(
                    departure
                        .read(asker.tenant.clone(), Arc::clone(asker.backend))
                        .in_current_span(),
                );
            }
            boarded = next;
        }
    }
}

/// One of many answers.
enum Answer<'a> {
    Near(Result<Read<ReadMany>, BackendError>),
    Far {
        asker: Asker<'a>,
        boarded: Boarded,
        kept: Option<Arc<Known>>,
    },
}

impl Company {
    fn of(consistency: Consistency) -> Self {
        match consistency {
            Consistency::Cached | Consistency::Since(_) | Consistency::After(_) => Self::Recent,
            Consistency::Latest => Self::Nobody,
        }
    }

    fn narrower(self) -> Self {
        match self {
            Self::Recent => Self::Own,
            Self::Own | Self::Nobody => Self::Nobody,
        }
    }
}

impl Asker<'_> {
    /// Whether that is late enough, whatever the policy says.
    fn is_since(&self, as_of: Instant) -> bool {
        match self.consistency {
            Consistency::Since(since) | Consistency::After(since) => as_of >= since,
            Consistency::Cached | Consistency::Latest => false,
        }
    }

    /// Whether that is young enough for the policy, where the policy counts.
    fn is_content(&self, known: &Known) -> bool {
        !matches!(self.consistency, Consistency::After(_)) && known.answers(self.policy, self.came)
    }

    fn may_join(&self, flight: &Flight, company: Company) -> bool {
        match company {
            Company::Recent if self.is_since(flight.began) => true,
            Company::Recent if matches!(self.consistency, Consistency::After(_)) => false,
            Company::Recent => {
                let age = self.came.saturating_duration_since(flight.began);
                age <= self.policy.ttl.max(self.policy.negative)
            }
            Company::Own => flight.tenant == *self.tenant.id() && flight.began >= self.came,
            Company::Nobody => false,
        }
    }
}

/// A read that is under way, until this is dropped. It goes on whoever leaves.
struct Departure {
    cache: Arc<Cache>,
    place: Place,
    ticket: Option<ReadTicket>,
    tell: Option<oneshot::Sender<Landed>>,
}

impl Departure {
    async fn read(mut self, tenant: VerifiedTenant, backend: Arc<dyn Backend>) {
        let landed = self.ask(&tenant, &*backend).await;
        self.land(landed);
    }

    /// Asks the store, and again where it is behind what was seen before.
    async fn ask(&mut self, tenant: &VerifiedTenant, backend: &dyn Backend) -> Landed {
        let mut waits = backoff(WAITS).take(BEHIND);
        loop {
            let began = Instant::now();
            let entry = backend.read(tenant, &self.place.name).await?;
            let wait = waits.next();
            if let Some(known) = self.judge(backend, entry, began, wait.is_none()) {
                return Ok(Some(known));
            }
            sleep(wait.ok_or_else(behind)?).await;
        }
    }

    /// What the store said that was asked at `began`, kept if it may be. None: it is behind, and this read goes on; or may be,
    /// and this is not the `last` time that it is asked.
    fn judge(&mut self, backend: &dyn Backend, entry: Option<Entry>, began: Instant, last: bool) -> Option<Arc<Known>> {
        let mut shard = self.cache.shard(&self.place);
        let before = self.cache.known.peek(&self.place);
        let known = match Known::heard(entry, began, before.as_deref(), backend.capabilities().reads_lag) {
            Verdict::Holds(known) => known,
            Verdict::Doubtful(known) if last => known,
            Verdict::Doubtful(_) | Verdict::Behind => return None,
        };
        let ticket = self.ticket.take()?;
        // Who has seen this does not wait for a read that looked before it, however late that began.
        let is_news = before.as_ref().and_then(|before| before.etag()) != known.etag();
        let may_keep = shard.at(&self.place).is_some_and(|fence| {
            let may_keep = fence.end_read(ticket);
            if is_news {
                fence.let_nobody_wait();
            }
            may_keep
        });
        shard.leave(&self.place);
        let is_newest = before.as_ref().is_none_or(|before| before.as_of <= began);
        let was_believed = before.as_ref().filter(|before| before.holds() && is_newest);
        if was_believed.is_some_and(|before| before.etag() != known.etag()) {
            // Nobody told of it. Who watches it has not heard of it.
            let (since, doubt) = (began, Doubt::None);
            self.cache.feed.put(&self.place, Changed { since, doubt });
        }
        if may_keep && is_newest {
            return Some(self.cache.keep(&self.place, known));
        }
        if let Some(before) = before.filter(|before| is_newest && before.etag() != known.etag()) {
            // Who has seen this does not see what stood before it again.
            self.cache.doubt_known(&self.place, &before);
        }
        Some(Arc::new(known))
    }

    fn land(mut self, landed: Landed) {
        self.give_up();
        if let Some(tell) = self.tell.take() {
            // Whoever waited may have left.
            _ = tell.send(landed);
        }
    }

    /// It has no answer, unless it has.
    fn give_up(&mut self) {
        let Some(ticket) = self.ticket.take() else {
            return;
        };
        let mut shard = self.cache.shard(&self.place);
        if let Some(fence) = shard.at(&self.place) {
            fence.give_up_read(ticket);
        }
        shard.leave(&self.place);
    }
}

impl Drop for Departure {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// Asks the store for all of them at once, and by itself for each of which it is behind.
async fn read_together(departures: Vec<Departure>, tenant: VerifiedTenant, backend: Arc<dyn Backend>, bytes: usize) {
    let names: Vec<_> = departures
        .iter()
        .map(|departure| departure.place.name.clone())
        .collect();
    let names: Vec<_> = names.iter().collect();
    let began = Instant::now();
    let found = backend.read_many(&tenant, &names, bytes).await;
    let mut again = Vec::new();
    for (mut departure, found) in departures.into_iter().zip(found) {
        let entry = match found {
            Ok(ReadMany::Found(entry)) => Some(entry),
            Ok(ReadMany::Nothing) => None,
            Ok(ReadMany::Unread) => {
                departure.land(Ok(None));
                continue;
            }
            Err(error) => {
                departure.land(Err(error));
                continue;
            }
        };
        match departure.judge(&*backend, entry, began, false) {
            Some(known) => departure.land(Ok(Some(known))),
            None => again.push(departure.read(tenant.clone(), Arc::clone(&backend))),
        }
    }
    join_all(again).await;
}

fn served(known: &Arc<Known>, source: Source) -> Read<Option<Entry>> {
    Read {
        found: known.entry.clone(),
        freshness: Freshness {
            source,
            as_of: known.as_of,
            until: known.until,
        },
    }
}

fn of_many(read: Read<Option<Entry>>) -> Read<ReadMany> {
    Read {
        found: read.found.map_or(ReadMany::Nothing, ReadMany::Found),
        freshness: read.freshness,
    }
}

fn behind() -> BackendError {
    BackendError::Away("it answers with what stood before: a replica of it is behind".to_owned())
}

fn unanswered() -> BackendError {
    BackendError::Damaged("a read of it ended without an answer".to_owned())
}
