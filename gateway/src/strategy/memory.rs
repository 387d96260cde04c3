//! What strategies have answered, remembered for each tenant apart: no tenant's questions push out another's answers,
//! and no tenant's failures close a strategy for another.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quick_cache::sync::Cache;
use quick_cache::{Equivalent, Weighter};
use tokio::sync::Semaphore;

use super::breaker::Breaker;
use super::{Operation, Refusal};
use crate::key::{ConfigKey, TagPrefix, TenantId};
use crate::placement::{PlaceRange, Placed};

/// Everything that an answer depends on, besides tenant, component, settings and catalog.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum Question {
    Decide {
        key: ConfigKey,
        operation: Operation,
        bags: Bags,
    },
    Enumerate {
        prefix: TagPrefix,
        bags: Bags,
    },
}

/// The same while it is being asked: it looks an answer up without a copy. (Derived alike, both hash alike.)
#[derive(Clone, Copy, Hash)]
pub(super) enum Asked<'q> {
    Decide {
        key: &'q ConfigKey,
        operation: Operation,
        bags: &'q Bags,
    },
    Enumerate {
        prefix: &'q TagPrefix,
        bags: &'q Bags,
    },
}

impl Asked<'_> {
    pub(super) fn bags(&self) -> &Bags {
        match self {
            Self::Decide { bags, .. } | Self::Enumerate { bags, .. } => bags,
        }
    }

    pub(super) fn to_question(self) -> Question {
        match self {
            Self::Decide { key, operation, bags } => Question::Decide {
                key: key.clone(),
                operation,
                bags: bags.clone(),
            },
            Self::Enumerate { prefix, bags } => Question::Enumerate {
                prefix: prefix.clone(),
                bags: bags.clone(),
            },
        }
    }
}

impl Equivalent<Question> for Asked<'_> {
    fn equivalent(&self, question: &Question) -> bool {
        match (self, question) {
            (
                Self::Decide { key, operation, bags },
                Question::Decide {
                    key: asked,
                    operation: to,
                    bags: with,
                },
            ) => *key == asked && operation == to && *bags == with,
            (
                Self::Enumerate { prefix, bags },
                Question::Enumerate {
                    prefix: asked,
                    bags: with,
                },
            ) => *prefix == asked && *bags == with,
            _ => false,
        }
    }
}

/// The claims and the context that the manifest asked for, in that order.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Bags {
    pub(super) claims: Vec<(String, String)>,
    pub(super) context: Vec<(String, String)>,
}

#[derive(Clone)]
pub(super) enum Answer {
    Placed(Arc<Placed>),
    Ranges(Arc<BTreeSet<PlaceRange>>),
    Refused(Arc<Refusal>),
}

/// The memory of one strategy.
pub(super) struct Memory {
    tenants: Cache<TenantId, Arc<TenantMemory>>,
    /// Bytes of one tenant's answers.
    bytes: u64,
    /// How many calls for one tenant may wait for the strategy's turn.
    turns: usize,
}

#[derive(Clone)]
pub(super) struct Bytes;

/// What a question and its answer take besides their texts: handles, counts and the cache's own.
const OVERHEAD: usize = 256;
/// A guess at how many answers there will be of one tenant, for sizing alone.
const ANSWERS: usize = 256;

impl Weighter<Question, Answer> for Bytes {
    fn weight(&self, question: &Question, answer: &Answer) -> u64 {
        let (text, bags) = match question {
            Question::Decide { key, bags, .. } => (key.tag().as_str().len() + key.name().as_str().len(), bags),
            Question::Enumerate { prefix, bags } => (prefix.tag.as_str().len() + prefix.name_prefix.len(), bags),
        };
        let bags = bags.claims.iter().chain(&bags.context);
        let bags: usize = bags.map(|(name, value)| name.len() + value.len() + 48).sum();
        let answer = match answer {
            Answer::Placed(placed) => OVERHEAD + placed.reason.as_ref().map_or(0, String::len),
            Answer::Ranges(ranges) => ranges.len() * OVERHEAD,
            Answer::Refused(refusal) => refusal.text().len(),
        };
        (OVERHEAD + text + bags + answer) as u64
    }
}

/// The part of it that belongs to one tenant.
pub(super) struct TenantMemory {
    pub(super) answers: Cache<Question, Answer, Bytes>,
    /// Who waits for the strategy has one of these first, so one tenant's flood does not delay another's.
    pub(super) turns: Semaphore,
    breaker: Mutex<Breaker>,
}

impl Memory {
    /// For so many tenants, and of each so many bytes. The least used are forgotten first.
    pub(super) fn new(tenants: u32, bytes: u64, turns: usize) -> Self {
        Self {
            tenants: Cache::new(tenants as usize),
            bytes,
            turns,
        }
    }

    pub(super) fn of(&self, tenant: &TenantId) -> Arc<TenantMemory> {
        if let Some(memory) = self.tenants.get(tenant) {
            return memory;
        }
        let new = || {
            Ok::<_, std::convert::Infallible>(Arc::new(TenantMemory {
                answers: Cache::with_weighter(ANSWERS, self.bytes, Bytes),
                turns: Semaphore::new(self.turns),
                breaker: Mutex::new(Breaker::default()),
            }))
        };
        match self.tenants.get_or_insert_with(tenant, new) {
            Ok(memory) => memory,
            Err(never) => match never {},
        }
    }
}

impl TenantMemory {
    pub(super) fn breaker(&self) -> MutexGuard<'_, Breaker> {
        // A breaker holds no invariant that a panic could have broken half-way.
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
