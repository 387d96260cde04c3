//! A version of a strategy: component, settings and catalog, checked and immutable. It decides, and remembers nothing.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::component::Prepared;
use super::engine::Engine;
use super::lifecycle::stages::sha256;
use super::limits::{CallError, Limits};
use super::memory::{Answer, Asked, Bags};
use super::{Context, Operation, Refusal};
use crate::identity::VerifiedTenant;
use crate::key::{Tag, TenantId};
use crate::placement::{BrokenDecision, Grants};
use crate::settings::{Source, StrategySettings};
use crate::wit;

/// Longest text of a refusal that reaches the caller, in bytes.
const REFUSAL_BYTES: usize = 1024;
/// A call that nobody waits for may take so many times the time, for it is not to fail because the machine is busy.
const PATIENCE: u32 = 10;

/// What came out of a source and passed.
pub(super) struct Version {
    /// The operator's name for the strategy.
    pub(super) name: Arc<str>,
    /// The author's own.
    pub(super) semver: String,
    /// Which it is.
    pub(super) identity: Identity,
    /// What it was made with.
    pub(super) settings: StrategySettings,
    pub(super) tags: Vec<Tag>,
    pub(super) claims: Vec<String>,
    pub(super) context: Vec<String>,
    pub(super) prepared: Prepared,
    pub(super) setup: wit::Setup,
    pub(super) limits: Limits,
    pub(super) grants: Grants,
    pub(super) engine: Engine,
}

/// Which version it is: the component, and everything that it was given. What is alike decides alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// `sha256:<hex>` of the component.
    pub(super) digest: String,
    /// The same of its settings, but for where it is.
    pub(super) settings: String,
}

impl Identity {
    pub(super) fn new(digest: String, settings: &StrategySettings) -> Self {
        let mut given = settings.clone();
        given.source = Source::Builtin(String::new());
        given.digest = None;
        given.unpinned = false;
        Self {
            digest,
            settings: sha256(format!("{given:?}").as_bytes()),
        }
    }
}

/// A version's own fault, as operators see it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Broken(#[from] BrokenDecision),
}

impl Version {
    /// What it answers, checked. On this very thread: a call takes microseconds, fuel ends it after some milliseconds at
    /// most, and who calls holds one of the engine's slots.
    pub(super) fn answer(&self, tenant: &TenantId, asked: Asked<'_>) -> Result<Answer, Fault> {
        self.answer_within(&self.limits, tenant, asked)
    }

    /// The same without a slot, for as long as it takes: nobody waits, and nobody else runs here.
    pub(super) fn answer_patiently(&self, tenant: &TenantId, asked: Asked<'_>) -> Result<Answer, Fault> {
        self.answer_within(&self.limits.patient(PATIENCE), tenant, asked)
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
