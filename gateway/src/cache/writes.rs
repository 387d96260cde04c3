//! Writes and deletes: they go through to the store, and what they leave is what is read from there on.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::changes::UnderWay;
use super::fence::WriteTicket;
use super::known::Known;
use super::{Cache, Changed, Doubt};
use crate::backend::{Backend, Capabilities, Conditions, Deleted, Entry, NewEntry, WriteError};
use crate::identity::VerifiedTenant;
use crate::key::Etag;
use crate::placement::Place;

impl Cache {
    /// Writes through to `backend`; what is acknowledged is what is read from here on.
    pub async fn write(
        &self,
        tenant: &VerifiedTenant,
        backend: &Arc<dyn Backend>,
        place: &Place,
        entry: NewEntry,
        conditions: Conditions,
    ) -> Result<Entry, WriteError> {
        let guard = WriteGuard::begin(self, place, backend.capabilities());
        let value = entry.value.clone();
        let began = Instant::now();
        let written = match backend.write(tenant, &place.name, entry, conditions).await {
            Ok(written) => written,
            Err(error) => return Err(guard.failed(error)),
        };
        // An answer that was remembered tells what stood then.
        if conditions.once.is_none() {
            let stands = Entry {
                // Its own bytes: what came in a request is a part of all that came, and would keep it.
                value: Bytes::copy_from_slice(&value),
                ..written.clone()
            };
            guard.end(Left::This(stands, began));
        } else {
            guard.end(Left::Another);
        }
        Ok(written)
    }

    /// Deletes in `backend`; what is acknowledged is not read from here on.
    pub async fn delete(
        &self,
        tenant: &VerifiedTenant,
        backend: &Arc<dyn Backend>,
        place: &Place,
        elsewhere: bool,
        conditions: Conditions,
    ) -> Result<Deleted, WriteError> {
        let guard = WriteGuard::begin(self, place, backend.capabilities());
        let seen = self.known.peek(place).and_then(|known| known.newest());
        let deleted = match backend.delete(tenant, &place.name, elsewhere, conditions).await {
            Ok(deleted) => deleted,
            Err(error) => return Err(guard.failed(error)),
        };
        // An answer that was remembered tells what was deleted then.
        if conditions.once.is_none() {
            guard.end(Left::Nothing { ended: seen });
        } else {
            guard.end(Left::Another);
        }
        Ok(deleted)
    }

    /// Somebody else changed it, or may have: who looks asks, and what is known of it is for who cannot be answered. Where the
    /// store `lags` it may not show it at once.
    pub fn doubt(&self, place: &Place, lags: bool) {
        WriteGuard::begin_at(self, place, lags, false).end(Left::Elsewhere);
    }
}

/// What a change left.
enum Left {
    /// This stands, as of then.
    This(Entry, Instant),
    /// Nothing stands, and that state no more.
    Nothing { ended: Option<Etag> },
    /// What another request of this gateway wrote, which may have been long ago.
    Another,
    /// Nothing, for something else stood there than its writer knew of.
    Refused,
    /// Something that somebody else wrote.
    Elsewhere,
    /// Nobody knows.
    Unknown,
}

/// A write that is under way, until this is dropped. Unless it ends, nobody knows what stands.
struct WriteGuard<'c> {
    cache: &'c Cache,
    place: &'c Place,
    /// The store may tell of what stood before for a while.
    lags: bool,
    /// Others have an interest in it.
    is_told: bool,
    ticket: Option<(WriteTicket, UnderWay)>,
}

impl<'c> WriteGuard<'c> {
    fn begin(cache: &'c Cache, place: &'c Place, store: &Capabilities) -> Self {
        Self::begin_at(cache, place, store.reads_lag, store.others_write)
    }

    fn begin_at(cache: &'c Cache, place: &'c Place, lags: bool, is_told: bool) -> Self {
        let under_way = cache.feed.begin();
        let mut shard = cache.shard(place);
        shard.changed = Instant::now();
        let ticket = Some((shard.fence(place).begin_write(), under_way));
        drop(shard);
        Self {
            cache,
            place,
            lags,
            is_told,
            ticket,
        }
    }

    fn end(mut self, left: Left) {
        self.finish(left);
    }

    /// It was not done, for that: whoever is refused changes nothing, and has nobody look for long. Whether a store did it that failed, nobody
    /// knows.
    fn failed(mut self, error: WriteError) -> WriteError {
        match &error {
            WriteError::Backend(_) => {}
            WriteError::PreconditionFailed | WriteError::RequestReused | WriteError::Unfit(_) => {
                self.finish(Left::Refused);
            }
        }
        error
    }

    fn finish(&mut self, left: Left) {
        let Some((ticket, under_way)) = self.ticket.take() else {
            return;
        };
        let now = Instant::now();
        let late = if self.lags { Doubt::Late } else { Doubt::None };
        let mut changed = Changed {
            since: now,
            doubt: Doubt::None,
        };
        let mut shard = self.cache.shard(self.place);
        shard.changed = now;
        let is_told = self.is_told && !matches!(left, Left::Refused);
        let may_keep = shard.at(self.place).is_some_and(|fence| fence.end_write(ticket));
        shard.leave(self.place);
        let before = self.cache.known.peek(self.place);
        let known = match left {
            // What this write followed is older than it, whatever the store's clocks say.
            Left::This(entry, began) if may_keep => {
                changed.since = began;
                Some(Known::written(entry, began, self.lags))
            }
            Left::Nothing { ended } => Known::deleted(before.as_deref(), ended, self.lags, now),
            // Which of those that were under way at once stands, the next read tells; of a store that lags, one of the next.
            Left::This(entry, _) => {
                changed.doubt = late;
                Some(Known::one_of_several(before.as_deref(), entry.etag, self.lags, now))
            }
            Left::Another => {
                changed.doubt = late;
                before.and_then(|before| before.in_doubt())
            }
            Left::Refused => before.and_then(|before| before.in_doubt()),
            Left::Elsewhere => {
                changed.doubt = late;
                before.map(|before| before.past())
            }
            Left::Unknown => {
                changed.doubt = Doubt::Open;
                before.and_then(|before| before.in_doubt())
            }
        };
        match known {
            Some(known) => _ = self.cache.keep(self.place, known),
            None => self.cache.forget(self.place),
        }
        drop(shard);
        self.cache.feed.end(&under_way, self.place, changed);
        if let Some(written) = self.cache.written.as_ref().filter(|_| is_told) {
            written.put(self.place, changed);
        }
    }
}

impl Drop for WriteGuard<'_> {
    fn drop(&mut self) {
        self.finish(Left::Unknown);
    }
}
