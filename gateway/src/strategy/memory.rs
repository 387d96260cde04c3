//! What strategies have answered, remembered for each tenant apart: no tenant's questions push out another's answers,
//! and no tenant's failures close a strategy for another.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use quick_cache::sync::Cache;
use quick_cache::{Equivalent, Weighter};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::breaker::Breaker;
use super::{Operation, Refusal};
use crate::identity::VerifiedTenant;
use crate::key::{ConfigKey, Tag, TagPrefix, TenantId};
use crate::placement::{PlaceRange, Placed, Space};

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

impl<'q> Asked<'q> {
    /// The same, with what another version would be shown.
    pub(super) fn with(self, bags: &'q Bags) -> Self {
        match self {
            Self::Decide { key, operation, .. } => Self::Decide { key, operation, bags },
            Self::Enumerate { prefix, .. } => Self::Enumerate { prefix, bags },
        }
    }

    /// The key, or what keys begin with.
    pub(super) fn what(&self) -> String {
        match self {
            Self::Decide { key, .. } => key.text(),
            Self::Enumerate { prefix, .. } => format!("{}*", prefix.tag),
        }
    }

    /// Whether nothing is to be changed.
    pub(super) fn is_to_read(&self) -> bool {
        match self {
            Self::Decide { operation, .. } => *operation == Operation::Read,
            Self::Enumerate { .. } => true,
        }
    }

    pub(super) fn tag(&self) -> &Tag {
        match self {
            Self::Decide { key, .. } => key.tag(),
            Self::Enumerate { prefix, .. } => &prefix.tag,
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Bags {
    pub(super) claims: Vec<(String, String)>,
    pub(super) context: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Placed(Arc<Placed>),
    Ranges(Arc<BTreeSet<PlaceRange>>),
    Refused(Arc<Refusal>),
}

impl Answer {
    /// The stores that it names, each with whether what it names there is everybody's.
    pub(super) fn places(&self) -> Vec<(&Arc<str>, bool)> {
        match self {
            Self::Placed(placed) => {
                let layers = placed.layers().map(|layer| layer.place);
                layers.map(|place| (&place.backend, place.is_shared())).collect()
            }
            Self::Ranges(ranges) => ranges
                .iter()
                .map(|range| (&range.backend, *range.range.space() == Space::Shared))
                .collect(),
            Self::Refused(_) => Vec::new(),
        }
    }
}

/// A name that was asked for, by whom, and what the strategy was shown besides.
#[derive(Debug, Clone)]
pub(super) struct KnownName {
    pub(super) tenant: TenantId,
    /// Who may be read for: none since this gateway started, if there is none.
    pub(super) verified: Option<VerifiedTenant>,
    /// Tag and name.
    pub(super) key: String,
    pub(super) bags: Bags,
    /// When it was, at the latest.
    pub(super) asked: SystemTime,
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
    verified: OnceLock<VerifiedTenant>,
    /// It has asked for something, and is not only known.
    has_asked: AtomicBool,
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

    /// The part of that tenant, if there is one.
    pub(super) fn if_any(&self, tenant: &TenantId) -> Option<Arc<TenantMemory>> {
        self.tenants.peek(tenant)
    }

    /// The part of that tenant.
    pub(super) fn of(&self, tenant: &TenantId) -> Arc<TenantMemory> {
        if let Some(memory) = self.tenants.get(tenant) {
            return memory;
        }
        let new = || {
            Ok::<_, std::convert::Infallible>(Arc::new(TenantMemory {
                answers: Cache::with_weighter(ANSWERS, self.bytes, Bytes),
                turns: Semaphore::new(self.turns),
                breaker: Mutex::new(Breaker::default()),
                verified: OnceLock::new(),
                has_asked: AtomicBool::new(false),
            }))
        };
        match self.tenants.get_or_insert_with(tenant, new) {
            Ok(memory) => memory,
            Err(never) => match never {},
        }
    }
}

impl Memory {
    /// Whether more than one tenant asks.
    pub(super) fn is_of_several(&self) -> bool {
        let asks = |(_, memory): &(TenantId, Arc<TenantMemory>)| memory.has_asked.load(Ordering::Relaxed);
        self.tenants.iter().filter(asks).nth(1).is_some()
    }

    /// What was asked for by name until now, each name once for all that is done with it.
    pub(super) fn known_names(&self, now: SystemTime) -> impl Iterator<Item = KnownName> {
        self.tenants.iter().flat_map(move |(tenant, memory)| {
            let verified = memory.verified.get().cloned();
            let names: HashSet<(String, Bags)> = memory
                .answers
                .iter()
                .filter_map(|(question, _)| match question {
                    Question::Decide { key, bags, .. } => Some((key.text(), bags)),
                    Question::Enumerate { .. } => None,
                })
                .collect();
            names.into_iter().map(move |(key, bags)| KnownName {
                tenant: tenant.clone(),
                verified: verified.clone(),
                key,
                bags,
                asked: now,
            })
        })
    }
}

impl TenantMemory {
    /// Its tenant asks.
    pub(super) fn is_asked(&self) {
        // Who only reads it keeps no other from it.
        if !self.has_asked.load(Ordering::Relaxed) {
            self.has_asked.store(true, Ordering::Relaxed);
        }
    }

    /// It is this tenant's, who has called.
    pub(super) fn is_of(&self, tenant: &VerifiedTenant) {
        // One is as good as the other.
        _ = self.verified.set(tenant.clone());
    }

    pub(super) fn breaker(&self) -> MutexGuard<'_, Breaker> {
        // A breaker holds no invariant that a panic could have broken half-way.
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
