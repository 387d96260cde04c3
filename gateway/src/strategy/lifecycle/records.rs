//! What became of each version, for operators: the latest of each strategy.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;

use super::stages::Stage;
use crate::key::Tag;
use crate::strategy::decide::Strategy;

/// Of one strategy; the one that serves is kept beyond them.
const LATEST: usize = 16;

/// One version, on its way or at its end.
#[derive(Debug, Clone)]
pub struct Record {
    /// The operator's name for the strategy.
    pub name: Arc<str>,
    /// The author's own.
    pub version: String,
    /// `sha256:<hex>` of the component, once it is there.
    pub digest: String,
    /// What it serves, or would.
    pub tags: Vec<Tag>,
    /// Of the snapshot that it became active with; 0: it never was.
    pub generation: u64,
    /// When it became active.
    pub activated: Option<SystemTime>,
    /// Where it is.
    pub state: State,
    /// What rejected it may not another time.
    pub may_pass: bool,
}

/// Where a version is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// On its way, and so far.
    Reached(Stage),
    /// It serves.
    Active,
    /// Another serves, but requests are still under way with it.
    Draining,
    /// It is gone.
    Retired,
    /// It did not reach that stage.
    Rejected(Stage, String),
    /// It served, and had to leave.
    RolledBack(String),
}

/// The latest versions.
#[derive(Default)]
pub(super) struct Records(Mutex<BTreeMap<Arc<str>, VecDeque<Entry>>>);

struct Entry {
    number: u64,
    record: Record,
    served: Weak<Strategy>,
}

/// One version that is on its way.
#[derive(Debug, Clone)]
pub(super) struct Number {
    name: Arc<str>,
    number: u64,
}

impl Records {
    /// Something for that strategy is fetched.
    pub(super) fn begin(&self, name: &Arc<str>, digest: &str) -> Number {
        let mut records = self.records();
        let of = records.entry(Arc::clone(name)).or_default();
        let number = of.back().map_or(0, |last| last.number + 1);
        if of.len() == LATEST {
            let oldest = of.iter().position(|entry| entry.record.state != State::Active);
            of.remove(oldest.unwrap_or(0));
        }
        of.push_back(Entry {
            number,
            record: Record {
                name: Arc::clone(name),
                version: String::new(),
                digest: digest.to_owned(),
                tags: Vec::new(),
                generation: 0,
                activated: None,
                state: State::Reached(Stage::Fetched),
                may_pass: false,
            },
            served: Weak::new(),
        });
        Number {
            name: Arc::clone(name),
            number,
        }
    }

    /// Changes it, if it is still among the latest; and returns it.
    pub(super) fn change(&self, number: &Number, change: impl FnOnce(&mut Record)) -> Option<Record> {
        let mut records = self.records();
        let of = records.get_mut(&number.name)?;
        let entry = of.iter_mut().find(|entry| entry.number == number.number)?;
        change(&mut entry.record);
        Some(entry.shown())
    }

    /// It serves from now on, and what did before does not.
    pub(super) fn activated(&self, number: &Number, strategy: &Arc<Strategy>, at: SystemTime) -> Option<Record> {
        self.left(&number.name, &State::Draining);
        let mut records = self.records();
        let of = records.get_mut(&number.name)?;
        let entry = of.iter_mut().find(|entry| entry.number == number.number)?;
        entry.served = Arc::downgrade(strategy);
        strategy.version().clone_into(&mut entry.record.version);
        entry.record.tags = strategy.tags().to_vec();
        entry.record.generation = strategy.generation();
        entry.record.activated = Some(at);
        entry.record.state = State::Active;
        Some(entry.shown())
    }

    /// What served under that name does not any more, and is in that state.
    pub(super) fn left(&self, name: &str, state: &State) {
        let mut records = self.records();
        let of = records.get_mut(name).into_iter().flatten();
        for entry in of.filter(|entry| entry.record.state == State::Active) {
            entry.record.state = state.clone();
        }
    }

    /// All of them, the newest of each strategy first.
    pub(super) fn all(&self) -> Vec<Record> {
        let records = self.records();
        records
            .values()
            .flat_map(|of| of.iter().rev().map(Entry::shown))
            .collect()
    }

    /// The one that serves under that name.
    pub(super) fn active(&self, name: &str) -> Option<Record> {
        let records = self.records();
        let mut of = records.get(name)?.iter();
        of.find(|entry| entry.record.state == State::Active).map(Entry::shown)
    }

    fn records(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, VecDeque<Entry>>> {
        // Nothing in here is left half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn shown(&self) -> Record {
        let mut record = self.record.clone();
        if record.state == State::Draining && self.served.strong_count() == 0 {
            record.state = State::Retired;
        }
        record
    }
}
