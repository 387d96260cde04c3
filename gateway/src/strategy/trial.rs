//! A version on trial: for a while after it took another's place, what it fails to answer is asked of the one before. What
//! that one would have answered counts against it, and too much of that has it leave by itself.
//!
//! Only what got worse counts. So nobody has a good version leave by a request that no version could answer; and a machine
//! that is too busy convicts nobody.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use super::Context;
use super::memory::{Answer, Asked, Memory};
use super::version::{Fault, Version};
use crate::cache::Cache;
use crate::identity::VerifiedTenant;
use crate::key::TenantId;
use crate::settings::RollbackSettings;

/// What a version is measured by.
pub(super) struct Trial {
    before: Arc<Version>,
    settings: RollbackSettings,
    until: Instant,
    /// Whether the operator accepts that keys are not found any more.
    may_refuse: bool,
    /// Whether more than one tenant asked the version before.
    was_of_several: bool,
    cache: Arc<Cache>,
    /// What it failed, each key once.
    failed: Mutex<HashMap<TenantId, HashSet<String>>>,
    tell: UnboundedSender<Condemned>,
}

/// A version that is to leave.
#[derive(Debug)]
pub(super) struct Condemned {
    /// The strategy.
    pub(super) name: Arc<str>,
    /// The version's component: it may have become active more than once.
    pub(super) digest: String,
    /// For operators.
    pub(super) reason: String,
}

/// How a version answered.
pub(super) struct Answered<'a> {
    pub(super) version: &'a Version,
    /// What it has answered to whom.
    pub(super) memory: &'a Memory,
    pub(super) answer: &'a Result<Answer, Fault>,
}

impl Trial {
    /// Against `before`, from now on.
    pub(super) fn new(
        before: Arc<Version>,
        settings: &RollbackSettings,
        may_refuse: bool,
        was_of_several: bool,
        cache: Arc<Cache>,
        tell: UnboundedSender<Condemned>,
    ) -> Self {
        Self {
            before,
            settings: settings.clone(),
            until: Instant::now() + settings.window,
            may_refuse,
            was_of_several,
            cache,
            failed: Mutex::default(),
            tell,
        }
    }

    /// Takes note of how the version answered. Who calls holds one of the engine's slots.
    pub(super) fn note(&self, answered: &Answered<'_>, tenant: &VerifiedTenant, context: &Context, asked: Asked<'_>) {
        let has_failed = match answered.answer {
            Err(_) => true,
            Ok(Answer::Refused(_)) if !self.may_refuse => false,
            Ok(_) => return,
        };
        if self.settings.failures == 0 || Instant::now() >= self.until {
            return;
        }
        let bags = self.before.bags(tenant, context);
        let counts = match self.before.answer(tenant.id(), asked.with(&bags)) {
            // A refusal is fair where it loses nothing.
            Ok(before @ Answer::Placed(_)) => has_failed || self.is_known_to_hold(&before),
            Ok(Answer::Ranges(_)) => has_failed,
            Ok(Answer::Refused(_)) | Err(_) => false,
        };
        // Who asks first is not the only one who will.
        let is_of_several = self.was_of_several || answered.memory.is_of_several();
        if counts && let Some(failures) = self.count(is_of_several, tenant.id(), asked.what()) {
            self.condemn(answered, failures);
        }
    }

    fn is_known_to_hold(&self, answer: &Answer) -> bool {
        let Answer::Placed(placed) = answer else { return false };
        let holds = |place| self.cache.believed(place).is_some_and(|(etag, _)| etag.is_some());
        placed.layers().any(|layer| holds(layer.place))
    }

    /// One more, unless it was counted. Returns how many that are, if it is now too many.
    fn count(&self, is_of_several: bool, tenant: &TenantId, what: String) -> Option<usize> {
        let enough = self.settings.failures as usize;
        // Nobody has a version leave alone, where there is anybody else.
        let of_one = if is_of_several { enough.div_ceil(2) } else { enough };
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let total = |failed: &HashMap<TenantId, HashSet<String>>| -> usize {
            failed.values().map(|of| of.len().min(of_one)).sum()
        };
        if total(&failed) >= enough && enough > 0 {
            // It was told already.
            return None;
        }
        let of = failed.entry(tenant.clone()).or_default();
        if of.len() >= enough || !of.insert(what) {
            return None;
        }
        Some(total(&failed)).filter(|failures| *failures >= enough)
    }

    fn condemn(&self, answered: &Answered<'_>, failures: usize) {
        let before = &self.before.semver;
        let reason = match answered.answer {
            Err(fault) => format!("it failed {failures} keys where {before} answered, the last of them: {fault}"),
            Ok(_) => format!("it failed or refused {failures} keys where {before} answered"),
        };
        // Who is gone has nothing to roll back.
        _ = self.tell.send(Condemned {
            name: Arc::clone(&answered.version.name),
            digest: answered.version.fingerprint.digest.clone(),
            reason,
        });
    }
}
