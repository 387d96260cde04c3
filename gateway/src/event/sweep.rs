//! The sweep: what is watched is compared with its stores once in a while, whatever events say. So a watcher has what stands
//! within a sweep's time also where every event was lost.
//!
//! It asks as those who watch, one of them for all who watch the same; and only for etags. What differs from the comparison before
//! it, or from what is known, is looked at by whoever watches it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::metrics::EventMetrics;
use crate::backend::{Backend, BackendError, Catalog, Compared, PageRequest, Urgency};
use crate::cache::Cache;
use crate::clock::jittered;
use crate::identity::VerifiedTenant;
use crate::key::Etag;
use crate::placement::Place;
use crate::watch::{Hub, Listing, Stood, Watched, WatchedPlace, WatchedRange};

/// Tenants of a store that are compared at once. One for whom the store is slow takes one of these, and the others go on.
const TENANTS: usize = 4;
/// Names that are compared at once.
const TOGETHER: usize = 100;
/// Names of a page. A store that gathers a range gives it whole.
const PAGE: usize = 100_000;
/// Shortest rest between two sweeps, where one takes longer than its period.
const LEAST_REST: Duration = Duration::from_secs(1);

/// Sweeps all stores that others write to.
pub struct Sweep {
    catalog: Catalog,
    cache: Arc<Cache>,
    hub: Arc<Hub>,
    period: Duration,
    metrics: EventMetrics,
    /// Counts what asked for one at once.
    asked: watch::Sender<u64>,
    /// What each store's last one answered.
    answered: Mutex<HashMap<Arc<str>, u64>>,
}

/// One store, once.
struct Round<'s> {
    sweep: &'s Sweep,
    backend: &'s Arc<dyn Backend>,
}

/// What a tenant's watchers watch in one store.
struct OfTenant {
    tenant: VerifiedTenant,
    places: Vec<(Place, Stood)>,
    ranges: Vec<WatchedRange>,
}

/// What was found.
#[derive(Default)]
struct Tally {
    differences: u64,
    answers: u64,
    /// What may be compared another time.
    failures: u64,
    /// What cannot be, however often, until somebody changes something else.
    unreadable: u64,
}

impl Sweep {
    /// One every `period`, a little sooner or later.
    #[must_use]
    pub fn new(catalog: Catalog, cache: Arc<Cache>, hub: Arc<Hub>, period: Duration, metrics: EventMetrics) -> Self {
        Self {
            catalog,
            cache,
            hub,
            period,
            metrics,
            asked: watch::Sender::new(0),
            answered: Mutex::default(),
        }
    }

    /// The next one begins now: events were lost. Returns which it is.
    pub fn begin(&self) -> u64 {
        self.asked.send_modify(|asked| *asked += 1);
        *self.asked.borrow()
    }

    /// Whether every store was compared since that was asked for.
    pub fn has_answered(&self, asked: u64) -> bool {
        let answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        let is_answered = |id: &str| answered.get(id).is_some_and(|answered| *answered >= asked);
        self.shared().all(|(id, _)| is_answered(id))
    }

    /// Stores that others write to.
    fn shared(&self) -> impl Iterator<Item = (&str, &Arc<dyn Backend>)> {
        let stores = self.catalog.iter();
        stores.filter(|(_, store)| store.capabilities().others_write)
    }

    /// Sweeps. Runs until it is dropped.
    pub async fn run(&self) {
        join_all(self.shared().map(|(id, backend)| self.sweep(id, backend))).await;
    }

    async fn sweep(&self, id: &str, backend: &Arc<dyn Backend>) {
        let mut asked = self.asked.subscribe();
        let mut last = Instant::now();
        loop {
            let rested = Instant::now() + LEAST_REST;
            tokio::select! {
                () = sleep_until((last + jittered(self.period)).max(rested)) => {}
                // Its other end lives as long as this does.
                _ = asked.changed() => sleep_until(rested).await,
            }
            let answers = *asked.borrow_and_update();
            let began = Instant::now();
            let round = Round { sweep: self, backend };
            let tally = {
                let mut compare = std::pin::pin!(round.compare(self.hub.watched(id)));
                // A round that takes long is told of while it does.
                loop {
                    match timeout(LEAST_REST, &mut compare).await {
                        Ok(tally) => break tally,
                        Err(_) => self.metrics.sweeps_since(id, last.elapsed()),
                    }
                }
            };
            self.metrics.sweeps_since(id, began - last);
            self.metrics
                .swept(id, tally.differences, tally.failures + tally.unreadable);
            if tally.has_answered() {
                let mut answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
                answered.insert(id.into(), answers);
            }
            last = began;
        }
    }
}

impl Round<'_> {
    async fn compare(&self, watched: Watched) -> Tally {
        let mut by_tenant: HashMap<_, OfTenant> = HashMap::new();
        for WatchedPlace { place, tenant, before } in watched.places {
            let of = by_tenant.entry(tenant.id().clone());
            let of = of.or_insert_with(|| OfTenant::new(tenant));
            of.places.push((place, before));
        }
        for range in watched.ranges {
            let of = by_tenant.entry(range.tenant.id().clone());
            let of = of.or_insert_with(|| OfTenant::new(range.tenant.clone()));
            of.ranges.push(range);
        }
        stream::iter(by_tenant.into_values())
            .map(|of| self.compare_tenant(of))
            .buffer_unordered(TENANTS)
            .fold(Tally::default(), async |sum: Tally, of| sum.and(&of))
            .await
    }

    async fn compare_tenant(&self, of: OfTenant) -> Tally {
        let OfTenant {
            tenant,
            mut places,
            ranges,
        } = of;
        let mut tally = Tally::default();
        while !places.is_empty() {
            let rest = places.split_off(places.len().min(TOGETHER));
            let unread = self.compare_places(&tenant, places, &mut tally).await;
            places = rest;
            places.extend(unread);
        }
        for mut watched in ranges {
            if let Err(error) = self.compare_range(&watched, &mut tally).await {
                tally.failed(&error);
                let shown = std::mem::take(&mut watched.shown);
                self.sweep.hub.range_not_compared(&watched.range, shown);
            }
        }
        tally
    }

    /// Returns those for which there was no room.
    async fn compare_places(
        &self,
        tenant: &VerifiedTenant,
        places: Vec<(Place, Stood)>,
        tally: &mut Tally,
    ) -> Vec<(Place, Stood)> {
        let names: Vec<_> = places.iter().map(|(place, _)| &place.name).collect();
        let asked = Instant::now();
        let answers = self.backend.compare(tenant, &names).await;
        let count = places.len();
        let mut unread = Vec::new();
        for ((place, before), answer) in places.into_iter().zip(answers) {
            let etag = match answer {
                Ok(Compared::Stands(etag)) => Some(etag),
                Ok(Compared::Nothing) => None,
                Ok(Compared::Unread) => {
                    unread.push((place, before));
                    continue;
                }
                Err(error) => {
                    tally.failed(&error);
                    self.sweep.hub.place_not_compared(&place);
                    continue;
                }
            };
            tally.answers += 1;
            tally.differences += u64::from(self.found(&place, etag, before != etag.into(), asked));
            self.sweep.hub.compared_place(&place, etag);
        }
        // A store that has no room for any would be asked for ever.
        if unread.len() == count { Vec::new() } else { unread }
    }

    async fn compare_range(&self, watched: &WatchedRange, tally: &mut Tally) -> Result<(), BackendError> {
        let WatchedRange {
            range,
            beginning,
            tenant,
            before,
            shown,
        } = watched;
        let mut listing = Listing::new();
        let mut after = String::new();
        let mut since = None;
        let began = loop {
            let request = PageRequest {
                range: &range.range,
                prefix: beginning,
                after: &after,
                since,
                entries: PAGE,
                bytes: usize::MAX,
                keys_only: true,
                urgency: Urgency::Sweep,
            };
            let page = self.backend.list(tenant, request).await?;
            let began = *since.get_or_insert(page.as_of);
            for (name, entry) in page.entries {
                name.as_str().clone_into(&mut after);
                if let Some(before) = before {
                    let is_other = before.get(&name) != Some(&entry.etag);
                    let is_difference = self.found(&range.place(&name), Some(entry.etag), is_other, page.as_of);
                    tally.differences += u64::from(is_difference);
                }
                listing.insert(name, entry.etag);
            }
            if !page.more {
                break began;
            }
        };
        tally.answers += 1;
        // Where nothing is known of what stood before, all is listed again.
        if let Some(before) = before {
            let names = before.keys().chain(shown).filter(|name| !listing.contains_key(*name));
            for name in names {
                tally.differences += u64::from(self.found(&range.place(name), None, true, began));
            }
        }
        self.sweep.hub.compared_range(range, beginning, listing);
        Ok(())
    }

    /// Has whoever watches it look, if it is another than it was, or than is known. Returns whether another was known.
    fn found(&self, place: &Place, etag: Option<Etag>, is_other: bool, asked: Instant) -> bool {
        let cache = &self.sweep.cache;
        let believed = cache.believed(place);
        let is_unknown = believed.is_some_and(|(believed, as_of)| believed != etag && as_of < asked);
        if is_other || is_unknown {
            cache.compared(place, etag, asked, self.backend.capabilities().reads_lag);
        }
        is_unknown
    }
}

impl OfTenant {
    fn new(tenant: VerifiedTenant) -> Self {
        Self {
            tenant,
            places: Vec::new(),
            ranges: Vec::new(),
        }
    }
}

impl Tally {
    fn and(self, other: &Self) -> Self {
        Self {
            differences: self.differences + other.differences,
            answers: self.answers + other.answers,
            failures: self.failures + other.failures,
            unreadable: self.unreadable + other.unreadable,
        }
    }

    fn failed(&mut self, error: &BackendError) {
        tracing::debug!(%error, "what is watched could not be compared with its store");
        match error {
            BackendError::Damaged(_)
            | BackendError::Denied(_)
            | BackendError::TooManyNames(_)
            | BackendError::Foreign => self.unreadable += 1,
            _ => self.failures += 1,
        }
    }

    /// Whether the store has answered for all that is watched, but for what no answer can be had of: that says nothing of the rest.
    fn has_answered(&self) -> bool {
        self.failures == 0 && (self.unreadable == 0 || self.answers > 0)
    }
}
