//! Amazon DynamoDB: for what is read and written often, shared by any number of gateways.
//!
//! One table. What a tenant owns lies under its own partition key, which AWS's policies can compare with the tenant of a
//! session. What stands and what stood change in one transaction, under the condition that nobody else changed it.

mod item;
mod partition;
mod past;
mod request;
mod table;
mod write;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::retry::RetryPartition;
use tokio::time::Instant;

use super::aws::failure::Unreadable;
use super::aws::{Aws, AwsSettings, NoRegion, Traced};
use super::{
    Access, Backend, BackendError, Capabilities, Conditions, Deleted, Entry, HistoryPage, NewEntry, Page, PageRequest,
    ReadMany, WriteError, scope_root,
};
use crate::clock::Clock;
use crate::fair_semaphore::FairSemaphore;
use crate::identity::VerifiedTenant;
use crate::key::Name;
use crate::placement::{PhysicalName, PhysicalRange, Space};
use item::{Path, Position, SK, SortKeys, WITHOUT_VALUE};
use partition::{Ask, Partition};
use request::Outcome;
use write::Change;

pub(crate) use item::physical;
pub use table::{ProvisionError, Step, Table};

/// An item has 400 KB, names and values of all of its attributes counted (DynamoDB's developer guide, "Constraints").
const ITEM_BYTES: u32 = 400 << 10;
/// What an item needs besides its value, where tenant, namespace, tag, name, content type and writer are as long as can be.
const AROUND_BYTES: u32 = 4 << 10;

/// Reads of many items at once. DynamoDB answers each with up to 16 MB, whatever there is room for.
const BATCHES: usize = 8;
/// When another try may find what this one did not.
const RETRY: Duration = Duration::from_secs(1);

/// What it can do.
pub const CAPABILITIES: Capabilities = Capabilities {
    max_value_bytes: ITEM_BYTES - AROUND_BYTES,
    if_match: true,
    if_absent: true,
    request_id: true,
    history: true,
    deleted_history: true,
    secret: false,
    updated_by: true,
    reads_lag: false,
    others_write: true,
};

/// One table.
pub struct DynamoDb {
    aws: Aws<Client>,
    table: Arc<str>,
    history_ttl: Option<Duration>,
    batches: FairSemaphore,
    clock: Clock,
}

impl DynamoDb {
    /// Prepares it; nobody is asked yet. Of each key an earlier version is kept for `history_ttl` after another took its
    /// place, or for ever.
    pub async fn open(
        settings: AwsSettings,
        table: &str,
        history_ttl: Option<Duration>,
        clock: Clock,
    ) -> Result<Self, NoRegion> {
        let config = settings.load().await?;
        Ok(Self::over(
            Aws::new(settings, config, client),
            table,
            history_ttl,
            clock,
        ))
    }

    fn over(aws: Aws<Client>, table: &str, history_ttl: Option<Duration>, clock: Clock) -> Self {
        Self {
            aws,
            table: table.into(),
            history_ttl,
            batches: FairSemaphore::new(BATCHES),
            clock,
        }
    }

    /// It does not get to it.
    fn busy(&self, operation: &str, why: &str) -> BackendError {
        let id = &self.aws.settings().id;
        BackendError::Busy {
            problem: format!("backends.{id}: {operation}: {why}"),
            retry: RETRY,
        }
    }

    /// Where a call for `tenant` works, with credentials that are that tenant's.
    async fn partition(
        &self,
        tenant: &VerifiedTenant,
        range: &PhysicalRange,
        access: Access,
    ) -> Result<Partition<'_>, BackendError> {
        Ok(Partition {
            store: self,
            pk: partition_key(tenant, range, access)?,
            client: self.aws.client(tenant, range.space(), access).await,
            tenant: tenant.id().clone(),
        })
    }
}

fn client(config: &SdkConfig, retries: RetryPartition) -> Client {
    let config = aws_sdk_dynamodb::config::Builder::from(config)
        .retry_partition(retries)
        .interceptor(Traced)
        .retry_classifier(Unreadable);
    Client::from_conf(config.build())
}

/// The third wall: it is made of the token's tenant.
fn partition_key(tenant: &VerifiedTenant, range: &PhysicalRange, access: Access) -> Result<String, BackendError> {
    scope_root(tenant, range, access)?;
    Ok(match range.space() {
        Space::Tenant(_) => format!("{}{}", item::TENANT, tenant.id()),
        Space::Shared => item::EVERYBODY.to_owned(),
    })
}

/// A key's place within its partition.
fn path(name: &PhysicalName) -> String {
    format!("{}/{}", name.range().folder(), name.name())
}

#[async_trait]
impl Backend for DynamoDb {
    fn capabilities(&self) -> &Capabilities {
        &CAPABILITIES
    }

    async fn read(&self, tenant: &VerifiedTenant, name: &PhysicalName) -> Result<Option<Entry>, BackendError> {
        let read = async {
            let partition = self.partition(tenant, name.range(), Access::Read).await?;
            let found = partition.get(&Path(&path(name)).current(), &[]).await?;
            found.map(item::entry).transpose()
        };
        self.aws.within(read).await
    }

    async fn read_version(
        &self,
        tenant: &VerifiedTenant,
        name: &PhysicalName,
        version: u64,
    ) -> Result<Option<Entry>, BackendError> {
        let read = async {
            let partition = self.partition(tenant, name.range(), Access::Read).await?;
            partition.version(Path(&path(name)), version).await
        };
        self.aws.within(read).await
    }

    async fn read_many(
        &self,
        tenant: &VerifiedTenant,
        names: &[&PhysicalName],
        bytes: usize,
    ) -> Vec<Result<ReadMany, BackendError>> {
        // Held until what was read is let go.
        let mut room = None;
        let read = async {
            room = Some(self.batches.enter(tenant.id()).await);
            let mut keys = HashMap::new();
            let mut client = None;
            for name in names {
                // A name that is not the token's is its own answer, below.
                let Ok(partition) = self.partition(tenant, name.range(), Access::Read).await else {
                    continue;
                };
                let sk = Path(&path(name)).current();
                keys.insert((partition.pk.clone(), sk.clone()), partition.key(&sk));
                client = Some(partition.client);
            }
            let Some(client) = client else {
                return Ok((HashMap::new(), Vec::new()));
            };
            let (found, unread) = self
                .get_many(tenant.id(), &client, keys.into_values().collect(), bytes)
                .await?;
            let found = found.into_iter().filter_map(|found| Some((item::key(&found)?, found)));
            Ok::<_, BackendError>((found.collect(), unread))
        };
        let (found, unread): (HashMap<_, _>, Vec<_>) = match self.aws.within(read).await {
            Ok(read) => read,
            Err(error) => return names.iter().map(|_| Err(error.clone())).collect(),
        };
        let unread: Vec<_> = unread.iter().filter_map(item::key).collect();
        let mut together = 0;
        names
            .iter()
            .map(|name| {
                let pk = partition_key(tenant, name.range(), Access::Read)?;
                let key = (pk, Path(&path(name)).current());
                let Some(found) = found.get(&key) else {
                    let seen = !unread.contains(&key);
                    return Ok(if seen { ReadMany::Nothing } else { ReadMany::Unread });
                };
                if together >= bytes {
                    return Ok(ReadMany::Unread);
                }
                let entry = item::entry(found.clone())?;
                together += entry.value.len();
                Ok(ReadMany::Found(entry))
            })
            .collect()
    }

    async fn history(
        &self,
        tenant: &VerifiedTenant,
        name: &PhysicalName,
        after: &str,
        entries: usize,
        bytes: usize,
    ) -> Result<HistoryPage, BackendError> {
        let read = async {
            let partition = self.partition(tenant, name.range(), Access::Read).await?;
            let after = (!after.is_empty()).then(|| after.parse::<Position>()).transpose()?;
            partition.history(Path(&path(name)), after, entries, bytes).await
        };
        self.aws.within(read).await
    }

    async fn list(&self, tenant: &VerifiedTenant, request: PageRequest<'_>) -> Result<Page, BackendError> {
        let folder = format!("CONFIG#{}/", request.range.folder());
        let keys = SortKeys::beginning_with(&format!("{folder}{}", request.prefix));
        let keys = match request.after {
            "" => keys,
            after => keys.after(&format!("{folder}{after}")),
        };
        if keys.is_empty() {
            scope_root(tenant, request.range, Access::Read)?;
            return Ok(Page::new(Instant::now()));
        }
        let ask = Ask {
            keys: &keys,
            newest_first: false,
            limit: request.entries,
            attributes: if request.keys_only { WITHOUT_VALUE } else { &[] },
            start: None,
        };
        let read = async {
            let partition = self.partition(tenant, request.range, Access::Read).await?;
            let mut page = Page::new(Instant::now());
            let answer = partition.query(ask).await?;
            page.more = answer.last_evaluated_key.is_some();
            let mut together = 0;
            for found in answer.items.into_iter().flatten() {
                if together >= request.bytes {
                    page.more = true;
                    break;
                }
                let name = item::text(&found, SK).and_then(|sk| sk.strip_prefix(&folder)?.parse::<Name>().ok());
                let name = name.ok_or_else(|| item::damaged(&found, SK, "the path of a key"))?;
                let entry = item::entry(found)?;
                together += entry.value.len();
                page.entries.push((name, entry));
            }
            Ok(page)
        };
        self.aws.within(read).await
    }

    async fn write(
        &self,
        tenant: &VerifiedTenant,
        name: &PhysicalName,
        entry: NewEntry,
        conditions: Conditions,
    ) -> Result<Entry, WriteError> {
        let write = async {
            let partition = self.partition(tenant, name.range(), Access::Write).await?;
            let change = Change::Put(entry);
            partition.change(tenant, Path(&path(name)), change, conditions).await
        };
        match self.aws.within(write).await? {
            Outcome::Stands(entry) => Ok(entry),
            Outcome::Deleted(_) | Outcome::Elsewhere | Outcome::Nothing => {
                Err(BackendError::Damaged("a write left nothing behind".to_owned()).into())
            }
        }
    }

    async fn delete(
        &self,
        tenant: &VerifiedTenant,
        name: &PhysicalName,
        elsewhere: bool,
        conditions: Conditions,
    ) -> Result<Deleted, WriteError> {
        let delete = async {
            let partition = self.partition(tenant, name.range(), Access::Write).await?;
            let change = Change::Delete { elsewhere };
            partition.change(tenant, Path(&path(name)), change, conditions).await
        };
        match self.aws.within(delete).await? {
            Outcome::Deleted(etag) => Ok(Deleted::Stood(etag)),
            Outcome::Elsewhere => Ok(Deleted::Elsewhere),
            Outcome::Nothing => Ok(Deleted::Nothing),
            Outcome::Stands(_) => Err(BackendError::Damaged("a delete left something behind".to_owned()).into()),
        }
    }
}

#[cfg(test)]
mod tests;
