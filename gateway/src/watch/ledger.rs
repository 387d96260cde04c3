//! What the client of one subscription holds, and what it says of it. Its subscription writes here, and operators look.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Config;
use crate::key::{Etag, KeyPrefix};
use crate::placement::Origin;

/// A key that a store tells an older state of than the client holds is that old if it says so for longer. As long as the cache
/// does not believe it.
const BEHIND: Duration = Duration::from_secs(30);

/// The ledger of one subscription.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Sorted, and none begins with another.
    prefixes: Vec<KeyPrefix>,
    named: HashSet<Arc<str>>,
    held: Mutex<HashMap<Arc<str>, Held>>,
}

/// What the client holds of a key.
#[derive(Debug, Clone, Default)]
pub(super) struct Held {
    /// None: something that is no state of ours.
    pub(super) etag: Option<Etag>,
    /// What the place is to the key where it was found. None: another gateway found it, or another strategy's decision led
    /// there.
    pub(super) origin: Option<Origin>,
    /// Since when a store has been telling of an older one.
    pub(super) behind_since: Option<Instant>,
    /// What it runs with, as far as it said.
    acknowledged: Option<Etag>,
    /// Why it does not run with what it holds, as far as it said.
    refused: Option<Box<str>>,
}

impl Held {
    fn is_behind(&mut self, found: &Config, lags: bool) -> bool {
        let is_earlier = self.etag.is_some_and(|held| {
            let etag = found.entry.etag;
            let is_same_place = match self.origin {
                Some(origin) => origin == found.origin,
                None => lags || held.life == etag.life,
            };
            is_same_place && etag < held
        });
        if !is_earlier {
            return false;
        }
        let now = Instant::now();
        now.saturating_duration_since(*self.behind_since.get_or_insert(now)) < BEHIND
    }
}

/// How far a client is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// Keys that it holds.
    pub keys: u64,
    /// Of those, the ones that it runs with as they are.
    pub current: u64,
    /// Keys that it does not run with, and why: of some of them.
    pub refused: Vec<(Arc<str>, Box<str>)>,
}

impl Ledger {
    pub(super) fn new(
        mut prefixes: Vec<KeyPrefix>,
        named: HashSet<Arc<str>>,
        known: impl IntoIterator<Item = (Arc<str>, Option<Etag>)>,
    ) -> Self {
        // What another begins with covers it.
        prefixes.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
        prefixes.dedup_by(|next, before| next.as_str().starts_with(before.as_str()));
        let held = known.into_iter().map(|(key, etag)| {
            let held = Held {
                etag,
                ..Held::default()
            };
            (key, held)
        });
        Self {
            prefixes,
            named,
            held: Mutex::new(held.collect()),
        }
    }

    /// What it asks for by its beginning.
    pub(super) fn prefixes(&self) -> &[KeyPrefix] {
        &self.prefixes
    }

    /// What it asks for by its name.
    pub(super) fn named(&self) -> &HashSet<Arc<str>> {
        &self.named
    }

    /// How many keys the client holds.
    pub(super) fn keys(&self) -> u64 {
        self.held().len() as u64
    }

    /// Whether it asks for that key.
    #[must_use]
    pub fn covers(&self, key: &str) -> bool {
        // None begins with another, so only the last before it may be its beginning.
        let at = self.prefixes.partition_point(|prefix| prefix.as_str() <= key);
        let nearest = self.prefixes[..at].last();
        self.named.contains(key) || nearest.is_some_and(|prefix| key.starts_with(prefix.as_str()))
    }

    /// The client runs with that state of a key; or it does not, and says why.
    pub fn acknowledge(&self, key: &str, etag: Etag, refusal: Option<Box<str>>) {
        let mut all = self.held();
        let Some(held) = all.get_mut(key) else { return };
        if refusal.is_none() {
            held.acknowledged = Some(etag);
        }
        if held.etag == Some(etag) {
            held.refused = refusal;
        }
    }

    /// What the client said last that it runs with, of that key.
    #[must_use]
    pub fn acknowledged(&self, key: &str) -> Option<Etag> {
        self.held().get(key)?.acknowledged
    }

    /// How far the client is; with so many of the keys that it refuses.
    #[must_use]
    pub fn told(&self, refused: usize) -> Told {
        let held = self.held();
        let is_current = |held: &&Held| held.etag.is_some() && held.etag == held.acknowledged;
        let of = held
            .iter()
            .filter_map(|(key, held)| Some((Arc::clone(key), held.refused.clone()?)));
        Told {
            keys: held.len() as u64,
            current: held.values().filter(is_current).count() as u64,
            refused: of.take(refused).collect(),
        }
    }

    /// What it holds of a key, if anything.
    pub(super) fn state(&self, key: &str) -> Option<Held> {
        self.held().get(key).cloned()
    }

    /// What is held was found under another decision, so far.
    pub(super) fn is_to_be_compared(&self) {
        for held in self.held().values_mut() {
            held.origin = None;
        }
    }

    /// What it holds of a key was found again, there. Returns whether that is known for the first time.
    pub(super) fn is_still_held(&self, key: &str, origin: Origin) -> bool {
        let mut all = self.held();
        let Some(held) = all.get_mut(key) else { return false };
        held.behind_since = None;
        held.origin.replace(origin).is_none()
    }

    /// Whether what was found is an earlier state of the same place, from a store that has not heard of the later one. Where a store
    /// `lags` it may be so also where it is not known to be the same place.
    pub(super) fn is_behind(&self, key: &str, found: &Config, lags: bool) -> bool {
        let mut all = self.held();
        all.get_mut(key).is_some_and(|held| held.is_behind(found, lags))
    }

    /// It holds that from here on, which was found there.
    pub(super) fn hold(&self, key: &Arc<str>, etag: Etag, origin: Origin) {
        let mut all = self.held();
        let held = all.entry(Arc::clone(key)).or_default();
        *held = Held {
            etag: Some(etag),
            origin: Some(origin),
            behind_since: None,
            acknowledged: held.acknowledged,
            refused: None,
        };
    }

    pub(super) fn held(&self) -> MutexGuard<'_, HashMap<Arc<str>, Held>> {
        // Each change of it is one step.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
