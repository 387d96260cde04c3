//! The sweep: what is watched is compared with its stores once in a while, whatever events say. So a watcher has what stands
//! within a sweep's time also where every event was lost.
//!
//! It asks as those who watch, one of them for all who watch the same; and only for etags. What differs from the comparison before
//! it, or from what is known, is looked at by whoever watches it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::metrics::EventMetrics;
use crate::backend::{Backend, BackendError, Catalog, Compared, PageRequest, Urgency};
use crate::cache::Cache;
use crate::clock::jittered;
use crate::identity::VerifiedTenant;
use crate::key::{Etag, Name};
use crate::placement::{Place, PlaceRange};
use crate::watch::{Hub, Watched};

/// Names that are compared at once.
const TOGETHER: usize = 100;
/// Shortest rest between two sweeps, where one takes longer than its period.
const LEAST_REST: Duration = Duration::from_secs(1);

/// Sweeps all stores that others write to.
pub struct Sweep {
    catalog: Catalog,
    cache: Arc<Cache>,
    hub: Arc<Hub>,
    period: Duration,
    metrics: EventMetrics,
    at_once: Notify,
}

/// What a store held when it was compared last.
#[derive(Default)]
struct Seen {
    places: HashMap<Place, Option<Etag>>,
    ranges: HashMap<(PlaceRange, Arc<str>), HashMap<Name, Etag>>,
}

/// One store, and what was found there.
struct Round<'s> {
    sweep: &'s Sweep,
    backend: &'s Arc<dyn Backend>,
    before: &'s Seen,
    seen: Seen,
    differences: u64,
    failures: u64,
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
            at_once: Notify::new(),
        }
    }

    /// The next one begins now: events were lost.
    pub fn begin(&self) {
        self.at_once.notify_waiters();
    }

    /// Sweeps. Runs until it is dropped.
    pub async fn run(&self) {
        let shared = self
            .catalog
            .iter()
            .filter(|(_, store)| store.capabilities().others_write);
        join_all(shared.map(|(id, backend)| self.sweep(id, backend))).await;
    }

    async fn sweep(&self, id: &str, backend: &Arc<dyn Backend>) {
        let mut seen = Seen::default();
        let mut last = Instant::now();
        loop {
            let next = (last + jittered(self.period)).max(Instant::now() + LEAST_REST);
            let at_once = self.at_once.notified();
            tokio::select! {
                () = sleep_until(next) => {}
                () = at_once => {}
            }
            let began = Instant::now();
            let mut round = Round {
                sweep: self,
                backend,
                before: &seen,
                seen: Seen::default(),
                differences: 0,
                failures: 0,
            };
            round.compare(self.hub.watched(id)).await;
            let Round {
                seen: now,
                differences,
                failures,
                ..
            } = round;
            self.metrics.swept(id, began - last, differences, failures);
            seen = now;
            last = began;
        }
    }
}

impl Round<'_> {
    async fn compare(&mut self, watched: Watched) {
        let mut by_tenant: HashMap<_, (VerifiedTenant, Vec<Place>)> = HashMap::new();
        for (place, tenant) in watched.places {
            let (_, places) = by_tenant
                .entry(tenant.id().clone())
                .or_insert_with(|| (tenant, Vec::new()));
            places.push(place);
        }
        for (tenant, mut places) in by_tenant.into_values() {
            while !places.is_empty() {
                let rest = places.split_off(places.len().min(TOGETHER));
                let unread = self.compare_places(&tenant, places).await;
                places = rest;
                places.extend(unread);
            }
        }
        for (range, beginnings, tenant) in watched.ranges {
            for beginning in beginnings {
                if let Err(error) = self.compare_range(&tenant, &range, beginning.clone()).await {
                    self.failed(&error);
                    let of_it = (range.clone(), beginning);
                    // What was seen before is what the next is compared with.
                    if let Some(before) = self.before.ranges.get(&of_it) {
                        self.seen.ranges.insert(of_it, before.clone());
                    }
                }
            }
        }
    }

    /// Returns those for which there was no room.
    async fn compare_places(&mut self, tenant: &VerifiedTenant, places: Vec<Place>) -> Vec<Place> {
        let names: Vec<_> = places.iter().map(|place| &place.name).collect();
        let asked = Instant::now();
        let answers = self.backend.compare(tenant, &names).await;
        let mut unread = Vec::new();
        let mut is_all_unread = true;
        for (place, answer) in places.into_iter().zip(answers) {
            let before = self.before.places.get(&place).copied();
            let etag = match answer {
                Ok(Compared::Stands(etag)) => Some(etag),
                Ok(Compared::Nothing) => None,
                Ok(Compared::Unread) => {
                    unread.push(place);
                    continue;
                }
                Err(error) => {
                    is_all_unread = false;
                    self.failed(&error);
                    if let Some(before) = before {
                        self.seen.places.insert(place, before);
                    }
                    continue;
                }
            };
            is_all_unread = false;
            self.found(&place, etag, before.map(|before| before != etag), asked);
            self.seen.places.insert(place, etag);
        }
        if is_all_unread { Vec::new() } else { unread }
    }

    async fn compare_range(
        &mut self,
        tenant: &VerifiedTenant,
        range: &PlaceRange,
        beginning: Arc<str>,
    ) -> Result<(), BackendError> {
        let mut listed: HashMap<Name, Etag> = HashMap::new();
        let of_it = (range.clone(), beginning);
        let before = self.before.ranges.get(&of_it);
        let mut after = String::new();
        let began = Instant::now();
        loop {
            let request = PageRequest {
                range: &range.range,
                prefix: &of_it.1,
                after: &after,
                entries: TOGETHER,
                bytes: usize::MAX,
                keys_only: true,
                urgency: Urgency::Sweep,
            };
            let page = self.backend.list(tenant, request).await?;
            for (name, entry) in page.entries {
                name.as_str().clone_into(&mut after);
                if let Some(before) = before {
                    let is_other = before.get(&name) != Some(&entry.etag);
                    self.found(&range.place(&name), Some(entry.etag), Some(is_other), page.as_of);
                }
                listed.insert(name, entry.etag);
            }
            if !page.more {
                break;
            }
        }
        match before {
            Some(before) => {
                for name in before.keys().filter(|name| !listed.contains_key(*name)) {
                    self.found(&range.place(name), None, Some(true), began);
                }
            }
            // Since they came there has been nothing to compare with.
            None => self.sweep.hub.list_again(range),
        }
        self.seen.ranges.insert(of_it, listed);
        Ok(())
    }

    /// Has whoever watches it look, if it is another than when it was compared last, or than is known.
    fn found(&mut self, place: &Place, etag: Option<Etag>, is_other: Option<bool>, asked: Instant) {
        let cache = &self.sweep.cache;
        let believed = cache.believed(place);
        let is_known = believed.map(|(believed, as_of)| believed == etag || as_of >= asked);
        let is_news = match (is_known, is_other) {
            (Some(false), _) | (None, None) => true,
            (_, Some(is_other)) => is_other,
            (Some(true), None) => false,
        };
        if is_news {
            self.differences += u64::from(is_known == Some(false));
            cache.compared(place, etag, asked, self.backend.capabilities().reads_lag);
        }
    }

    fn failed(&mut self, error: &BackendError) {
        tracing::debug!(%error, "what is watched could not be compared with its store");
        self.failures += 1;
    }
}
