//! Who is concerned by a change. It knows places and ranges, and of each the subscriptions that look there.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::future::pending;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio_util::time::{DelayQueue, delay_queue};

use super::marks::Marks;
use super::metrics::WatchMetrics;
use crate::cache::{Cache, Changed};
use crate::config::Interest;
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
        let mut doubted = Doubted::default();
        loop {
            tokio::select! {
                taken = self.cache.feed().take() => {
                    let came = self.untold_since().unwrap_or_else(Instant::now);
                    if taken.more {
                        self.tell_everyone();
                    }
                    for (told, (place, changed)) in taken.places.into_iter().enumerate() {
                        let Changed { since, is_doubtful } = changed;
                        self.tell(&place, since, came);
                        if is_doubtful {
                            doubted.insert(place);
                        }
                        if told % AT_ONCE == AT_ONCE - 1 {
                            tokio::task::yield_now().await;
                        }
                    }
                    self.cache.feed().told();
                }
                due = doubted.due() => match due {
                    Due::Place(place) => self.cache.doubt(&place),
                    Due::Everything => self.tell_everyone(),
                },
            }
        }
    }

    /// Marks it with all whom it concerns.
    fn tell(&self, place: &Place, since: Instant, came: Instant) {
        let interests = self.interests.read().unwrap_or_else(PoisonError::into_inner);
        let by_name = interests.places.get(place);
        for Watched { key, marks } in by_name.into_iter().flat_map(BTreeMap::values) {
            marks.mark(key, since, came);
        }
        let by_range = interests.ranges.get(&place.range());
        let name = place.name.name().as_str();
        let mut key: Option<Arc<str>> = None;
        for Swept { beginnings, marks } in by_range.into_iter().flat_map(BTreeMap::values) {
            // None begins with another, so only the last before it may be its beginning.
            let nearest = beginnings
                .range::<str, _>((Bound::Unbounded, Bound::Included(name)))
                .next_back();
            if nearest.is_some_and(|beginning| name.starts_with(&**beginning)) {
                let key = key.get_or_insert_with(|| place.name.key().into());
                marks.mark(key, since, came);
            }
        }
    }

    fn tell_everyone(&self) {
        let interests = self.interests.read().unwrap_or_else(PoisonError::into_inner);
        for marks in interests.everyone.values() {
            marks.mark_everything();
        }
    }
}

/// Places that are looked at again, each as often as [`AGAIN`] says since it was last doubted.
#[derive(Default)]
struct Doubted {
    queue: DelayQueue<(Place, usize)>,
    waiting: HashMap<Place, delay_queue::Key>,
    /// There were more than there was room for.
    everything_at: Option<Instant>,
}

/// What is looked at again.
enum Due {
    Place(Place),
    Everything,
}

impl Doubted {
    fn insert(&mut self, place: Place) {
        if let Some(key) = self.waiting.remove(&place) {
            self.queue.remove(&key);
        }
        if self.waiting.len() < DOUBTED {
            self.wait(place, 0);
        } else {
            let [.., last] = AGAIN;
            self.everything_at = Some(Instant::now() + last);
        }
    }

    fn wait(&mut self, place: Place, time: usize) {
        if let Some(wait) = AGAIN.get(time) {
            let key = self.queue.insert((place.clone(), time), *wait);
            self.waiting.insert(place, key);
        }
    }

    /// Waits for what is next.
    async fn due(&mut self) -> Due {
        tokio::select! {
            Some(due) = self.queue.next(), if !self.queue.is_empty() => {
                let (place, time) = due.into_inner();
                self.waiting.remove(&place);
                self.wait(place.clone(), time + 1);
                Due::Place(place)
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
