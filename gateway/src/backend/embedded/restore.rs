//! From a backup to a store.
//!
//! What was written after a backup was made is gone once it is restored, and somebody may still hold it: a watcher an etag, a cache a
//! floor. So no state of a restored store has an etag that was ever given: every key that has a value begins a new life with it.
//! Who held what is gone is told what stands instead.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt as _, fchown};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use redb::{Database, ReadableDatabase, ReadableTable as _};
use tempfile::Builder;

use super::super::BackendError;
use super::contents::{Contents, agree};
use super::format::upgrade;
use super::record::Record;
use super::store::CACHE_BYTES;
use super::unwritten::Unwritten;
use super::writer::Tables;
use super::{OpenError, VALUES};
use crate::folder;
use crate::key::Life;

/// Why nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The backup is none, or damaged.
    #[error("{}: {error}", path.display())]
    Backup {
        /// Where it is.
        path: PathBuf,
        /// Why.
        error: OpenError,
    },
    /// There is a store, and nobody said that it may be replaced.
    #[error("{} is there already; to have it replaced, and kept beside as it is, say --replace", _0.display())]
    Exists(PathBuf),
    /// A gateway has it open.
    #[error("{} is open in another process: stop the gateway first", _0.display())]
    InUse(PathBuf),
    /// No store can be made of the new file. What was there is there still.
    #[error("the new {}: {error}", path.display())]
    Fresh {
        /// Which.
        path: PathBuf,
        /// Why.
        error: OpenError,
    },
    /// The new file cannot be written, or put in place. What was there is there still.
    #[error("{}: {error}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// What was restored.
#[derive(Debug)]
pub struct Restored {
    /// What the backup holds.
    pub contents: Contents,
    /// Where the store is kept that was replaced.
    pub replaced: Option<PathBuf>,
}

/// Reads all of a backup, or of any store that no gateway has open: every page by its checksum, every record, and whether they agree.
/// The file is left as it is. Says what it holds.
pub fn check(path: &Path) -> Result<Contents, OpenError> {
    let unwritten = Unwritten::open(path)?;
    // redb believes what its checksums cover and panics on what then makes no sense.
    let checked = catch_unwind(AssertUnwindSafe(|| {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
        let database = builder.create_with_backend(unwritten).map_err(redb::Error::from)?;
        upgrade(&database, |_| Ok(()))?;
        let transaction = database.begin_read().map_err(redb::Error::from)?;
        agree(&transaction).map_err(|error| OpenError::Database(error.to_string()))
    }));
    checked.unwrap_or_else(|_| Err(OpenError::Database("its pages contradict each other".to_owned())))
}

/// Makes a store of what a backup holds, at `to`, for this user alone; with so many versions kept of each key that has a value.
/// Whatever ends this early, what lies at `to` is what was there or what was restored, and whole.
pub fn restore(
    backup: &Path,
    to: &Path,
    history: u32,
    now: SystemTime,
    may_replace: bool,
) -> Result<Restored, RestoreError> {
    let of_backup = |error| RestoreError::Backup {
        path: backup.to_owned(),
        error,
    };
    let of_store = |error| RestoreError::Io {
        path: to.to_owned(),
        error,
    };
    let contents = check(backup).map_err(of_backup)?;
    let is_there = to.try_exists().map_err(of_store)?;
    if is_there && !may_replace {
        return Err(RestoreError::Exists(to.to_owned()));
    }
    // Held until the end, so that no gateway opens it meanwhile. What is damaged nobody has open.
    let _held = match is_there.then(|| Unwritten::open(to)).transpose() {
        Err(OpenError::InUse) => return Err(RestoreError::InUse(to.to_owned())),
        held => held,
    };
    let folder = match to.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let unfinished = unfinished(to);
    // What a process left that ended before its store was whole.
    folder::remove_abandoned(folder, &unfinished).map_err(of_store)?;
    let fresh = Builder::new().prefix(&unfinished).tempfile_in(folder);
    let mut fresh = fresh.map_err(of_store)?;
    let copied = File::open(backup).and_then(|mut backup| io::copy(&mut backup, fresh.as_file_mut()));
    copied.map_err(of_store)?;
    begin_anew(fresh.path(), history, now).map_err(|error| RestoreError::Fresh {
        path: to.to_owned(),
        error,
    })?;
    give(fresh.as_file(), [to, folder]).map_err(of_store)?;
    fresh.as_file().sync_all().map_err(of_store)?;
    let replaced = if is_there {
        let kept = beside(to, &format!("replaced-{}", humantime::format_rfc3339_seconds(now)));
        // A second name, so that there is a store at every moment.
        fs::hard_link(to, &kept).map_err(of_store)?;
        fresh.persist(to).map_err(|error| of_store(error.error))?;
        Some(kept)
    } else {
        fresh.persist_noclobber(to).map_err(|error| of_store(error.error))?;
        None
    };
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(of_store)?;
    Ok(Restored { contents, replaced })
}

/// Root restores for the gateway's user: whoever owns the first of these that is not root's owns the file.
fn give(file: &File, like: [&Path; 2]) -> io::Result<()> {
    let owner = |metadata: fs::Metadata| (metadata.uid(), metadata.gid());
    let owners = like.into_iter().filter_map(|like| fs::metadata(like).ok().map(owner));
    let mut users = owners.filter(|(user, _)| *user != 0);
    match users.next() {
        Some((user, group)) if file.metadata()?.uid() == 0 => fchown(file, Some(user), Some(group)),
        _ => Ok(()),
    }
}

/// How the name of a file begins that is to be the store at that path.
fn unfinished(to: &Path) -> String {
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    format!(".{name}.restoring-")
}

/// The same name with an ending more.
pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

/// Has every key that has a value begin a new life with it.
fn begin_anew(path: &Path, history: u32, now: SystemTime) -> Result<(), OpenError> {
    let damaged = |error: BackendError| OpenError::Database(error.to_string());
    let database = Database::builder()
        .set_cache_size(CACHE_BYTES)
        .open(path)
        .map_err(redb::Error::from)?;
    upgrade(&database, |_| Ok(()))?;
    let mut transaction = database.begin_write().map_err(redb::Error::from)?;
    transaction.set_two_phase_commit(true);
    {
        let mut tables = Tables::open(&transaction).map_err(damaged)?;
        let before = database.begin_read().map_err(redb::Error::from)?;
        let values = before.open_table(VALUES).map_err(redb::Error::from)?;
        for item in values.iter().map_err(redb::Error::from)? {
            let (path, record) = item.map_err(redb::Error::from)?;
            let record = Record::read(record.value()).map_err(damaged)?;
            let record = Record {
                life: Life::begin(now, Some(record.etag().life)).0.0,
                version: 1,
                place: record.place + 1,
                ..record
            };
            let put = tables.put(path.value(), &record, u64::from(history));
            put.map_err(damaged)?;
        }
    }
    transaction.commit().map_err(redb::Error::from)?;
    Ok(())
}

#[cfg(test)]
mod tests;
