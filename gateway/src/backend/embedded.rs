//! The store when there is no cloud: one redb file for one replica.
//!
//! Values, history and change log change in one transaction. One thread writes; what waits for it goes into one
//! transaction and one sync together, so that many writers cost little more than one.

mod backup;
mod backups;
mod contents;
mod format;
mod record;
mod requests;
mod restore;
mod store;
mod unwritten;
mod writer;

use std::io;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use redb::{Database, ReadableDatabase, TableDefinition};

use super::{
    Access, Backend, BackendError, Capabilities, Conditions, Deleted, Entry, HistoryPage, NewEntry, Page, PageRequest,
    WriteError, scope_root,
};
use tokio::time::Instant;

use crate::clock::Clock;
use crate::fair_semaphore::FairSemaphore;
use crate::identity::VerifiedTenant;
use crate::key::Name;
use crate::placement::{PhysicalName, PhysicalRange};
use record::Record;
use store::{Medium, OnDisk, Store};

pub(crate) use store::CACHE_BYTES;
use writer::{Change, Outcome, Writer};

pub use backup::BackupError;
pub use backups::{Backup, Backups, NoBackup};
pub use contents::Contents;
pub use format::FORMAT;
pub use restore::{RestoreError, Restored, check, restore};

/// Physical name -> the record that stands.
const VALUES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("values");
/// (physical name, 1, 2, 3 ...) -> a record that stood once or stands, deletions included.
const HISTORY: TableDefinition<'_, (&str, u64), &[u8]> = TableDefinition::new("history");
/// 1, 2, 3 ... -> (physical name, etag) of each change, in the order in which they became durable.
const CHANGES: TableDefinition<'_, u64, (&str, &str)> = TableDefinition::new("changes");
/// `<tenant>/<request id>` -> what that request asked for, and what became of it.
const REQUESTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("requests");
/// (when, `<tenant>/<request id>`): the same, by age.
const REQUEST_AGES: TableDefinition<'_, (u64, &str), ()> = TableDefinition::new("request_ages");
/// Largest value. A page of a list or a batch of them fits a message many times over.
const MAX_VALUE_BYTES: u32 = 1 << 20;

/// What it can do.
pub const CAPABILITIES: Capabilities = Capabilities {
    max_value_bytes: MAX_VALUE_BYTES,
    if_match: true,
    if_absent: true,
    request_id: true,
    history: true,
    deleted_history: true,
    secret: false,
    updated_by: true,
    reads_lag: false,
    others_write: false,
};

/// One file, open.
pub struct Embedded {
    store: Arc<Store>,
    writer: Writer,
    /// For reads of many records, whose answers are megabytes.
    reads: FairSemaphore,
}

/// Reads of many records at once. They are done on as many threads as there may be, and more of them than there are cores are no faster.
const READS: usize = 16;

/// What lies where a store is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Looked {
    /// Nothing: it is made when it is opened.
    Nothing,
    /// A store.
    Whole,
    /// One that nobody closed, as after a crash: it is repaired when it is opened.
    Unclosed,
    /// A file that another process has open, as a gateway that runs does.
    InUse,
}

/// Why a file cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder or the file.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Another process has it.
    #[error("another process has it open; an embedded store has one gateway")]
    InUse,
    /// The file is something else, or damaged.
    #[error("it is no store of ours, or damaged ({0}); restore a backup (tagway restore), or name another path")]
    Database(String),
    /// A newer gateway wrote it.
    #[error("its format is {0}, and this gateway reads {FORMAT}; run the gateway that wrote it, or a newer one")]
    Format(u64),
}

impl From<redb::Error> for OpenError {
    fn from(error: redb::Error) -> Self {
        match error {
            redb::Error::DatabaseAlreadyOpen => Self::InUse,
            // What it says of a file that is something else.
            redb::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => Self::Database(error.to_string()),
            redb::Error::Io(error) => Self::Io(error),
            other => Self::Database(other.to_string()),
        }
    }
}

impl Embedded {
    /// Opens the file, or makes it; for this user's eyes alone. Of each key so many versions are kept.
    pub fn open(path: &Path, history: u32, clock: Clock) -> Result<Self, OpenError> {
        Self::over(OnDisk::create(path)?, history, clock)
    }

    /// What lies at `path`; nothing is made and nothing changed.
    pub fn look(path: &Path) -> Result<Looked, OpenError> {
        store::look(path)
    }

    /// Over a file, or what tests put in its place.
    fn over(medium: impl Medium, history: u32, clock: Clock) -> Result<Self, OpenError> {
        let store = Store::open(medium)?;
        let writer = Writer::start(Arc::clone(&store), history, clock)?;
        Ok(Self {
            store,
            writer,
            reads: FairSemaphore::new(READS),
        })
    }
}

/// Where a range's names begin in the tables.
fn folder(tenant: &VerifiedTenant, range: &PhysicalRange, access: Access) -> Result<String, BackendError> {
    let root = scope_root(tenant, range, access)?;
    Ok(format!("{root}/{}/", range.folder()))
}

fn path(tenant: &VerifiedTenant, name: &PhysicalName, access: Access) -> Result<String, BackendError> {
    Ok(folder(tenant, name.range(), access)? + name.name().as_str())
}

fn away(error: redb::Error) -> BackendError {
    match error {
        redb::Error::Corrupted(what) => BackendError::Damaged(what),
        other => BackendError::Away(other.to_string()),
    }
}

macro_rules! is_away {
    ($($error:ty),*) => {$(
        impl From<$error> for BackendError {
            fn from(error: $error) -> Self {
                away(error.into())
            }
        }
    )*};
}
is_away!(
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError
);

#[async_trait]
impl Backend for Embedded {
    fn capabilities(&self) -> &Capabilities {
        &CAPABILITIES
    }

    // Reads of a record or two are done where they are asked for: pages come out of redb's or the kernel's memory in
    // microseconds, which handing them to another thread would double.
    async fn read(&self, tenant: &VerifiedTenant, name: &PhysicalName) -> Result<Option<Entry>, BackendError> {
        let path = path(tenant, name, Access::Read)?;
        self.store.read(|database| {
            let values = database.begin_read()?.open_table(VALUES)?;
            let Some(found) = values.get(path.as_str())? else {
                return Ok(None);
            };
            Ok(Some(Record::read(found.value())?.entry(false)))
        })
    }

    async fn read_version(
        &self,
        tenant: &VerifiedTenant,
        name: &PhysicalName,
        version: u64,
    ) -> Result<Option<Entry>, BackendError> {
        let path = path(tenant, name, Access::Read)?;
        self.store.read(|database| {
            let history = database.begin_read()?.open_table(HISTORY)?;
            let mut last = u64::MAX;
            // Life by life, the newest first. Within one, places and versions count together, so the place is known.
            while let Some(newest) = history.range((path.as_str(), 0)..=(path.as_str(), last))?.next_back() {
                let (_, bytes) = newest?;
                let newest = Record::read(bytes.value())?;
                if let Some(behind) = newest.version.checked_sub(version)
                    && let Some(found) = history.get((path.as_str(), newest.place.saturating_sub(behind)))?
                {
                    let found = Record::read(found.value())?;
                    if !found.deleted {
                        return Ok(Some(found.entry(false)));
                    }
                }
                last = newest.place.saturating_sub(newest.version);
            }
            Ok(None)
        })
    }

    async fn history(
        &self,
        tenant: &VerifiedTenant,
        name: &PhysicalName,
        after: &str,
        entries: usize,
        bytes: usize,
    ) -> Result<HistoryPage, BackendError> {
        let path = path(tenant, name, Access::Read)?;
        let before = match after {
            "" => u64::MAX,
            place => place
                .parse()
                .map_err(|_| BackendError::Damaged("a position in a history that is none".to_owned()))?,
        };
        self.off_the_runtime(tenant, move |database| {
            let history = database.begin_read()?.open_table(HISTORY)?;
            let mut page = HistoryPage::default();
            let mut together = 0;
            let mut last = None;
            for item in history.range((path.as_str(), 0)..(path.as_str(), before))?.rev() {
                let (place, bytes_of) = item?;
                let record = Record::read(bytes_of.value())?;
                if record.deleted {
                    continue;
                }
                if page.entries.len() == entries || (together > 0 && together + record.value.len() > bytes) {
                    page.next = last.map(|place: u64| place.to_string());
                    break;
                }
                together += record.value.len();
                last = Some(place.value().1);
                page.entries.push(record.entry(false));
            }
            Ok(page)
        })
        .await
    }

    async fn list(&self, tenant: &VerifiedTenant, request: PageRequest<'_>) -> Result<Page, BackendError> {
        let folder = folder(tenant, request.range, Access::Read)?;
        let prefix = format!("{folder}{}", request.prefix);
        let after = format!("{folder}{}", request.after);
        let (entries, bytes, keys_only) = (request.entries, request.bytes, request.keys_only);
        self.off_the_runtime(tenant, move |database| {
            let mut page = Page::new(Instant::now());
            let values = database.begin_read()?.open_table(VALUES)?;
            let mut together = 0;
            for item in values.range(prefix.as_str().max(after.as_str())..)? {
                let (path, record) = item?;
                let path = path.value();
                if !path.starts_with(&prefix) {
                    break;
                }
                if path <= after.as_str() {
                    continue;
                }
                if page.entries.len() == entries || together >= bytes {
                    page.more = true;
                    break;
                }
                let name = path[folder.len()..].parse::<Name>();
                let name = name.map_err(|_| BackendError::Damaged("a name that is none".to_owned()))?;
                // What was read, whether or not it is passed on.
                together += record.value().len();
                page.entries
                    .push((name, Record::read(record.value())?.entry(keys_only)));
            }
            Ok(page)
        })
        .await
    }

    async fn write(
        &self,
        tenant: &VerifiedTenant,
        name: &PhysicalName,
        entry: NewEntry,
        conditions: Conditions,
    ) -> Result<Entry, WriteError> {
        let path = path(tenant, name, Access::Write)?;
        match self.writer.apply(tenant, path, Change::Put(entry), conditions).await? {
            Outcome::Stood(entry) => Ok(entry),
            // A put always leaves something standing.
            Outcome::Elsewhere | Outcome::Nothing => {
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
        let path = path(tenant, name, Access::Write)?;
        let change = Change::Delete { elsewhere };
        Ok(match self.writer.apply(tenant, path, change, conditions).await? {
            Outcome::Stood(entry) => Deleted::Stood(Some(entry.etag)),
            Outcome::Elsewhere => Deleted::Elsewhere,
            Outcome::Nothing => Deleted::Nothing,
        })
    }
}

impl Embedded {
    /// For what reads many records: on a thread that may block.
    async fn off_the_runtime<T: Send + 'static>(
        &self,
        tenant: &VerifiedTenant,
        read: impl FnOnce(&Database) -> Result<T, BackendError> + Send + 'static,
    ) -> Result<T, BackendError> {
        let permit = self.reads.enter(tenant.id()).await;
        let store = Arc::clone(&self.store);
        // It is read to the end whoever leaves, and held until it is taken.
        let read = tokio::task::spawn_blocking(move || (store.read(read), permit));
        let (read, _permit) = read.await.map_err(|error| BackendError::Away(error.to_string()))?;
        read
    }
}

#[cfg(test)]
mod power_loss;
#[cfg(test)]
mod tests;
