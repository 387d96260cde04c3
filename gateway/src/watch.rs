//! What is watched, and what its watchers are sent: each state of a key that differs from what they hold.
//!
//! A change is a hint. The `hub` finds the subscriptions that it concerns and leaves a mark with each (`marks`); each looks
//! again by itself (`subscription`), when its client has room for what it finds (`outbox`). So nobody is sent what nobody
//! read from a store, and nobody waits for another.

mod compared;
mod doubted;
mod hub;
mod ledger;
mod marks;
mod metrics;
mod outbox;
mod roster;
mod subscription;
mod work;

use std::sync::Arc;

use crate::config::Config;

pub use compared::{Listing, Stood, Watched, WatchedPlace, WatchedRange};
pub use hub::Hub;
pub(crate) use hub::{PAGE_BYTES, PAGES};
pub use ledger::{Ledger, Told};
pub use marks::{Marks, Progress};
pub use metrics::{Counted, WatchMetrics};
pub use outbox::{Outbox, Outgoing, Reserve, Room, outbox};
pub use roster::{Listed, Roster, Stream, Watching};
pub use subscription::{Asked, Subscription};

/// Something of a subscription.
#[derive(Debug)]
pub struct News {
    /// Whose.
    pub subscription: Arc<str>,
    /// What.
    pub update: Update,
}

/// What a subscription tells.
#[derive(Debug)]
pub enum Update {
    /// This stands.
    Put(Config),
    /// No such key stands any more, by a store's word.
    Removed {
        /// Which.
        key: String,
        /// What the client held; empty where it held nothing.
        etag: String,
    },
    /// All that stood has been sent.
    Synced {
        /// In part it was out of the cache, for a store is out of reach.
        is_stale: bool,
    },
    /// All is compared anew.
    Resync,
}

impl News {
    /// About how many bytes it holds.
    #[must_use]
    pub fn bytes(&self) -> usize {
        match &self.update {
            Update::Put(config) => config.size(),
            Update::Removed { key, .. } => key.len(),
            Update::Synced { .. } | Update::Resync => 0,
        }
    }
}

#[cfg(test)]
mod tests;
