//! What a verified request does: split the key, ask its strategy, ask the store. The services translate to and from
//! this; nothing in here knows of gRPC.

mod batch;
mod explain;
mod history;
mod interest;
mod list;
mod page_token;
mod read;
mod trail;
mod write;

use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

use crate::backend::{Backend, BackendError, Catalog, Entry, Precondition, Unfit};
use crate::cache::Cache;
use crate::identity::VerifiedTenant;
use crate::key::{ConfigKey, KeyError};
use crate::placement::{Origin, Place, Placed};
use crate::quota::Exceeded;
use crate::strategy::{Context, DecideError, NotServed, Operation, Registry, Snapshot};

pub use explain::{Explained, Step};
pub use history::{History, HistoryRequest};
pub use interest::Interest;
pub use list::{ListRequest, Listed, PAGE_BYTES};
pub use page_token::PageTokens;
pub use trail::{Decider, Trail};

/// The stores, the strategies that route to them, and the seal of page tokens.
pub struct Configs {
    registry: Arc<Registry>,
    catalog: Catalog,
    page_tokens: PageTokens,
    cache: Arc<Cache>,
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
    /// What that place is to the key.
    pub origin: Origin,
}

/// What a request addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum Scope {
    /// What the tenant sees: its own value, or a default under it.
    #[default]
    Own,
    /// The first shared default of the decision, itself.
    Shared,
}

/// What a writer asks for besides key and value.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    /// What has to hold.
    pub precondition: Precondition,
    /// The caller's name for this request: a retry with it does nothing twice.
    pub request_id: Option<Uuid>,
    /// For the strategy.
    pub context: Context,
    /// What is addressed.
    pub scope: Scope,
    /// Told what is found on the way, for whoever writes it down.
    pub trail: Arc<Trail>,
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
    /// The shared scope is addressed, and the decision has no default there.
    #[error("the decision for this key has no shared default")]
    Unshared,
    /// `if_absent`, and it is there.
    #[error("it is there already")]
    AlreadyExists,
    /// `if_match`, and it has changed.
    #[error("it has changed")]
    Changed,
    /// The backend cannot do what was asked.
    #[error("the backend of this key does not have the capability `{0}`")]
    CapabilityMissing(Capability),
    /// The backend cannot hold it.
    #[error(transparent)]
    Unfit(#[from] Unfit),
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
    /// The tenant watches more than it may.
    #[error(transparent)]
    Quota(#[from] Exceeded),
    /// The strategy of this tag is not called, because an operator said so.
    #[error("the strategy of this tag is disabled")]
    StrategyDisabled,
}

impl From<Option<&NotServed>> for ConfigError {
    fn from(why: Option<&NotServed>) -> Self {
        match why {
            Some(NotServed::Disabled) => Self::StrategyDisabled,
            Some(NotServed::Rejected(_)) | None => Self::StrategyRejected,
        }
    }
}

impl From<DecideError> for ConfigError {
    fn from(error: DecideError) -> Self {
        Self::Decide(error)
    }
}

impl Configs {
    /// Serves `registry`'s decisions from `catalog`.
    #[must_use]
    pub fn new(registry: Arc<Registry>, catalog: Catalog, page_tokens: PageTokens, cache: Arc<Cache>) -> Self {
        Self {
            registry,
            catalog,
            page_tokens,
            cache,
        }
    }

    /// Other strategies become active.
    #[cfg(test)]
    pub(crate) fn take_up(&self, registry: &Registry) {
        self.registry.take_up(registry);
    }

    /// Splits the key and asks its strategy. One snapshot answers for one request.
    async fn place(
        snapshot: &Snapshot,
        tenant: &VerifiedTenant,
        key: &str,
        operation: Operation,
        context: &Context,
        scope: Scope,
    ) -> Result<Keyed, ConfigError> {
        let key = snapshot.tags().parse(key)?;
        let strategy = snapshot.strategy(key.tag())?;
        let placed = strategy.decide(tenant, &key, operation, context).await?;
        let by = Decider {
            strategy: Arc::clone(strategy.name()),
            generation: strategy.generation(),
        };
        let placed = match scope {
            Scope::Own => placed,
            Scope::Shared => Arc::new(placed.shared().ok_or(ConfigError::Unshared)?),
        };
        Ok(Keyed { key, placed, by })
    }
}

/// A key, and where it lives.
struct Keyed {
    key: ConfigKey,
    placed: Arc<Placed>,
    by: Decider,
}

impl Config {
    /// About how many bytes it takes of an answer, at most.
    #[must_use]
    pub fn size(&self) -> usize {
        list::size(&self.entry)
    }

    fn new(key: &ConfigKey, origin: Origin, place: &Place, mut entry: Entry) -> Self {
        if place.is_shared() {
            // Who writes for all tenants is no tenant's to know.
            entry.updated_by.clear();
        }
        Self {
            key: key.text(),
            entry,
            backend: Arc::clone(&place.backend),
            origin: if place.is_shared() { Origin::Default } else { origin },
        }
    }
}

fn check_capability(can: bool, capability: Capability) -> Result<(), ConfigError> {
    if can {
        Ok(())
    } else {
        Err(ConfigError::CapabilityMissing(capability))
    }
}

fn check_history(backend: &Arc<dyn Backend>) -> Result<(), ConfigError> {
    check_capability(backend.capabilities().history, Capability::History)
}

#[cfg(test)]
pub(crate) mod tests;
