//! The table: what it has to be, and what is still to be done for it to be so.
//!
//! Nothing is taken away: a table that is there keeps its capacity, its keys and its items. One of another shape is an
//! error, for items in it belong to somebody else.

use std::fmt;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::client::Waiters as _;
use aws_sdk_dynamodb::error::{BuildError, ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::get_item::GetItemError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, PointInTimeRecoverySpecification,
    PointInTimeRecoveryStatus, ScalarAttributeType, SseSpecification, SseStatus, StreamSpecification, StreamViewType,
    TableDescription, TimeToLiveDescription, TimeToLiveSpecification, TimeToLiveStatus,
};

use tokio::time::Instant;

use super::item::{EXPIRES_AT, PK, SK, TENANT};
use crate::backend::aws::failure;
use crate::backend::{AwsSettings, NoRegion};
use crate::key::TenantId;

/// Longest wait for a table to be made or changed.
const WAIT: Duration = Duration::from_mins(5);
/// Longest wait for an answer to one call.
const CALL: Duration = Duration::from_secs(30);

/// Wait before a new table is asked again to keep backups.
const BACKUPS: Duration = Duration::from_secs(5);

/// One thing that a table lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Itself.
    Table,
    /// A stream with old and new images, for what follows its changes.
    Stream,
    /// Encryption with a key of the account's.
    Encryption,
    /// No deletion by mistake.
    DeletionProtection,
    /// Backups, to any second of the last 35 days.
    PointInTimeRecovery,
    /// Items go when they are over.
    TimeToLive,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Table => {
                "create the table: on demand, a stream with both images, encrypted, protected against deletion"
            }
            Self::Stream => "switch on its stream, with old and new images",
            Self::Encryption => "encrypt it with a key of the account's",
            Self::DeletionProtection => "protect it against deletion",
            Self::PointInTimeRecovery => "switch on point-in-time recovery",
            Self::TimeToLive => "let items go when `expires_at` is over",
        })
    }
}

/// Why a table is not as it has to be.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// It is not known where.
    #[error(transparent)]
    Region(#[from] NoRegion),
    /// It is somebody else's.
    #[error("table {0} has other keys than pk (S, HASH) and sk (S, RANGE): it is not one of this gateway's")]
    Another(String),
    /// It has a stream that others read, with less in it than this gateway needs.
    #[error(
        "table {0} has a stream of {1}, and this gateway needs NEW_AND_OLD_IMAGES: a stream cannot be changed, so see who \
         reads it, disable it, and run this again"
    )]
    Stream(String, String),
    /// It has items expire by another attribute.
    #[error(
        "table {0} has items expire by {1}, and this gateway's by {ttl}: a table has one such attribute, so see whether \
         it is needed, disable it, and run this again",
        ttl = EXPIRES_AT
    )]
    TimeToLive(String, String),
    /// AWS does not let these credentials.
    #[error("{0}")]
    Denied(String),
    /// AWS did not do it.
    #[error("{0}")]
    Aws(String),
}

impl<E: ProvideErrorMetadata + std::error::Error + 'static> From<SdkError<E>> for ProvisionError {
    fn from(error: SdkError<E>) -> Self {
        let described = failure::describe(&error);
        if failure::is_denied(&error) {
            Self::Denied(described)
        } else {
            Self::Aws(described)
        }
    }
}

impl From<BuildError> for ProvisionError {
    fn from(error: BuildError) -> Self {
        Self::Aws(error.to_string())
    }
}

/// One table, for who may make and change it.
pub struct Table {
    client: Client,
    name: String,
}

impl Table {
    /// Prepares it; nobody is asked yet.
    pub async fn new(mut settings: AwsSettings, name: &str) -> Result<Self, NoRegion> {
        // What is done once may take its time.
        settings.timeout = CALL;
        Ok(Self::over(Client::new(&settings.load().await?), name))
    }

    /// Over a client that is there.
    pub(crate) fn over(client: Client, name: &str) -> Self {
        Self {
            client,
            name: name.to_owned(),
        }
    }

    /// What it lacks, in the order in which it is to be done. Nothing, if it is as it has to be.
    pub async fn lacks(&self) -> Result<Vec<Step>, ProvisionError> {
        let described = self.client.describe_table().table_name(&self.name).send().await;
        let table = match described {
            Err(error) if error.code() == Some("ResourceNotFoundException") => {
                return Ok(vec![Step::Table, Step::PointInTimeRecovery, Step::TimeToLive]);
            }
            described => described?.table.unwrap_or_else(|| TableDescription::builder().build()),
        };
        if !is_ours(&table) {
            return Err(ProvisionError::Another(self.name.clone()));
        }
        let stream = table.stream_specification().filter(|stream| stream.stream_enabled());
        let both = match stream.and_then(|stream| stream.stream_view_type()) {
            None => false,
            Some(StreamViewType::NewAndOldImages) => true,
            Some(other) => return Err(ProvisionError::Stream(self.name.clone(), other.to_string())),
        };
        let encrypted = table.sse_description().and_then(|sse| sse.status()).cloned();
        let backups = self
            .client
            .describe_continuous_backups()
            .table_name(&self.name)
            .send()
            .await?;
        let recovery = backups.continuous_backups_description.and_then(|backups| {
            backups
                .point_in_time_recovery_description?
                .point_in_time_recovery_status
        });
        let ttl = self
            .client
            .describe_time_to_live()
            .table_name(&self.name)
            .send()
            .await?;
        let ttl = ttl.time_to_live_description.filter(|ttl| {
            let status = ttl.time_to_live_status();
            matches!(status, Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling))
        });
        let attribute = ttl.as_ref().and_then(TimeToLiveDescription::attribute_name);
        if let Some(another) = attribute.filter(|attribute| *attribute != EXPIRES_AT) {
            return Err(ProvisionError::TimeToLive(self.name.clone(), another.to_owned()));
        }
        let has = [
            (Step::Stream, both),
            (
                Step::Encryption,
                matches!(
                    encrypted,
                    Some(SseStatus::Enabled | SseStatus::Enabling | SseStatus::Updating)
                ),
            ),
            (
                Step::DeletionProtection,
                table.deletion_protection_enabled().unwrap_or_default(),
            ),
            (
                Step::PointInTimeRecovery,
                recovery == Some(PointInTimeRecoveryStatus::Enabled),
            ),
            (Step::TimeToLive, ttl.is_some()),
        ];
        let lacks = has.into_iter().filter(|(_, has)| !has);
        Ok(lacks.map(|(step, _)| step).collect())
    }

    /// Reads as that tenant's callers do, where nothing stands that anybody wrote; returns whether it was answered.
    pub(crate) async fn try_read(&self, tenant: &TenantId) -> Result<(), SdkError<GetItemError>> {
        let key = |value: String| AttributeValue::S(value);
        let get = self.client.get_item().table_name(&self.name).consistent_read(true);
        let get = get
            .key(PK, key(format!("{TENANT}{tenant}")))
            .key(SK, key("CONFIG#".to_owned()));
        get.send().await.map(drop)
    }

    /// Does one step, and returns when the table can be used.
    pub async fn take(&self, step: Step) -> Result<(), ProvisionError> {
        match step {
            Step::Table => self.create().await?,
            Step::Stream => {
                let update = self.client.update_table().table_name(&self.name);
                update.stream_specification(stream()?).send().await?;
            }
            Step::Encryption => {
                let update = self.client.update_table().table_name(&self.name);
                update.sse_specification(encryption()).send().await?;
            }
            Step::DeletionProtection => {
                let update = self.client.update_table().table_name(&self.name);
                update.deletion_protection_enabled(true).send().await?;
            }
            Step::PointInTimeRecovery => {
                let recovery = PointInTimeRecoverySpecification::builder().point_in_time_recovery_enabled(true);
                let recovery = recovery.build()?;
                let last = Instant::now() + WAIT;
                loop {
                    let update = self.client.update_continuous_backups().table_name(&self.name);
                    let update = update.point_in_time_recovery_specification(recovery.clone());
                    match update.send().await {
                        // A new table is not ready for it at once.
                        Err(error)
                            if error.code() == Some("ContinuousBackupsUnavailableException")
                                && Instant::now() < last =>
                        {
                            tokio::time::sleep(BACKUPS).await;
                        }
                        updated => break drop(updated?),
                    }
                }
            }
            Step::TimeToLive => {
                let ttl = TimeToLiveSpecification::builder()
                    .enabled(true)
                    .attribute_name(EXPIRES_AT);
                let update = self.client.update_time_to_live().table_name(&self.name);
                update.time_to_live_specification(ttl.build()?).send().await?;
            }
        }
        let active = self.client.wait_until_table_exists().table_name(&self.name);
        let waited = active.wait(WAIT).await;
        waited.map_err(|error| ProvisionError::Aws(error.to_string()))?;
        Ok(())
    }

    async fn create(&self) -> Result<(), ProvisionError> {
        let created = self
            .client
            .create_table()
            .table_name(&self.name)
            .attribute_definitions(attribute(PK)?)
            .attribute_definitions(attribute(SK)?)
            .key_schema(key(PK, KeyType::Hash)?)
            .key_schema(key(SK, KeyType::Range)?)
            .billing_mode(BillingMode::PayPerRequest)
            .stream_specification(stream()?)
            .sse_specification(encryption())
            .deletion_protection_enabled(true)
            .send()
            .await;
        match created {
            // Somebody else is at it too.
            Err(error) if error.code() == Some("ResourceInUseException") => Ok(()),
            created => Ok(created.map(drop)?),
        }
    }
}

fn is_ours(table: &TableDescription) -> bool {
    let mut keys: Vec<_> = table
        .key_schema()
        .iter()
        .map(|key| (key.attribute_name(), key.key_type().clone()))
        .collect();
    keys.sort_by_key(|(name, _)| *name);
    let strings = [PK, SK].iter().all(|name| {
        table.attribute_definitions().iter().any(|attribute| {
            attribute.attribute_name() == *name && *attribute.attribute_type() == ScalarAttributeType::S
        })
    });
    keys == [(PK, KeyType::Hash), (SK, KeyType::Range)] && strings
}

fn attribute(name: &str) -> Result<AttributeDefinition, BuildError> {
    let attribute = AttributeDefinition::builder().attribute_name(name);
    attribute.attribute_type(ScalarAttributeType::S).build()
}

fn key(name: &str, key_type: KeyType) -> Result<KeySchemaElement, BuildError> {
    let key = KeySchemaElement::builder().attribute_name(name);
    key.key_type(key_type).build()
}

fn stream() -> Result<StreamSpecification, BuildError> {
    let stream = StreamSpecification::builder().stream_enabled(true);
    stream.stream_view_type(StreamViewType::NewAndOldImages).build()
}

fn encryption() -> SseSpecification {
    SseSpecification::builder().enabled(true).build()
}
