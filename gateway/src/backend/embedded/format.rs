//! What a file is: the format that it has, and the way from an older one to the one that this gateway writes.

use std::io;

use redb::{Database, ReadableDatabase, TableDefinition, WriteTransaction};

use super::{CHANGES, HISTORY, OpenError, REQUEST_AGES, REQUESTS, VALUES};

/// What the file is.
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// The shape of all tables, under this key in `META`.
pub(super) const FORMAT_KEY: &str = "format";

/// Makes of a file what the next format is.
pub(super) type Step = fn(&WriteTransaction) -> Result<(), redb::Error>;

/// From 1 to 2, from 2 to 3, and so on. A released step never changes: `formats/` has a file of each format, which tests open.
const STEPS: &[Step] = &[];

/// The format that this gateway writes. It reads this one and all before it.
pub const FORMAT: u64 = 1 + STEPS.len() as u64;

/// Brings a store to the format that this gateway writes, all at once or not at all. `keep` is called before anything of the older
/// format changes, and says why not if that could not be kept.
pub(super) fn upgrade(database: &Database, keep: impl FnOnce(u64) -> io::Result<()>) -> Result<(), OpenError> {
    upgrade_by(STEPS, database, keep)
}

fn upgrade_by(steps: &[Step], database: &Database, keep: impl FnOnce(u64) -> io::Result<()>) -> Result<(), OpenError> {
    let newest = 1 + steps.len() as u64;
    let found = of(database)?;
    if found == newest {
        return Ok(());
    }
    let first = found.checked_sub(1).and_then(|first| usize::try_from(first).ok());
    let missing = first.and_then(|first| steps.get(first..));
    let missing = missing.ok_or(OpenError::Format(found))?;
    keep(found)?;
    let upgraded = || -> Result<(), redb::Error> {
        let mut transaction = database.begin_write()?;
        transaction.set_two_phase_commit(true);
        for step in missing {
            step(&transaction)?;
        }
        transaction.open_table(META)?.insert(FORMAT_KEY, newest)?;
        Ok(transaction.commit()?)
    };
    upgraded()?;
    tracing::info!(
        from = found,
        to = newest,
        "the embedded store was brought to a newer format"
    );
    Ok(())
}

/// Whether this gateway reads it, and so would bring it to its own format.
pub(super) fn is_known(database: &impl ReadableDatabase) -> Result<(), OpenError> {
    match of(database)? {
        1..=FORMAT => Ok(()),
        other => Err(OpenError::Format(other)),
    }
}

fn of(database: &impl ReadableDatabase) -> Result<u64, OpenError> {
    let read = || -> Result<Option<u64>, redb::Error> {
        match database.begin_read()?.open_table(META) {
            Ok(meta) => Ok(meta.get(FORMAT_KEY)?.map(|format| format.value())),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    };
    read()?.ok_or_else(|| OpenError::Database("it has none of our tables".to_owned()))
}

/// Makes an empty database a store.
pub(super) fn begin(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(META)?.insert(FORMAT_KEY, FORMAT)?;
    // So that readers find them.
    transaction.open_table(VALUES)?;
    transaction.open_table(HISTORY)?;
    transaction.open_table(CHANGES)?;
    transaction.open_table(REQUESTS)?;
    transaction.open_table(REQUEST_AGES)?;
    Ok(transaction.commit()?)
}

#[cfg(test)]
mod tests;
