//! What has changed, or may have, until somebody takes it: a hint to look again, which never says what is true.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::placement::Place;

/// Places that wait to be taken. Who falls behind by more has to look at everything.
const WAITING: usize = 100_000;

/// What is known of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changed {
    /// Who asks the store from then on is told of it.
    pub since: Instant,
    /// Whether a look may come too soon.
    pub doubt: Doubt,
}

/// Whether a look at what has changed may show what stood before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doubt {
    /// No.
    #[default]
    None,
    /// The store may be behind, until it shows something else.
    Late,
    /// Nobody knows whether it has happened, or is yet to.
    Open,
}

/// All that changed since it was taken last.
#[derive(Debug, Default)]
pub struct Taken {
    /// Where.
    pub places: HashMap<Place, Changed>,
    /// There were more than there was room for: anything may have changed.
    pub more: bool,
}

/// The changes that wait. Each place once, however often it changed.
#[derive(Default)]
pub struct Changes {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    waiting: Taken,
    /// The oldest of them came then.
    waiting_since: Option<Instant>,
    /// And of those that were taken, and not told yet.
    taken_since: Option<Instant>,
    /// Changes that are under way: when each began, and its number.
    under_way: BTreeSet<(Instant, u64)>,
    begun: u64,
}

/// A change that is under way: it may have happened already.
#[derive(Debug)]
pub(super) struct UnderWay(Instant, u64);

impl Changes {
    /// Waits until something has changed, and takes it. For one taker, who then tells of it.
    pub async fn take(&self) -> Taken {
        loop {
            if let Some(taken) = self.state().take() {
                return taken;
            }
            self.wake.notified().await;
        }
    }

    /// What waits now, if anything does.
    pub fn take_now(&self) -> Option<Taken> {
        self.state().take()
    }

    /// All that was taken has been told.
    pub fn told(&self) {
        self.state().taken_since = None;
    }

    /// Since when there has been something that was not told yet, or may have been.
    #[must_use]
    pub fn untold_since(&self) -> Option<Instant> {
        let state = self.state();
        let begun = state.under_way.first().map(|(began, _)| *began);
        [state.taken_since, state.waiting_since, begun]
            .into_iter()
            .flatten()
            .min()
    }

    /// Something has changed, or may have.
    pub(super) fn put(&self, place: &Place, changed: Changed) {
        let begun = self.begin();
        self.end(&begun, place, changed);
    }

    /// Something is about to change.
    pub(super) fn begin(&self) -> UnderWay {
        let mut state = self.state();
        state.begun += 1;
        let begun = (Instant::now(), state.begun);
        state.under_way.insert(begun);
        UnderWay(begun.0, begun.1)
    }

    /// It has changed, or may have.
    pub(super) fn end(&self, UnderWay(began, number): &UnderWay, place: &Place, changed: Changed) {
        let mut state = self.state();
        state.under_way.remove(&(*began, *number));
        let waiting_since = state.waiting_since.get_or_insert(*began);
        *waiting_since = (*began).min(*waiting_since);
        state.waiting.put(place, changed);
        drop(state);
        self.wake.notify_one();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here is left half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self) -> Option<Taken> {
        // Nothing waits without a time.
        self.taken_since = Some(self.waiting_since.take()?);
        Some(mem::take(&mut self.waiting))
    }
}

impl Taken {
    fn put(&mut self, place: &Place, changed: Changed) {
        if self.more {
            return;
        }
        if self.places.len() >= WAITING && !self.places.contains_key(place) {
            *self = Self {
                places: HashMap::new(),
                more: true,
            };
            return;
        }
        match self.places.entry(place.clone()) {
            Entry::Vacant(vacant) => _ = vacant.insert(changed),
            Entry::Occupied(mut before) => {
                let before = before.get_mut();
                before.since = before.since.max(changed.since);
                before.doubt = before.doubt.max(changed.doubt);
            }
        }
    }
}
