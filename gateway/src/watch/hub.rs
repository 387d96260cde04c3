//! Who is concerned by a change. It knows places and ranges, and of each the subscriptions that look there.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::compared::{ComparedPlace, ComparedRange};
use super::doubted::{Doubted, Due};
use super::marks::Marks;
use super::metrics::WatchMetrics;
use super::roster::Roster;
use crate::cache::{Cache, Changed, Doubt};
use crate::config::Interest;
use crate::fair_semaphore::FairSemaphore;
use crate::identity::VerifiedTenant;
use crate::placement::{Place, PlaceRange, Space};
use tokio::time::Instant;

/// Changes that are told one after the other before others get their turn.
const AT_ONCE: usize = 32;

/// Pages that were listed for watchers and are held until those take them.
pub(crate) const PAGES: usize = 128;
/// What one of them takes, about.
pub(crate) const PAGE_BYTES: u64 = 1 << 20;

/// The hub of one gateway.
pub struct Hub {
    cache: Arc<Cache>,
    metrics: WatchMetrics,
    pub(super) interests: RwLock<Interests>,
    registered: AtomicU64,
    /// Whether events come that are to come.
    hears: AtomicBool,
    roster: Arc<Roster>,
    /// For pages that are held for who does not take them at once.
    pub(super) pages: FairSemaphore,
}

/// All of them in the order in which they came: those of one connection are told together, and share their way to it.
#[derive(Default)]
pub(super) struct Interests {
    pub(super) places: HashMap<Place, At<Named, ComparedPlace>>,
    pub(super) ranges: HashMap<PlaceRange, At<Swept, ComparedRange>>,
    pub(super) everyone: BTreeMap<u64, Watcher>,
}

/// Who watches there, and what is known of it by comparing.
pub(super) struct At<W, C> {
    pub(super) by: BTreeMap<u64, W>,
    pub(super) compared: C,
}

impl<W, C: Default> Default for At<W, C> {
    fn default() -> Self {
        Self {
            by: BTreeMap::new(),
            compared: C::default(),
        }
    }
}

/// One that watches, and for whom.
pub(super) struct Watcher {
    pub(super) marks: Arc<Marks>,
    pub(super) tenant: VerifiedTenant,
}

/// A key that is watched by its name.
pub(super) struct Named {
    key: Arc<str>,
    marks: Arc<Marks>,
}

/// Beginnings of names in one range.
pub(super) struct Swept {
    pub(super) beginnings: BTreeSet<Arc<str>>,
    pub(super) marks: Arc<Marks>,
}

impl Swept {
    pub(super) fn has(&self, name: &str) -> bool {
        let to_name = (Bound::Unbounded, Bound::Included(name));
        // None begins with another, so only the last before it may be its beginning.
        let nearest = self.beginnings.range::<str, _>(to_name).next_back();
        nearest.is_some_and(|beginning| name.starts_with(&**beginning))
    }
}

/// A subscription's interest, until this is dropped.
pub(super) struct Registration {
    pub(super) hub: Arc<Hub>,
    number: u64,
    pub(super) places: Vec<(Arc<str>, Place)>,
    pub(super) ranges: HashSet<PlaceRange>,
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
            roster: Arc::default(),
            pages: FairSemaphore::new(PAGES),
        })
    }

    /// Somebody else changed that place, or may have.
    #[cfg(test)]
    pub(super) fn doubt(&self, place: &Place) {
        self.cache.doubt(place, false);
    }

    /// Who watches.
    #[must_use]
    pub fn roster(&self) -> &Arc<Roster> {
        &self.roster
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
            let key: Arc<str> = key.into();
            let named = Named {
                key: Arc::clone(&key),
                marks: Arc::clone(marks),
            };
            let at = interests.places.entry(place.clone()).or_default();
            at.by.insert(number, named);
            registration.places.push((key, place));
        }
        for (prefix, range) in interest.ranges {
            let swept = interests.ranges.entry(range.clone()).or_default();
            let swept = swept.by.entry(number).or_insert_with(|| Swept {
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
                        self.compare_anew(None);
                    }
                    for (told, (place, changed)) in taken.places.into_iter().enumerate() {
                        let Changed { since, doubt } = changed;
                        let is_watched = self.tell(&place, since, came);
                        let seen = self.cache.newest(&place);
                        match doubt {
                            Doubt::Late if is_watched || seen.is_some() => doubted.insert(place, seen),
                            // Nobody has seen anything of it.
                            Doubt::Late | Doubt::None => {}
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
                    Due::Everything(space) => self.doubt_all(&space),
                },
            }
        }
    }

    /// Whatever is watched there is asked for: what is near may be from before.
    fn doubt_all(&self, space: &Space) {
        let named: Vec<Place> = {
            let interests = self.interests.read().unwrap_or_else(PoisonError::into_inner);
            let named = interests.places.keys();
            named
                .filter(|place| place.name.range().space() == space)
                .cloned()
                .collect()
        };
        for place in &named {
            self.cache.doubt(place, false);
        }
        match space {
            Space::Tenant(tenant) => self.compare_anew(Some(tenant)),
            Space::Shared => self.compare_anew(None),
        }
    }

    /// Marks it with all whom it concerns. Returns whether there are any.
    fn tell(&self, place: &Place, since: Instant, came: Instant) -> bool {
        let interests = self.interests.read().unwrap_or_else(PoisonError::into_inner);
        let by_name = interests.places.get(place);
        for Named { key, marks } in by_name.into_iter().flat_map(|at| at.by.values()) {
            marks.mark(key, since, came);
        }
        let by_range = interests.ranges.get(&place.range());
        let name = place.name.name().as_str();
        let mut key: Option<Arc<str>> = None;
        for swept in by_range.into_iter().flat_map(|at| at.by.values()) {
            if swept.has(name) {
                let key = key.get_or_insert_with(|| place.name.key().into());
                swept.marks.mark(key, since, came);
            }
        }
        by_name.is_some() || key.is_some()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut interests = self.hub.interests.write().unwrap_or_else(PoisonError::into_inner);
        interests.everyone.remove(&self.number);
        for (_, place) in &self.places {
            if let Some(watched) = interests.places.get_mut(place) {
                watched.by.remove(&self.number);
                if watched.by.is_empty() {
                    interests.places.remove(place);
                }
            }
        }
        for range in &self.ranges {
            if let Some(swept) = interests.ranges.get_mut(range) {
                swept.by.remove(&self.number);
                if swept.by.is_empty() {
                    interests.ranges.remove(range);
                }
            }
        }
    }
}
