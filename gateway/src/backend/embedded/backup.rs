//! A store as it stood at one moment, in a file of its own: made while the store is used, and nobody waits for it.
//!
//! The copy is a store like any other. What reads it sees one moment, and what is written meanwhile takes new pages; so a store grows
//! while it is copied, by what is written in that time.

use std::path::Path;
use std::sync::Arc;

use super::super::BackendError;
use super::contents::Contents;
use super::format::META;
use super::store::{CACHE_BYTES, Store};
use super::{CHANGES, Embedded, HISTORY, REQUEST_AGES, REQUESTS, VALUES};
use crate::folder::PrivateFolder;
use redb::{
    Database, Key, ReadTransaction, ReadableDatabase, ReadableTable as _, TableDefinition, Value, WriteTransaction,
};

/// What the folder's disk has left when a backup has taken its part: a store on the same disk goes on.
const SPARE_BYTES: u64 = 64 << 20;
/// Records between two looks at whether it may go on, and their bytes.
const STRIDE: usize = 256;
const STRIDE_BYTES: usize = 16 << 20;

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The store cannot be read.
    #[error("the store: {0}")]
    Store(BackendError),
    /// The copy cannot be written.
    #[error("the folder of backups: {0}")]
    Folder(String),
    /// Another store is kept from running out of room.
    #[error("the folder of backups: less than 64 MiB would be left on its disk; remove what is there, or name another")]
    Full,
    /// Nobody wants it any more.
    #[error("nobody waits for it any more")]
    Left,
}

impl<E: Into<redb::Error>> From<E> for BackupError {
    fn from(error: E) -> Self {
        Self::Folder(error.into().to_string())
    }
}

impl Embedded {
    /// Copies what stands at this moment into the file of that name, for its owner alone; until it is whole, and synced, there is no
    /// such file. `goes_on` is told now and then how far it is, and says whether that is still wanted. Takes as long as it takes to
    /// read everything: for a thread that may block.
    pub fn back_up(
        &self,
        folder: &PrivateFolder,
        name: &str,
        goes_on: impl Fn(&Contents) -> bool,
    ) -> Result<Contents, BackupError> {
        let failed = |error: std::io::Error| BackupError::Folder(error.to_string());
        let copy = folder.begin().map_err(failed)?;
        let database = self.store.database().ok_or_else(|| {
            BackupError::Store(BackendError::Away(
                "the file failed and is being opened again".to_owned(),
            ))
        })?;
        let contents = {
            // The default would take half a GiB of memory, and write it after the last look at the disk.
            let to = Database::builder().set_cache_size(CACHE_BYTES).create(copy.path())?;
            let way = Way {
                store: &self.store,
                from: &database,
                folder: folder.path(),
                goes_on,
            };
            let from = database.begin_read().map_err(|error| store(error.into()))?;
            let transaction = to.begin_write()?;
            let contents = way.copy(&from, &transaction)?;
            transaction.commit()?;
            contents
        };
        folder.keep(copy, name).map_err(failed)?;
        Ok(contents)
    }
}

fn store(error: redb::Error) -> BackupError {
    BackupError::Store(super::away(error))
}

struct Way<'a, G> {
    store: &'a Store,
    from: &'a Arc<Database>,
    folder: &'a Path,
    goes_on: G,
}

impl<G: Fn(&Contents) -> bool> Way<'_, G> {
    fn copy(&self, from: &ReadTransaction, to: &WriteTransaction) -> Result<Contents, BackupError> {
        let mut contents = Contents::default();
        self.table(from, to, VALUES, |record| {
            contents.value(record)?;
            Ok(contents)
        })?;
        self.table(from, to, HISTORY, |record| {
            contents.version(record)?;
            Ok(contents)
        })?;
        self.table(from, to, CHANGES, |_| Ok(contents))?;
        self.table(from, to, REQUESTS, |_| Ok(contents))?;
        self.table(from, to, REQUEST_AGES, |()| Ok(contents))?;
        self.table(from, to, META, |_| Ok(contents))?;
        Ok(contents)
    }

    fn table<K: Key + 'static, V: Value + 'static>(
        &self,
        from: &ReadTransaction,
        to: &WriteTransaction,
        table: TableDefinition<'_, K, V>,
        mut count: impl FnMut(V::SelfType<'_>) -> Result<Contents, BackendError>,
    ) -> Result<(), BackupError> {
        let mut bytes = 0;
        let mut copied = to.open_table(table)?;
        let all = from.open_table(table).map_err(|error| store(error.into()))?;
        for (number, item) in all.iter().map_err(|error| store(error.into()))?.enumerate() {
            let (key, value) = item.map_err(|error| store(error.into()))?;
            copied.insert(key.value(), value.value())?;
            let contents = count(value.value()).map_err(BackupError::Store)?;
            bytes += V::as_bytes(&value.value()).as_ref().len();
            if number.is_multiple_of(STRIDE) || bytes >= STRIDE_BYTES {
                bytes = 0;
                self.may_go_on(&contents)?;
            }
        }
        Ok(())
    }

    fn may_go_on(&self, contents: &Contents) -> Result<(), BackupError> {
        if !(self.goes_on)(contents) {
            return Err(BackupError::Left);
        }
        // While this holds a file that failed, nobody can open it again.
        if !self.store.database().is_some_and(|now| Arc::ptr_eq(&now, self.from)) {
            return Err(BackupError::Store(BackendError::Away("it failed meanwhile".to_owned())));
        }
        let disk = rustix::fs::statvfs(self.folder);
        if disk.is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) < SPARE_BYTES) {
            return Err(BackupError::Full);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
