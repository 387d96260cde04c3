//! Stores, behind one trait. What a store can do is data, so that nothing above asks which one it is.
//!
//! Every call carries the tenant of the verified token beside the physical name: the third wall. A backend derives
//! what it touches from the token's tenant and refuses a name of another's, whatever the walls before it let through.

mod aws;
#[cfg(test)]
pub(crate) mod conformance;
pub mod dynamodb;
pub mod embedded;
mod metrics;
mod observed;
pub mod ssm;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;
use uuid::Uuid;

pub(crate) use aws::failure::{self, describe as describe_failure};
#[cfg(test)]
pub(crate) use aws::stand_in;
pub use aws::{AwsSettings, NoRegion};
pub use metrics::BackendMetrics;
pub use observed::Observed;

use crate::identity::VerifiedTenant;
use crate::key::{Etag, Name};
use crate::placement::{PhysicalName, PhysicalRange, SHARED, Space};
use crate::settings::Permission;

/// What a backend can do.
#[allow(clippy::struct_excessive_bools, reason = "each is a yes or no of its own")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// Largest value, in bytes. A store that keeps text takes less of what is none, and says so when it is written.
    pub max_value_bytes: u32,
    /// Judges an etag and writes in one step.
    pub if_match: bool,
    /// Judges absence and writes in one step.
    pub if_absent: bool,
    /// Does a request once, however often it is sent.
    pub request_id: bool,
    /// Keeps earlier versions.
    pub history: bool,
    /// Keeps them beyond the key's deletion.
    pub deleted_history: bool,
    /// Keeps secrets encrypted.
    pub secret: bool,
    /// Keeps who wrote.
    pub updated_by: bool,
    /// May answer with what stood before a change, for a while after it.
    pub reads_lag: bool,
    /// Others write to it too, behind this gateway's back.
    pub others_write: bool,
}

impl Capabilities {
    /// What it can do, in the API's words.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        let named = [
            (self.if_match, "if_match"),
            (self.if_absent, "if_absent"),
            (self.request_id, "request_id"),
            (self.history, "history"),
            (self.deleted_history, "deleted_history"),
            (self.secret, "secret"),
            (self.updated_by, "updated_by"),
        ];
        named.into_iter().filter(|(can, _)| *can).map(|(_, name)| name)
    }
}

/// A configuration as a store holds it.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// The value. Empty where only keys were asked for.
    pub value: Bytes,
    /// What the writer said it is.
    pub content_type: String,
    /// Life and version.
    pub etag: Etag,
    /// When it was written.
    pub updated_at: SystemTime,
    /// The subject that wrote it. Empty where the store does not keep it.
    pub updated_by: String,
    /// It is kept encrypted, and shown to nobody but who asks for it.
    pub secret: bool,
}

/// What a delete came upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// This stood there, if the store tells.
    Stood(Option<Etag>),
    /// Nothing did, but in another place.
    Elsewhere,
    /// Nothing did.
    Nothing,
}

impl Deleted {
    /// Nothing stood there.
    #[must_use]
    pub fn nothing(elsewhere: bool) -> Self {
        if elsewhere { Self::Elsewhere } else { Self::Nothing }
    }

    /// What stood there, if something did and the store tells.
    #[must_use]
    pub fn etag(self) -> Option<Etag> {
        match self {
            Self::Stood(etag) => etag,
            Self::Elsewhere | Self::Nothing => None,
        }
    }

    /// Whether something stood, here or there.
    #[must_use]
    pub fn something(self) -> bool {
        self != Self::Nothing
    }
}

/// What a look at many names says of one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadMany {
    /// It stands.
    Found(Entry),
    /// Nothing stands there.
    Nothing,
    /// The values of others took all the room there was.
    Unread,
}

/// What a comparison of many names says of one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compared {
    /// This stands.
    Stands(Etag),
    /// Nothing stands there.
    Nothing,
    /// There was no room for it.
    Unread,
}

/// Of values that are read to compare their etags, together.
const COMPARED_BYTES: usize = 4 << 20;

/// What is written. Who writes is the token's subject.
#[derive(Clone)]
pub struct NewEntry {
    /// The value.
    pub value: Bytes,
    /// What it is.
    pub content_type: String,
    /// To be kept encrypted. What is kept so already stays so.
    pub secret: bool,
}

/// Values may be secrets, so no log holds one.
impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            value,
            content_type,
            etag,
            updated_at,
            ..
        } = self;
        let bytes = value.len();
        write!(f, "{etag}: {bytes} bytes of {content_type} of {updated_at:?}")
    }
}

impl fmt::Debug for NewEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of {}", self.value.len(), self.content_type)
    }
}

/// What has to hold for a write or a delete to happen, judged in the same step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing.
    #[default]
    None,
    /// This very state stands.
    Match(Etag),
    /// Nothing stands.
    Absent,
    /// It does not hold, whatever stands: only a request that was done before gets its answer.
    Never,
}

/// A request that is done once, however often it is sent: for [`REMEMBERED`] a retry gets the first answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Once {
    /// The caller's name for it, unique within its tenant.
    pub id: Uuid,
    /// Of everything that it asks for, so that another request under the same name is noticed.
    pub digest: [u8; 32],
}

/// How long a request is remembered by its id.
pub const REMEMBERED: Duration = Duration::from_mins(10);

/// When a write or a delete happens.
#[derive(Debug, Clone, Copy, Default)]
pub struct Conditions {
    /// What has to hold.
    pub precondition: Precondition,
    /// Only if it did not happen already.
    pub once: Option<Once>,
}

/// Earlier states of a key, the newest first, what stands included and deletions not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistoryPage {
    /// The states.
    pub entries: Vec<Entry>,
    /// What [`Backend::history`] takes to go on. None: that was all.
    pub next: Option<String>,
}

/// A part of a range, by name, ascending.
#[derive(Debug, Clone)]
pub struct Page {
    /// What stands there.
    pub entries: Vec<(Name, Entry)>,
    /// Whether more may follow the last one.
    pub more: bool,
    /// The store was asked then, or later.
    pub as_of: Instant,
}

impl Page {
    /// One with nothing on it yet.
    #[must_use]
    pub fn new(as_of: Instant) -> Self {
        Self {
            entries: Vec::new(),
            more: false,
            as_of,
        }
    }
}

/// How much somebody waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Urgency {
    /// A caller does.
    Asked,
    /// Nobody does: it looks for changes, and goes after all that is asked for.
    Sweep,
}

/// Which part of a range.
#[derive(Debug, Clone)]
pub struct PageRequest<'r> {
    /// The range.
    pub range: &'r PhysicalRange,
    /// Only names that begin so.
    pub prefix: &'r str,
    /// Only names after this one. It need not stand any more, nor have the prefix.
    pub after: &'r str,
    /// When the list began that this goes on with: no page may show what stood before. None: it begins here.
    pub since: Option<Instant>,
    /// At most so many entries; at least 1.
    pub entries: usize,
    /// No further entry once values of so many bytes are together.
    pub bytes: usize,
    /// Leave values out.
    pub keys_only: bool,
    /// Who waits for it.
    pub urgency: Urgency,
}

/// Why a store did not do it. For operators: what reaches callers says none of it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BackendError {
    /// Out of reach for now.
    #[error("out of reach: {0}")]
    Away(String),
    /// It does not let this gateway, or this tenant's session, do that: until somebody grants it.
    #[error("refused: {0}")]
    Denied(String),
    /// It has no room for what is to be written. What it holds can be read.
    #[error("no room left where it keeps its data")]
    Full,
    /// It takes so many requests and no more, and these were not served in time.
    #[error("{problem}")]
    Busy {
        /// What is used up, and what would mend it.
        problem: String,
        /// When it is worth another try.
        retry: Duration,
    },
    /// More names than a list looks through.
    #[error("more than {0} names to list")]
    TooManyNames(usize),
    /// What it holds cannot be read.
    #[error("cannot be read: {0}")]
    Damaged(String),
    /// The name is in another tenant's space, or in everybody's for who may not share. Something above is broken.
    #[error("a name that is not the token's reached the storage layer")]
    Foreign,
}

impl BackendError {
    /// In a word, as metrics name it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Away(_) => "away",
            Self::Denied(_) => "denied",
            Self::Full => "full",
            Self::Busy { .. } => "busy",
            Self::TooManyNames(_) => "too_many_names",
            Self::Damaged(_) => "damaged",
            Self::Foreign => "foreign",
        }
    }
}

/// Why a write or a delete was not done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WriteError {
    /// The store failed.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// The precondition does not hold.
    #[error("the precondition does not hold")]
    PreconditionFailed,
    /// The id of this request was another request's.
    #[error("another request had this id")]
    RequestReused,
    /// The store cannot hold it.
    #[error(transparent)]
    Unfit(#[from] Unfit),
}

/// Why a store cannot hold what is to be written, as long as something else does not change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The name has more levels than the store's names.
    #[error("{levels} levels where it would be kept; the backend of this key takes {limit}")]
    Depth {
        /// What it has there.
        levels: usize,
        /// What it may have.
        limit: usize,
    },
    /// The value takes more bytes in the store than there may be.
    #[error("{size} bytes as it would be kept; the backend of this key takes {limit}")]
    Size {
        /// What it takes.
        size: usize,
        /// What it may take.
        limit: u32,
    },
    /// The oldest version that is kept has a label, and so makes no room for a new one.
    #[error(
        "the backend of this key keeps 100 versions, and the oldest of them has a label, so that none can follow: move \
         or remove that label, or delete the key"
    )]
    Labelled,
    /// Somebody set a pattern that all values of this parameter match.
    #[error("it does not match the pattern that the backend of this key was told to check it by")]
    Pattern,
    /// It is no secret, and cannot become one.
    #[error("it was not written as a secret, and the backend of this key cannot make it one: delete it first")]
    NotSecret,
}

/// A store.
#[async_trait]
pub trait Backend: Send + Sync {
    /// What it can do.
    fn capabilities(&self) -> &Capabilities;

    /// What stands at `name`.
    async fn read(&self, tenant: &VerifiedTenant, name: &PhysicalName) -> Result<Option<Entry>, BackendError>;

    /// What stands at each of the names, in their order, each for itself. No further value once so many `bytes` of them are
    /// together.
    async fn read_many(
        &self,
        tenant: &VerifiedTenant,
        names: &[&PhysicalName],
        bytes: usize,
    ) -> Vec<Result<ReadMany, BackendError>> {
        let mut read = Vec::with_capacity(names.len());
        let mut together = 0;
        for name in names {
            if together >= bytes {
                read.push(Ok(ReadMany::Unread));
                continue;
            }
            read.push(self.read(tenant, name).await.map(|found| match found {
                None => ReadMany::Nothing,
                Some(entry) => {
                    together += entry.value.len();
                    ReadMany::Found(entry)
                }
            }));
        }
        read
    }

    /// What stands at each of the names by its etag alone, for who looks for changes and lets everybody else go first. Some may
    /// be left out: those are to be asked for again.
    async fn compare(&self, tenant: &VerifiedTenant, names: &[&PhysicalName]) -> Vec<Result<Compared, BackendError>> {
        let read = self.read_many(tenant, names, COMPARED_BYTES).await;
        let compared = |read| match read {
            ReadMany::Found(entry) => Compared::Stands(entry.etag),
            ReadMany::Nothing => Compared::Nothing,
            ReadMany::Unread => Compared::Unread,
        };
        read.into_iter().map(|read| read.map(compared)).collect()
    }

    /// The newest state of `name` that had this version, standing or not, as far back as history is kept.
    async fn read_version(
        &self,
        tenant: &VerifiedTenant,
        name: &PhysicalName,
        version: u64,
    ) -> Result<Option<Entry>, BackendError>;

    /// Earlier states of `name`, as far back as they are kept. `after` is where the page before ended, or empty; of a
    /// page at most `entries`, at least 1, and no further one once values of so many `bytes` are together.
    async fn history(
        &self,
        tenant: &VerifiedTenant,
        name: &PhysicalName,
        after: &str,
        entries: usize,
        bytes: usize,
    ) -> Result<HistoryPage, BackendError>;

    /// A part of a range. Names that stand throughout a walk from page to page are seen once, whatever comes and goes.
    async fn list(&self, tenant: &VerifiedTenant, request: PageRequest<'_>) -> Result<Page, BackendError>;

    /// Writes and returns what stands then. When it returns, the write is durable.
    async fn write(
        &self,
        tenant: &VerifiedTenant,
        name: &PhysicalName,
        entry: NewEntry,
        conditions: Conditions,
    ) -> Result<Entry, WriteError>;

    /// Deletes what stands there; `elsewhere` is whether this request deleted it in another place already. When it returns, the
    /// delete is durable.
    async fn delete(
        &self,
        tenant: &VerifiedTenant,
        name: &PhysicalName,
        elsewhere: bool,
        conditions: Conditions,
    ) -> Result<Deleted, WriteError>;
}

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
}

/// The scope root under which a call for `tenant` may do this: the third wall. It is made of the token's tenant and of
/// nothing that came through a strategy; what all tenants read is written by who may share alone.
pub(crate) fn scope_root<'t>(
    tenant: &'t VerifiedTenant,
    range: &PhysicalRange,
    access: Access,
) -> Result<&'t str, BackendError> {
    match range.space() {
        Space::Tenant(named) if named == tenant.id() => Ok(tenant.id().as_str()),
        Space::Shared if access == Access::Read || tenant.caller().may(Permission::Share) => Ok(SHARED),
        Space::Tenant(_) | Space::Shared => Err(BackendError::Foreign),
    }
}

/// The operator's stores by id.
#[derive(Clone, Default)]
pub struct Catalog(BTreeMap<Arc<str>, Arc<dyn Backend>>);

impl Catalog {
    /// A catalog of these.
    #[must_use]
    pub fn new(backends: BTreeMap<Arc<str>, Arc<dyn Backend>>) -> Self {
        Self(backends)
    }

    /// Each, with its id.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Arc<dyn Backend>)> {
        self.0.iter().map(|(id, backend)| (&**id, backend))
    }

    /// The store of that id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Arc<dyn Backend>> {
        self.0.get(id)
    }
}
