//! What a parameter says of a key. It may be somebody else's: a person's, a pipeline's, another program's.

use std::time::{Duration, UNIX_EPOCH};

use aws_lc_rs::digest;
use aws_sdk_ssm::primitives::DateTime;
use aws_sdk_ssm::types::{Parameter, ParameterHistory, ParameterType};
use ulid::Ulid;

use super::text;
use crate::backend::{BackendError, Entry};
use crate::key::{Etag, Life};

/// What an [`Entry`] is made of.
struct State<'p> {
    name: Option<&'p str>,
    value: Option<&'p str>,
    version: i64,
    modified: Option<&'p DateTime>,
    kind: Option<&'p ParameterType>,
}

/// What stands.
pub(super) fn entry(parameter: &Parameter) -> Result<Entry, BackendError> {
    State {
        name: parameter.name(),
        value: parameter.value(),
        version: parameter.version(),
        modified: parameter.last_modified_date(),
        kind: parameter.r#type(),
    }
    .entry()
}

/// What stood.
pub(super) fn earlier(parameter: &ParameterHistory) -> Result<Entry, BackendError> {
    State {
        name: parameter.name(),
        value: parameter.value(),
        version: parameter.version(),
        modified: parameter.last_modified_date(),
        kind: parameter.r#type(),
    }
    .entry()
}

impl State<'_> {
    fn entry(&self) -> Result<Entry, BackendError> {
        let damaged = |what: &str| BackendError::Damaged(format!("the parameter {:?}: no {what}", self.name));
        let kept = self.value.ok_or_else(|| damaged("value"))?;
        let modified = self.modified.and_then(|modified| modified.to_millis().ok());
        let millis = modified.and_then(|millis| u64::try_from(millis).ok());
        let millis = millis.ok_or_else(|| damaged("modification time"))?;
        let version = u64::try_from(self.version).map_err(|_| damaged("version"))?;
        let secret = self.kind == Some(&ParameterType::SecureString);
        let (value, content_type) = text::read(kept);
        Ok(Entry {
            value,
            content_type,
            etag: Etag {
                life: life(millis, kept, secret),
                version,
            },
            updated_at: UNIX_EPOCH + Duration::from_millis(millis),
            updated_by: String::new(),
            secret,
        })
    }
}

/// There is no room for a life in a parameter. The modification time stands in for it, so that what comes later is greater;
/// and what is kept, so that two states of one moment, before and after a deletion, are two. But for secrets: an etag is
/// seen by who may not see them.
fn life(millis: u64, kept: &str, secret: bool) -> Life {
    let mut chance = [0; 16];
    if !secret {
        let digest = digest::digest(&digest::SHA256, kept.as_bytes());
        chance[6..].copy_from_slice(&digest.as_ref()[..10]);
    }
    Life(Ulid::from_parts(millis, u128::from_be_bytes(chance)))
}
