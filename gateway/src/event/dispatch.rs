//! From a message to the places that it names. Whoever cares looks there by itself; all that happens here is that what is
//! known of them is not believed any more.
//!
//! One place is doubted at most every [`REST`]: the first event at once, and all that come meanwhile by one more after that. So
//! ten thousand events a second of one key cost one look at a time, whoever watches it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::envelope::{self, Told, Unreadable};
use super::metrics::EventMetrics;
use super::stores::Stores;
use crate::backend::Catalog;
use crate::cache::Cache;
use crate::key::Etag;
use crate::placement::Place;

/// How long a place rests after it was doubted.
const REST: Duration = Duration::from_millis(100);
/// Places that rest at once. More are doubted as often as events come.
const RESTING: usize = 100_000;

/// Takes messages, wherever they come from.
pub struct Dispatch {
    stores: Stores,
    replica: Arc<str>,
    catalog: Catalog,
    cache: Arc<Cache>,
    /// Who looks at the sources of strategies.
    strategies: Arc<Notify>,
    metrics: EventMetrics,
    paced: Mutex<Paced>,
    wake: Notify,
    logged: Mutex<HashSet<Unreadable>>,
}

/// Places that were just doubted.
#[derive(Default)]
struct Paced {
    /// Whether there was another event since.
    resting: HashMap<Place, bool>,
    until: VecDeque<(Instant, Place)>,
}

impl Dispatch {
    /// For the replica of that name, of what `stores` hold and `cache` knows; `strategies` is told that their sources may have
    /// changed.
    #[must_use]
    pub fn new(
        stores: Stores,
        replica: Arc<str>,
        catalog: Catalog,
        cache: Arc<Cache>,
        strategies: Arc<Notify>,
        metrics: EventMetrics,
    ) -> Self {
        Self {
            strategies,
            stores,
            replica,
            catalog,
            cache,
            metrics,
            paced: Mutex::default(),
            wake: Notify::new(),
            logged: Mutex::default(),
        }
    }

    /// Hears a message. When this returns, everybody whom it concerns is about to look, and it can be forgotten. One that
    /// cannot be understood can be forgotten too. Returns how many places it was about.
    pub fn hear(&self, message: &str) -> Result<u64, Unreadable> {
        let told = envelope::read(&self.stores, message);
        let mut changed = 0;
        match &told {
            Ok(Told::Changed { places, etag, replica }) => {
                if replica.as_deref() == Some(&*self.replica) {
                    self.metrics.received("own");
                    return Ok(0);
                }
                for place in places {
                    if etag.is_some_and(|etag| self.knows(place, etag)) {
                        self.metrics.received("known");
                        // Somebody read it. Who watches it may have read it before.
                        self.cache.is_known(place);
                    } else {
                        self.metrics.received("changed");
                        changed += 1;
                        self.changed(place);
                    }
                }
            }
            Ok(Told::Strategy) => {
                self.metrics.received("strategy");
                self.strategies.notify_one();
            }
            Ok(Told::Nothing) => self.metrics.received("nothing"),
            Err(unreadable) => {
                self.metrics.received("unreadable");
                // Of each kind one word: whoever may send may send much.
                let is_first = self.logged().insert(*unreadable);
                if is_first {
                    tracing::warn!(problem = %unreadable, "an event cannot be understood, nor will others like it be told of");
                }
            }
        }
        told.map(|_| changed)
    }

    /// Whether that state, or a later one, was seen and is believed to stand.
    fn knows(&self, place: &Place, etag: Etag) -> bool {
        let believed = self.cache.believed(place).and_then(|(believed, _)| believed);
        believed.is_some_and(|believed| believed >= etag)
    }

    fn changed(&self, place: &Place) {
        let mut paced = self.paced();
        if let Some(again) = paced.resting.get_mut(place) {
            *again = true;
            return;
        }
        if paced.resting.len() < RESTING {
            paced.rest(place.clone());
        }
        drop(paced);
        self.wake.notify_one();
        self.doubt(place);
    }

    fn doubt(&self, place: &Place) {
        let backend = self.catalog.get(&place.backend);
        let lags = backend.is_some_and(|backend| backend.capabilities().reads_lag);
        self.cache.doubt(place, lags);
    }

    /// Doubts what was told of while it rested, when it has. Runs until it is dropped.
    pub async fn run(&self) {
        loop {
            let next = self.paced().until.front().map(|(until, _)| *until);
            match next {
                None => self.wake.notified().await,
                Some(until) => sleep_until(until).await,
            }
            let mut again = Vec::new();
            self.paced().have_rested(Instant::now(), &mut again);
            for place in &again {
                self.doubt(place);
            }
        }
    }

    fn paced(&self) -> MutexGuard<'_, Paced> {
        // Nothing in here is left half done.
        self.paced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn logged(&self) -> MutexGuard<'_, HashSet<Unreadable>> {
        self.logged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Paced {
    fn rest(&mut self, place: Place) {
        self.until.push_back((Instant::now() + REST, place.clone()));
        self.resting.insert(place, false);
    }

    /// Those that were told of again rest once more.
    fn have_rested(&mut self, now: Instant, again: &mut Vec<Place>) {
        while let Some((_, place)) = self.until.pop_front_if(|(until, _)| *until <= now) {
            if self.resting.remove(&place) == Some(true) {
                self.rest(place.clone());
                again.push(place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

    use std::collections::BTreeMap;

    use serde_json::json;

    use super::super::stores::tests::stores;
    use super::*;
    use crate::backend::Backend;
    use crate::cache::Consistency;
    use crate::cache::tests::store::Fake;
    use crate::identity::VerifiedTenant;
    use crate::placement::CachePolicy;

    const NAME: &str = "acme/ns/t_/a";

    struct World {
        store: Arc<Fake>,
        backend: Arc<dyn Backend>,
        cache: Arc<Cache>,
        dispatch: Arc<Dispatch>,
        place: Place,
    }

    impl World {
        fn new() -> Self {
            let store = Arc::new(Fake::default());
            let backend: Arc<dyn Backend> = Arc::clone(&store) as Arc<dyn Backend>;
            let policy = CachePolicy {
                ttl: Duration::from_mins(10),
                stale: Duration::from_mins(10),
                negative: Duration::from_mins(10),
            };
            let cache = Cache::new(1 << 20, policy, policy);
            let catalog = Catalog::new(BTreeMap::from([("hot".into(), Arc::clone(&backend))]));
            let metrics = EventMetrics::default();
            let dispatch = Dispatch::new(
                stores(),
                "this".into(),
                catalog,
                Arc::clone(&cache),
                Arc::default(),
                metrics,
            );
            let dispatch = Arc::new(dispatch);
            let running = Arc::clone(&dispatch);
            tokio::spawn(async move { running.run().await });
            Self {
                store,
                backend,
                cache,
                dispatch,
                place: stores().place("hot", NAME).unwrap(),
            }
        }

        fn hear(&self, etag: Option<Etag>, replica: &str) {
            let etag = etag.map(|etag| etag.to_string());
            let detail = json!({ "backend": "hot", "name": NAME, "etag": etag, "replica": replica });
            let message = json!({ "source": "tagway", "detail-type": "ConfigChanged", "detail": detail });
            self.dispatch.hear(&message.to_string()).unwrap();
        }

        async fn read(&self) -> Option<Etag> {
            let policy = self.cache.policy(None);
            let tenant = VerifiedTenant::for_tests("acme");
            let read = self
                .cache
                .read(&tenant, &self.backend, &self.place, policy, Consistency::Cached);
            read.await.unwrap().found.map(|entry| entry.etag)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_changed_elsewhere_is_looked_at_and_what_is_known_is_not() {
        let world = World::new();
        let first = world.store.put(&world.place, "1").etag;
        assert_eq!(world.read().await, Some(first));
        assert_eq!(world.store.calls(), 1);
        // Its own echo, and what it has seen.
        world.hear(None, "this");
        assert!(world.cache.feed().take_now().is_none());
        world.hear(Some(first), "another");
        let told = world.cache.feed().take_now().unwrap();
        assert!(
            told.places.contains_key(&world.place),
            "who watches may not have read it"
        );
        assert_eq!(world.read().await, Some(first));
        assert_eq!(world.store.calls(), 0);
        let second = world.store.put(&world.place, "2").etag;
        world.hear(Some(second), "another");
        assert_eq!(world.read().await, Some(second));
        // Late, and out of order.
        world.hear(Some(first), "another");
        assert_eq!(world.read().await, Some(second));
        assert_eq!(world.store.calls(), 1);
        // Of a delete there is no state to be known.
        world.store.remove(&world.place);
        sleep_until(Instant::now() + REST).await;
        world.hear(None, "another");
        assert_eq!(world.read().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn while_its_store_is_away_what_was_known_is_served_as_past_its_time() {
        let world = World::new();
        let first = world.store.put(&world.place, "1").etag;
        assert_eq!(world.read().await, Some(first));
        world.store.put(&world.place, "2");
        world.store.fail(true);
        world.hear(None, "another");
        assert_eq!(world.read().await, Some(first));
        assert_eq!(world.cache.believed(&world.place), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_one_key_is_a_look_at_a_time() {
        let world = World::new();
        world.store.put(&world.place, "0");
        *world.store.pause.lock().unwrap() = Duration::from_millis(20);
        let reader = async {
            loop {
                world.read().await;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let flood = async {
            for _ in 0..5_000 {
                for _ in 0..10 {
                    world.hear(None, "another");
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            () = reader => {}
            () = flood => {}
        }
        // In five seconds, and not 50 000.
        let looks = world.store.calls();
        assert!((40..=60).contains(&looks), "{looks} looks");
        // The last one counts.
        let last = world.store.put(&world.place, "last").etag;
        world.hear(None, "another");
        tokio::time::sleep(2 * REST).await;
        assert_eq!(world.read().await, Some(last));
        tokio::time::sleep(2 * REST).await;
        assert!(world.dispatch.paced().resting.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn many_keys_take_no_more_room_than_they_rest() {
        let world = World::new();
        for key in 0..200_000 {
            let detail = json!({ "backend": "hot", "name": format!("acme/ns/t_/{key}"), "replica": "another" });
            let message = json!({ "source": "tagway", "detail-type": "ConfigChanged", "detail": detail });
            world.dispatch.hear(&message.to_string()).unwrap();
        }
        assert_eq!(world.dispatch.paced().resting.len(), RESTING);
        tokio::time::sleep(2 * REST).await;
        assert!(world.dispatch.paced().resting.is_empty() && world.dispatch.paced().until.is_empty());
    }
}
