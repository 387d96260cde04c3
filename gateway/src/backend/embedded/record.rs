//! One version of one key, as bytes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::super::{BackendError, Entry};
use crate::key::{Etag, Life};

/// In postcard. A field more is a new format.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record<'a> {
    pub(super) life: u128,
    pub(super) version: u64,
    /// Its place in the key's history: 1, 2, 3 over all lives.
    pub(super) place: u64,
    /// The end of a life.
    pub(super) deleted: bool,
    /// Since the epoch.
    pub(super) updated_at_micros: u64,
    #[serde(borrow)]
    pub(super) updated_by: &'a str,
    #[serde(borrow)]
    pub(super) content_type: &'a str,
    #[serde(borrow)]
    pub(super) value: &'a [u8],
}

impl<'a> Record<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, BackendError> {
        postcard::from_bytes(bytes).map_err(|error| BackendError::Damaged(format!("a record: {error}")))
    }

    pub(super) fn write(&self) -> Result<Vec<u8>, BackendError> {
        postcard::to_stdvec(self).map_err(|error| BackendError::Damaged(format!("a record: {error}")))
    }

    pub(super) fn etag(&self) -> Etag {
        Etag {
            life: Life(Ulid(self.life)),
            version: self.version,
        }
    }

    pub(super) fn entry(&self, without_value: bool) -> Entry {
        Entry {
            value: if without_value {
                Bytes::new()
            } else {
                Bytes::copy_from_slice(self.value)
            },
            content_type: self.content_type.to_owned(),
            etag: self.etag(),
            updated_at: UNIX_EPOCH + Duration::from_micros(self.updated_at_micros),
            updated_by: self.updated_by.to_owned(),
            secret: false,
        }
    }
}

pub(super) fn micros(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
