//! The hot path of a strategy: a remembered answer, else one call into a fresh instance.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::Semaphore;

use super::breaker::{Admission, Outcome};
use super::component::Prepared;
use super::engine::Engine;
use super::limits::{CallError, Guest, Limits};
use super::memory::{Answer, Asked, Bags, Memory, TenantMemory};
use super::{Context, DecideError, Operation, Refusal};
use crate::identity::VerifiedTenant;
use crate::key::{ConfigKey, Tag, TagPrefix};
use crate::placement::{BrokenDecision, Grants, PlaceRange, Placed};
use crate::settings::BreakerSettings;
use crate::wit;

/// Longest text of a refusal that reaches the caller, in bytes.
const REFUSAL_BYTES: usize = 1024;

/// A strategy that serves: its component, settings and catalog, which change only together.
pub struct Strategy {
    pub(super) name: Arc<str>,
    pub(super) version: String,
    pub(super) digest: String,
    pub(super) tags: Vec<Tag>,
    pub(super) claims: Vec<String>,
    pub(super) context: Vec<String>,
    pub(super) prepared: Prepared,
    pub(super) setup: wit::Setup,
    pub(super) limits: Limits,
    pub(super) grants: Grants,
    pub(super) breaker: BreakerSettings,
    pub(super) memory: Memory,
    pub(super) engine: Engine,
    /// As many as the engine has slots. Who waits for the engine has one of these first, so at most so many calls of
    /// one strategy stand in the engine's queue, and a flood of one does not delay another's.
    pub(super) turns: Semaphore,
}

/// A strategy's fault, as operators see it.
#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Broken(#[from] BrokenDecision),
}

impl Strategy {
    /// The operator's name for it.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Its own version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// `sha256:<hex>` of the component.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Whether it sees this dimension of a context.
    #[must_use]
    pub fn asks_for(&self, dimension: &str) -> bool {
        self.context.iter().any(|asked| asked == dimension)
    }

    /// What it serves.
    #[must_use]
    pub fn tags(&self) -> &[Tag] {
        &self.tags
    }

    /// Where `key` lives.
    pub async fn decide(
        &self,
        tenant: &VerifiedTenant,
        key: &ConfigKey,
        operation: Operation,
        context: &Context,
    ) -> Result<Arc<Placed>, DecideError> {
        let bags = self.bags(tenant, context);
        let asked = Asked::Decide {
            key,
            operation,
            bags: &bags,
        };
        let request = |bags: &Bags| request(tenant, key.tag(), key.name().as_str(), operation, bags);
        let call = |store: &mut Guest, instance: &wit::Strategy, request: &wit::Request| {
            instance.tagway_strategy_router().call_decide(store, request)
        };
        let place = |decision| {
            let placed = self.grants.place(tenant, key, &decision)?;
            Ok(Answer::Placed(Arc::new(placed)))
        };
        match self.ask(tenant, asked, request, call, place).await? {
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
        let bags = self.bags(tenant, context);
        let asked = Asked::Enumerate { prefix, bags: &bags };
        let request = |bags: &Bags| request(tenant, &prefix.tag, &prefix.name_prefix, Operation::Read, bags);
        let call = |store: &mut Guest, instance: &wit::Strategy, request: &wit::Request| {
            instance.tagway_strategy_router().call_enumerate(store, request)
        };
        let place = |placements: Vec<wit::Placement>| {
            let ranges = self.grants.ranges(tenant, &prefix.tag, &placements)?;
            Ok(Answer::Ranges(Arc::new(ranges)))
        };
        match self.ask(tenant, asked, request, call, place).await? {
            Answer::Ranges(ranges) => Ok(ranges),
            Answer::Refused(refusal) => Err(DecideError::Refused((*refusal).clone())),
            Answer::Placed(_) => Err(DecideError::Failed),
        }
    }

    async fn ask<T>(
        &self,
        tenant: &VerifiedTenant,
        asked: Asked<'_>,
        request: impl FnOnce(&Bags) -> wit::Request,
        call: impl FnOnce(&mut Guest, &wit::Strategy, &wit::Request) -> wasmtime::Result<Result<T, wit::Refusal>>,
        place: impl FnOnce(T) -> Result<Answer, BrokenDecision>,
    ) -> Result<Answer, DecideError> {
        let memory = self.memory.of(tenant.id());
        if let Some(answer) = memory.answers.get(&asked) {
            return Ok(answer);
        }
        // Apart, for the room that it takes is room that each remembered answer would have to make too.
        Box::pin(self.call(&memory, tenant, asked, request, call, place)).await
    }

    /// Asks the component what is not remembered.
    async fn call<T>(
        &self,
        memory: &TenantMemory,
        tenant: &VerifiedTenant,
        asked: Asked<'_>,
        request: impl FnOnce(&Bags) -> wit::Request,
        call: impl FnOnce(&mut Guest, &wit::Strategy, &wit::Request) -> wasmtime::Result<Result<T, wit::Refusal>>,
        place: impl FnOnce(T) -> Result<Answer, BrokenDecision>,
    ) -> Result<Answer, DecideError> {
        // Who rests does not queue.
        memory
            .breaker()
            .check(&self.breaker)
            .map_err(|open| DecideError::Resting(open.rest))?;
        // Tenant by tenant, then strategy by strategy: a flood of one waits behind itself.
        let Ok(_turn_of_the_tenant) = memory.turns.acquire().await else {
            return Err(DecideError::Busy);
        };
        let Ok(_turn_of_the_strategy) = self.turns.acquire().await else {
            return Err(DecideError::Busy);
        };
        let Ok(_slot) = self.engine.slots().acquire().await else {
            return Err(DecideError::Busy);
        };
        // While this waited others may have asked the same, or failed too often.
        if let Some(answer) = memory.answers.get(&asked) {
            return Ok(answer);
        }
        let mut admitted = self.admit(memory)?;
        let request = request(asked.bags());
        // On this very thread: a call takes microseconds, fuel ends it after some milliseconds at most, and the
        // engine's slots leave the runtime another thread.
        let answer = self
            .prepared
            .call_configured(&self.limits, &self.setup, |store, instance| {
                call(store, instance, &request)
            })
            .map_err(Fault::from)
            .and_then(|answer| match answer {
                Ok(answer) => Ok(place(answer)?),
                Err(refusal) => Ok(Answer::Refused(Arc::new(refused(refusal)))),
            });
        match answer {
            Ok(answer) => {
                admitted.end(Outcome::Answered);
                memory.answers.insert(asked.to_question(), answer.clone());
                Ok(answer)
            }
            Err(Fault::Call(busy @ CallError::Busy(_))) => {
                tracing::warn!(strategy = %self.name, tenant = %tenant.id(), %busy, "the strategy did not get to run");
                Err(DecideError::Busy)
            }
            Err(fault) => {
                let opened = admitted.end(Outcome::Failed);
                tracing::warn!(
                    strategy = %self.name, version = self.version, tenant = %tenant.id(), tag = request.tag,
                    %fault, opened, "the strategy failed"
                );
                Err(DecideError::Failed)
            }
        }
    }

    fn admit<'m>(&'m self, memory: &'m TenantMemory) -> Result<Admitted<'m>, DecideError> {
        let admission = memory
            .breaker()
            .admit(&self.breaker)
            .map_err(|open| DecideError::Resting(open.rest))?;
        Ok(Admitted {
            memory,
            settings: &self.breaker,
            admission: Some(admission),
        })
    }

    /// What the manifest asked for, and nothing else.
    fn bags(&self, tenant: &VerifiedTenant, context: &Context) -> Bags {
        let mut bags = Bags::default();
        for name in &self.claims {
            let values: &[Value] = match tenant.caller().claim(name) {
                None | Some(Value::Null) => &[],
                Some(Value::Array(values)) => values,
                Some(value) => std::slice::from_ref(value),
            };
            bags.claims
                .extend(values.iter().map(|value| (name.clone(), claim_text(value))));
        }
        for name in &self.context {
            if let Some(value) = context.get(name) {
                bags.context.push((name.clone(), value.to_owned()));
            }
        }
        bags
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

fn request(tenant: &VerifiedTenant, tag: &Tag, name: &str, operation: Operation, bags: &Bags) -> wit::Request {
    let attributes = |bag: &[(String, String)]| {
        bag.iter()
            .map(|(name, value)| wit::Attribute {
                name: name.clone(),
                value: value.clone(),
            })
            .collect()
    };
    wit::Request {
        tag: tag.to_string(),
        name: name.to_owned(),
        operation: match operation {
            Operation::Read => wit::Operation::Read,
            Operation::Write => wit::Operation::Write,
            Operation::Delete => wit::Operation::Delete,
        },
        tenant: tenant.id().to_string(),
        claims: attributes(&bags.claims),
        context: attributes(&bags.context),
        attributes: Vec::new(),
    }
}

/// A claim's own text; JSON where it is no text.
fn claim_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The strategy's own words go to the caller: bounded, and without what a terminal would obey.
fn refused(refusal: wit::Refusal) -> Refusal {
    let clean = |text: String| {
        let mut clean: String = text.chars().filter(|c| !c.is_control()).collect();
        let end = (0..=REFUSAL_BYTES.min(clean.len()))
            .rev()
            .find(|end| clean.is_char_boundary(*end));
        clean.truncate(end.unwrap_or(0));
        clean
    };
    match refusal {
        wit::Refusal::Denied(text) => Refusal::Denied(clean(text)),
        wit::Refusal::Invalid(text) => Refusal::Invalid(clean(text)),
        wit::Refusal::Unplaced(text) => Refusal::Unplaced(clean(text)),
    }
}
