//! Requests that carry an id of the caller's: an item each, written in the transaction of the change that they made. It
//! outlives the state, which the next write replaces, and is the tenant's rather than the key's.

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;

use super::item::{self, EXPIRES_AT, Item, OUTCOME, REQUEST_DIGEST, number, string};
use super::partition::Partition;
use crate::backend::{BackendError, Entry, Once, REMEMBERED};
use crate::identity::VerifiedTenant;
use crate::key::Etag;

/// What became of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// This stands after a put; without its value.
    Stands(Entry),
    /// This stood here; which it was, is not remembered.
    Deleted(Option<Etag>),
    /// Nothing stood here, but in another store.
    Elsewhere,
    /// Nothing stood anywhere.
    Nothing,
}

const STANDS: &str = "stands";
const DELETED: &str = "deleted";
const ELSEWHERE: &str = "elsewhere";
const NOTHING: &str = "nothing";

/// What is known of a request.
pub(super) enum Seen {
    /// Nothing.
    Never,
    /// It was done, with this answer.
    Done(Outcome),
    /// Its id was another request's.
    Another,
}

/// Where a request is remembered: beside what it changed, for a transaction has one set of credentials. An id is unique within
/// its tenant, but what the tenant owns and what all tenants read are remembered apart.
pub(super) fn sort_key(tenant: &VerifiedTenant, once: &Once) -> String {
    format!("REQUEST#{}/{}", tenant.id(), once.id)
}

/// What is remembered of it, without its key. `now` is in seconds since the epoch.
pub(super) fn item(once: &Once, outcome: &Outcome, now: u64) -> Item {
    let (name, mut item) = match outcome {
        Outcome::Stands(entry) => (STANDS, item::described(entry)),
        Outcome::Deleted(_) => (DELETED, Item::new()),
        Outcome::Elsewhere => (ELSEWHERE, Item::new()),
        Outcome::Nothing => (NOTHING, Item::new()),
    };
    item.extend([
        (OUTCOME.to_owned(), string(name)),
        (REQUEST_DIGEST.to_owned(), AttributeValue::B(Blob::new(once.digest))),
        (EXPIRES_AT.to_owned(), number(now + REMEMBERED.as_secs())),
    ]);
    item
}

impl Partition<'_> {
    /// What became of the request, if it was done before.
    pub(super) async fn seen(&self, tenant: &VerifiedTenant, once: &Once) -> Result<Seen, BackendError> {
        let Some(found) = self.get(&sort_key(tenant, once), &[]).await? else {
            return Ok(Seen::Never);
        };
        // What is over may lie there for days (DynamoDB's developer guide, "Time to Live").
        let over = item::natural(&found, EXPIRES_AT).is_none_or(|at| at <= self.store.clock.seconds());
        if over {
            return Ok(Seen::Never);
        }
        if item::bytes(&found, REQUEST_DIGEST) != Some(&once.digest[..]) {
            return Ok(Seen::Another);
        }
        Ok(Seen::Done(match item::text(&found, OUTCOME) {
            Some(STANDS) => Outcome::Stands(item::entry(found)?),
            Some(DELETED) => Outcome::Deleted(None),
            Some(ELSEWHERE) => Outcome::Elsewhere,
            Some(NOTHING) => Outcome::Nothing,
            _ => return Err(item::damaged(&found, OUTCOME, "stands, deleted, elsewhere or nothing")),
        }))
    }
}
