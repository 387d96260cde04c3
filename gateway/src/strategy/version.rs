//! A version of a strategy: component, settings and catalog, checked and immutable. It decides, and remembers nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::component::Prepared;
use super::engine::Engine;
use super::lifecycle::stages::{Backend, sha256};
use super::limits::{CallError, Limits};
use super::memory::{Answer, Asked, Bags};
use super::{Context, Operation, Refusal};
use crate::identity::VerifiedTenant;
use crate::key::{Tag, TenantId};
use crate::placement::{BrokenDecision, Grants};
use crate::settings::{OnFailure, StrategySettings};
use crate::wit;

/// Longest text of a refusal that reaches the caller, in bytes.
const REFUSAL_BYTES: usize = 1024;
/// A call that nobody waits for may take so many times the time, for it is not to fail because the machine is busy.
const PATIENCE: u32 = 10;
/// And so many times again.
const TRIES: u32 = 3;

/// What came out of a source and passed.
#[derive(Clone)]
pub(super) struct Version {
    /// The operator's name for the strategy.
    pub(super) name: Arc<str>,
    /// The author's own.
    pub(super) semver: String,
    /// Which it is.
    pub(super) fingerprint: Fingerprint,
    /// What it was made with.
    pub(super) settings: StrategySettings,
    pub(super) tags: Vec<Tag>,
    pub(super) claims: Vec<String>,
    pub(super) context: Vec<String>,
    pub(super) prepared: Prepared,
    /// What it was compiled from.
    pub(super) bytes: Arc<[u8]>,
    pub(super) setup: wit::Setup,
    pub(super) limits: Limits,
    pub(super) grants: Grants,
    pub(super) engine: Engine,
}

/// Which version it is: the component, and everything that it was given. What is alike decides alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fingerprint {
    /// `sha256:<hex>` of the component.
    pub(super) digest: String,
    /// The same of its settings, but for where it is.
    pub(super) settings: String,
}

impl Fingerprint {
    pub(super) fn new(digest: String, settings: &StrategySettings, catalog: &[Backend]) -> Self {
        let StrategySettings {
            tags,
            backends,
            shared_scope,
            on_failure,
            limits,
            breaker,
            rollback,
            settings,
            ..
        } = settings;
        let granted = catalog
            .iter()
            .filter(|backend| backends.iter().any(|id| **id == *backend.id));
        let granted: Vec<Value> = granted
            .map(|backend| json!([*backend.id, backend.kind, backend.max_value_bytes, backend.attributes]))
            .collect();
        let tags: BTreeSet<&str> = tags.iter().map(Tag::as_str).collect();
        // Said one by one, so that it is the same for other releases too.
        let given = json!({
            "settings": settings,
            "tags": tags,
            "granted": granted,
            "shared_scope": shared_scope,
            "last_decision": *on_failure == OnFailure::LastDecision,
            "limits": [limits.fuel, millis(limits.deadline), limits.memory.0, limits.component.0],
            "breaker": [u64::from(breaker.failures), millis(breaker.window), millis(breaker.rest)],
            "rollback": [u64::from(rollback.failures), millis(rollback.window)],
        });
        Self {
            digest,
            settings: sha256(given.to_string().as_bytes()),
        }
    }

    /// The component with just these settings, in a word.
    pub(super) fn whole(&self) -> String {
        format!("{} {}", self.digest, self.settings)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A version's own fault, as operators see it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Broken(#[from] BrokenDecision),
}

impl Fault {
    /// It is not the version's.
    pub(super) fn is_of_the_machine(&self) -> bool {
        matches!(self, Self::Call(CallError::Busy(_)))
    }
}

impl Version {
    /// The same, as far as `settings` grant it still. None: they grant it nothing.
    pub(super) fn within(self: &Arc<Self>, settings: &StrategySettings) -> Option<Arc<Self>> {
        let Self { tags, grants, .. } = &**self;
        let tags: Vec<Tag> = tags.iter().filter(|tag| settings.tags.contains(tag)).cloned().collect();
        let is_granted = |backend: &&Arc<str>| settings.backends.iter().any(|id| **id == ***backend);
        let grants = Grants {
            backends: grants.backends.iter().filter(is_granted).cloned().collect(),
            shared: grants.shared && settings.shared_scope,
        };
        if tags.is_empty() {
            return None;
        }
        if tags == self.tags && grants == self.grants {
            return Some(Arc::clone(self));
        }
        let mut clipped = Self::clone(self);
        clipped.tags = tags;
        clipped.grants = grants;
        // It was not made with that, so it is like none that is.
        clipped.fingerprint.settings += " clipped";
        Some(clipped.into())
    }

    /// What it answers, checked. On this very thread: a call takes microseconds, fuel ends it after some milliseconds at
    /// most, and who calls holds one of the engine's slots.
    pub(super) fn answer(&self, tenant: &TenantId, asked: Asked<'_>) -> Result<Answer, Fault> {
        self.answer_within(&self.limits, tenant, asked)
    }

    /// The same without a slot, for as long as it takes: nobody waits, and nobody else runs here.
    pub(super) fn answer_patiently(&self, tenant: &TenantId, asked: Asked<'_>) -> Result<Answer, Fault> {
        let limits = self.limits.patient(PATIENCE);
        for _ in 1..TRIES {
            match self.answer_within(&limits, tenant, asked) {
                Err(fault) if fault.is_of_the_machine() => {}
                answer => return answer,
            }
        }
        self.answer_within(&limits, tenant, asked)
    }

    /// The same for nobody who waits, who has as much time as it takes: once the engine has a slot.
    pub(super) async fn rehearse(&self, tenant: &TenantId, asked: Asked<'_>) -> Result<Answer, Fault> {
        let _slot = self.engine.slots().acquire().await;
        self.answer_patiently(tenant, asked)
    }

    fn answer_within(&self, limits: &Limits, tenant: &TenantId, asked: Asked<'_>) -> Result<Answer, Fault> {
        match asked {
            Asked::Decide { key, operation, bags } => {
                let request = request(tenant, key.tag(), key.name().as_str(), operation, bags);
                let answer = self.prepared.call_configured(limits, &self.setup, |store, instance| {
                    instance.tagway_strategy_router().call_decide(store, &request)
                })?;
                match answer {
                    Ok(decision) => Ok(Answer::Placed(self.grants.place(tenant, key, &decision)?.into())),
                    Err(refusal) => Ok(Answer::Refused(refused(refusal).into())),
                }
            }
            Asked::Enumerate { prefix, bags } => {
                let request = request(tenant, &prefix.tag, &prefix.name_prefix, Operation::Read, bags);
                let answer = self.prepared.call_configured(limits, &self.setup, |store, instance| {
                    instance.tagway_strategy_router().call_enumerate(store, &request)
                })?;
                match answer {
                    Ok(places) => Ok(Answer::Ranges(self.grants.ranges(tenant, &prefix.tag, &places)?.into())),
                    Err(refusal) => Ok(Answer::Refused(refused(refusal).into())),
                }
            }
        }
    }

    /// Of what a caller is and says, what the manifest asked for, and nothing else.
    pub(super) fn bags(&self, tenant: &VerifiedTenant, context: &Context) -> Bags {
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

    /// Of what another version was shown, what this one would have been.
    pub(super) fn bags_of(&self, bags: &Bags) -> Bags {
        let of = |asked: &[String], bag: &[(String, String)]| {
            let values = asked
                .iter()
                .flat_map(|name| bag.iter().filter(move |(of, _)| of == name));
            values.cloned().collect()
        };
        Bags {
            claims: of(&self.claims, &bags.claims),
            context: of(&self.context, &bags.context),
        }
    }
}

fn request(tenant: &TenantId, tag: &Tag, name: &str, operation: Operation, bags: &Bags) -> wit::Request {
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
        tenant: tenant.to_string(),
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
