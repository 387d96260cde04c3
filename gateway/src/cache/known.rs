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
    /// It stood once: before this gateway was started, or before somebody else changed it, or may have.
    Past,
}

/// The newest state that was ever seen here.
#[derive(Debug, Clone, Copy)]
struct Floor {
    /// None: whatever stood before it ended.
    etag: Option<Etag>,
    /// It stands no more.
    has_ended: bool,
    /// This gateway did that, and nothing else was seen since.
    is_own: bool,
    /// When this gateway did that, in a store that may be behind.
    pinned: Option<Instant>,
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

/// What an answer is worth.
#[derive(Debug)]
pub(super) enum Verdict {
    /// It is what stands, as far as anybody knows.
    Holds(Known),
    /// It speaks against what this gateway did, of a store that may be behind. Somebody else may have been there since.
    Doubtful(Known),
    /// It is older than what was seen here before.
    Behind,
}

impl Known {
    /// What a store said that was asked at `as_of`, and that `lags` or does not.
    pub(super) fn heard(entry: Option<Entry>, as_of: Instant, before: Option<&Self>, lags: bool) -> Verdict {
        let etag = entry.as_ref().map(|entry| entry.etag);
        let before = before.and_then(|before| before.floor);
        if let (Some(etag), Some(floor)) = (etag, before)
            && floor.is_above(etag, as_of)
        {
            return Verdict::Behind;
        }
        let seen = etag.map(|etag| Floor {
            etag: Some(etag),
            has_ended: false,
            is_own: false,
            // Who reads it is not shown it by all of the store.
            pinned: before
                .filter(|floor| floor.etag == Some(etag))
                .and_then(|floor| floor.pinned),
            at: as_of,
        });
        let known = Self {
            // Once believed, it is no longer doubted.
            floor: seen.or(before.map(|floor| Floor { is_own: false, ..floor })),
            ..Self::stands(entry, as_of)
        };
        if lags && before.is_some_and(|floor| floor.is_against(etag, as_of)) {
            Verdict::Doubtful(known)
        } else {
            Verdict::Holds(known)
        }
    }

    /// What this gateway wrote.
    pub(super) fn written(entry: Entry, as_of: Instant, lags: bool) -> Self {
        let floor = Floor {
            etag: Some(entry.etag),
            has_ended: false,
            is_own: true,
            pinned: lags.then_some(as_of),
            at: as_of,
        };
        Self {
            floor: Some(floor),
            ..Self::stands(Some(entry), as_of)
        }
    }

    /// What is left of what was known `before` this gateway deleted it, which `ended` that state: nothing but what cannot come
    /// back.
    pub(super) fn deleted(before: Option<&Self>, ended: Option<Etag>, lags: bool, now: Instant) -> Option<Self> {
        let floor = match before.and_then(|before| before.floor) {
            Some(floor) if floor.etag == ended => Floor {
                has_ended: true,
                is_own: true,
                pinned: lags.then_some(now),
                at: now,
                ..floor
            },
            // Somebody else was there meanwhile.
            Some(floor) => floor,
            None if lags => Floor {
                etag: None,
                has_ended: true,
                is_own: true,
                pinned: lags.then_some(now),
                at: now,
            },
            None => return None,
        };
        Some(Self {
            floor: Some(floor),
            doubt: Doubt::Gone,
            ..Self::stands(None, now)
        })
    }

    /// What is left of what was known `before` this gateway wrote that state while another write was under way: nothing but
    /// what cannot come back.
    pub(super) fn one_of_several(before: Option<&Self>, written: Etag, lags: bool, now: Instant) -> Self {
        let before = before.and_then(|before| before.floor);
        let floor = before.filter(|floor| floor.etag > Some(written)).unwrap_or(Floor {
            etag: Some(written),
            has_ended: false,
            is_own: true,
            pinned: lags.then_some(now),
            at: now,
        });
        Self {
            floor: Some(floor),
            doubt: Doubt::Gone,
            ..Self::stands(None, now)
        }
    }

    /// After a change through this gateway of which is not known what it left: nothing but what cannot come back.
    pub(super) fn in_doubt(&self) -> Option<Self> {
        self.floor?;
        Some(Self {
            entry: None,
            doubt: Doubt::Gone,
            ..self.clone()
        })
    }

    /// After a change that others made, or may have: better than nothing, and no more.
    pub(super) fn past(&self) -> Self {
        let doubt = match self.doubt {
            Doubt::None | Doubt::Past => Doubt::Past,
            Doubt::Gone => Doubt::Gone,
        };
        Self { doubt, ..self.clone() }
    }

    /// What was known before this gateway was started: better than nothing, and no more.
    pub(super) fn restored(entry: Option<Entry>, as_of: Instant) -> Self {
        Self {
            doubt: Doubt::Past,
            until: as_of,
            ..Self::stands(entry, as_of)
        }
    }

    fn stands(entry: Option<Entry>, as_of: Instant) -> Self {
        Self {
            entry,
            as_of,
            until: Instant::now(),
            doubt: Doubt::None,
            floor: None,
            jitter: fastrand::u8(..JITTER),
        }
    }

    /// Of what stands.
    pub(super) fn etag(&self) -> Option<Etag> {
        Some(self.entry.as_ref()?.etag)
    }

    /// The newest state that was ever seen here.
    pub(super) fn newest(&self) -> Option<Etag> {
        self.floor?.etag
    }

    /// Whether nothing else keeps what this gateway wrote: a store that may be behind tells what stood before it for a while yet.
    pub(super) fn is_all_there_is(&self, now: Instant) -> bool {
        let pinned = self.floor.and_then(|floor| floor.pinned);
        pinned.is_some_and(|pinned| now.saturating_duration_since(pinned) < LAG)
    }

    /// Whether it is what stood then, and not only what cannot come back.
    pub(super) fn holds(&self) -> bool {
        self.doubt == Doubt::None
    }

    /// Whether it stood then, and was not changed through this gateway since.
    pub(super) fn is_good(&self) -> bool {
        self.doubt != Doubt::Gone
    }

    /// Whether it is young enough for who came then.
    pub(super) fn answers(&self, policy: CachePolicy, came: Instant) -> bool {
        self.age(came) <= self.time(policy)
    }

    /// What that policy makes of it.
    pub(super) fn look(&self, policy: CachePolicy, now: Instant) -> Look {
        let age = self.age(now);
        let believed = self.believed(policy);
        if self.doubt != Doubt::None {
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
        self.is_good() && self.age(now) < self.time(policy) + policy.stale
    }

    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.as_of)
    }

    fn time(&self, policy: CachePolicy) -> Duration {
        if self.entry.is_some() {
            policy.ttl
        } else {
            policy.negative
        }
    }

    fn believed(&self, policy: CachePolicy) -> Duration {
        self.time(policy) * (256 - u32::from(self.jitter)) / 256
    }
}

impl Floor {
    /// Whether a store that says so, asked then, tells what stood before.
    fn is_above(self, etag: Etag, asked: Instant) -> bool {
        let is_older = Some(etag) < self.etag || (self.has_ended && Some(etag) == self.etag);
        is_older && self.is_recent(asked)
    }

    /// Whether a store that says so, asked then, may not have heard of what this gateway did.
    fn is_against(self, etag: Option<Etag>, asked: Instant) -> bool {
        let speaks_against = match etag {
            None => !self.has_ended,
            Some(_) => self.etag.is_none(),
        };
        self.is_own && speaks_against && self.is_recent(asked)
    }

    fn is_recent(self, asked: Instant) -> bool {
        asked.saturating_duration_since(self.at) < LAG
    }
}
