//! What stands in the stores, near at hand. Nothing is asked for twice at once, nothing is served that is older than the
//! reader's policy allows, and a gateway's own writes are never read back as what stood before.
//!
//! What is kept lies in one bounded cache; it is looked up without a lock. What is under way lies beside it, place by place,
//! as long as it is: that is what decides whether an answer may be kept (`fence`).

mod changes;
mod fence;
mod known;
mod metrics;
mod reads;
mod snapshot;
mod writes;

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quick_cache::sync::Cache as QuickCache;
use quick_cache::{DefaultHashBuilder, Weighter};
use tokio::time::Instant;

use crate::backend::{Backend, Entry};
use crate::key::{Etag, TenantId};
use crate::placement::{CachePolicy, Place, Space};
pub use changes::{Changed, Changes, Doubt, Taken};
use fence::Fence;
use known::{Known, Look, Verdict};
pub use metrics::CacheMetrics;
use metrics::{Counts, Evictions};
use reads::Flight;
pub use snapshot::{Snapshot, SnapshotError};

/// Of an entry, besides its texts: handles, times, the cache's own.
const PER_ENTRY_BYTES: usize = 256;
/// A guess at the size of an entry, for sizing alone.
const TYPICAL_BYTES: u64 = 1024;
/// Locks of what is under way.
const SHARDS: usize = 64;

/// How true an answer has to be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Consistency {
    /// As the policy allows.
    #[default]
    Cached,
    /// As the policy allows, but for what is past its time; or whatever its time, if the store was asked then or later.
    Since(Instant),
    /// The store was asked then, or later.
    After(Instant),
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

/// Some of the places, each as long as something is under way there.
struct Shard {
    fences: HashMap<Place, Fence<Flight>>,
    /// When something last changed, or may have, at any of these places.
    changed: Instant,
}

/// How a gateway stands to others that write to the same stores.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sharing {
    /// What is read is compared with its store this often, if others write to that.
    pub look_again: Option<Duration>,
    /// Others are to hear of what is written here.
    pub tells: bool,
}

/// The cache of one gateway, over all of its stores.
pub struct Cache {
    known: QuickCache<Place, Arc<Known>, Weight, DefaultHashBuilder, Evictions>,
    counts: Counts,
    feed: Arc<Changes>,
    /// What was written here, for others to hear of. None: nobody is told.
    written: Option<Arc<Changes>>,
    look_again: Option<Duration>,
    /// Of what is kept.
    changes: AtomicU64,
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
        Self::shared(bytes, otherwise, most, Sharing::default())
    }

    /// The same, over stores that others write to.
    #[must_use]
    pub fn shared(bytes: u64, otherwise: CachePolicy, most: CachePolicy, sharing: Sharing) -> Arc<Self> {
        let entries = usize::try_from(bytes / TYPICAL_BYTES).unwrap_or(usize::MAX).max(1);
        let counts = Counts::default();
        let evictions = Evictions(Arc::clone(&counts.evictions));
        Arc::new(Self {
            known: QuickCache::with(entries, bytes, Weight, DefaultHashBuilder::default(), evictions),
            counts,
            feed: Arc::default(),
            written: sharing.tells.then(Arc::default),
            look_again: sharing.look_again,
            changes: AtomicU64::new(0),
            shards: (0..SHARDS).map(|_| Mutex::new(Shard::new())).collect(),
            hasher: RandomState::new(),
            otherwise: otherwise.at_most(most),
            most,
        })
    }

    /// What changes, as far as this gateway hears of it.
    #[must_use]
    pub fn feed(&self) -> &Arc<Changes> {
        &self.feed
    }

    /// What was written here, if others are to hear of it.
    #[must_use]
    pub fn written(&self) -> Option<&Arc<Changes>> {
        self.written.as_ref()
    }

    /// The newest state that was seen at a place, whether or not it stands.
    #[must_use]
    pub fn newest(&self, place: &Place) -> Option<Etag> {
        self.known.peek(place)?.newest()
    }

    /// What stands at a place, as far as this gateway knows; and as of when.
    #[must_use]
    pub fn believed(&self, place: &Place) -> Option<(Option<Etag>, Instant)> {
        let known = self.known.peek(place).filter(|known| known.holds())?;
        Some((known.etag(), known.as_of))
    }

    /// Places of which something is kept for `tenant`, or for all: of these keys, or of all.
    #[must_use]
    pub fn places_of(&self, tenant: Option<&TenantId>, keys: &HashSet<String>) -> HashSet<Place> {
        let is_asked_for = |place: &Place| {
            let is_theirs = tenant.is_none_or(|tenant| *place.name.range().space() == Space::Tenant(tenant.clone()));
            is_theirs && (keys.is_empty() || keys.contains(&place.name.key()))
        };
        self.known.iter().map(|(place, _)| place).filter(is_asked_for).collect()
    }

    /// The store was asked at `as_of`, and this stood there, or nothing. Something else may have been told of it: who watches it
    /// looks again, and asks where that is not what is known.
    pub fn compared(&self, place: &Place, etag: Option<Etag>, as_of: Instant, lags: bool) {
        match self.believed(place) {
            Some((believed, since)) if believed == etag || since >= as_of => {
                let doubt = Doubt::None;
                self.feed.put(place, Changed { since, doubt });
            }
            _ => self.doubt(place, lags),
        }
    }

    /// Something changed at a place of which it is known what stands: who watches it may not have been told, and looks.
    pub fn is_known(&self, place: &Place) {
        if let Some((_, since)) = self.believed(place) {
            let doubt = Doubt::None;
            self.feed.put(place, Changed { since, doubt });
        }
    }

    /// What a placement's own policy comes to here.
    #[must_use]
    pub fn policy(&self, own: Option<CachePolicy>) -> CachePolicy {
        own.map_or(self.otherwise, |own| own.at_most(self.most))
    }

    /// What stands at a place of which a list says that `entry` does, as of when the list was asked for: that, or what is
    /// known since. It is kept for who reads it next, where it `has_value`.
    pub fn listed(
        &self,
        backend: &Arc<dyn Backend>,
        place: &Place,
        entry: Entry,
        as_of: Instant,
        has_value: bool,
    ) -> Option<Entry> {
        let mut shard = self.shard(place);
        let before = self.known.peek(place);
        if let Some(since) = before.as_ref().filter(|known| known.as_of >= as_of && known.holds()) {
            return since.entry.clone();
        }
        let lags = backend.capabilities().reads_lag;
        let heard = match Known::heard(Some(entry.clone()), as_of, before.as_deref(), lags) {
            Verdict::Holds(known) if has_value && shard.knows_of_no_change_since(place, as_of) => Some(known),
            Verdict::Holds(_) | Verdict::Doubtful(_) => None,
            Verdict::Behind => return before?.entry.clone(),
        };
        // Who has seen this does not see what stood before it again, nor waits for who may have.
        let is_news = before.as_ref().and_then(|before| before.etag()) != Some(entry.etag);
        if let Some(fence) = shard.at(place).filter(|_| is_news) {
            fence.let_nobody_wait();
        }
        match (heard, before) {
            (Some(known), _) => _ = self.keep(place, known),
            (None, Some(before)) if is_news => self.doubt_known(place, &before),
            (None, _) => {}
        }
        Some(entry)
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

    /// Places at which something is under way.
    fn under_way(&self) -> usize {
        let shards = self.shards.iter();
        // Nothing in them is left half done.
        let shards = shards.map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner));
        shards.map(|shard| shard.fences.len()).sum()
    }

    /// How often something else was kept than before.
    fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// What is kept of a place becomes what it is given, under the lock of that place.
    fn keep(&self, place: &Place, known: Known) -> Arc<Known> {
        let known = Arc::new(known);
        self.known.insert(place.clone(), Arc::clone(&known));
        self.changes.fetch_add(1, Ordering::Relaxed);
        known
    }

    /// What is kept of a place is not what stands, under its lock.
    fn doubt_known(&self, place: &Place, known: &Known) {
        match known.in_doubt() {
            Some(known) => _ = self.keep(place, known),
            None => self.forget(place),
        }
    }

    /// Nothing is kept of a place, under its lock.
    fn forget(&self, place: &Place) {
        if self.known.remove(place).is_some() {
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What was known before the start, unless something is known since.
    fn restore(&self, place: Place, known: Known) {
        let _shard = self.shard(&place);
        if self.known.peek(&place).is_none() {
            self.known.insert(place, Arc::new(known));
        }
    }

    fn shard(&self, place: &Place) -> MutexGuard<'_, Shard> {
        #[allow(clippy::cast_possible_truncation, reason = "any of its bits will do")]
        let at = self.hasher.hash_one(place) as usize % self.shards.len();
        // Nothing in here is left half done.
        self.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shard {
    fn new() -> Self {
        Self {
            fences: HashMap::new(),
            changed: Instant::now(),
        }
    }

    fn fence(&mut self, place: &Place) -> &mut Fence<Flight> {
        self.fences.entry(place.clone()).or_default()
    }

    /// What is under way there is told of.
    fn at(&mut self, place: &Place) -> Option<&mut Fence<Flight>> {
        self.fences.get_mut(place)
    }

    /// Leaves nothing behind where nothing is under way.
    fn leave(&mut self, place: &Place) {
        if self.fences.get(place).is_some_and(Fence::is_idle) {
            self.fences.remove(place);
        }
    }

    /// Whether an answer of then may be kept that was no single read's.
    fn knows_of_no_change_since(&mut self, place: &Place, as_of: Instant) -> bool {
        self.changed < as_of && self.at(place).is_none_or(|fence| !fence.is_written())
    }
}

#[cfg(test)]
pub(crate) mod tests;
