//! A key's earlier states.

use std::collections::VecDeque;

use super::item::{self, Item, Path, Position, STATE, SortKeys};
use super::partition::{Ask, Partition};
use crate::backend::{BackendError, Entry, HistoryPage};
use crate::key::Etag;

/// States of a range, the newest first, read page by page.
struct States<'p> {
    partition: &'p Partition<'p>,
    keys: SortKeys,
    /// Of one page, at most.
    limit: usize,
    read: VecDeque<Item>,
    /// Where the next page begins. None: there is none.
    next: Option<Item>,
}

impl<'p> States<'p> {
    async fn begin(partition: &'p Partition<'p>, keys: SortKeys, limit: usize) -> Result<Self, BackendError> {
        let mut states = Self {
            partition,
            keys,
            limit,
            read: VecDeque::new(),
            next: None,
        };
        states.read(None).await?;
        Ok(states)
    }

    async fn read(&mut self, start: Option<Item>) -> Result<(), BackendError> {
        let ask = Ask {
            keys: &self.keys,
            newest_first: true,
            limit: self.limit,
            attributes: &[],
            start,
        };
        let answer = self.partition.query(ask).await?;
        self.next = answer.last_evaluated_key;
        self.read = answer.items.unwrap_or_default().into();
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<Item>, BackendError> {
        loop {
            if let Some(item) = self.read.pop_front() {
                return Ok(Some(item));
            }
            match self.next.take() {
                None => return Ok(None),
                start => self.read(start).await?,
            }
        }
    }
}

/// Most lives that are looked through for a version: a key that was created and deleted more often costs no more.
const LIVES: usize = 100;

impl Partition<'_> {
    /// The newest state of a range, however it ended.
    pub(super) async fn newest(&self, keys: &SortKeys) -> Result<Option<Item>, BackendError> {
        let ask = Ask {
            keys,
            newest_first: true,
            limit: 1,
            attributes: STATE,
            start: None,
        };
        Ok(self.query(ask).await?.items.into_iter().flatten().next())
    }

    /// The newest state with this version that was not a deletion. Life by life: within one, the version tells the item.
    pub(super) async fn version(&self, path: Path<'_>, version: u64) -> Result<Option<Entry>, BackendError> {
        let mut newest = self.standing(path).await?;
        if newest.is_some_and(|newest| newest.version == version) {
            // It may have outlived its record.
            let current = self.get(&path.current(), &[]).await?.map(item::entry).transpose()?;
            if let Some(current) = current.filter(|current| current.etag.version == version) {
                return Ok(Some(current));
            }
        }
        for _ in 0..LIVES {
            // The life's last state tells how many it had.
            if let Some(Etag { life, version: last }) = newest
                && version <= last
            {
                let found = self.get(&path.state(Etag { life, version }), &[]).await?;
                if let Some(found) = found.filter(item::holds_a_value) {
                    return item::entry(found).map(Some);
                }
            }
            let earlier = match newest {
                None => path.past(),
                Some(Etag { life, .. }) => path.before(Etag { life, version: 1 }),
            };
            let Some(last) = self.newest(&earlier).await? else {
                return Ok(None);
            };
            newest = Some(item::etag(&last)?);
        }
        Ok(None)
    }

    /// A page of the states that were not deletions, the newest first.
    pub(super) async fn history(
        &self,
        path: Path<'_>,
        after: Option<Position>,
        entries: usize,
        bytes: usize,
    ) -> Result<HistoryPage, BackendError> {
        let mut page = HistoryPage::default();
        let mut together = 0;
        // First, so that what is written meanwhile comes with the records.
        let standing = match after {
            None => self.standing(path).await?,
            Some(_) => None,
        };
        let mut shown = None;
        let keys = after.map_or_else(|| path.past(), |Position(after)| path.before(after));
        let mut states = States::begin(self, keys, entries + 1).await?;
        if standing.is_some() {
            let newest = states.read.front().map(item::etag).transpose()?;
            if newest != standing {
                // It has no record, or was written since, or by a gateway whose clock is behind. It comes first.
                let current = self.get(&path.current(), &[]).await?.map(item::entry).transpose()?;
                together += current.as_ref().map_or(0, |current| current.value.len());
                shown = current.as_ref().map(|current| current.etag);
                page.entries.extend(current);
            }
        }
        while let Some(state) = states.next().await? {
            if !item::holds_a_value(&state) || Some(item::etag(&state)?) == shown {
                continue;
            }
            let entry = item::entry(state)?;
            let full = page.entries.len() == entries || (together > 0 && together + entry.value.len() > bytes);
            if full {
                page.next = page.entries.last().map(|last| Position(last.etag).to_string());
                break;
            }
            together += entry.value.len();
            page.entries.push(entry);
        }
        Ok(page)
    }
}
