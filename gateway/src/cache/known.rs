//! What a store said of one place, and how long that is believed.

use std::time::Duration;

use tokio::time::Instant;

use crate::backend::Entry;
use crate::key::Etag;
use crate::placement::CachePolicy;

/// What the store said last.
#[derive(Debug, Clone)]
pub(super) struct Known {
    /// None: there is no such key.
    pub(super) entry: Option<Entry>,
    /// The store was asked then, or later.
    pub(super) as_of: Instant,
    /// It had answered by then.
    pub(super) until: Instant,
    doubt: Doubt,
    floor: Option<Floor>,
    /// Of how many 256ths of a time it goes short, so that what was read together is not asked for together.
    jitter: u8,
}

/// Whether it still holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    /// As far as is known.
    None,
    /// It was changed through this gateway, and what stands now is not known.
    Gone,
}

/// The newest state that was ever seen here.
#[derive(Debug, Clone, Copy)]
struct Floor {
    etag: Etag,
    /// It stands no more.
    has_ended: bool,
    /// When it was seen.
    at: Instant,
}

/// How far behind a store may be. What it says for longer is so, whatever was seen before.
const LAG: Duration = Duration::from_secs(30);

/// What is to be done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// It is served.
    Fresh,
    /// It is served, and asked for behind the caller.
    Stale,
    /// It is asked for.
    Over,
}

/// Of 256, at most.
const JITTER: u8 = 26;

impl Known {
    /// What a store said that was asked at `as_of`. None: it is older than what was seen here before.
    pub(super) fn new(entry: Option<Entry>, as_of: Instant, before: Option<&Self>) -> Option<Self> {
        let etag = entry.as_ref().map(|entry| entry.etag);
        let before = before.and_then(|before| before.floor);
        if let (Some(etag), Some(floor)) = (etag, before)
            && floor.is_above(etag, as_of)
        {
            return None;
        }
        let seen = etag.map(|etag| Floor {
            etag,
            has_ended: false,
            at: as_of,
        });
        Some(Self {
            entry,
            as_of,
            until: Instant::now(),
            doubt: Doubt::None,
            floor: seen.or(before),
            jitter: fastrand::u8(..JITTER),
        })
    }

    /// The newest state that was ever seen here.
    pub(super) fn newest(&self) -> Option<Etag> {
        Some(self.floor?.etag)
    }

    /// After a change through this gateway of which is not known what it left: nothing but what cannot come back. That state
    /// has `ended`.
    pub(super) fn gone(&self, ended: Option<Etag>, now: Instant) -> Option<Self> {
        let floor = self.floor?;
        let has_ended = ended == Some(floor.etag);
        Some(Self {
            entry: None,
            doubt: Doubt::Gone,
            floor: Some(Floor {
                has_ended: floor.has_ended || has_ended,
                // Only what is known to have changed begins the time anew.
                at: if has_ended { now } else { floor.at },
                ..floor
            }),
            ..self.clone()
        })
    }

    /// What that policy makes of it.
    pub(super) fn look(&self, policy: CachePolicy, now: Instant) -> Look {
        let age = self.age(now);
        let believed = self.believed(policy);
        if self.doubt == Doubt::Gone {
            Look::Over
        } else if age < believed {
            Look::Fresh
        } else if self.entry.is_some() && age < believed + policy.stale {
            Look::Stale
        } else {
            Look::Over
        }
    }

    /// Whether it is better than nothing, where the store cannot be asked.
    pub(super) fn stands_in(&self, policy: CachePolicy, now: Instant) -> bool {
        let believed = if self.entry.is_some() {
            policy.ttl
        } else {
            policy.negative
        };
        self.doubt == Doubt::None && self.age(now) < believed + policy.stale
    }

    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.as_of)
    }

    fn believed(&self, policy: CachePolicy) -> Duration {
        let believed = if self.entry.is_some() {
            policy.ttl
        } else {
            policy.negative
        };
        believed * (256 - u32::from(self.jitter)) / 256
    }
}

impl Floor {
    /// Whether a store that says so, asked then, tells what stood before.
    fn is_above(self, etag: Etag, asked: Instant) -> bool {
        let is_older = etag < self.etag || (self.has_ended && etag == self.etag);
        is_older && asked.saturating_duration_since(self.at) < LAG
    }
}
