//! What a verified request does: split the key, ask its strategy, ask the store. The services translate to and from
//! this; nothing in here knows of gRPC.

mod batch;
mod explain;
mod history;
mod list;
mod page_token;

use std::sync::Arc;

use aws_lc_rs::digest;
use serde::Serialize;
use uuid::Uuid;

use crate::backend::{Backend, BackendError, Catalog, Conditions, Entry, NewEntry, Once, Precondition, WriteError};
use crate::identity::{Reader, VerifiedTenant, Writer};
use crate::key::{ConfigKey, KeyError};
use crate::placement::Place;
use crate::strategy::{Context, DecideError, Operation, Registry, Snapshot};

pub use explain::{Explained, Step};
pub use history::{History, HistoryRequest};
pub use list::{ListRequest, Listed};
pub use page_token::PageTokens;

/// The stores, the strategies that route to them, and the seal of page tokens.
pub struct Configs {
    registry: Arc<Registry>,
    catalog: Catalog,
    page_tokens: PageTokens,
}

/// A configuration, and where it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Tag and name.
    pub key: String,
    /// What stands there.
    pub entry: Entry,
    /// The catalog id of the store.
    pub backend: Arc<str>,
}

/// What a writer asks for besides key and value.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    /// What has to hold.
    pub precondition: Precondition,
    /// The caller's name for this request: a retry with it does nothing twice.
    pub request_id: Option<Uuid>,
    /// The value is to be kept encrypted.
    pub secret: bool,
    /// For the strategy.
    pub context: Context,
}

/// Something that a backend cannot do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Capability {
    /// Judge an etag and write in one step.
    #[error("if_match")]
    IfMatch,
    /// Judge absence and write in one step.
    #[error("if_absent")]
    IfAbsent,
    /// Do a request once, however often it is sent.
    #[error("request_id")]
    RequestId,
    /// Keep secrets encrypted.
    #[error("secret")]
    Secret,
    /// Keep earlier versions.
    #[error("history")]
    History,
}

/// Why a request was not done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConfigError {
    /// No key, or one that nobody serves.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// No strategy serves a tag that the prefix touches.
    #[error("no strategy serves a tag that this prefix belongs to")]
    PrefixUnknown,
    /// No decision.
    #[error("{0:?}")]
    Decide(DecideError),
    /// Nothing stands there, or never stood in that version.
    #[error("no such key or version")]
    NotFound,
    /// `if_absent`, and it is there.
    #[error("it is there already")]
    AlreadyExists,
    /// `if_match`, and it has changed.
    #[error("it has changed")]
    Changed,
    /// The backend cannot do what was asked.
    #[error("the backend of this key does not have the capability `{0}`")]
    CapabilityMissing(Capability),
    /// The value is larger than the backend takes.
    #[error("{size} bytes; the backend of this key takes {limit}")]
    ValueTooLarge {
        /// What it has.
        size: usize,
        /// What it may have.
        limit: u32,
    },
    /// The id of this request was another request's.
    #[error("another request had this id within the last ten minutes")]
    RequestReused,
    /// The answer has no room left for it.
    #[error("the values before it fill the answer: ask for it again")]
    ResponseFull,
    /// Not a page token of this request, or of no request any more.
    #[error("not a token that this request was given within the last hour")]
    PageToken,
    /// This machine's cryptography does not work.
    #[error("no token or digest could be made")]
    Seal,
    /// The store failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The strategy of this tag was rejected.
    #[error("the strategy of this tag was rejected")]
    StrategyRejected,
}

impl From<DecideError> for ConfigError {
    fn from(error: DecideError) -> Self {
        Self::Decide(error)
    }
}

impl Configs {
    /// Serves `registry`'s decisions from `catalog`.
    #[must_use]
    pub fn new(registry: Arc<Registry>, catalog: Catalog, page_tokens: PageTokens) -> Self {
        Self {
            registry,
            catalog,
            page_tokens,
        }
    }

    /// What stands at `key`; or what stood there, if `version` is not 0.
    pub async fn get(
        &self,
        reader: &Reader,
        key: &str,
        version: u64,
        context: &Context,
    ) -> Result<Config, ConfigError> {
        let (key, home) = self.home(reader, key, Operation::Read, context).await?;
        let backend = self.backend(&home.backend)?;
        let entry = if version == 0 {
            backend.read(reader, &home.name).await?
        } else {
            check_history(backend)?;
            backend.read_version(reader, &home.name, version).await?
        };
        Ok(Config {
            key: key.to_string(),
            entry: entry.ok_or(ConfigError::NotFound)?,
            backend: home.backend,
        })
    }

    /// Writes. Returns what stands then, without its value.
    pub async fn put(
        &self,
        writer: &Writer,
        key: &str,
        entry: NewEntry,
        options: &WriteOptions,
    ) -> Result<Config, ConfigError> {
        let (key, home) = self.home(writer, key, Operation::Write, &options.context).await?;
        let backend = self.backend(&home.backend)?;
        check_capabilities(backend, options)?;
        let limit = backend.capabilities().max_value_bytes;
        if entry.value.len() > limit as usize {
            return Err(ConfigError::ValueTooLarge {
                size: entry.value.len(),
                limit,
            });
        }
        let asked = ("put", &*entry.value, &entry.content_type);
        let conditions = options.conditions(&key, &asked)?;
        write(writer, key, home, backend, entry, conditions).await
    }

    /// Writes what stood at `key` in an earlier version again, as a new one. Returns what stands then, without its value.
    pub async fn rollback(
        &self,
        writer: &Writer,
        key: &str,
        version: u64,
        options: &WriteOptions,
    ) -> Result<Config, ConfigError> {
        let (key, home) = self.home(writer, key, Operation::Write, &options.context).await?;
        let backend = self.backend(&home.backend)?;
        check_capabilities(backend, options)?;
        check_history(backend)?;
        let earlier = backend.read_version(writer, &home.name, version).await?;
        let earlier = earlier.ok_or(ConfigError::NotFound)?;
        let entry = NewEntry {
            value: earlier.value,
            content_type: earlier.content_type,
        };
        let conditions = options.conditions(&key, &("rollback", version))?;
        write(writer, key, home, backend, entry, conditions).await
    }

    /// Deletes. True if something stood there.
    pub async fn delete(&self, writer: &Writer, key: &str, options: &WriteOptions) -> Result<bool, ConfigError> {
        let (key, home) = self.home(writer, key, Operation::Delete, &options.context).await?;
        let backend = self.backend(&home.backend)?;
        check_capabilities(backend, options)?;
        let conditions = options.conditions(&key, &"delete")?;
        let deleted = backend.delete(writer, &home.name, conditions).await;
        deleted.map_err(|error| write_error(error, options.precondition))
    }

    /// Where `key` lives. One snapshot answers for one request.
    async fn home(
        &self,
        tenant: &VerifiedTenant,
        key: &str,
        operation: Operation,
        context: &Context,
    ) -> Result<(ConfigKey, Place), ConfigError> {
        let snapshot = self.registry.current();
        let key = snapshot.tags().parse(key)?;
        let home = decide(&snapshot, tenant, &key, operation, context).await?;
        Ok((key, home))
    }

    fn backend(&self, id: &str) -> Result<&Arc<dyn Backend>, ConfigError> {
        // Grants are cut out of the catalog, so this finds it.
        let missing = || BackendError::Damaged(format!("`{id}` is not in the catalog"));
        Ok(self.catalog.get(id).ok_or_else(missing)?)
    }
}

async fn decide(
    snapshot: &Snapshot,
    tenant: &VerifiedTenant,
    key: &ConfigKey,
    operation: Operation,
    context: &Context,
) -> Result<Place, ConfigError> {
    let strategy = snapshot.strategy(key.tag()).ok_or(ConfigError::StrategyRejected)?;
    let placed = strategy.decide(tenant, key, operation, context).await?;
    Ok(placed.home.clone())
}

async fn write(
    writer: &Writer,
    key: ConfigKey,
    home: Place,
    backend: &Arc<dyn Backend>,
    entry: NewEntry,
    conditions: Conditions,
) -> Result<Config, ConfigError> {
    let written = backend.write(writer, &home.name, entry, conditions).await;
    Ok(Config {
        key: key.to_string(),
        entry: written.map_err(|error| write_error(error, conditions.precondition))?,
        backend: home.backend,
    })
}

fn check_capabilities(backend: &Arc<dyn Backend>, options: &WriteOptions) -> Result<(), ConfigError> {
    let can = backend.capabilities();
    let asked = [
        (
            matches!(options.precondition, Precondition::Match(_)),
            can.if_match,
            Capability::IfMatch,
        ),
        (
            options.precondition == Precondition::Absent,
            can.if_absent,
            Capability::IfAbsent,
        ),
        (options.request_id.is_some(), can.request_id, Capability::RequestId),
        (options.secret, can.secret, Capability::Secret),
    ];
    match asked.into_iter().find(|(asked, can, _)| *asked && !can) {
        Some((_, _, capability)) => Err(ConfigError::CapabilityMissing(capability)),
        None => Ok(()),
    }
}

fn check_history(backend: &Arc<dyn Backend>) -> Result<(), ConfigError> {
    if backend.capabilities().history {
        Ok(())
    } else {
        Err(ConfigError::CapabilityMissing(Capability::History))
    }
}

impl WriteOptions {
    /// For the store. `asked` is what the request asks for besides key and options.
    fn conditions(&self, key: &ConfigKey, asked: &impl Serialize) -> Result<Conditions, ConfigError> {
        let digest = |id| {
            let precondition = format!("{:?}", self.precondition);
            let whole = (asked, key.to_string(), precondition, self.secret, &self.context);
            let whole = postcard::to_stdvec(&whole).map_err(|_| ConfigError::Seal)?;
            let mut digest = [0; 32];
            digest.copy_from_slice(digest::digest(&digest::SHA256, &whole).as_ref());
            Ok::<_, ConfigError>(Once { id, digest })
        };
        Ok(Conditions {
            precondition: self.precondition,
            once: self.request_id.map(digest).transpose()?,
        })
    }
}

fn write_error(error: WriteError, precondition: Precondition) -> ConfigError {
    match (error, precondition) {
        (WriteError::Backend(error), _) => error.into(),
        (WriteError::RequestReused, _) => ConfigError::RequestReused,
        (WriteError::PreconditionFailed, Precondition::Absent) => ConfigError::AlreadyExists,
        (WriteError::PreconditionFailed, _) => ConfigError::Changed,
    }
}

#[cfg(test)]
mod tests;
