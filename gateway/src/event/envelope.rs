//! What a message says. Its body is hostile input: it is read into a few checked words, and nothing of it is kept.
//!
//! The shapes are AWS's: "AWS events sent to Amazon EventBridge" for the envelope, "Monitoring Parameter Store events with
//! Amazon EventBridge", "Amazon EventBridge Pipes: DynamoDB streams as a source", "Using EventBridge with Amazon S3".

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::SOURCE;
use super::stores::Stores;
use crate::key::Etag;
use crate::placement::Place;

/// The types of what we publish.
pub(super) const CONFIG_CHANGED: &str = "ConfigChanged";
pub(super) const STRATEGY_PUBLISHED: &str = "StrategyPublished";

/// What a message tells.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// That these places changed, or may have.
    Changed {
        /// Each store that could hold what it names.
        places: Vec<Place>,
        /// What stands there since, as far as it says.
        etag: Option<Etag>,
        /// The replica that did it, as far as it says.
        replica: Option<String>,
    },
    /// That there is another component for a strategy.
    Strategy,
    /// Nothing that concerns this gateway.
    Nothing,
}

/// Why a message cannot be understood. It will not be, however often it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unreadable {
    /// Not the envelope of one.
    #[error("it is no event: an object with `source`, `detail-type` and `detail`, or an SNS notification of one")]
    NoEvent,
    /// Not what Parameter Store says of a change.
    #[error("the detail of a `Parameter Store Change` names no parameter")]
    Parameter,
    /// Not what it says of a policy.
    #[error("the detail of a `Parameter Store Policy Action` names no parameter")]
    Policy,
    /// Not what a pipe says of a table.
    #[error("the detail is no record of a DynamoDB stream, and of no other kind that is known")]
    Record,
    /// Not what a gateway says.
    #[error("the detail of a `ConfigChanged` lacks its backend or name")]
    Config,
}

#[derive(Deserialize)]
struct Head<'m> {
    #[serde(borrow)]
    source: Cow<'m, str>,
    #[serde(borrow, rename = "detail-type")]
    kind: Cow<'m, str>,
    #[serde(borrow, default)]
    region: Cow<'m, str>,
}

#[derive(Deserialize)]
struct Body<D> {
    detail: D,
}

/// Of Amazon SNS, where raw delivery is off.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Notification {
    #[serde(rename = "Type")]
    kind: String,
    message: String,
}

#[derive(Deserialize)]
struct ParameterChange {
    operation: String,
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct PolicyAction {
    parameter_name: String,
    policy_type: String,
}

/// Of a DynamoDB stream, as a pipe puts it. Its images hold a value, which is passed over.
#[derive(Deserialize)]
struct Record {
    #[serde(rename = "eventSourceARN")]
    arn: String,
    dynamodb: Change,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Change {
    keys: Keys,
    new_image: Option<Image>,
}

#[derive(Deserialize)]
struct Keys {
    pk: Text,
    sk: Text,
}

#[derive(Deserialize)]
struct Text {
    #[serde(rename = "S")]
    text: String,
}

#[derive(Deserialize)]
struct Image {
    life: Option<Text>,
    version: Option<Number>,
}

#[derive(Deserialize)]
struct Number {
    #[serde(rename = "N")]
    digits: String,
}

/// What replicas tell each other of a write. Never a value.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ConfigChanged {
    /// The catalog's id of the store.
    pub(super) backend: String,
    /// The physical name: `<tenant>/<namespace>/<tag>/<name>`, or `_shared/...`.
    pub(super) name: String,
    /// Whose it is. Nothing where it is everybody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) tenant: Option<String>,
    /// For who looks it up by its key, as Lambda functions do.
    #[serde(default)]
    pub(super) key: String,
    /// What stands there, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) etag: Option<String>,
    /// Who wrote it.
    #[serde(default)]
    pub(super) replica: String,
}

/// What `message` tells, of these stores.
pub(super) fn read(stores: &Stores, message: &str) -> Result<Told, Unreadable> {
    if let Ok(head) = serde_json::from_str(message) {
        return event(stores, &head, message);
    }
    let notified = serde_json::from_str::<Notification>(message).ok();
    let notified = notified.filter(|notification| notification.kind == "Notification");
    let Notification { message, .. } = notified.ok_or(Unreadable::NoEvent)?;
    let head = serde_json::from_str(&message).map_err(|_| Unreadable::NoEvent)?;
    event(stores, &head, &message)
}

fn event(stores: &Stores, head: &Head<'_>, message: &str) -> Result<Told, Unreadable> {
    match (&*head.source, &*head.kind) {
        ("aws.ssm", "Parameter Store Change") => {
            let ParameterChange { operation, name } = detail(message).ok_or(Unreadable::Parameter)?;
            // A label moves; no value does.
            if operation == "LabelParameterVersion" {
                return Ok(Told::Nothing);
            }
            Ok(Told::changed(stores.parameter(&head.region, &name)))
        }
        ("aws.ssm", "Parameter Store Policy Action") => {
            let PolicyAction {
                parameter_name,
                policy_type,
            } = detail(message).ok_or(Unreadable::Policy)?;
            // The others say that something will happen, or did not.
            if policy_type != "Expiration" {
                return Ok(Told::Nothing);
            }
            Ok(Told::changed(stores.parameter(&head.region, &parameter_name)))
        }
        (SOURCE, CONFIG_CHANGED) => {
            let ConfigChanged {
                backend,
                name,
                etag,
                replica,
                ..
            } = detail(message).ok_or(Unreadable::Config)?;
            let place = stores.place(&backend, &name);
            Ok(match place {
                None => Told::Nothing,
                Some(place) => Told::Changed {
                    places: vec![place],
                    etag: etag.and_then(|etag| etag.parse().ok()),
                    replica: Some(replica),
                },
            })
        }
        (SOURCE, STRATEGY_PUBLISHED) | ("aws.s3", "Object Created") => Ok(Told::Strategy),
        // AWS's own say nothing else that concerns us; a pipe may call its events anything.
        (source, _) if source.starts_with("aws.") => Ok(Told::Nothing),
        _ => record(stores, message),
    }
}

fn record(stores: &Stores, message: &str) -> Result<Told, Unreadable> {
    let Record { arn, dynamodb } = detail(message).ok_or(Unreadable::Record)?;
    // arn:aws:dynamodb:<region>:<account>:table/<table>/stream/<time>
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let ["arn", _, "dynamodb", region, _, resource] = parts[..] else {
        return Err(Unreadable::Record);
    };
    let table = resource.split('/').nth(1).unwrap_or_default();
    let Change { keys, new_image } = dynamodb;
    let places = stores.item(region, table, &keys.pk.text, &keys.sk.text);
    if places.is_empty() {
        return Ok(Told::Nothing);
    }
    let etag = new_image.and_then(|image| format!("{}-{}", image.life?.text, image.version?.digits).parse().ok());
    Ok(Told::Changed {
        places,
        etag,
        replica: None,
    })
}

impl Told {
    fn changed(places: Vec<Place>) -> Self {
        if places.is_empty() {
            return Self::Nothing;
        }
        Self::Changed {
            places,
            etag: None,
            replica: None,
        }
    }
}

fn detail<D: for<'m> Deserialize<'m>>(message: &str) -> Option<D> {
    Some(serde_json::from_str::<Body<D>>(message).ok()?.detail)
}

#[cfg(test)]
mod tests;
