//! What a subscription has yet to look at, and how far it is. The one thing of it that others touch.

use std::collections::HashMap;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

/// Keys that wait to be looked at. Who falls behind by more compares everything anew.
pub(super) const KEYS: usize = 10_000;

/// The marks of one subscription.
#[derive(Debug, Default)]
pub struct Marks {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct State {
    marked: Marked,
    /// Something that changed then is not sent yet.
    behind_since: Option<Instant>,
    /// Nothing was missing then.
    whole_at: Option<Instant>,
    is_synced: bool,
    is_stale: bool,
}

/// What is to be looked at.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Marked {
    /// Each key, as of then or later.
    pub(super) keys: HashMap<Arc<str>, Instant>,
    /// And what a list of each prefix shows.
    pub(super) lists: bool,
    /// And everything else.
    pub(super) everything: bool,
}

/// How far a subscription is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Whether all that stood when it began was sent.
    pub is_synced: bool,
    /// Whether a store that it needs is out of reach.
    pub is_stale: bool,
    /// Something that changed then is not sent yet.
    pub behind_since: Option<Instant>,
}

impl Marks {
    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let state = self.state();
        Progress {
            is_synced: state.is_synced,
            is_stale: state.is_stale,
            behind_since: state.behind_since,
        }
    }

    /// Keys that are yet to be looked at; none where that is everything.
    #[must_use]
    pub fn lag(&self) -> Option<u64> {
        let state = self.state();
        let Marked { keys, everything, .. } = &state.marked;
        (!everything).then_some(keys.len() as u64)
    }

    /// What it shows may not be what is to be shown, from now on, until it has looked.
    pub fn falls_behind(&self) {
        self.state().behind_since.get_or_insert_with(Instant::now);
        // It may have looked already, and rests.
        self.wake.notify_one();
    }

    /// That key changed at `came` or later, as who asks from `since` on is told.
    pub(super) fn mark(&self, key: &Arc<str>, since: Instant, came: Instant) {
        let mut state = self.state();
        state.behind_since = state.behind_since.into_iter().chain([came]).min();
        let Marked { keys, everything, .. } = &mut state.marked;
        if *everything {
            return;
        }
        if keys.len() >= KEYS && !keys.contains_key(key) {
            *keys = HashMap::new();
            *everything = true;
        } else {
            let at = keys.entry(Arc::clone(key)).or_insert(since);
            *at = since.max(*at);
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Keys may have come and gone.
    pub(super) fn list_again(&self) {
        self.state().marked.lists = true;
        self.wake.notify_one();
    }

    /// Anything may have changed.
    pub(super) fn mark_everything(&self) {
        let mut state = self.state();
        state.behind_since.get_or_insert_with(Instant::now);
        state.marked = Marked {
            everything: true,
            ..Marked::default()
        };
        drop(state);
        self.wake.notify_one();
    }

    /// Waits for a mark.
    pub(super) async fn marked(&self) {
        self.wake.notified().await;
    }

    /// All that is marked, once.
    pub(super) fn take(&self) -> Marked {
        mem::take(&mut self.state().marked)
    }

    /// All is to be compared anew.
    pub(super) fn begin(&self) {
        let mut state = self.state();
        state.is_synced = false;
        let behind_since = state.behind_since.take();
        if state.whole_at.is_some() {
            // Until then nothing was missing.
            state.whole_at = Some(behind_since.unwrap_or_else(Instant::now));
        }
        state.marked = Marked::default();
    }

    /// All that stood when it began was sent.
    pub(super) fn synced(&self) {
        self.state().is_synced = true;
    }

    /// All that was taken has been looked at; where `is_stale`, in vain in part.
    pub(super) fn looked(&self, is_stale: bool) {
        let mut state = self.state();
        state.is_stale = is_stale;
        let now = Instant::now();
        if is_stale {
            let whole_at = state.whole_at.unwrap_or(now);
            state.behind_since.get_or_insert(whole_at);
        } else if state.marked == Marked::default() {
            state.behind_since = None;
            state.whole_at = Some(now);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here is left half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_falls_behind_while_it_rests_looks_again() {
        let marks = Marks::default();
        marks.begin();
        marks.looked(false);
        marks.falls_behind();
        assert!(marks.progress().behind_since.is_some());
        assert!(marks.marked().now_or_never().is_some(), "it is woken");
        marks.looked(false);
        assert_eq!(marks.progress().behind_since, None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_whole_until_now_is_behind_since_now() {
        let marks = Marks::default();
        marks.begin();
        marks.looked(false);
        advance(Duration::from_hours(5)).await;
        // All is compared anew, and a store is away.
        marks.mark_everything();
        marks.begin();
        marks.looked(true);
        assert_eq!(marks.progress().behind_since, Some(Instant::now()));
        advance(Duration::from_mins(1)).await;
        marks.begin();
        marks.looked(true);
        let behind = marks.progress().behind_since.map(|since| since.elapsed());
        assert_eq!(behind, Some(Duration::from_mins(1)), "nothing has become better");
    }
}
