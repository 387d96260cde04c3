//! Who is concerned by a change. It knows places and ranges, and of each the subscriptions that look there.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::future::pending;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio_util::time::{DelayQueue, delay_queue};

use super::marks::Marks;
use super::metrics::WatchMetrics;
use crate::cache::{Cache, Changed, Doubt};
use crate::config::Interest;
use crate::identity::VerifiedTenant;
use crate::key::{Etag, TenantId};
use crate::placement::{Place, PlaceRange};
use tokio::time::{Instant, sleep_until};

/// When a place is looked at again of which nobody knows whether it has changed, or is yet to: what was cut off may still
/// arrive at a store.
const AGAIN: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(15),
];
/// Places that are looked at again, at once. Where there are more, everything is.
const DOUBTED: usize = 10_000;
/// Changes that are told one after the other before others get their turn.
const AT_ONCE: usize = 32;

/// The hub of one gateway.
pub struct Hub {
    cache: Arc<Cache>,
    metrics: WatchMetrics,
    interests: RwLock<Interests>,
    registered: AtomicU64,
    /// Whether events come that are to come.
    hears: AtomicBool,
}

/// All of them in the order in which they came: those of one connection are told together, and share their way to it.
#[derive(Default)]
struct Interests {
    places: HashMap<Place, BTreeMap<u64, Named>>,
    ranges: HashMap<PlaceRange, BTreeMap<u64, Swept>>,
    everyone: BTreeMap<u64, Watcher>,
}

/// One that watches, and for whom.
struct Watcher {
    marks: Arc<Marks>,
    tenant: VerifiedTenant,
}

/// What is watched in one store, each with a tenant of those that watch it.
#[derive(Debug, Default)]
pub struct Watched {
    /// By name.
    pub places: Vec<(Place, VerifiedTenant)>,
    /// By the beginnings of names, of which none begins with another.
    pub ranges: Vec<(PlaceRange, Vec<Arc<str>>, VerifiedTenant)>,
}

/// A key that is watched by its name.
struct Named {
    key: Arc<str>,
    marks: Arc<Marks>,
}

/// Beginnings of names in one range.
struct Swept {
    beginnings: BTreeSet<Arc<str>>,
    marks: Arc<Marks>,
}

impl Swept {
    fn has(&self, name: &str) -> bool {
        let to_name = (Bound::Unbounded, Bound::Included(name));
        // None begins with another, so only the last before it may be its beginning.
        let nearest = self.beginnings.range::<str, _>(to_name).next_back();
        nearest.is_some_and(|beginning| name.starts_with(&**beginning))
    }
}

/// A subscription's interest, until this is dropped.
pub(super) struct Registration {
    hub: Arc<Hub>,
    number: u64,
    places: Vec<Place>,
    ranges: HashSet<PlaceRange>,
}

impl Hub {
    /// Of what `cache` hears of.
    #[must_use]
    pub fn new(cache: Arc<Cache>) -> Arc<Self> {
        Arc::new(Self {
            cache,
            metrics: WatchMetrics::default(),
            interests: RwLock::default(),
            registered: AtomicU64::new(0),
            hears: AtomicBool::new(true),
        })
    }

    /// Somebody else changed that place, or may have.
    #[cfg(test)]
    pub(super) fn doubt(&self, place: &Place) {
        self.cache.doubt(place, false);
    }

    /// What watches do, in numbers.
    #[must_use]
    pub fn metrics(&self) -> &WatchMetrics {
        &self.metrics
    }

    /// Whether others' changes are told of at once, or the sweep has to find them.
    pub fn hears(&self, hears: bool) {
        self.hears.store(hears, Ordering::Relaxed);
    }

    /// Whether others' changes are told of at once, as far as they are to be.
    #[must_use]
    pub fn is_hearing(&self) -> bool {
        self.hears.load(Ordering::Relaxed)
    }

    /// Since when there has been a change that no subscription was told of yet.
    #[must_use]
    pub fn untold_since(&self) -> Option<Instant> {
        self.cache.feed().untold_since()
    }

    /// What is watched in that store.
    #[must_use]
    pub fn watched(&self, backend: &str) -> Watched {
        let interests = self.interests.read().unwrap_or_else(PoisonError::into_inner);
        let mut watched = Watched::default();
        let tenant = |number: Option<&u64>| Some(interests.everyone.get(number?)?.tenant.clone());
        for (place, by) in interests.places.iter().filter(|(place, _)| *place.backend == *backend) {
            let tenant = tenant(by.keys().next());
            watched.places.extend(tenant.map(|tenant| (place.clone(), tenant)));
        }
        for (range, by) in interests.ranges.iter().filter(|(range, _)| *range.backend == *backend) {
            let Some(tenant) = tenant(by.keys().next()) else {
                continue;
            };
            let all: BTreeSet<&Arc<str>> = by.values().flat_map(|swept| &swept.beginnings).collect();
            let mut beginnings: Vec<Arc<str>> = all.into_iter().cloned().collect();
            beginnings.dedup_by(|next, before| next.starts_with(&**before));
            watched.ranges.push((range.clone(), beginnings, tenant));
        }
        watched
    }

    /// Who watches names in that range lists them again.
    pub fn list_again(&self, range: &PlaceRange) {
        let interests = self.interests.read().unwrap_or_else(PoisonError::into_inner);
        for swept in interests.ranges.get(range).into_iter().flat_map(BTreeMap::values) {
            swept.marks.list_again();
        }
    }

    /// Those of `tenant`, or all, look again: at those of these keys that they watch, or at everything.
    pub fn look_again(&self, tenant: Option<&TenantId>, keys: &HashSet<String>) {
        let interests = self.interests.read().unwrap_or_else(PoisonError::into_inner);
        let is_theirs = |number: &u64| {
            let watcher = interests.everyone.get(number);
            watcher.is_some_and(|watcher| tenant.is_none_or(|tenant| watcher.tenant.id() == tenant))
        };
        if keys.is_empty() {
            for (number, watcher) in &interests.everyone {
                if is_theirs(number) {
                    watcher.marks.mark_everything();
                }
            }
            return;
        }
        let now = Instant::now();
        let named = interests
            .places
            .iter()
            .filter(|(place, _)| keys.contains(&place.name.key()));
        for (number, Named { key, marks }) in named.flat_map(|(_, by)| by) {
            if is_theirs(number) {
                marks.mark(key, now, now);
            }
        }
        for (range, by) in &interests.ranges {
            let asked = keys
                .iter()
                .filter_map(|key| Some((key, key.strip_prefix(range.range.tag())?)));
            for (key, name) in asked {
                let swept = by.iter().filter(|(number, swept)| is_theirs(number) && swept.has(name));
                for (_, swept) in swept {
                    swept.marks.mark(&key.as_str().into(), now, now);
                }
            }
        }
    }

    /// From here on `marks` is told of what changes there, which a subscription for that tenant watches.
    pub(super) fn register(
        self: &Arc<Self>,
        tenant: &VerifiedTenant,
        interest: Interest,
        marks: &Arc<Marks>,
    ) -> Registration {
        let number = self.registered.fetch_add(1, Ordering::Relaxed);
        let mut registration = Registration {
            hub: Arc::clone(self),
            number,
            places: Vec::with_capacity(interest.places.len()),
            ranges: HashSet::new(),
        };
        let mut interests = self.interests.write().unwrap_or_else(PoisonError::into_inner);
        let watcher = Watcher {
            marks: Arc::clone(marks),
            tenant: tenant.clone(),
        };
        interests.everyone.insert(number, watcher);
        for (key, place) in interest.places {
            let by_name = Named {
                key: key.into(),
                marks: Arc::clone(marks),
            };
            interests
                .places
                .entry(place.clone())
                .or_default()
                .insert(number, by_name);
            registration.places.push(place);
        }
        for (prefix, range) in interest.ranges {
            let swept = interests.ranges.entry(range.clone()).or_default();
            let swept = swept.entry(number).or_insert_with(|| Swept {
                beginnings: BTreeSet::new(),
                marks: Arc::clone(marks),
            });
            swept.beginnings.insert(prefix.name_prefix);
            registration.ranges.insert(range);
        }
        drop(interests);
        registration
    }

    /// Tells of all that changes. Runs until it is dropped.
    pub async fn run(&self) {
        let mut doubted = Doubted::default();
        loop {
            tokio::select! {
                taken = self.cache.feed().take() => {
                    let came = self.untold_since().unwrap_or_else(Instant::now);
                    if taken.more {
                        self.tell_everyone();
                    }
                    for (told, (place, changed)) in taken.places.into_iter().enumerate() {
                        let Changed { since, doubt } = changed;
                        self.tell(&place, since, came);
                        match doubt {
                            Doubt::None => {}
                            Doubt::Late => {
                                let seen = self.cache.newest(&place);
                                doubted.insert(place, seen);
                            }
                            Doubt::Open => doubted.insert(place, None),
                        }
                        if told % AT_ONCE == AT_ONCE - 1 {
                            tokio::task::yield_now().await;
                        }
                    }
                    self.cache.feed().told();
                }
                due = doubted.due() => match due {
                    Due::Place(place, until) => {
                        if until.is_none() || until == self.cache.newest(&place) {
                            self.cache.doubt(&place, false);
                        } else {
                            doubted.remove(&place);
                        }
                    }
                    Due::Everything => self.tell_everyone(),
                },
            }
        }
    }

    /// Marks it with all whom it concerns.
    fn tell(&self, place: &Place, since: Instant, came: Instant) {
        let interests = self.interests.read().unwrap_or_else(PoisonError::into_inner);
        let by_name = interests.places.get(place);
        for Named { key, marks } in by_name.into_iter().flat_map(BTreeMap::values) {
            marks.mark(key, since, came);
        }
        let by_range = interests.ranges.get(&place.range());
        let name = place.name.name().as_str();
        let mut key: Option<Arc<str>> = None;
        for swept in by_range.into_iter().flat_map(BTreeMap::values) {
            if swept.has(name) {
                let key = key.get_or_insert_with(|| place.name.key().into());
                swept.marks.mark(key, since, came);
            }
        }
    }

    fn tell_everyone(&self) {
        let interests = self.interests.read().unwrap_or_else(PoisonError::into_inner);
        for watcher in interests.everyone.values() {
            watcher.marks.mark_everything();
        }
    }
}

/// Places that are looked at again, each as often as [`AGAIN`] says since it was last doubted.
#[derive(Default)]
struct Doubted {
    queue: DelayQueue<(Place, usize, Option<Etag>)>,
    waiting: HashMap<Place, delay_queue::Key>,
    /// There were more than there was room for.
    everything_at: Option<Instant>,
}

/// What is looked at again.
enum Due {
    /// Until something newer than that has been seen there, if that can be told.
    Place(Place, Option<Etag>),
    Everything,
}

impl Doubted {
    fn insert(&mut self, place: Place, until: Option<Etag>) {
        self.remove(&place);
        if self.waiting.len() < DOUBTED {
            self.wait(place, 0, until);
        } else {
            let [.., last] = AGAIN;
            self.everything_at = Some(Instant::now() + last);
        }
    }

    fn remove(&mut self, place: &Place) {
        if let Some(key) = self.waiting.remove(place) {
            self.queue.remove(&key);
        }
    }

    fn wait(&mut self, place: Place, time: usize, until: Option<Etag>) {
        if let Some(wait) = AGAIN.get(time) {
            let key = self.queue.insert((place.clone(), time, until), *wait);
            self.waiting.insert(place, key);
        }
    }

    /// Waits for what is next.
    async fn due(&mut self) -> Due {
        tokio::select! {
            Some(due) = self.queue.next(), if !self.queue.is_empty() => {
                let (place, time, until) = due.into_inner();
                self.waiting.remove(&place);
                self.wait(place.clone(), time + 1, until);
                Due::Place(place, until)
            }
            () = until(self.everything_at) => {
                self.everything_at = None;
                Due::Everything
            }
        }
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut interests = self.hub.interests.write().unwrap_or_else(PoisonError::into_inner);
        interests.everyone.remove(&self.number);
        for place in &self.places {
            if let Some(watched) = interests.places.get_mut(place) {
                watched.remove(&self.number);
                if watched.is_empty() {
                    interests.places.remove(place);
                }
            }
        }
        for range in &self.ranges {
            if let Some(swept) = interests.ranges.get_mut(range) {
                swept.remove(&self.number);
                if swept.is_empty() {
                    interests.ranges.remove(range);
                }
            }
        }
    }
}
