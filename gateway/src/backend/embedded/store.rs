//! The file while it is open, and open again after it failed.
//!
//! After one error of the disk redb refuses everything until the file is opened anew. So whoever meets with an error has
//! it opened again, and until it is, reads and writes are told to come back. What fills a disk is not left to end that
//! way: a commit that might not find room is not begun, and reads go on.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use redb::{Database, ReadOnlyDatabase};
use tempfile::NamedTempFile;

use super::super::BackendError;
use super::restore::beside;
use super::{Looked, OpenError, format};

/// Pages kept in memory, of one file.
pub(crate) const CACHE_BYTES: usize = 64 << 20;
/// Between two attempts to open a file that failed: the first pause, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// What holds the file.
pub(super) trait Medium: Send + Sync + 'static {
    fn open(&self) -> Result<Database, redb::DatabaseError>;
    /// Keeps what it holds, in that format, before it is brought to a newer one.
    fn keep(&self, format: u64) -> io::Result<()>;
    /// What it has room for.
    fn free_bytes(&self) -> io::Result<u64>;
}

/// A path in a file system.
pub(super) struct OnDisk(PathBuf);

impl OnDisk {
    /// The folder is made if need be, and the file; for this user's eyes alone. Whatever ends this early, what lies
    /// at `path` is whole: a new file is made beside it and gets its name when it is.
    pub(super) fn create(path: &Path) -> Result<Self, OpenError> {
        let this = Self(path.to_owned());
        if path.exists() {
            return Ok(this);
        }
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let fresh = NamedTempFile::new_in(folder)?;
        format::begin(&Database::create(fresh.path()).map_err(redb::Error::from)?)?;
        match fresh.persist_noclobber(path) {
            // Another process was faster. Which of the two may have it is seen when it is opened.
            Err(error) if error.error.kind() != io::ErrorKind::AlreadyExists => return Err(error.error.into()),
            _ => File::open(folder)?.sync_all()?,
        }
        Ok(this)
    }
}

impl Medium for OnDisk {
    fn open(&self) -> Result<Database, redb::DatabaseError> {
        // Never `create`: where a volume has gone, an empty store would take its place and answer for it.
        Database::builder().set_cache_size(CACHE_BYTES).open(&self.0)
    }

    fn keep(&self, format: u64) -> io::Result<()> {
        let kept = beside(&self.0, &format!("format-{format}"));
        std::fs::copy(&self.0, &kept)?;
        File::open(kept)?.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(&self.0)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }
}

/// A medium, and the database on it; none while it is being opened again.
pub(super) struct Store {
    medium: Box<dyn Medium>,
    database: ArcSwapOption<Database>,
}

impl Store {
    pub(super) fn open(medium: impl Medium) -> Result<Arc<Self>, OpenError> {
        let database = open(&medium)?;
        Ok(Arc::new(Self {
            medium: Box::new(medium),
            database: ArcSwapOption::from_pointee(database),
        }))
    }

    /// None while it is being opened again.
    pub(super) fn database(&self) -> Option<Arc<Database>> {
        self.database.load_full()
    }

    /// Reads. What makes redb panic is damage, of this page and maybe of no other: that alone has nothing opened again.
    pub(super) fn read<T>(
        self: &Arc<Self>,
        read: impl FnOnce(&Database) -> Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        self.attempt(BackendError::Damaged, read)
    }

    /// Writes what takes at most `bytes` of the medium, if there is room.
    pub(super) fn write<T>(
        self: &Arc<Self>,
        bytes: u64,
        write: impl FnOnce(&Database) -> Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        // A medium that cannot tell has to be tried.
        if self.medium.free_bytes().is_ok_and(|free| free < bytes) {
            return Err(BackendError::Full);
        }
        self.attempt(BackendError::Away, write)
    }

    fn attempt<T>(
        self: &Arc<Self>,
        panicked: fn(String) -> BackendError,
        attempt: impl FnOnce(&Database) -> Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        let Some(database) = self.database() else {
            return Err(BackendError::Away(
                "the file failed and is being opened again".to_owned(),
            ));
        };
        // What panicked is not used again: a transaction ends with the attempt, the database with the failure.
        let result = catch_unwind(AssertUnwindSafe(|| attempt(&database)));
        let result = result.unwrap_or_else(|_| Err(panicked("its pages contradict each other".to_owned())));
        if let Err(BackendError::Away(why)) = &result {
            self.reopen(database, why);
        }
        result
    }

    /// Drops what failed, and opens it again on a thread of its own. Once, however many meet with the failure.
    fn reopen(self: &Arc<Self>, failed: Arc<Database>, why: &str) {
        let before = self.database.compare_and_swap(&failed, None);
        if !before.as_ref().is_some_and(|before| Arc::ptr_eq(before, &failed)) {
            return;
        }
        tracing::error!(why, "the embedded store failed and is opened again");
        drop((before, failed));
        let store = Arc::downgrade(self);
        let reopener = thread::Builder::new()
            .name("tagway-reopener".to_owned())
            .spawn(move || {
                let mut pause = PAUSES.0;
                // Attempts that began before the failure still hold the file; and who dropped the store holds it no more.
                while let Some(store) = store.upgrade() {
                    match open(&*store.medium) {
                        Ok(database) => {
                            store.database.store(Some(Arc::new(database)));
                            tracing::info!("the embedded store is open again");
                            return;
                        }
                        Err(error) => tracing::warn!(%error, "the embedded store does not open"),
                    }
                    drop(store);
                    thread::park_timeout(pause);
                    pause = (pause * 2).min(PAUSES.1);
                }
            });
        if let Err(error) = reopener {
            // The next attempt finds no database. A process without threads has worse troubles.
            tracing::error!(%error, "no thread to open the embedded store again: restart the gateway");
        }
    }
}

fn open(medium: &dyn Medium) -> Result<Database, OpenError> {
    // redb believes what its checksums cover and panics on what then makes no sense. What panicked is dropped here.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let database = medium.open().map_err(redb::Error::from)?;
        format::upgrade(&database, |format| medium.keep(format))?;
        Ok(database)
    }));
    opened.unwrap_or_else(|_| Err(contradictory()))
}

/// What lies at `path`, of which nothing is changed: it is not even repaired.
pub(super) fn look(path: &Path) -> Result<Looked, OpenError> {
    if !path.exists() {
        return Ok(Looked::Nothing);
    }
    let looked = catch_unwind(|| match ReadOnlyDatabase::open(path) {
        Ok(database) => format::is_known(&database).map(|()| Looked::Whole),
        Err(redb::DatabaseError::DatabaseAlreadyOpen) => Ok(Looked::InUse),
        Err(redb::DatabaseError::RepairAborted) => Ok(Looked::Unclosed),
        Err(error) => Err(redb::Error::from(error).into()),
    });
    looked.unwrap_or_else(|_| Err(contradictory()))
}

fn contradictory() -> OpenError {
    OpenError::Database("its pages contradict each other".to_owned())
}
