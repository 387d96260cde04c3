//! Requests that carry an id of the caller's: remembered in the transaction of the change that they made, so that a retry
//! is answered and not done again, however the first answer got lost.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use redb::{ReadableTable, StorageError, Table};
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::super::{BackendError, Entry, Once, REMEMBERED};
use super::record::micros;
use super::writer::Outcome;
use crate::key::{Etag, Life, TenantId};

/// Requests that one transaction forgets at most: more than it can bring, so their number stays what ten minutes make.
const FORGOTTEN_AT_ONCE: usize = 1024;

/// The two tables.
pub(super) struct Requests<'t> {
    pub(super) by_id: Table<'t, &'static str, &'static [u8]>,
    pub(super) by_age: Table<'t, (u64, &'static str), ()>,
}

/// In postcard.
#[derive(Serialize, Deserialize)]
struct Remembered<'a> {
    at_micros: u64,
    digest: [u8; 32],
    #[serde(borrow)]
    answer: Answer<'a>,
}

/// An [`Outcome`].
#[derive(Serialize, Deserialize)]
enum Answer<'a> {
    Stood(#[serde(borrow)] Stood<'a>),
    Elsewhere,
    Nothing,
}

#[derive(Serialize, Deserialize)]
struct Stood<'a> {
    life: u128,
    version: u64,
    updated_at_micros: u64,
    updated_by: &'a str,
    content_type: &'a str,
}

/// What is known of a request.
pub(super) enum Seen {
    /// Nothing.
    Never,
    /// It was done, with this answer.
    Done(Outcome),
    /// Its id was another request's.
    Another,
}

/// An id is unique within its tenant, and of no meaning to another.
fn key(tenant: &TenantId, once: &Once) -> String {
    format!("{tenant}/{}", once.id.as_hyphenated())
}

impl Requests<'_> {
    pub(super) fn seen(&self, tenant: &TenantId, once: &Once, now: SystemTime) -> Result<Seen, BackendError> {
        let found = self.by_id.get(key(tenant, once).as_str())?;
        let Some(found) = found else {
            return Ok(Seen::Never);
        };
        let damaged = |error| BackendError::Damaged(format!("a request: {error}"));
        let remembered: Remembered<'_> = postcard::from_bytes(found.value()).map_err(damaged)?;
        if remembered.at_micros <= oldest(now) {
            return Ok(Seen::Never);
        }
        if remembered.digest != once.digest {
            return Ok(Seen::Another);
        }
        Ok(Seen::Done(match remembered.answer {
            Answer::Elsewhere => Outcome::Elsewhere,
            Answer::Nothing => Outcome::Nothing,
            Answer::Stood(stood) => Outcome::Stood(Entry {
                value: Bytes::new(),
                content_type: stood.content_type.to_owned(),
                etag: Etag {
                    life: Life(Ulid(stood.life)),
                    version: stood.version,
                },
                updated_at: UNIX_EPOCH + Duration::from_micros(stood.updated_at_micros),
                updated_by: stood.updated_by.to_owned(),
                secret: false,
            }),
        }))
    }

    pub(super) fn remember(
        &mut self,
        tenant: &TenantId,
        once: &Once,
        outcome: &Outcome,
        now: SystemTime,
    ) -> Result<(), BackendError> {
        let at_micros = micros(now);
        let remembered = Remembered {
            at_micros,
            digest: once.digest,
            answer: match outcome {
                Outcome::Elsewhere => Answer::Elsewhere,
                Outcome::Nothing => Answer::Nothing,
                Outcome::Stood(entry) => Answer::Stood(Stood {
                    life: entry.etag.life.0.0,
                    version: entry.etag.version,
                    updated_at_micros: micros(entry.updated_at),
                    updated_by: &entry.updated_by,
                    content_type: &entry.content_type,
                }),
            },
        };
        let bytes =
            postcard::to_stdvec(&remembered).map_err(|error| BackendError::Damaged(format!("a request: {error}")))?;
        let key = key(tenant, once);
        self.by_id.insert(key.as_str(), bytes.as_slice())?;
        self.by_age.insert((at_micros, key.as_str()), ())?;
        Ok(())
    }

    /// Drops what need not be remembered any more.
    pub(super) fn forget(&mut self, now: SystemTime) -> Result<(), StorageError> {
        let mut old = Vec::new();
        for item in self.by_age.range(..(oldest(now) + 1, ""))?.take(FORGOTTEN_AT_ONCE) {
            let (key, _) = item?;
            let (at, id) = key.value();
            old.push((at, id.to_owned()));
        }
        for (at, id) in old {
            self.by_age.remove((at, id.as_str()))?;
            // An id that was used again since then has a younger entry, and stays.
            let younger = self.by_id.get(id.as_str())?.is_some_and(|bytes| {
                postcard::from_bytes::<Remembered<'_>>(bytes.value()).is_ok_and(|remembered| remembered.at_micros > at)
            });
            if !younger {
                self.by_id.remove(id.as_str())?;
            }
        }
        Ok(())
    }
}

/// What is not younger is not remembered.
fn oldest(now: SystemTime) -> u64 {
    micros(now).saturating_sub(u64::try_from(REMEMBERED.as_micros()).unwrap_or(u64::MAX))
}
