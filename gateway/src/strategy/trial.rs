//! A version on trial: for a while after it took another's place, what it fails to answer is asked of the one before. What
//! that one would have answered counts against it, and too much of that has it leave by itself.
//!
//! Only what got worse counts. So nobody has a good version leave by a request that no version could answer; and a machine
//! that is too busy convicts nobody.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use super::Context;
use super::memory::{Answer, Asked};
use super::version::{Fault, Version};
use crate::identity::VerifiedTenant;
use crate::settings::RollbackSettings;

/// What a version is measured by.
pub(super) struct Trial {
    before: Arc<Version>,
    settings: RollbackSettings,
    until: Instant,
    /// Whether the operator accepts that keys are not found any more.
    may_refuse: bool,
    /// The questions that it failed, each once.
    failed: Mutex<HashSet<u64>>,
    tell: UnboundedSender<Condemned>,
}

/// A version that is to leave.
#[derive(Debug)]
pub(super) struct Condemned {
    /// The strategy.
    pub(super) name: Arc<str>,
    /// Of the version.
    pub(super) generation: u64,
    /// For operators.
    pub(super) reason: String,
}

impl Trial {
    /// Against `before`, from now on.
    pub(super) fn new(
        before: Arc<Version>,
        settings: &RollbackSettings,
        may_refuse: bool,
        tell: UnboundedSender<Condemned>,
    ) -> Self {
        Self {
            before,
            settings: settings.clone(),
            until: Instant::now() + settings.window,
            may_refuse,
            failed: Mutex::default(),
            tell,
        }
    }

    /// Takes note of how `version`, which became active as that generation, answered. Who calls holds one of the engine's slots.
    pub(super) fn note(
        &self,
        version: &Version,
        generation: u64,
        tenant: &VerifiedTenant,
        context: &Context,
        asked: Asked<'_>,
        answer: &Result<Answer, Fault>,
    ) {
        let is_worse = match answer {
            Err(_) => true,
            Ok(Answer::Refused(_)) => !self.may_refuse,
            Ok(Answer::Placed(_) | Answer::Ranges(_)) => false,
        };
        if !is_worse || self.settings.failures == 0 || Instant::now() >= self.until {
            return;
        }
        let bags = self.before.bags(tenant, context);
        let before = self.before.answer(tenant.id(), asked.with(&bags));
        if !matches!(before, Ok(Answer::Placed(_) | Answer::Ranges(_))) {
            return;
        }
        let question = BuildHasherDefault::<DefaultHasher>::default().hash_one((tenant.id(), asked));
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.len() >= self.settings.failures as usize || !failed.insert(question) {
            return;
        }
        let failures = failed.len();
        drop(failed);
        tracing::warn!(
            strategy = &*version.name,
            generation,
            failures,
            "a version did not answer what the one before it would have"
        );
        if failures == self.settings.failures as usize {
            let reason = match answer {
                Err(fault) => format!(
                    "it failed {failures} times where {} answered, the last time: {fault}",
                    self.before.semver
                ),
                Ok(_) => format!(
                    "it failed or refused {failures} times where {} answered",
                    self.before.semver
                ),
            };
            // Who is gone has nothing to roll back.
            _ = self.tell.send(Condemned {
                name: Arc::clone(&version.name),
                generation,
                reason,
            });
        }
    }
}
