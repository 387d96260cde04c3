//! What a store holds, as far as it is counted; and whether its tables agree.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redb::{ReadTransaction, ReadableTable as _, ReadableTableMetadata as _};

use super::super::BackendError;
use super::record::Record;
use super::{CHANGES, HISTORY, REQUEST_AGES, REQUESTS, VALUES};

/// What a store holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Contents {
    /// Keys that have a value.
    pub keys: u64,
    /// Bytes of those values.
    pub bytes: u64,
    /// States that are kept, of keys that have no value any more too; deletions included.
    pub versions: u64,
    newest_micros: u64,
}

impl Contents {
    /// When the last of those states was written; the epoch, if there are none.
    #[must_use]
    pub fn newest(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(self.newest_micros)
    }

    /// One more that stands.
    pub(super) fn value(&mut self, record: &[u8]) -> Result<(), BackendError> {
        self.keys += 1;
        self.bytes += Record::read(record)?.value.len() as u64;
        Ok(())
    }

    /// One more that stood or stands.
    pub(super) fn version(&mut self, record: &[u8]) -> Result<(), BackendError> {
        self.versions += 1;
        self.newest_micros = self.newest_micros.max(Record::read(record)?.updated_at_micros);
        Ok(())
    }
}

/// Reads everything: each record by itself, and whether what stands is what stood last.
pub(super) fn agree(transaction: &ReadTransaction) -> Result<Contents, BackendError> {
    let mut contents = Contents::default();
    let values = transaction.open_table(VALUES)?;
    // The newest of the key that is looked at.
    let mut newest: Option<(String, Vec<u8>)> = None;
    let stands = |newest: Option<(String, Vec<u8>)>| -> Result<u64, BackendError> {
        let Some((path, bytes)) = newest else { return Ok(0) };
        let standing = values.get(path.as_str())?;
        let is_deleted = Record::read(&bytes)?.deleted;
        if standing.map(|standing| standing.value() == bytes) != (!is_deleted).then_some(true) {
            return Err(disagree("what stands under a key is not what was written last"));
        }
        Ok(u64::from(!is_deleted))
    };
    let mut standing = 0;
    for item in transaction.open_table(HISTORY)?.iter()? {
        let (place, bytes) = item?;
        let ((path, place), bytes) = (place.value(), bytes.value());
        contents.version(bytes)?;
        if Record::read(bytes)?.place != place {
            return Err(disagree("a state is not at its place in the history of its key"));
        }
        if newest.as_ref().is_some_and(|(of, _)| of != path) {
            standing += stands(newest.take())?;
        }
        newest = Some((path.to_owned(), bytes.to_vec()));
    }
    standing += stands(newest)?;
    for item in values.iter()? {
        contents.value(item?.1.value())?;
    }
    if contents.keys != standing {
        return Err(disagree("a key has a value and no history"));
    }
    for item in transaction.open_table(CHANGES)?.iter()? {
        item?;
    }
    if transaction.open_table(REQUESTS)?.len()? > transaction.open_table(REQUEST_AGES)?.len()? {
        return Err(disagree("a request is remembered and has no age"));
    }
    Ok(contents)
}

fn disagree(how: &str) -> BackendError {
    BackendError::Damaged(format!("its tables disagree: {how}"))
}
