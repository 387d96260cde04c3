//! What a write finds on its way, whether it comes to its end or not.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crate::key::Etag;

/// What is known of a write so far.
#[derive(Debug, Default)]
pub struct Trail {
    decided_by: OnceLock<Decider>,
    followed: OnceLock<Etag>,
    has_begun: AtomicBool,
    is_replay: AtomicBool,
}

/// Who decided where a key lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decider {
    /// The operator's name for it.
    pub strategy: Arc<str>,
    /// Of the snapshot that it became active with.
    pub generation: u64,
}

impl Trail {
    /// Who decided, if somebody did.
    #[must_use]
    pub fn decider(&self) -> Option<&Decider> {
        self.decided_by.get()
    }

    /// The state that the write followed, if there was one and it is known.
    #[must_use]
    pub fn before(&self) -> Option<Etag> {
        self.followed.get().copied()
    }

    /// Whether a store was asked to change something. Before that, nothing has.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.has_begun.load(Ordering::Relaxed)
    }

    /// Whether it was done before, by the id of its request.
    #[must_use]
    pub fn is_replay(&self) -> bool {
        self.is_replay.load(Ordering::Relaxed)
    }

    pub(super) fn decided(&self, by: &Decider) {
        _ = self.decided_by.set(by.clone());
    }

    /// The first that is said is the one: what is found later came of what was done meanwhile.
    pub(super) fn followed(&self, etag: Etag) {
        _ = self.followed.set(etag);
    }

    pub(super) fn begins(&self) {
        self.has_begun.store(true, Ordering::Relaxed);
    }

    pub(super) fn replays(&self) {
        self.is_replay.store(true, Ordering::Relaxed);
    }
}
