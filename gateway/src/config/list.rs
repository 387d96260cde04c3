//! Lists: every range that a strategy could have used, merged by key, and of each key only what `decide` puts there.
//! So a list is the set of keys that Get finds.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Config, ConfigError, Configs};
use crate::backend::{Backend, Entry, PageRequest, Urgency};
use crate::cache::{self, Cache, Consistency, Freshness};
use crate::clock::Clock;
use crate::identity::Reader;
use crate::key::{KeyPrefix, Name, Tag, TagPrefix};
use crate::placement::{Layer, Origin, PlaceRange};
use crate::quota::UnderWay;
use crate::strategy::{Context, DecideError, Operation, Refusal, Snapshot};

/// Of one page: well below the 4 MiB that gRPC clients take.
pub const PAGE_BYTES: usize = 3 << 20;
/// Of one entry besides its value and what its writer says: the longest key, an etag, a time, a backend's id.
const PER_ENTRY_BYTES: usize = 512;
/// A page ends after so many names, also where few of them live there: so that the next goes on behind them, and a list
/// over many that have moved away comes to its end.
const EXAMINED: usize = 10_000;
/// Entries that one range is asked for at once, and the bytes of their values.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 1 << 20;
/// Two clocks are read one after the other.
const MOMENT: Duration = Duration::from_millis(1);

/// What a list asks for.
#[derive(Debug, Clone)]
pub struct ListRequest<'r> {
    /// Only keys that begin so.
    pub prefix: &'r KeyPrefix,
    /// At most so many; at least 1.
    pub page_size: usize,
    /// Where the page before ended. Empty: from the beginning.
    pub page_token: &'r str,
    /// Leave values out.
    pub keys_only: bool,
    /// At most so many bytes, but for the first.
    pub bytes: usize,
    /// For the strategy.
    pub context: &'r Context,
    /// Where what is read for it is counted, until the list is done.
    pub under_way: Option<&'r UnderWay>,
}

/// A page, by key, ascending.
#[derive(Debug, Clone)]
pub struct Listed {
    /// What stands.
    pub configs: Vec<Config>,
    /// The way to the next page. Empty: that was all.
    pub next_page_token: String,
    /// Of all that was looked at for it.
    pub freshness: Freshness,
}

/// Where a page ended, for the next, which another gateway may be asked for.
#[derive(Serialize, Deserialize)]
struct Position {
    /// The last key on it.
    after: String,
    /// What the first page shows stood then, or later.
    began: SystemTime,
}

impl Position {
    /// When that was, by this process. None, where that is yet to come by its clock, which is another than the one that told it: then
    /// what is known from before is no help, and who waits for the same waits together.
    fn since(&self, clock: &Clock) -> Option<Instant> {
        let ago = clock.now().duration_since(self.began).ok()?;
        Instant::now().checked_sub(ago)
    }
}

impl Configs {
    /// A page of the keys that Get would find.
    pub async fn list(&self, reader: &Reader, request: ListRequest<'_>) -> Result<Listed, ConfigError> {
        let bound = ("list", request.prefix.as_str(), request.keys_only, request.context);
        let position = if request.page_token.is_empty() {
            None
        } else {
            let opened: Option<Position> = self.page_tokens.open(reader, &bound, request.page_token);
            Some(opened.ok_or(ConfigError::PageToken)?)
        };
        let clock = self.page_tokens.clock();
        let go_on_after = |key: &str, as_of: Instant| {
            let first = || clock.now() - as_of.elapsed() - MOMENT;
            let position = Position {
                after: key.to_owned(),
                began: position.as_ref().map_or_else(first, |position| position.began),
            };
            self.page_tokens.seal(reader, &bound, &position)
        };
        let snapshot = self.registry.current();
        let mut cursors = self.cursors(&snapshot, reader, &request, position.as_ref()).await?;
        let mut listed = Listed {
            configs: Vec::new(),
            next_page_token: String::new(),
            freshness: Freshness::now(),
        };
        let mut together = 0;
        let mut examined = 0;
        let mut weighed = request.under_way.map(UnderWay::meanwhile);
        loop {
            let mut has_read = false;
            for cursor in &mut cursors {
                let read = cursor.refill(reader, &request, &self.cache);
                if let Some(freshness) = read.await? {
                    listed.freshness = listed.freshness.and(freshness);
                    has_read = true;
                }
            }
            if let Some(weighed) = weighed.as_mut().filter(|_| has_read) {
                weighed.holds(together as u64 + cursors.iter().map(Cursor::bytes).sum::<u64>())?;
            }
            // The least key of all cursors. A cursor without one has no more.
            let Some(key) = cursors.iter().filter_map(Cursor::key).min().map(str::to_owned) else {
                return Ok(listed);
            };
            let standing = cursors.iter_mut().filter_map(|cursor| cursor.take(&key)).collect();
            examined += 1;
            let shown = self.shown(&snapshot, reader, &key, standing, &cursors, request.context);
            let Some(config) = shown.await? else {
                if examined >= EXAMINED {
                    listed.next_page_token = go_on_after(&key, listed.freshness.as_of)?;
                    return Ok(listed);
                }
                continue;
            };
            let size = size(&config.entry);
            let full = listed.configs.len() == request.page_size || together + size > request.bytes;
            if let (true, Some(last)) = (full, listed.configs.last()) {
                listed.next_page_token = go_on_after(&last.key, listed.freshness.as_of)?;
                return Ok(listed);
            }
            together += size;
            listed.configs.push(config);
        }
    }

    /// Every range that a key with this prefix could live in, each at that position.
    async fn cursors(
        &self,
        snapshot: &Snapshot,
        reader: &Reader,
        request: &ListRequest<'_>,
        position: Option<&Position>,
    ) -> Result<Vec<Cursor>, ConfigError> {
        let after = position.map_or("", |position| &*position.after);
        let since = position.and_then(|position| position.since(self.page_tokens.clock()));
        let mut cursors = Vec::new();
        for (prefix, ranges) in Self::ranges(snapshot, reader, request.prefix, request.context).await? {
            // A position before the tag's keys leaves all of them, one behind them none.
            let after = match after.strip_prefix(prefix.tag.as_str()) {
                Some(name) => name,
                None if after > prefix.tag.as_str() => continue,
                None => "",
            };
            for range in ranges.iter() {
                cursors.push(Cursor::new(&prefix, range, self.backend(&range.backend)?, after, since));
            }
        }
        Ok(cursors)
    }

    /// Every range that a key with this prefix could live in, tag by tag.
    pub(super) async fn ranges(
        snapshot: &Snapshot,
        reader: &Reader,
        prefix: &KeyPrefix,
        context: &Context,
    ) -> Result<Vec<(TagPrefix, Arc<BTreeSet<PlaceRange>>)>, ConfigError> {
        let touched = snapshot.tags().touched(prefix);
        if touched.is_empty() && !prefix.as_str().is_empty() {
            return Err(ConfigError::PrefixUnknown);
        }
        let mut all = Vec::new();
        for prefix in touched {
            let strategy = snapshot.strategy(&prefix.tag)?;
            match strategy.enumerate(reader, &prefix, context).await {
                Ok(ranges) => all.push((prefix, ranges)),
                // What the caller may not read is no part of what only swept over it.
                Err(DecideError::Refused(Refusal::Denied(_) | Refusal::Unplaced(_))) if !prefix.named => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(all)
    }

    /// What Get would find of a key that stands in these ranges: the key is this tag's and no longer one's, and of the
    /// places that `decide` names the first that holds it shows.
    async fn shown(
        &self,
        snapshot: &Snapshot,
        reader: &Reader,
        key: &str,
        standing: Vec<Standing>,
        cursors: &[Cursor],
        context: &Context,
    ) -> Result<Option<Config>, ConfigError> {
        let Ok(key) = snapshot.tags().parse(key) else {
            return Ok(None);
        };
        let strategy = snapshot.strategy(key.tag())?;
        let placed = match strategy.decide(reader, &key, Operation::Read, context).await {
            Ok(placed) => placed,
            Err(DecideError::Refused(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut standing: BTreeMap<PlaceRange, Entry> = standing
            .into_iter()
            .filter(|standing| standing.tag == *key.tag())
            .map(|standing| (standing.range, standing.entry))
            .collect();
        // What was not listed could hold the key, and the list would not know.
        let listed = |range| {
            cursors
                .iter()
                .any(|cursor| cursor.prefix.tag == *key.tag() && cursor.range == range)
        };
        if let Some(Layer { place, .. }) = placed.layers().find(|layer| !listed(layer.place.range())) {
            tracing::warn!(
                strategy = %strategy.name(), tenant = %reader.id(), tag = %key.tag(), ?place,
                "the strategy decides for a place that it does not enumerate"
            );
            return Err(DecideError::Failed.into());
        }
        for Layer { origin, place, .. } in placed.layers() {
            if origin == Origin::Default && !placed.former.is_empty() {
                break;
            }
            if let Some(entry) = standing.remove(&place.range()) {
                return Ok(Some(Config::new(&key, origin, place, entry)));
            }
        }
        if !placed.former.is_empty() {
            // In none of the batches at home: it may have moved between two of them, and its default does not show.
            let found = self.find(reader, &placed, Consistency::Latest).await?;
            return Ok(found.map(|found| Config::new(&key, found.origin, found.place, found.entry)));
        }
        Ok(None)
    }
}

/// What one range holds of a key.
struct Standing {
    tag: Tag,
    range: PlaceRange,
    entry: Entry,
}

/// What an entry takes of an answer, at most.
pub(super) fn size(entry: &Entry) -> usize {
    PER_ENTRY_BYTES + entry.value.len() + entry.content_type.len() + entry.updated_by.len()
}

/// One range in one store, read in batches.
struct Cursor {
    prefix: TagPrefix,
    range: PlaceRange,
    backend: Arc<dyn Backend>,
    /// The last name that was fetched.
    after: String,
    /// When the list began.
    since: Option<Instant>,
    fetched: VecDeque<(Name, Entry)>,
    /// The key of the first of them.
    first: Option<String>,
    more: bool,
}

impl Cursor {
    fn new(
        prefix: &TagPrefix,
        range: &PlaceRange,
        backend: &Arc<dyn Backend>,
        after: &str,
        since: Option<Instant>,
    ) -> Self {
        Self {
            prefix: prefix.clone(),
            range: range.clone(),
            backend: Arc::clone(backend),
            after: after.to_owned(),
            since,
            fetched: VecDeque::new(),
            first: None,
            more: true,
        }
    }

    fn key(&self) -> Option<&str> {
        self.first.as_deref()
    }

    /// Reads on, unless something is left. Returns how true that is.
    async fn refill(
        &mut self,
        reader: &Reader,
        request: &ListRequest<'_>,
        cache: &Cache,
    ) -> Result<Option<Freshness>, ConfigError> {
        let mut read: Option<Freshness> = None;
        while self.fetched.is_empty() && self.more {
            let page = PageRequest {
                range: &self.range.range,
                prefix: &self.prefix.name_prefix,
                after: &self.after,
                since: self.since,
                // One more than the page takes, to know whether there is a next.
                entries: (request.page_size + 1).min(BATCH),
                bytes: BATCH_BYTES,
                keys_only: request.keys_only,
                urgency: Urgency::Asked,
            };
            let asked = Instant::now();
            let page = self.backend.list(reader, page).await?;
            self.since.get_or_insert(page.as_of);
            if let Some((name, _)) = page.entries.last() {
                name.as_str().clone_into(&mut self.after);
            }
            let freshness = Freshness {
                source: if page.as_of < asked {
                    cache::Source::Cache
                } else {
                    cache::Source::Backend
                },
                as_of: page.as_of,
                until: Instant::now(),
            };
            read = Some(read.map_or(freshness, |read| read.and(freshness)));
            self.more = page.more;
            let entries = page.entries.into_iter().filter_map(|(name, entry)| {
                let place = self.range.place(&name);
                let has_value = !request.keys_only;
                let mut entry = cache.listed(&self.backend, &place, entry, page.as_of, has_value)?;
                if request.keys_only {
                    entry.value.clear();
                }
                Some((name, entry))
            });
            self.fetched = entries.collect();
            self.name_first();
        }
        Ok(read)
    }

    /// The next entry, if it is this key's.
    fn take(&mut self, key: &str) -> Option<Standing> {
        if self.key() != Some(key) {
            return None;
        }
        let (_, entry) = self.fetched.pop_front()?;
        self.name_first();
        Some(Standing {
            tag: self.prefix.tag.clone(),
            range: self.range.clone(),
            entry,
        })
    }

    /// Of what was fetched last.
    fn bytes(&self) -> u64 {
        self.fetched.iter().map(|(_, entry)| size(entry) as u64).sum()
    }

    fn name_first(&mut self) {
        let first = self.fetched.front();
        self.first = first.map(|(name, _)| format!("{}{name}", self.prefix.tag));
    }
}
