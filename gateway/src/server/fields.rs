//! The fields of messages: what clients say in each is checked here, and a problem names it; what they are told is put there.

use std::collections::HashMap;

use prost_types::Timestamp;
use tagway_proto::v1;
use tonic::Status;
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use super::status::invalid;
use crate::backend::Precondition;
use crate::cache::{Consistency, Freshness, Source};
use crate::config::{Config, Scope};
use crate::placement::Origin;
use crate::strategy::Context;

/// What a value is, where the writer does not say.
const CONTENT_TYPE: &str = "application/json";
/// Longest content type, in bytes.
const CONTENT_TYPE_BYTES: usize = 128;
/// Entries of a page, where the caller does not say, and at most.
const PAGE_SIZE: usize = 100;
const MAX_PAGE_SIZE: usize = 1000;

pub(super) fn consistency(consistency: i32) -> Result<Consistency, Status> {
    match v1::Consistency::try_from(consistency) {
        Ok(v1::Consistency::Unspecified | v1::Consistency::Cached) => Ok(Consistency::Cached),
        Ok(v1::Consistency::Latest) => Ok(Consistency::Latest),
        Err(_) => Err(invalid("consistency", format!("{consistency} is no Consistency"))),
    }
}

pub(super) fn scope(scope: i32) -> Result<Scope, Status> {
    match v1::Scope::try_from(scope) {
        Ok(v1::Scope::Unspecified) => Ok(Scope::Own),
        Ok(v1::Scope::Shared) => Ok(Scope::Shared),
        Err(_) => Err(invalid("scope", format!("{scope} is no Scope"))),
    }
}

pub(super) fn context(dimensions: HashMap<String, String>) -> Result<Context, Status> {
    Context::new(dimensions).map_err(|problem| invalid("context", problem))
}

pub(super) fn content_type(text: String) -> Result<String, Status> {
    if text.is_empty() {
        return Ok(CONTENT_TYPE.to_owned());
    }
    let printable = text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
    let essence = text.split(';').next().unwrap_or_default();
    // RFC 9110, 8.3.1: type "/" subtype, both tokens.
    let token = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
    };
    let typed = essence
        .trim_end_matches(' ')
        .split_once('/')
        .is_some_and(|(a, b)| token(a) && token(b));
    if text.len() <= CONTENT_TYPE_BYTES && printable && typed && !text.ends_with(' ') {
        Ok(text)
    } else {
        Err(invalid(
            "content_type",
            "a media type such as application/json, in at most 128 printable ASCII characters",
        ))
    }
}

pub(super) fn precondition(message: Option<v1::Precondition>) -> Result<Precondition, Status> {
    let Some(message) = message else {
        return Ok(Precondition::None);
    };
    match message.kind {
        Some(v1::precondition::Kind::IfMatch(etag)) => etag
            .parse()
            .map(Precondition::Match)
            .map_err(|problem| invalid("precondition.if_match", problem)),
        Some(v1::precondition::Kind::IfAbsent(true)) => Ok(Precondition::Absent),
        Some(v1::precondition::Kind::IfAbsent(false)) => {
            Err(invalid("precondition.if_absent", "is either true or not there"))
        }
        None => Err(invalid("precondition", "holds neither if_match nor if_absent")),
    }
}

pub(super) fn page_size(asked: i32) -> Result<usize, Status> {
    match usize::try_from(asked) {
        Ok(0) => Ok(PAGE_SIZE),
        Ok(size) => Ok(size.min(MAX_PAGE_SIZE)),
        Err(_) => Err(invalid("page_size", "is negative; 0 means 100")),
    }
}

pub(super) fn request_id(text: &str) -> Result<Option<Uuid>, Status> {
    match text.parse::<Hyphenated>() {
        _ if text.is_empty() => Ok(None),
        Ok(id) => Ok(Some(id.into_uuid())),
        Err(_) => Err(invalid(
            "request_id",
            "a UUID such as 123e4567-e89b-12d3-a456-426614174000",
        )),
    }
}

pub(super) fn message(config: Config) -> v1::Config {
    v1::Config {
        key: config.key,
        value: config.entry.value,
        content_type: config.entry.content_type,
        version: config.entry.etag.version,
        etag: config.entry.etag.to_string(),
        update_time: Some(Timestamp::from(config.entry.updated_at)),
        updated_by: config.entry.updated_by,
        backend: String::from(&*config.backend),
        origin: origin(config.origin),
        secret: config.entry.secret,
    }
}

pub(super) fn freshness(freshness: Freshness) -> v1::Freshness {
    let source = match freshness.source {
        Source::Backend => v1::freshness::Source::Backend,
        Source::Cache => v1::freshness::Source::Cache,
        Source::Stale => v1::freshness::Source::Stale,
    };
    v1::Freshness {
        source: source.into(),
        // No age is longer than the process, and a Duration has 10 000 years.
        age: freshness.as_of.elapsed().try_into().ok(),
    }
}

pub(super) fn origin(origin: Origin) -> i32 {
    match origin {
        Origin::Home => v1::config::Origin::Home,
        Origin::Former => v1::config::Origin::Former,
        Origin::Default => v1::config::Origin::Default,
    }
    .into()
}
