//! Writes and deletes: what stands, what stood and the request's answer change in one transaction, or nothing does.
//!
//! The transaction names the state that it follows. A writer without a precondition reads which that is, and begins again
//! where another was faster; one with an etag need not read. Each state carries the name of the request that made it, so
//! that who does not know whether a transaction happened can look.

use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::builders::PutBuilder;
use aws_sdk_dynamodb::types::{AttributeValue, ConditionCheck, Delete, Put, TransactWriteItem, Update};
use bytes::Bytes;
use tokio::time::Instant;
use ulid::Ulid;

use super::item::{self, EXPIRES_AT, Item, LIFE, PK, Path, REQUEST_ID, SK, STATE, VERSION, number, string, to_micros};
use super::partition::{Partition, THROTTLED, WAITS, built};
use super::request::{self, Outcome, Seen};
use crate::backend::{BackendError, Conditions, Entry, NewEntry, Once, Precondition, WriteError};
use crate::clock::backoff;
use crate::identity::VerifiedTenant;
use crate::key::{Etag, Life};

/// What is to be done.
pub(super) enum Change {
    Put(NewEntry),
    /// `elsewhere`: whether the same request deleted the key in another store already.
    Delete {
        elsewhere: bool,
    },
}

/// How a transaction ended.
enum Transaction {
    Done,
    /// A condition does not hold.
    Refused,
    /// It met another.
    Conflict,
    /// There was no room for it at that moment.
    Throttled,
}

const TRANSACTION: &str = "TransactWriteItems";
const FASTER: &str = "other writers of this key were faster, again and again";
const NO_ROOM: &str = "it has no room for more writes: raise its capacity, or look for a busy tenant";

/// What is compared before anything changes.
const IS_ABSENT: &str = "attribute_not_exists(#pk)";
const IS_STATE: &str = "#life = :life AND #version = :version";
const IS_ABSENT_OR_OVER: &str = "attribute_not_exists(#pk) OR #expires_at <= :now";

impl Partition<'_> {
    /// Makes a change durable.
    pub(super) async fn change(
        &self,
        tenant: &VerifiedTenant,
        path: Path<'_>,
        change: Change,
        conditions: Conditions,
    ) -> Result<Outcome, WriteError> {
        let Conditions { precondition, once } = conditions;
        let mark = once.map_or_else(
            || Ulid::from_datetime(self.store.clock.now()).to_string(),
            |once| once.id.to_string(),
        );
        let mut waits = backoff(WAITS);
        let mut throttled = 0;
        // Soon enough to say why.
        let last = Instant::now() + self.store.aws.settings().timeout * 3 / 4;
        loop {
            let follows = match precondition {
                Precondition::Match(etag) => Some(etag),
                Precondition::Absent => None,
                Precondition::None => self.standing(path).await?,
                Precondition::Never => return self.refused(tenant, once).await,
            };
            let attempt = self.attempt(tenant, path, &change, follows, &mark).await?;
            let outcome = attempt.outcome();
            let read_is_enough = attempt.state.is_none() && once.is_none() && precondition == Precondition::None;
            if read_is_enough {
                return Ok(outcome);
            }
            match self.transact(tenant, path, &attempt, once).await? {
                Transaction::Done => return Ok(outcome),
                Transaction::Refused => {
                    // It may be itself that it met: done, and its answer lost on the way.
                    if once.is_none() && self.was_done(path, &attempt).await? {
                        return Ok(outcome);
                    }
                    match self.refused(tenant, once).await {
                        Err(WriteError::PreconditionFailed) if precondition == Precondition::None => {}
                        answer => return answer,
                    }
                }
                Transaction::Conflict if Instant::now() > last => {
                    return Err(self.store.busy(TRANSACTION, FASTER).into());
                }
                Transaction::Throttled if throttled == THROTTLED => {
                    return Err(self.store.busy(TRANSACTION, NO_ROOM).into());
                }
                Transaction::Throttled => throttled += 1,
                Transaction::Conflict => {}
            }
            tokio::time::sleep(waits.next().unwrap_or(WAITS.1)).await;
        }
    }

    /// What a request is told whose condition does not hold: its answer, if it was done before.
    async fn refused(&self, tenant: &VerifiedTenant, once: Option<Once>) -> Result<Outcome, WriteError> {
        let Some(once) = once else {
            return Err(WriteError::PreconditionFailed);
        };
        match self.seen(tenant, &once).await? {
            Seen::Done(outcome) => Ok(outcome),
            Seen::Another => Err(WriteError::RequestReused),
            Seen::Never => Err(WriteError::PreconditionFailed),
        }
    }

    /// The state that stands.
    pub(super) async fn standing(&self, path: Path<'_>) -> Result<Option<Etag>, BackendError> {
        let found = self.get(&path.current(), STATE).await?;
        found.as_ref().map(item::etag).transpose()
    }

    async fn attempt<'a>(
        &self,
        tenant: &VerifiedTenant,
        path: Path<'_>,
        change: &'a Change,
        follows: Option<Etag>,
        mark: &'a str,
    ) -> Result<Attempt<'a>, WriteError> {
        let now = to_micros(self.store.clock.now());
        let etag = match (follows, change) {
            (None, Change::Delete { .. }) => None,
            (Some(Etag { life, version }), _) => {
                // An etag that a caller made up may have no successor. Then it is none of ours either.
                let version = version.checked_add(1);
                Some(Etag {
                    life,
                    version: version.ok_or(WriteError::PreconditionFailed)?,
                })
            }
            (None, Change::Put(_)) => {
                // Lives of one key follow each other, also where the clock was set back between them.
                let before = self.newest(&path.past()).await?;
                let before = before.as_ref().map(item::etag).transpose()?;
                Some(Etag {
                    life: Life::begin(now, before.map(|etag| etag.life)),
                    version: 1,
                })
            }
        };
        let content_type = match change {
            Change::Put(entry) => entry.content_type.clone(),
            Change::Delete { .. } => String::new(),
        };
        let state = etag.map(|etag| Entry {
            value: Bytes::new(),
            content_type,
            etag,
            updated_at: now,
            updated_by: tenant.caller().subject().to_string(),
            secret: false,
        });
        Ok(Attempt {
            change,
            mark,
            follows,
            state,
        })
    }

    /// Whether the state that an attempt would have made is there, and of this very request.
    async fn was_done(&self, path: Path<'_>, attempt: &Attempt<'_>) -> Result<bool, BackendError> {
        let Some(state) = &attempt.state else {
            return Ok(false);
        };
        let found = self.get(&path.state(state.etag), &[REQUEST_ID]).await?;
        Ok(found.is_some_and(|found| item::text(&found, REQUEST_ID) == Some(attempt.mark)))
    }

    async fn transact(
        &self,
        tenant: &VerifiedTenant,
        path: Path<'_>,
        attempt: &Attempt<'_>,
        once: Option<Once>,
    ) -> Result<Transaction, BackendError> {
        let mut steps = vec![self.current(path, attempt)?];
        let now = self.store.clock.seconds();
        if let Some(state) = &attempt.state {
            let mut item = item::state(state, attempt.value(), attempt.mark);
            if let Some(kept) = self.store.history_ttl {
                let over = number(now + kept.as_secs());
                if let Some(follows) = attempt.follows {
                    steps.push(self.ends(path, follows, &over)?);
                }
                // Nothing follows the end of a life.
                if attempt.value().is_none() {
                    item.insert(EXPIRES_AT.to_owned(), over);
                }
            }
            steps.push(step(self.put(path.state(state.etag), item))?);
        }
        if let Some(once) = once {
            let item = request::item(&once, &attempt.outcome(), now);
            let put = self
                .put(request::sort_key(tenant, &once), item)
                .condition_expression(IS_ABSENT_OR_OVER)
                .expression_attribute_names("#pk", PK)
                .expression_attribute_names("#expires_at", EXPIRES_AT)
                .expression_attribute_values(":now", number(now));
            steps.push(step(put)?);
        }
        // Under one token it is done once, however often it is sent.
        let token = Ulid::from_datetime(self.store.clock.now()).to_string();
        for wait in backoff(WAITS) {
            let call = self.client.transact_write_items().client_request_token(&token);
            let call = call.set_transact_items(Some(steps.clone()));
            let Err(error) = self.store.aws.send(&self.tenant, Box::pin(call.send())).await else {
                break;
            };
            // What becomes of it, an answer under the same token tells, and nothing else.
            if !is_under_way(&error) {
                return met(&error).ok_or_else(|| self.store.aws.failed(TRANSACTION, &error));
            }
            tokio::time::sleep(wait).await;
        }
        Ok(Transaction::Done)
    }

    /// The step that changes what stands, or makes sure that nothing does.
    fn current(&self, path: Path<'_>, attempt: &Attempt<'_>) -> Result<TransactWriteItem, BackendError> {
        let sk = path.current();
        let item = attempt
            .state
            .as_ref()
            .zip(attempt.value())
            .map(|(state, value)| item::state(state, Some(value), attempt.mark));
        match (attempt.follows, item) {
            (None, None) => {
                let check = ConditionCheck::builder()
                    .table_name(&*self.store.table)
                    .set_key(Some(self.key(&sk)))
                    .condition_expression(IS_ABSENT)
                    .expression_attribute_names("#pk", PK);
                let check = built(check.build())?;
                Ok(TransactWriteItem::builder().condition_check(check).build())
            }
            (None, Some(item)) => {
                let put = self.put(sk, item).condition_expression(IS_ABSENT);
                step(put.expression_attribute_names("#pk", PK))
            }
            (Some(follows), Some(item)) => step(
                self.put(sk, item)
                    .condition_expression(IS_STATE)
                    .expression_attribute_names("#life", LIFE)
                    .expression_attribute_names("#version", VERSION)
                    .expression_attribute_values(":life", string(follows.life.0.to_string()))
                    .expression_attribute_values(":version", number(follows.version)),
            ),
            (Some(follows), None) => {
                let delete = Delete::builder()
                    .table_name(&*self.store.table)
                    .set_key(Some(self.key(&sk)))
                    .condition_expression(IS_STATE)
                    .expression_attribute_names("#life", LIFE)
                    .expression_attribute_names("#version", VERSION)
                    .expression_attribute_values(":life", string(follows.life.0.to_string()))
                    .expression_attribute_values(":version", number(follows.version));
                let delete = built(delete.build())?;
                Ok(TransactWriteItem::builder().delete(delete).build())
            }
        }
    }

    /// The step that has the record of a state expire, now that another follows it. Of one that somebody wrote beside the
    /// gateway there is no record: it gets one, in which there is nothing, and which expires too.
    fn ends(&self, path: Path<'_>, state: Etag, over: &AttributeValue) -> Result<TransactWriteItem, BackendError> {
        let update = Update::builder()
            .table_name(&*self.store.table)
            .set_key(Some(self.key(&path.state(state))))
            .update_expression(
                "SET #expires_at = :over, #life = if_not_exists(#life, :life), #version = if_not_exists(#version, \
                 :version)",
            )
            .expression_attribute_names("#expires_at", EXPIRES_AT)
            .expression_attribute_names("#life", LIFE)
            .expression_attribute_names("#version", VERSION)
            .expression_attribute_values(":over", over.clone())
            .expression_attribute_values(":life", string(state.life.0.to_string()))
            .expression_attribute_values(":version", number(state.version));
        let update = built(update.build())?;
        Ok(TransactWriteItem::builder().update(update).build())
    }

    fn put(&self, sk: String, mut item: Item) -> PutBuilder {
        item.insert(PK.to_owned(), string(&self.pk));
        item.insert(SK.to_owned(), string(sk));
        Put::builder().table_name(&*self.store.table).set_item(Some(item))
    }
}

fn step(put: PutBuilder) -> Result<TransactWriteItem, BackendError> {
    Ok(TransactWriteItem::builder().put(built(put.build())?).build())
}

/// One transaction, as far as it is known before it is tried.
struct Attempt<'a> {
    change: &'a Change,
    /// The name of the request.
    mark: &'a str,
    /// What stands now. None: nothing.
    follows: Option<Etag>,
    /// What is made of it, without its value. None: nothing is to be done, and only the answer to be remembered.
    state: Option<Entry>,
}

impl Attempt<'_> {
    fn value(&self) -> Option<&Bytes> {
        match self.change {
            Change::Put(entry) => Some(&entry.value),
            Change::Delete { .. } => None,
        }
    }

    fn outcome(&self) -> Outcome {
        match (self.change, &self.state) {
            (Change::Put(_), Some(entry)) => Outcome::Stands(entry.clone()),
            (Change::Delete { .. }, Some(_)) => Outcome::Deleted(self.follows),
            (Change::Delete { elsewhere: true }, None) => Outcome::Elsewhere,
            _ => Outcome::Nothing,
        }
    }
}

/// Whether an earlier call under the same token still is.
fn is_under_way(error: &SdkError<TransactWriteItemsError>) -> bool {
    let error = error.as_service_error();
    error.is_some_and(TransactWriteItemsError::is_transaction_in_progress_exception)
}

/// Why a transaction was cancelled, if that is all that happened to it.
fn met(error: &SdkError<TransactWriteItemsError>) -> Option<Transaction> {
    let TransactWriteItemsError::TransactionCanceledException(cancelled) = error.as_service_error()? else {
        return None;
    };
    let codes = cancelled
        .cancellation_reasons()
        .iter()
        .filter_map(|reason| reason.code());
    if codes.clone().any(|code| code == "ConditionalCheckFailed") {
        return Some(Transaction::Refused);
    }
    let mut ended = None;
    for code in codes {
        match code {
            "None" => {}
            "TransactionConflict" => ended = ended.or(Some(Transaction::Conflict)),
            "ThrottlingError" | "ProvisionedThroughputExceeded" => ended = Some(Transaction::Throttled),
            _ => return None,
        }
    }
    ended
}
