//! From messages of clients to what they ask for, and from news to messages. Every field is checked here.

use std::sync::Arc;

use tagway_proto::v1;
use tagway_proto::v1::watch_configs_request::Subscribe;
use tagway_proto::v1::watch_configs_response::{Ended, Kind, Removed, Resync, Synced};
use tonic::{Code, Status};

use crate::key::{KEY_BYTES, KeyPrefix};
use crate::server::fields::{context, message};
use crate::server::status::{self, invalid};
use crate::watch::{Asked, News, Update};

/// Longest id of a subscription, in bytes.
const ID_BYTES: usize = 64;
/// Most prefixes and keys of a subscription.
const NAMED: usize = 1000;
/// Most etags that a client may know at its beginning.
const KNOWN: usize = 10_000;

type Response = v1::WatchConfigsResponse;

/// The name of a subscription.
pub(super) fn checked(field: &'static str, id: &str) -> Result<Arc<str>, Status> {
    if id.is_empty() || id.len() > ID_BYTES {
        return Err(invalid(field, format!("1 to {ID_BYTES} bytes")));
    }
    Ok(id.into())
}

/// Whether a message could not be read, rather than none had.
pub(super) fn is_of_a_message(status: &Status) -> bool {
    matches!(status.code(), Code::OutOfRange | Code::Internal | Code::Unimplemented)
}

/// What is subscribed to, within its bounds.
pub(super) fn asked(id: &Arc<str>, subscribe: Subscribe) -> Result<Asked, Status> {
    let named = subscribe.prefixes.len() + subscribe.keys.len();
    if named == 0 || named > NAMED {
        let problem = format!("{named} keys and prefixes; 1 to {NAMED}");
        return Err(invalid("subscribe.keys", problem));
    }
    if subscribe.known_etags.len() > KNOWN {
        let problem = format!("{} etags; at most {KNOWN}", subscribe.known_etags.len());
        return Err(invalid("subscribe.known_etags", problem));
    }
    if let Some(long) = subscribe
        .known_etags
        .keys()
        .map(String::len)
        .find(|&length| length > KEY_BYTES)
    {
        return Err(invalid(
            "subscribe.known_etags",
            format!("a key of {long} bytes; at most {KEY_BYTES}"),
        ));
    }
    let prefix = |text: String| {
        text.parse::<KeyPrefix>()
            .map_err(|problem| invalid("subscribe.prefixes", problem))
    };
    let mut keys = subscribe.keys;
    keys.sort_unstable();
    keys.dedup();
    Ok(Asked {
        id: Arc::clone(id),
        prefixes: subscribe.prefixes.into_iter().map(prefix).collect::<Result<_, _>>()?,
        keys,
        context: context(subscribe.context)?,
        known: subscribe
            .known_etags
            .into_iter()
            .map(|(key, etag)| (key, etag.parse().ok()))
            .collect(),
        keys_only: subscribe.keys_only,
    })
}

/// A message on that subscription; empty: on the stream.
pub(super) fn of(id: &str, kind: Kind) -> Response {
    Response {
        subscription_id: id.to_owned(),
        kind: Some(kind),
    }
}

/// That a subscription has ended, by itself or for that.
pub(super) fn ended(failure: Option<&Status>) -> Kind {
    Kind::Ended(Ended {
        failure: failure.map(status::failure),
    })
}

impl From<News> for Response {
    fn from(news: News) -> Self {
        let kind = match news.update {
            Update::Put(config) => Kind::Put(message(config)),
            Update::Removed { key, etag } => Kind::Removed(Removed { key, etag }),
            Update::Synced { is_stale } => Kind::Synced(Synced { stale: is_stale }),
            Update::Resync => Kind::Resync(Resync {}),
        };
        of(&news.subscription, kind)
    }
}
