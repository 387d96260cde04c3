//! A cache of a few lines, each time with another bug: whoever validates a promise has to notice it.

use std::sync::Mutex;

use tokio::time::Instant;

use super::World;
use crate::backend::{Backend as _, Conditions, Entry};
use crate::cache::{Consistency, Freshness, Read, Source};
use crate::placement::CachePolicy;

/// What is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bug {
    /// A write leaves what was kept before it.
    KeepsWhatWasWritten,
    /// A read that began before a write fills the cache after it.
    FillsWithWhatWas,
    /// Two writes at once: the one whose answer came last is what is kept.
    FillsOverAWrite,
    /// What is kept is never asked for again.
    BelievesForEver,
    /// An answer is as old as when it came, and not as when it was asked for.
    DatesByTheAnswer,
    /// What is read is believed anew.
    RenewsByReading,
}

pub(super) struct Mutant {
    bug: Bug,
    policy: CachePolicy,
    kept: Mutex<Kept>,
}

/// Of the one place that a world has.
#[derive(Default)]
struct Kept {
    /// Changes so far, under way or done.
    changes: u64,
    known: Option<(Option<Entry>, Instant)>,
}

impl Mutant {
    pub(super) fn new(bug: Bug, policy: CachePolicy) -> Self {
        Self {
            bug,
            policy,
            kept: Mutex::default(),
        }
    }

    pub(super) async fn read(&self, world: &World, consistency: Consistency) -> Read<Option<Entry>> {
        let now = Instant::now();
        let changes = {
            let mut kept = self.kept.lock().unwrap();
            let is_believed = |as_of: Instant| self.bug == Bug::BelievesForEver || now - as_of < self.policy.ttl;
            if let Some((found, as_of)) = &mut kept.known
                && consistency == Consistency::Cached
                && is_believed(*as_of)
            {
                if self.bug == Bug::RenewsByReading {
                    *as_of = now;
                }
                return read(found.clone(), Source::Cache, *as_of);
            }
            kept.changes
        };
        let found = world.store.read(&world.tenant, &world.place.name).await.unwrap();
        let as_of = match self.bug {
            Bug::DatesByTheAnswer => Instant::now(),
            _ => now,
        };
        let mut kept = self.kept.lock().unwrap();
        if kept.changes == changes || self.bug == Bug::FillsWithWhatWas {
            kept.known = Some((found.clone(), as_of));
        }
        read(found, Source::Backend, as_of)
    }

    pub(super) async fn write(&self, world: &World, value: &str) -> Entry {
        let began = Instant::now();
        let _changed = Changed::begin(self);
        let conditions = Conditions::default();
        let entry = super::entry(value);
        let written = world
            .store
            .write(&world.tenant, &world.place.name, entry, conditions)
            .await
            .unwrap();
        if self.bug == Bug::FillsOverAWrite {
            let mut kept = self.kept.lock().unwrap();
            kept.known = Some((Some(written.clone()), began));
        }
        written
    }
}

/// A write that is under way. What was read meanwhile is not kept, nor what was read before.
struct Changed<'m>(&'m Mutant);

impl<'m> Changed<'m> {
    fn begin(mutant: &'m Mutant) -> Self {
        let changed = Self(mutant);
        changed.forget();
        changed
    }

    fn forget(&self) {
        let mut kept = self.0.kept.lock().unwrap();
        kept.changes += 1;
        if !matches!(self.0.bug, Bug::KeepsWhatWasWritten | Bug::FillsOverAWrite) {
            kept.known = None;
        }
    }
}

impl Drop for Changed<'_> {
    fn drop(&mut self) {
        self.forget();
    }
}

fn read(found: Option<Entry>, source: Source, as_of: Instant) -> Read<Option<Entry>> {
    let until = Instant::now();
    Read {
        found,
        freshness: Freshness { source, as_of, until },
    }
}
