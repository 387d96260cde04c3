//! Who is concerned by a change. It knows places and ranges, and of each the subscriptions that look there.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio_util::time::DelayQueue;

use super::marks::Marks;
use super::metrics::WatchMetrics;
use crate::cache::{Cache, Changed};
use crate::config::Interest;
use crate::placement::{Place, PlaceRange};
use tokio::time::Instant;

/// When a place is looked at again of which nobody knows whether it has changed, or is yet to: what was cut off may still
/// arrive at a store.
const AGAIN: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(15),
];
/// Places that are looked at again, at once. More wait for what else tells of them.
const DOUBTED: usize = 10_000;
/// Changes that are told one after the other before others get their turn.
const AT_ONCE: usize = 32;

/// The hub of one gateway.
pub struct Hub {
    cache: Arc<Cache>,
    metrics: WatchMetrics,
    interests: RwLock<Interests>,
    registered: AtomicU64,
}

/// All of them in the order in which they came: those of one connection are told together, and share their way to it.
#[derive(Default)]
struct Interests {
    places: HashMap<Place, BTreeMap<u64, Watched>>,
    ranges: HashMap<PlaceRange, BTreeMap<u64, Swept>>,
    everyone: BTreeMap<u64, Arc<Marks>>,
}

/// A key that is watched by its name.
struct Watched {
    key: Arc<str>,
    marks: Arc<Marks>,
}

/// Beginnings of names in one range.
struct Swept {
    beginnings: BTreeSet<Arc<str>>,
    marks: Arc<Marks>,
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
        })
    }

    /// Somebody else changed that place, or may have.
    #[cfg(test)]
    pub(super) fn doubt(&self, place: &Place) {
        self.cache.doubt(place);
    }

    /// What watches do, in numbers.
    #[must_use]
    pub fn metrics(&self) -> &WatchMetrics {
        &self.metrics
    }

    /// Since when there has been a change that no subscription was told of yet.
    #[must_use]
    pub fn untold_since(&self) -> Option<Instant> {
        self.cache.feed().untold_since()
    }

    /// From here on `marks` is told of what changes there.
    pub(super) fn register(self: &Arc<Self>, interest: Interest, marks: &Arc<Marks>) -> Registration {
        let number = self.registered.fetch_add(1, Ordering::Relaxed);
        let mut registration = Registration {
            hub: Arc::clone(self),
            number,
            places: Vec::with_capacity(interest.places.len()),
            ranges: HashSet::new(),
        };
        let mut interests = self.interests.write().unwrap_or_else(PoisonError::into_inner);
        interests.everyone.insert(number, Arc::clone(marks));
        for (key, place) in interest.places {
            let watched = Watched {
                key: key.into(),
                marks: Arc::clone(marks),
            };
            interests
                .places
                .entry(place.clone())
                .or_default()
                .insert(number, watched);
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
        let mut doubted: DelayQueue<(Place, usize)> = DelayQueue::new();
        let mut waiting: HashSet<Place> = HashSet::new();
        loop {
            tokio::select! {
                taken = self.cache.feed().take() => {
                    if taken.more {
                        self.tell_everyone();
                    }
                    for (told, (place, changed)) in taken.places.into_iter().enumerate() {
                        let Changed { since, is_doubtful } = changed;
                        let is_watched = self.tell(&place, since);
                        if is_watched && is_doubtful && waiting.len() < DOUBTED && waiting.insert(place.clone()) {
                            doubted.insert((place, 0), AGAIN[0]);
                        }
                        if told % AT_ONCE == AT_ONCE - 1 {
                            tokio::task::yield_now().await;
                        }
                    }
                    self.cache.feed().told();
                }
                Some(due) = doubted.next(), if !doubted.is_empty() => {
                    let (place, time) = due.into_inner();
                    self.cache.doubt(&place);
                    match AGAIN.get(time + 1) {
                        Some(wait) => _ = doubted.insert((place, time + 1), *wait),
                        None => _ = waiting.remove(&place),
                    }
                }
            }
        }
    }

    /// Marks it with all whom it concerns. Returns whether there are any.
    fn tell(&self, place: &Place, since: Instant) -> bool {
        let interests = self.interests.read().unwrap_or_else(PoisonError::into_inner);
        let by_name = interests.places.get(place);
        for Watched { key, marks } in by_name.into_iter().flat_map(BTreeMap::values) {
            marks.mark(key, since);
        }
        let by_range = interests.ranges.get(&place.range());
        let name = place.name.name().as_str();
        let mut key: Option<Arc<str>> = None;
        for Swept { beginnings, marks } in by_range.into_iter().flat_map(BTreeMap::values) {
            if beginnings.iter().any(|beginning| name.starts_with(&**beginning)) {
                let key = key.get_or_insert_with(|| place.name.key().into());
                marks.mark(key, since);
            }
        }
        by_name.is_some() || key.is_some()
    }

    fn tell_everyone(&self) {
        let interests = self.interests.read().unwrap_or_else(PoisonError::into_inner);
        for marks in interests.everyone.values() {
            marks.mark_everything();
        }
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
