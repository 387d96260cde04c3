//! What strategies have answered, remembered for each tenant apart: no tenant's questions push out another's answers,
//! and no tenant's failures close a strategy for another.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quick_cache::sync::Cache;

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
    decisions: usize,
}

/// The part of it that belongs to one tenant.
pub(super) struct TenantMemory {
    pub(super) answers: Cache<Question, Answer>,
    breaker: Mutex<Breaker>,
}

impl Memory {
    /// For so many tenants, and of each so many decisions. The least used are forgotten first.
    pub(super) fn new(tenants: u32, decisions: u32) -> Self {
        Self {
            tenants: Cache::new(tenants as usize),
            decisions: decisions as usize,
        }
    }

    pub(super) fn of(&self, tenant: &TenantId) -> Arc<TenantMemory> {
        if let Some(memory) = self.tenants.get(tenant) {
            return memory;
        }
        let new = || {
            Ok::<_, std::convert::Infallible>(Arc::new(TenantMemory {
                answers: Cache::new(self.decisions),
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
