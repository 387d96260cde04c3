//! What stands in the stores, near at hand. Nothing is asked for twice at once, nothing is served that is older than the
//! reader's policy allows, and a gateway's own writes are never read back as what stood before.
//!
//! What is kept lies in one bounded cache; it is looked up without a lock. What is under way lies beside it, place by place,
//! as long as it is: that is what decides whether an answer may be kept (`fence`).

mod fence;
mod known;

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use quick_cache::Weighter;
use quick_cache::sync::Cache as QuickCache;
use tokio::time::{Instant, sleep};

use crate::backend::{Access, Backend, BackendError, Conditions, Entry, NewEntry, ReadMany, WriteError, scope_root};
use crate::clock::backoff;
use crate::identity::VerifiedTenant;
use crate::key::{Etag, TenantId};
use crate::placement::{CachePolicy, Place};
use fence::{Fence, WriteTicket};
use known::{Known, Look};

/// Of an entry, besides its texts: handles, times, the cache's own.
const PER_ENTRY_BYTES: usize = 256;
/// A guess at the size of an entry, for sizing alone.
const TYPICAL_BYTES: u64 = 1024;
/// Locks of what is under way.
const SHARDS: usize = 64;
/// How often a store is asked again that answered with what stood before what was seen.
const BEHIND: usize = 5;
/// Waits before that.
const WAITS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// How true an answer has to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Consistency {
    /// As the policy allows.
    #[default]
    Cached,
    /// The store is asked.
    Latest,
}

/// Where an answer came from. What came from several places came from the last of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// It was asked for.
    Backend,
    /// It was there, and believed.
    Cache,
    /// It was there, and past its time.
    Stale,
}

/// How true an answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// Where it came from.
    pub source: Source,
    /// The store was asked then, or later.
    pub as_of: Instant,
    /// It had answered by then.
    pub until: Instant,
}

impl Freshness {
    /// Of a store that was asked for this.
    #[must_use]
    pub fn now() -> Self {
        let now = Instant::now();
        Self {
            source: Source::Backend,
            as_of: now,
            until: now,
        }
    }

    /// Of an answer that rests on both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            source: self.source.max(other.source),
            as_of: self.as_of.min(other.as_of),
            until: self.until.max(other.until),
        }
    }
}

/// What was read.
#[derive(Debug, Clone)]
pub struct Read<T> {
    /// It.
    pub found: T,
    /// How true it is.
    pub freshness: Freshness,
}

type Landing = Shared<BoxFuture<'static, Result<Arc<Known>, BackendError>>>;

/// A read that others may wait for.
#[derive(Clone)]
struct Flight {
    /// By whose credentials, and in whose turn.
    tenant: TenantId,
    landing: Landing,
}

type Shard = HashMap<Place, Fence<Flight>>;

/// The cache of one gateway, over all of its stores.
pub struct Cache {
    known: QuickCache<Place, Arc<Known>, Weight>,
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
    otherwise: CachePolicy,
    most: CachePolicy,
}

#[derive(Clone)]
struct Weight;

impl Weighter<Place, Arc<Known>> for Weight {
    fn weight(&self, place: &Place, known: &Arc<Known>) -> u64 {
        let entry = known.entry.as_ref();
        let texts = entry.map_or(0, |entry| {
            entry.value.len() + entry.content_type.len() + entry.updated_by.len()
        });
        let name = place.name.range().folder().len() + place.name.name().as_str().len();
        (PER_ENTRY_BYTES + name + texts) as u64
    }
}

impl Cache {
    /// One of so many bytes, for those whose placement says nothing `otherwise`, and at most `most` for the others.
    #[must_use]
    pub fn new(bytes: u64, otherwise: CachePolicy, most: CachePolicy) -> Arc<Self> {
        let entries = usize::try_from(bytes / TYPICAL_BYTES).unwrap_or(usize::MAX).max(1);
        Arc::new(Self {
            known: QuickCache::with_weighter(entries, bytes, Weight),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            otherwise: otherwise.at_most(most),
            most,
        })
    }

    /// What a placement's own policy comes to here.
    #[must_use]
    pub fn policy(&self, own: Option<CachePolicy>) -> CachePolicy {
        own.map_or(self.otherwise, |own| own.at_most(self.most))
    }

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
        let kept = match consistency {
            Consistency::Cached => self.known.get(place),
            Consistency::Latest => None,
        };
        match kept.as_ref().map(|known| (known, known.look(policy, Instant::now()))) {
            Some((known, Look::Fresh)) => return Ok(served(known, Source::Cache)),
            Some((known, Look::Stale)) => {
                // Whoever it is asked for, it is asked for once.
                drop(self.flight(tenant, backend, place));
                return Ok(served(known, Source::Stale));
            }
            _ => {}
        }
        let flight = match consistency {
            Consistency::Cached => self.flight(tenant, backend, place),
            Consistency::Latest => self.depart(&mut self.shard(place), tenant, backend, place),
        };
        let mut landed = flight.landing.await;
        if landed.is_err() && flight.tenant != *tenant.id() {
            // What another tenant meets with is no answer to this one.
            let own = self.depart(&mut self.shard(place), tenant, backend, place);
            landed = own.landing.await;
        }
        match (landed, kept) {
            (Ok(known), _) => Ok(served(&known, Source::Backend)),
            (Err(_), Some(kept)) if kept.stands_in(policy, Instant::now()) => Ok(served(&kept, Source::Stale)),
            (Err(error), _) => Err(error),
        }
    }

    /// What stands at each of these places of one `backend`, in their order: what is not known is asked for at once. No further
    /// value once so many `bytes` of those are together.
    pub async fn read_many(
        self: &Arc<Self>,
        tenant: &VerifiedTenant,
        backend: &Arc<dyn Backend>,
        places: &[(&Place, CachePolicy)],
        consistency: Consistency,
        bytes: usize,
    ) -> Vec<Result<Read<ReadMany>, BackendError>> {
        let mut answers: Vec<Option<Result<Read<ReadMany>, BackendError>>> = Vec::with_capacity(places.len());
        let mut asked = Vec::new();
        for (at, (place, policy)) in places.iter().enumerate() {
            if let Err(foreign) = scope_root(tenant, place.name.range(), Access::Read) {
                answers.push(Some(Err(foreign)));
                continue;
            }
            let is_near = consistency == Consistency::Cached
                && self
                    .known
                    .peek(*place)
                    .is_some_and(|known| known.look(*policy, Instant::now()) != Look::Over);
            if is_near {
                let read = self.read(tenant, backend, place, *policy, consistency).await;
                answers.push(Some(read.map(of_many)));
            } else {
                asked.push(at);
                answers.push(None);
            }
        }
        let began = Instant::now();
        let tickets: Vec<_> = asked
            .iter()
            .map(|at| {
                let place = places[*at].0;
                ReadGuard::begin(self, place)
            })
            .collect();
        let names: Vec<_> = asked.iter().map(|at| &places[*at].0.name).collect();
        let found = if names.is_empty() {
            Vec::new()
        } else {
            backend.read_many(tenant, &names, bytes).await
        };
        for ((at, mut guard), found) in asked.into_iter().zip(tickets).zip(found) {
            let (place, policy) = places[at];
            let answer = match found {
                Ok(ReadMany::Unread) => Ok(Read {
                    found: ReadMany::Unread,
                    freshness: Freshness::now(),
                }),
                Ok(found) => {
                    let entry = match found {
                        ReadMany::Found(entry) => Some(entry),
                        ReadMany::Nothing | ReadMany::Unread => None,
                    };
                    match guard.end(entry, began) {
                        Some(known) => Ok(of_many(served(&known, Source::Backend))),
                        // It is behind: asked for by itself, it is asked for again.
                        None => {
                            drop(guard);
                            let again = self.read(tenant, backend, place, policy, Consistency::Latest);
                            again.await.map(of_many)
                        }
                    }
                }
                Err(error) => match self.known.peek(place) {
                    Some(kept) if consistency == Consistency::Cached && kept.stands_in(policy, Instant::now()) => {
                        Ok(of_many(served(&kept, Source::Stale)))
                    }
                    _ => Err(error),
                },
            };
            answers[at] = Some(answer);
        }
        let lost = || {
            Err(BackendError::Damaged(
                "a store answered for fewer names than it was asked for".to_owned(),
            ))
        };
        answers.into_iter().map(|answer| answer.unwrap_or_else(lost)).collect()
    }

    /// Writes through to `backend`; what is acknowledged is what is read from here on.
    pub async fn write(
        &self,
        tenant: &VerifiedTenant,
        backend: &Arc<dyn Backend>,
        place: &Place,
        entry: NewEntry,
        conditions: Conditions,
    ) -> Result<Entry, WriteError> {
        let guard = WriteGuard::begin(self, place);
        let value = entry.value.clone();
        let began = Instant::now();
        let written = backend.write(tenant, &place.name, entry, conditions).await?;
        // An answer that was remembered tells what stood then.
        if conditions.once.is_none() {
            let stands = Entry {
                // Its own bytes: what came in a request is a part of all that came, and would keep it.
                value: Bytes::copy_from_slice(&value),
                ..written.clone()
            };
            guard.end(stands, began);
        }
        Ok(written)
    }

    /// Deletes in `backend`; what is acknowledged is not read from here on.
    pub async fn delete(
        &self,
        tenant: &VerifiedTenant,
        backend: &Arc<dyn Backend>,
        place: &Place,
        elsewhere: bool,
        conditions: Conditions,
    ) -> Result<bool, WriteError> {
        let mut guard = WriteGuard::begin(self, place);
        let seen = self.known.peek(place).and_then(|known| known.newest());
        let deleted = backend.delete(tenant, &place.name, elsewhere, conditions).await?;
        // An answer that was remembered tells what was deleted then.
        if conditions.once.is_none() {
            guard.ended = seen;
        }
        Ok(deleted)
    }

    /// In the API's words: what is known of a place, for a reader with that policy.
    #[must_use]
    pub fn state(&self, place: &Place, policy: CachePolicy) -> &'static str {
        match self.known.peek(place) {
            None => "absent",
            Some(known) => match (known.look(policy, Instant::now()), &known.entry) {
                (Look::Fresh, None) => "negative",
                (Look::Fresh, Some(_)) => "fresh",
                (Look::Stale | Look::Over, _) => "stale",
            },
        }
    }

    /// The read that who comes now waits for; it begins, if there is none.
    fn flight(self: &Arc<Self>, tenant: &VerifiedTenant, backend: &Arc<dyn Backend>, place: &Place) -> Flight {
        let mut shard = self.shard(place);
        match shard.get(place).and_then(Fence::flight) {
            Some(flight) => flight.clone(),
            None => self.depart(&mut shard, tenant, backend, place),
        }
    }

    /// A read that begins now, and goes on whoever leaves.
    fn depart(
        self: &Arc<Self>,
        shard: &mut Shard,
        tenant: &VerifiedTenant,
        backend: &Arc<dyn Backend>,
        place: &Place,
    ) -> Flight {
        let fence = shard.entry(place.clone()).or_default();
        let guard = ReadGuard {
            cache: Arc::clone(self),
            place: place.clone(),
            ticket: Some(fence.begin_read()),
        };
        let read = tokio::spawn(guard.read(tenant.clone(), Arc::clone(backend)));
        let landing = async move {
            let read = read.await;
            read.unwrap_or_else(|_| Err(BackendError::Damaged("a read of it ended without an answer".to_owned())))
        };
        let flight = Flight {
            tenant: tenant.id().clone(),
            landing: landing.boxed().shared(),
        };
        fence.let_wait(flight.clone());
        flight
    }

    /// What is kept of a place becomes what it is given, under the lock of that place.
    fn keep(&self, place: &Place, known: Known) -> Arc<Known> {
        let known = Arc::new(known);
        self.known.insert(place.clone(), Arc::clone(&known));
        known
    }

    fn shard(&self, place: &Place) -> MutexGuard<'_, Shard> {
        #[allow(clippy::cast_possible_truncation, reason = "any of its bits will do")]
        let at = self.hasher.hash_one(place) as usize % self.shards.len();
        // Nothing in here is left half done.
        self.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
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

/// Leaves nothing behind where nothing is under way.
fn leave(shard: &mut Shard, place: &Place) {
    if shard.get(place).is_some_and(Fence::is_idle) {
        shard.remove(place);
    }
}

/// A read that is under way, until this is dropped.
struct ReadGuard {
    cache: Arc<Cache>,
    place: Place,
    ticket: Option<fence::ReadTicket>,
}

impl ReadGuard {
    fn begin(cache: &Arc<Cache>, place: &Place) -> Self {
        let ticket = cache.shard(place).entry(place.clone()).or_default().begin_read();
        Self {
            cache: Arc::clone(cache),
            place: place.clone(),
            ticket: Some(ticket),
        }
    }

    /// Asks the store, and again where it is behind what was seen before.
    async fn read(mut self, tenant: VerifiedTenant, backend: Arc<dyn Backend>) -> Result<Arc<Known>, BackendError> {
        let mut waits = backoff(WAITS).take(BEHIND);
        loop {
            let began = Instant::now();
            let entry = backend.read(&tenant, &self.place.name).await?;
            if let Some(known) = self.end(entry, began) {
                return Ok(known);
            }
            sleep(waits.next().ok_or_else(behind)?).await;
        }
    }

    /// What the store said that was asked at `began`, kept if it may be. None: it is behind, and this read goes on.
    fn end(&mut self, entry: Option<Entry>, began: Instant) -> Option<Arc<Known>> {
        let mut shard = self.cache.shard(&self.place);
        let before = self.cache.known.peek(&self.place);
        let known = Known::new(entry, began, before.as_deref())?;
        let ticket = self.ticket.take()?;
        let may_keep = shard.get_mut(&self.place).is_some_and(|fence| fence.end_read(ticket));
        leave(&mut shard, &self.place);
        Some(if may_keep {
            self.cache.keep(&self.place, known)
        } else {
            Arc::new(known)
        })
    }
}

impl Drop for ReadGuard {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take() else {
            return;
        };
        let mut shard = self.cache.shard(&self.place);
        if let Some(fence) = shard.get_mut(&self.place) {
            fence.give_up_read(ticket);
        }
        leave(&mut shard, &self.place);
    }
}

fn behind() -> BackendError {
    BackendError::Away("it answers with what stood before: a replica of it is behind".to_owned())
}

/// A write that is under way, until this is dropped. Unless it ends, nobody knows what stands.
struct WriteGuard<'c> {
    cache: &'c Cache,
    place: &'c Place,
    ticket: Option<WriteTicket>,
    /// A state that stands no more.
    ended: Option<Etag>,
}

impl<'c> WriteGuard<'c> {
    fn begin(cache: &'c Cache, place: &'c Place) -> Self {
        let ticket = cache.shard(place).entry(place.clone()).or_default().begin_write();
        Self {
            cache,
            place,
            ticket: Some(ticket),
            ended: None,
        }
    }

    /// This stands, as of `began`.
    fn end(mut self, stands: Entry, began: Instant) {
        self.finish(Some((stands, began)));
    }

    fn finish(&mut self, stands: Option<(Entry, Instant)>) {
        let Some(ticket) = self.ticket.take() else {
            return;
        };
        let mut shard = self.cache.shard(self.place);
        let may_keep = shard.get_mut(self.place).is_some_and(|fence| fence.end_write(ticket));
        leave(&mut shard, self.place);
        let before = self.cache.known.peek(self.place);
        // What this write followed is older than it, whatever the store's clocks say.
        let known = stands.filter(|_| may_keep);
        let known = known.and_then(|(entry, began)| Known::new(Some(entry), began, None));
        let left = || before.as_ref()?.gone(self.ended, Instant::now());
        match known.or_else(left) {
            Some(known) => _ = self.cache.keep(self.place, known),
            None => _ = self.cache.known.remove(self.place),
        }
    }
}

impl Drop for WriteGuard<'_> {
    fn drop(&mut self) {
        self.finish(None);
    }
}

#[cfg(test)]
mod tests;
