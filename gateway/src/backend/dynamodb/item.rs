//! The items of the table. People read them in the console and other programs through AWS's SDKs, so each attribute has a
//! name and is of the type that they would expect.
//!
//! | pk | sk | what |
//! |---|---|---|
//! | `TENANT#<tenant>` or `SHARED` | `CONFIG#<namespace>/<tag>/<name>` | what stands |
//! | the same | `VERSION#<namespace>/<tag>/<name>#<life>#<version>` | each state that stood or stands, deletions included |
//! | the same | `REQUEST#<tenant>/<id>` | a request with an id, and its answer |
//!
//! The version of a sort key has leading zeros, so that its order is that of time.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use bytes::Bytes;
use ulid::Ulid;

use crate::backend::{BackendError, Entry};
use crate::key::{Etag, Life};
use crate::placement::SHARED;

pub(super) type Item = HashMap<String, AttributeValue>;

pub(super) const PK: &str = "pk";
pub(super) const SK: &str = "sk";
pub(super) const LIFE: &str = "life";
pub(super) const VERSION: &str = "version";
/// Seconds since the epoch, by which DynamoDB deletes an item some time after them.
pub(super) const EXPIRES_AT: &str = "expires_at";
/// The caller's name for the request that made the state, or one of ours.
pub(super) const REQUEST_ID: &str = "request_id";
/// What a request asked for, as a digest.
pub(super) const REQUEST_DIGEST: &str = "request_digest";
/// What became of a request.
pub(super) const OUTCOME: &str = "outcome";
const VALUE: &str = "value";
const CONTENT_TYPE: &str = "content_type";
const UPDATED_AT: &str = "updated_at";
const UPDATED_BY: &str = "updated_by";
const DELETED: &str = "deleted";

/// All that an [`Entry`] is made of, but for its value.
pub(super) const WITHOUT_VALUE: &[&str] = &[SK, LIFE, VERSION, CONTENT_TYPE, UPDATED_AT, UPDATED_BY, DELETED];
/// What a state is known by.
pub(super) const STATE: &[&str] = &[SK, LIFE, VERSION, DELETED];

/// Where a key's items are in its partition.
#[derive(Debug, Clone, Copy)]
pub(super) struct Path<'p>(pub(super) &'p str);

impl Path<'_> {
    pub(super) fn current(self) -> String {
        [CURRENT, self.0].concat()
    }

    pub(super) fn state(self, etag: Etag) -> String {
        format!("VERSION#{}#{}", self.0, Position(etag))
    }

    /// All of its states.
    pub(super) fn past(self) -> SortKeys {
        SortKeys::beginning_with(&format!("VERSION#{}#", self.0))
    }

    /// Its states before that one.
    pub(super) fn before(self, etag: Etag) -> SortKeys {
        let Etag { life, version } = etag;
        // Versions count from 1: with the one before 1 nothing of that life is left.
        let version = version.saturating_sub(1);
        SortKeys {
            from: format!("VERSION#{}#", self.0),
            to: self.state(Etag { life, version }),
        }
    }
}

/// What a partition key begins with that is a tenant's, and what the one is that is everybody's.
pub(super) const TENANT: &str = "TENANT#";
pub(super) const EVERYBODY: &str = "SHARED";
const CURRENT: &str = "CONFIG#";

/// The physical name of what stands in the item with that key; none if it holds something else.
pub(crate) fn physical(pk: &str, sk: &str) -> Option<String> {
    let path = sk.strip_prefix(CURRENT)?;
    let scope = match pk {
        EVERYBODY => SHARED,
        pk => pk.strip_prefix(TENANT).filter(|tenant| *tenant != SHARED)?,
    };
    // Else the tenant would be what comes before a slash in it.
    (!scope.contains('/')).then(|| format!("{scope}/{path}"))
}

/// A range of sort keys, both ends included.
pub(super) struct SortKeys {
    pub(super) from: String,
    pub(super) to: String,
}

/// Before and after everything that a name is made of, in the order of bytes.
const BEFORE: char = '!';
const AFTER: char = '~';

impl SortKeys {
    pub(super) fn beginning_with(prefix: &str) -> Self {
        Self {
            from: prefix.to_owned(),
            to: format!("{prefix}{AFTER}"),
        }
    }

    /// Whether no key is among them. DynamoDB refuses to be asked for such a range.
    pub(super) fn is_empty(&self) -> bool {
        self.from > self.to
    }

    /// Those of them that come after this one.
    pub(super) fn after(mut self, last: &str) -> Self {
        self.from = self.from.max(format!("{last}{BEFORE}"));
        self
    }
}

/// A place in a key's past, as its sort key ends.
pub(super) struct Position(pub(super) Etag);

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}#{:020}", self.0.life.0, self.0.version)
    }
}

impl std::str::FromStr for Position {
    type Err = BackendError;

    fn from_str(text: &str) -> Result<Self, BackendError> {
        let parsed = text.split_once('#').and_then(|(life, version)| {
            Some(Etag {
                life: Life(Ulid::from_string(life).ok()?),
                version: version.parse().ok()?,
            })
        });
        parsed
            .map(Self)
            .ok_or_else(|| BackendError::Damaged("a position in a history that is none".to_owned()))
    }
}

/// What an item says of a state, but for its key and its value.
pub(super) fn described(entry: &Entry) -> Item {
    Item::from([
        (LIFE.to_owned(), string(entry.etag.life.0.to_string())),
        (VERSION.to_owned(), number(entry.etag.version)),
        (CONTENT_TYPE.to_owned(), string(&entry.content_type)),
        (UPDATED_AT.to_owned(), time(entry.updated_at)),
        (UPDATED_BY.to_owned(), string(&entry.updated_by)),
    ])
}

/// A state without its key. Without a value it is the end of a life.
pub(super) fn state(entry: &Entry, value: Option<&Bytes>, request_id: &str) -> Item {
    let mut item = described(entry);
    item.insert(REQUEST_ID.to_owned(), string(request_id));
    match value {
        Some(value) => item.insert(VALUE.to_owned(), AttributeValue::B(Blob::new(value.as_ref()))),
        None => item.insert(DELETED.to_owned(), AttributeValue::Bool(true)),
    };
    item
}

pub(super) fn string(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

pub(super) fn number(number: u64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

fn time(time: SystemTime) -> AttributeValue {
    string(humantime::format_rfc3339_micros(time).to_string())
}

/// As it is stored.
pub(super) fn to_micros(time: SystemTime) -> SystemTime {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    UNIX_EPOCH + Duration::from_micros(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// What an attribute has to be, and is not. Values are not shown.
pub(super) fn damaged(item: &Item, attribute: &str, shape: &str) -> BackendError {
    let sk = text(item, SK).unwrap_or("an item without sk");
    BackendError::Damaged(format!("{sk}: `{attribute}` has to be {shape}"))
}

pub(super) fn text<'i>(item: &'i Item, attribute: &str) -> Option<&'i str> {
    item.get(attribute)?.as_s().ok().map(String::as_str)
}

pub(super) fn natural(item: &Item, attribute: &str) -> Option<u64> {
    item.get(attribute)?.as_n().ok()?.parse().ok()
}

pub(super) fn bytes<'i>(item: &'i Item, attribute: &str) -> Option<&'i [u8]> {
    item.get(attribute)?.as_b().ok().map(AsRef::as_ref)
}

/// Partition and sort key.
pub(super) fn key(item: &Item) -> Option<(String, String)> {
    Some((text(item, PK)?.to_owned(), text(item, SK)?.to_owned()))
}

/// Whether it is more than the end of a life, or than a record of what had none. For items that were read whole.
pub(super) fn holds_a_value(item: &Item) -> bool {
    item.contains_key(VALUE)
}

pub(super) fn etag(item: &Item) -> Result<Etag, BackendError> {
    let life = text(item, LIFE).and_then(|life| Ulid::from_string(life).ok());
    let life = Life(life.ok_or_else(|| damaged(item, LIFE, "a ULID, as text"))?);
    let version = natural(item, VERSION).filter(|version| *version > 0);
    let version = version.ok_or_else(|| damaged(item, VERSION, "a number, 1 or more"))?;
    Ok(Etag { life, version })
}

/// An item as a state of its key. Where somebody else wrote it, text will do for bytes, and what only describes it may
/// be missing.
pub(super) fn entry(mut item: Item) -> Result<Entry, BackendError> {
    let etag = etag(&item)?;
    let updated_at = match text(&item, UPDATED_AT).map(humantime::parse_rfc3339) {
        None => UNIX_EPOCH,
        Some(Ok(time)) => time,
        Some(Err(_)) => return Err(damaged(&item, UPDATED_AT, "a time, as in 2026-11-23T08:00:00Z")),
    };
    let content_type = text(&item, CONTENT_TYPE)
        .unwrap_or("application/octet-stream")
        .to_owned();
    let updated_by = text(&item, UPDATED_BY).unwrap_or_default().to_owned();
    let value = match item.remove(VALUE) {
        // It was not asked for.
        None => Bytes::new(),
        Some(AttributeValue::B(bytes)) => bytes.into_inner().into(),
        Some(AttributeValue::S(text)) => text.into(),
        Some(_) => return Err(damaged(&item, VALUE, "binary, or a string")),
    };
    Ok(Entry {
        value,
        content_type,
        etag,
        updated_at,
        updated_by,
        secret: false,
    })
}
