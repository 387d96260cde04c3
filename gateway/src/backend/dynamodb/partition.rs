//! One tenant's items, or everybody's: what a call may touch, with the credentials that it carries. All reads are
//! consistent: what was acknowledged anywhere is what they find.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::BuildError;
use aws_sdk_dynamodb::operation::query::QueryOutput;
use aws_sdk_dynamodb::types::{AttributeValue, KeysAndAttributes};

use super::DynamoDb;
use super::item::{Item, PK, SK, SortKeys, string};
use crate::backend::BackendError;
use crate::clock::backoff;
use crate::key::TenantId;

/// Most keys of a `BatchGetItem`.
pub(super) const BATCH: usize = 100;
/// Waits before what DynamoDB left out is asked for again, and before a transaction that met another is tried again.
pub(super) const WAITS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));

/// How often something is tried for which there is no room. The SDK does not try it again: to it that is an answer.
pub(super) const THROTTLED: usize = 4;

/// Where a call works.
pub(super) struct Partition<'s> {
    pub(super) store: &'s DynamoDb,
    pub(super) client: Client,
    /// Whose call it is.
    pub(super) tenant: TenantId,
    pub(super) pk: String,
}

/// Which items of a range.
pub(super) struct Ask<'a> {
    pub(super) keys: &'a SortKeys,
    pub(super) newest_first: bool,
    /// At most so many.
    pub(super) limit: usize,
    /// Only these attributes; all, if there are none.
    pub(super) attributes: &'a [&'static str],
    pub(super) start: Option<Item>,
}

impl Partition<'_> {
    pub(super) fn key(&self, sk: &str) -> Item {
        Item::from([(PK.to_owned(), string(&self.pk)), (SK.to_owned(), string(sk))])
    }

    /// One item, with these attributes; with all, if there are none named.
    pub(super) async fn get(&self, sk: &str, attributes: &[&'static str]) -> Result<Option<Item>, BackendError> {
        let (projection, names) = projection(attributes);
        let call = self
            .client
            .get_item()
            .table_name(&*self.store.table)
            .set_key(Some(self.key(sk)))
            .consistent_read(true)
            .set_projection_expression(projection)
            .set_expression_attribute_names(names);
        Ok(self
            .store
            .aws
            .call(&self.tenant, "GetItem", Box::pin(call.send()))
            .await?
            .item)
    }

    /// A part of a range, in order.
    pub(super) async fn query(&self, ask: Ask<'_>) -> Result<QueryOutput, BackendError> {
        let (projection, names) = projection(ask.attributes);
        let mut names = names.unwrap_or_default();
        names.extend([("#pk".to_owned(), PK.to_owned()), ("#sk".to_owned(), SK.to_owned())]);
        let call = self
            .client
            .query()
            .table_name(&*self.store.table)
            .key_condition_expression("#pk = :pk AND #sk BETWEEN :from AND :to")
            .expression_attribute_values(":pk", string(&self.pk))
            .expression_attribute_values(":from", string(&ask.keys.from))
            .expression_attribute_values(":to", string(&ask.keys.to))
            .set_expression_attribute_names(Some(names))
            .set_projection_expression(projection)
            .scan_index_forward(!ask.newest_first)
            .consistent_read(true)
            .limit(i32::try_from(ask.limit).unwrap_or(i32::MAX))
            .set_exclusive_start_key(ask.start);
        self.store.aws.call(&self.tenant, "Query", Box::pin(call.send())).await
    }
}

impl DynamoDb {
    /// These items, as far as they are there, in any order; no further ones once so many `bytes` are together. Those that
    /// were not looked at any more are the second part.
    pub(super) async fn get_many(
        &self,
        tenant: &TenantId,
        client: &Client,
        mut keys: Vec<Item>,
        bytes: usize,
    ) -> Result<(Vec<Item>, Vec<Item>), BackendError> {
        let mut found = Vec::new();
        let mut together = 0;
        let mut waits = backoff(WAITS).enumerate();
        while !keys.is_empty() && together < bytes {
            let rest = keys.split_off(keys.len().min(BATCH));
            let asked = KeysAndAttributes::builder().set_keys(Some(keys)).consistent_read(true);
            let asked = built(asked.build())?;
            let call = client.batch_get_item().request_items(&*self.table, asked);
            let answer = self.aws.call(tenant, "BatchGetItem", Box::pin(call.send())).await?;
            let items = answer.responses.into_iter().flat_map(HashMap::into_values).flatten();
            let mut answered = false;
            for item in items {
                answered = true;
                together += item.values().map(size).sum::<usize>();
                found.push(item);
            }
            let left_out = answer.unprocessed_keys.into_iter().flat_map(HashMap::into_values);
            keys = left_out.flat_map(|left_out| left_out.keys).collect();
            if !keys.is_empty() && together < bytes {
                match waits.next() {
                    Some((round, wait)) if round < THROTTLED || answered => tokio::time::sleep(wait).await,
                    _ => {
                        return Err(self.busy(
                            "BatchGetItem",
                            "it has no room for more reads: raise its capacity, or look for a busy tenant",
                        ));
                    }
                }
            }
            keys.extend(rest);
        }
        Ok((found, keys))
    }
}

/// Near enough: values are what is large.
fn size(value: &AttributeValue) -> usize {
    match value {
        AttributeValue::B(bytes) => bytes.as_ref().len(),
        AttributeValue::S(text) => text.len(),
        _ => 1,
    }
}

/// An expression that names these attributes, whatever words of DynamoDB's language they are.
fn projection(attributes: &[&'static str]) -> (Option<String>, Option<HashMap<String, String>>) {
    if attributes.is_empty() {
        return (None, None);
    }
    let names: Vec<String> = attributes.iter().map(|name| format!("#{name}")).collect();
    let projection = names.join(",");
    let names = names.into_iter().zip(attributes.iter().map(ToString::to_string));
    (Some(projection), Some(names.collect()))
}

/// A request that lacks nothing. That one does is a mistake of this file's.
pub(super) fn built<T>(request: Result<T, BuildError>) -> Result<T, BackendError> {
    request.map_err(|error| BackendError::Damaged(error.to_string()))
}
