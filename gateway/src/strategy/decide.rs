//! The hot path of a strategy: a remembered answer, else one call into a fresh instance.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::{Instrument as _, info_span};

use super::breaker::{Admission, Outcome};
use super::memory::{Answer, Asked, KnownName, Memory, TenantMemory};
use super::trial::{Answered, Trial};
use super::version::{Fault, Version};
use super::{Context, DecideError, Operation};
use crate::identity::VerifiedTenant;
use crate::key::{ConfigKey, Tag, TagPrefix};
use crate::placement::{PlaceRange, Placed};
use crate::settings::{BreakerSettings, LimitSettings};
use crate::telemetry::TRACE;

/// A strategy that serves: a version, and what it has answered.
pub struct Strategy {
    version: Arc<Version>,
    /// 0 until it becomes active.
    generation: AtomicU64,
    memory: Memory,
    /// As many as the engine has slots. Who waits for the engine has one of these first, so at most so many calls of
    /// one strategy stand in the engine's queue, and a flood of one does not delay another's.
    turns: Semaphore,
    /// What all versions have answered, where that is to stand in for what this one cannot.
    last: Option<Arc<Memory>>,
    trial: Option<Arc<Trial>>,
}

impl Strategy {
    /// A version that has answered nothing yet.
    pub(super) fn new(
        version: Arc<Version>,
        limits: &LimitSettings,
        last: Option<Arc<Memory>>,
        trial: Option<Arc<Trial>>,
    ) -> Self {
        let calls = version.engine.calls();
        Self {
            version,
            generation: AtomicU64::new(0),
            memory: Memory::new(limits.tenants, limits.decisions.0, calls),
            turns: Semaphore::new(calls),
            last,
            trial,
        }
    }

    /// It becomes active with that snapshot.
    pub(super) fn begins(&self, generation: u64) {
        self.generation.store(generation, Ordering::Relaxed);
    }

    /// The operator's name for it.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.version.name
    }

    /// Its own version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version.semver
    }

    /// `sha256:<hex>` of the component.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.version.fingerprint.digest
    }

    /// Of the snapshot that it became active with.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Whether it sees this dimension of a context.
    #[must_use]
    pub fn asks_for(&self, dimension: &str) -> bool {
        self.version.context.iter().any(|asked| asked == dimension)
    }

    /// What it serves.
    #[must_use]
    pub fn tags(&self) -> &[Tag] {
        &self.version.tags
    }

    /// What decides.
    pub(super) fn decides(&self) -> &Arc<Version> {
        &self.version
    }

    /// What it is measured by, if it is.
    pub(super) fn trial(&self) -> Option<&Arc<Trial>> {
        self.trial.as_ref()
    }

    /// What it has answered.
    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Names that it has decided, as far as it remembers.
    pub(super) fn known_names(&self, now: SystemTime) -> impl Iterator<Item = KnownName> {
        self.memory.known_names(now)
    }

    /// Where `key` lives.
    pub async fn decide(
        &self,
        tenant: &VerifiedTenant,
        key: &ConfigKey,
        operation: Operation,
        context: &Context,
    ) -> Result<Arc<Placed>, DecideError> {
        let bags = self.version.bags(tenant, context);
        let asked = Asked::Decide {
            key,
            operation,
            bags: &bags,
        };
        match self.ask(tenant, asked, context).await? {
            Answer::Placed(placed) => Ok(placed),
            Answer::Refused(refusal) => Err(DecideError::Refused((*refusal).clone())),
            Answer::Ranges(_) => Err(DecideError::Failed),
        }
    }

    /// Every range in which a key that begins so could live.
    pub async fn enumerate(
        &self,
        tenant: &VerifiedTenant,
        prefix: &TagPrefix,
        context: &Context,
    ) -> Result<Arc<BTreeSet<PlaceRange>>, DecideError> {
        let bags = self.version.bags(tenant, context);
        let asked = Asked::Enumerate { prefix, bags: &bags };
        match self.ask(tenant, asked, context).await? {
            Answer::Ranges(ranges) => Ok(ranges),
            Answer::Refused(refusal) => Err(DecideError::Refused((*refusal).clone())),
            Answer::Placed(_) => Err(DecideError::Failed),
        }
    }

    async fn ask(&self, tenant: &VerifiedTenant, asked: Asked<'_>, context: &Context) -> Result<Answer, DecideError> {
        let span = info_span!(target: TRACE, "decision", tagway.strategy = &**self.name(), tagway.generation = self.generation());
        self.ask_within(tenant, asked, context).instrument(span).await
    }

    async fn ask_within(
        &self,
        tenant: &VerifiedTenant,
        asked: Asked<'_>,
        context: &Context,
    ) -> Result<Answer, DecideError> {
        let memory = self.memory.of(tenant.id());
        memory.is_asked();
        if let Some(answer) = memory.answers.get(&asked) {
            return Ok(answer);
        }
        // Apart, for the room that it takes is room that each remembered answer would have to make too.
        let answer = Box::pin(self.call(&memory, tenant, asked, context)).await;
        // What a write did elsewhere a read would not find.
        let Some(last) = self.last.as_ref().filter(|_| asked.is_to_read()) else {
            return answer;
        };
        let last = last.of(tenant.id());
        if let Ok(new) = &answer {
            last.answers.insert(asked.to_question(), new.clone());
            return answer;
        }
        // What was decided under other grants may not hold under these.
        let holds = |before: &Answer| self.version.grants.cover(before.places());
        last.answers.get(&asked).filter(holds).map_or(answer, Ok)
    }

    /// Asks the component what is not remembered.
    async fn call(
        &self,
        memory: &TenantMemory,
        tenant: &VerifiedTenant,
        asked: Asked<'_>,
        context: &Context,
    ) -> Result<Answer, DecideError> {
        memory.is_of(tenant);
        // Who rests does not queue.
        memory
            .breaker()
            .check(&self.version.settings.breaker)
            .map_err(|open| DecideError::Resting(open.rest))?;
        // Tenant by tenant, then strategy by strategy: a flood of one waits behind itself.
        let Ok(_turn_of_the_tenant) = memory.turns.acquire().await else {
            return Err(DecideError::Busy);
        };
        let Ok(_turn_of_the_strategy) = self.turns.acquire().await else {
            return Err(DecideError::Busy);
        };
        let Ok(_slot) = self.version.engine.slots().acquire().await else {
            return Err(DecideError::Busy);
        };
        // While this waited others may have asked the same, or failed too often.
        if let Some(answer) = memory.answers.get(&asked) {
            return Ok(answer);
        }
        let mut admitted = self.admit(memory)?;
        let began = Instant::now();
        let answer = self.version.answer(tenant.id(), asked);
        let took = began.elapsed();
        let is_busy = answer.as_ref().is_err_and(Fault::is_of_the_machine);
        if let Some(trial) = self.trial.as_ref().filter(|_| !is_busy) {
            let answered = Answered {
                version: &self.version,
                memory: &self.memory,
                answer: &answer,
            };
            trial.note(&answered, tenant, context, asked);
        }
        let outcome = match &answer {
            Ok(Answer::Refused(_)) => "refused",
            Ok(_) => "answered",
            Err(_) if is_busy => "not_run",
            Err(_) => "failed",
        };
        self.version.engine.metrics().called(self.name(), outcome, took);
        match answer {
            Ok(answer) => {
                admitted.end(Outcome::Answered);
                memory.answers.insert(asked.to_question(), answer.clone());
                Ok(answer)
            }
            Err(busy) if is_busy => {
                tracing::warn!(strategy = %self.name(), tenant = %tenant.id(), %busy, "the strategy did not get to run");
                Err(DecideError::Busy)
            }
            Err(fault) => {
                let opened = admitted.end(Outcome::Failed);
                tracing::warn!(
                    strategy = %self.name(), version = self.version(), tenant = %tenant.id(), tag = asked.tag().as_str(),
                    %fault, opened, "the strategy failed"
                );
                Err(DecideError::Failed)
            }
        }
    }

    fn admit<'m>(&'m self, memory: &'m TenantMemory) -> Result<Admitted<'m>, DecideError> {
        let admission = memory
            .breaker()
            .admit(&self.version.settings.breaker)
            .map_err(|open| DecideError::Resting(open.rest))?;
        Ok(Admitted {
            memory,
            settings: &self.version.settings.breaker,
            admission: Some(admission),
        })
    }
}

/// An admitted call. One that is dropped half-way never ran.
struct Admitted<'m> {
    memory: &'m TenantMemory,
    settings: &'m BreakerSettings,
    admission: Option<Admission>,
}

impl Admitted<'_> {
    fn end(&mut self, outcome: Outcome) -> bool {
        self.admission
            .take()
            .is_some_and(|admission| self.memory.breaker().note(&admission, outcome, self.settings))
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        self.end(Outcome::Unknown);
    }
}
