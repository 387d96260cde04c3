//! One subscription: what its client holds, what it has to look at, and the loop between the two.
//!
//! It is in the hub before it reads anything, so that nothing changes unseen. Then it looks at each key that it names and
//! lists each of its prefixes; and from there on at each key that is marked. A look is a read like any other: out of the cache
//! where it may be, with everybody else's. What differs from what the client holds is sent; what cannot be had is tried
//! again, and what the client holds stays good.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::hub::{Hub, Registration};
use super::ledger::Ledger;
use super::marks::{KEYS, Marks};
use super::outbox::{Outbox, Room};
use super::work::{Next, Work};
use super::{News, Update};
use crate::backend::BackendError;
use crate::cache::{Consistency, Freshness, Read, Source};
use crate::clock::{backoff, until};
use crate::config::{Config, ConfigError, Configs, ListRequest};
use crate::identity::Reader;
use crate::key::{Etag, KeyPrefix};
use crate::quota::Watched;
use crate::strategy::{Context, DecideError};

/// Keys that are looked at together, and the bytes of their values.
pub(super) const TOGETHER: usize = 100;
const TOGETHER_BYTES: usize = 512 << 10;
/// Between two tries of what cannot be had: the first pause, and the longest.
pub(super) const PAUSES: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// For how long what was read is held for a client that does not take it, as long as not too much is.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a client asks for.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// The client's name for it.
    pub id: Arc<str>,
    /// Every key that begins so.
    pub prefixes: Vec<KeyPrefix>,
    /// These keys.
    pub keys: Vec<String>,
    /// For the strategy.
    pub context: Context,
    /// What the client holds already, by key. Nothing for what is no etag of ours.
    pub known: HashMap<String, Option<Etag>>,
    /// Leave values out.
    pub keys_only: bool,
}

/// One of them, and where it goes.
pub struct Subscription<T> {
    asked: Asked,
    ledger: Arc<Ledger>,
    configs: Arc<Configs>,
    hub: Arc<Hub>,
    outbox: Outbox<T>,
    reader: watch::Receiver<Reader>,
    watched: Watched,
    marks: Arc<Marks>,
    registration: Option<Registration>,
    /// Whether the client had everything once.
    was_synced: bool,
    /// It does not take what it is sent, and nothing is read for it before there is room for so many bytes.
    waits_for: Option<usize>,
    /// And that room, once there is.
    reserved: Option<(usize, Room)>,
    /// For how long it is waited for.
    patience: Duration,
}

impl<T: From<News>> Subscription<T> {
    /// What `asked` asks for, as long as `reader` may read it.
    #[must_use]
    pub fn new(
        mut asked: Asked,
        configs: Arc<Configs>,
        hub: Arc<Hub>,
        outbox: Outbox<T>,
        reader: watch::Receiver<Reader>,
        watched: Watched,
    ) -> Self {
        let known = asked.known.drain().map(|(key, etag)| (key.into(), etag));
        let named = asked.keys.iter().map(|key| key.as_str().into());
        let ledger = Ledger::new(std::mem::take(&mut asked.prefixes), named.collect(), known);
        Self {
            ledger: ledger.into(),
            asked,
            configs,
            hub,
            outbox,
            reader,
            watched,
            marks: Arc::default(),
            registration: None,
            was_synced: false,
            waits_for: None,
            reserved: None,
            patience: PATIENCE,
        }
    }

    /// What its client holds.
    #[must_use]
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// How far it is.
    #[must_use]
    pub fn marks(&self) -> &Arc<Marks> {
        &self.marks
    }

    /// Sends what stands and what changes, until it cannot go on.
    pub async fn run(mut self) -> ConfigError {
        let _counted = self.hub.metrics().subscription();
        loop {
            if let Err(error) = self.compare().await {
                return error;
            }
            self.send(Update::Resync).await;
        }
    }

    /// Compares everything, and then what changes, until everything is to be compared anew.
    async fn compare(&mut self) -> Result<(), ConfigError> {
        let mut generations = self.configs.generations();
        let generation = *generations.borrow_and_update();
        self.marks.begin();
        let mut reader = self.reader.borrow_and_update().clone();
        // Before anything is kept for it.
        self.counts()?;
        self.registration = None;
        let Some(registration) = Box::pin(self.register(&reader)).await? else {
            return Ok(());
        };
        self.ledger.is_to_be_compared();
        Box::pin(self.forget_what_is_not_covered()).await;
        let mut work = self.work();
        self.registration = Some(registration);
        loop {
            if let Some(bytes) = self.waits_for.take() {
                // It is this subscription's until it has read again what there was no room for.
                self.reserved = Some((bytes, self.outbox.room(bytes).await));
            }
            if !self.is_same_reader(&mut reader) || *generations.borrow() != generation {
                return Ok(());
            }
            let marked = self.marks.take();
            if marked.everything {
                return Ok(());
            }
            if marked.lists {
                work.wants_to_list_again();
            }
            if work.is_to_list_again() {
                work.list_all(self.ledger.prefixes().iter().cloned(), self.unnamed().into_iter());
            }
            for (key, since) in marked.keys {
                work.look_at(key, Consistency::Since(since));
            }
            // More come than can be looked at.
            if work.len() > KEYS + self.ledger.named().len() + self.ledger.held().len() {
                return Ok(());
            }
            if !work.is_synced && work.is_whole() {
                work.is_synced = true;
                self.was_synced = true;
                let is_stale = work.is_stale();
                self.send(Update::Synced { is_stale }).await;
                self.marks.synced();
            }
            self.counts()?;
            match work.next(self.reserved.is_some()) {
                // Apart, for most of the time a subscription waits, and then takes no room for what it does not do.
                Next::Look(keys) => Box::pin(self.look(&reader, keys, &mut work)).await?,
                Next::List(prefix) => Box::pin(self.list(&reader, &prefix, &mut work)).await?,
                Next::Wait => {
                    self.reserved = None;
                    work.rests();
                    self.marks.looked(work.is_stale());
                    tokio::select! {
                        () = self.marks.marked() => {}
                        // Where the other end is gone this is about to be.
                        Ok(()) = self.reader.changed() => {}
                        Ok(()) = generations.changed() => {}
                        () = until(work.due()) => {}
                    }
                }
            }
            self.reserved = None;
        }
    }

    /// What is named takes as much as what is held, whether it stands or not.
    fn counts(&self) -> Result<(), ConfigError> {
        let named = self.ledger.named().len() + self.ledger.prefixes().len();
        Ok(self.watched.holds(self.ledger.keys().max(named as u64))?)
    }

    /// Takes up the newest token. False: strategies may decide otherwise for it.
    fn is_same_reader(&self, reader: &mut Reader) -> bool {
        let newest = self.reader.borrow();
        if Arc::ptr_eq(newest.caller(), reader.caller()) {
            return true;
        }
        let is_same = newest.caller().claims_the_same(reader.caller());
        reader.clone_from(&newest);
        is_same
    }

    /// Its place in the hub. None: strategies changed before it could be had.
    async fn register(&self, reader: &Reader) -> Result<Option<Registration>, ConfigError> {
        let mut generations = self.configs.generations();
        let mut pauses = backoff(PAUSES);
        loop {
            let Asked { keys, context, .. } = &self.asked;
            match self
                .configs
                .interest(reader, self.ledger.prefixes(), keys, context)
                .await
            {
                Ok(interest) => return Ok(Some(self.hub.register(reader, interest, &self.marks))),
                Err(error) if !self.may_pass(&error) => return Err(error),
                Err(_) => self.marks.looked(true),
            }
            let pause = Instant::now() + pauses.next().unwrap_or(PAUSES.1);
            tokio::select! {
                () = sleep_until(pause) => {}
                Ok(()) = generations.changed() => return Ok(None),
            }
        }
    }

    /// What the client holds and did not ask for is no part of this.
    async fn forget_what_is_not_covered(&mut self) {
        let forgotten: Vec<Arc<str>> = {
            let held = self.ledger.held();
            held.keys().filter(|key| !self.ledger.covers(key)).cloned().collect()
        };
        for key in forgotten {
            let news = self.removal(&key);
            let room = self.outbox.room(news.bytes()).await;
            self.ledger.held().remove(&key);
            self.tell(news, room);
        }
    }

    fn work(&self) -> Work {
        Work::new(
            self.ledger.prefixes().iter().cloned(),
            self.ledger.named().iter().cloned(),
            self.unnamed().into_iter(),
        )
    }

    /// What the client holds and did not ask for by its name.
    fn unnamed(&self) -> Vec<Arc<str>> {
        let held = self.ledger.held();
        held.keys()
            .filter(|key| !self.ledger.named().contains(*key))
            .cloned()
            .collect()
    }

    /// Reads these keys, and sends what differs.
    async fn look(
        &mut self,
        reader: &Reader,
        keys: Vec<(Arc<str>, Consistency)>,
        work: &mut Work,
    ) -> Result<(), ConfigError> {
        let asked: Vec<_> = keys.iter().map(|(key, consistency)| (&**key, *consistency)).collect();
        let context = &self.asked.context;
        let answers = match asked[..] {
            // As most changes come.
            [(key, consistency)] => vec![self.configs.look(reader, key, context, consistency).await],
            _ => self.configs.batch(reader, &asked, context, TOGETHER_BYTES).await,
        };
        let hub = Arc::clone(&self.hub);
        // One value is no page.
        let is_one = answers.len() == 1;
        let permit = if is_one { None } else { hub.pages.try_enter(reader.id()) };
        self.patience = if is_one || permit.is_some() {
            PATIENCE
        } else {
            Duration::ZERO
        };
        for ((key, consistency), answer) in keys.into_iter().zip(answers) {
            match answer {
                Ok(Read { found, freshness }) => self.found(&key, found, freshness, Some(consistency), work).await,
                Err(ConfigError::ResponseFull) => work.look_at(key, consistency),
                // Nobody gets it, so it is not there.
                Err(ConfigError::Decide(DecideError::Refused(_)) | ConfigError::Key(_))
                    if !self.ledger.named().contains(&key) =>
                {
                    let is_held = self.ledger.held().contains_key(&key);
                    if is_held && !self.remove(&key).await {
                        work.look_at(key, consistency);
                    } else {
                        work.answered(&key);
                    }
                }
                Err(error) if self.may_pass(&error) || work.is_synced => {
                    tracing::debug!(%error, key = &*key, "a watched key cannot be had");
                    work.failed(key);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Lists a page, and sends what differs.
    async fn list(&mut self, reader: &Reader, prefix: &KeyPrefix, work: &mut Work) -> Result<(), ConfigError> {
        let request = ListRequest {
            prefix,
            page_size: TOGETHER,
            page_token: work.page_token(),
            keys_only: self.asked.keys_only,
            bytes: TOGETHER_BYTES,
            context: &self.asked.context,
            under_way: None,
        };
        match self.configs.list(reader, request).await {
            Ok(listed) => {
                let hub = Arc::clone(&self.hub);
                let permit = hub.pages.try_enter(reader.id());
                self.patience = permit.as_ref().map_or(Duration::ZERO, |_| PATIENCE);
                for config in listed.configs {
                    let key = config.key.as_str().into();
                    self.found(&key, Some(config), listed.freshness, None, work).await;
                }
                work.listed(listed.next_page_token);
                Ok(())
            }
            // It took an hour to here: once more from its beginning, where what is held costs little.
            Err(ConfigError::PageToken) => {
                work.list_again();
                Ok(())
            }
            Err(error) if self.may_pass(&error) => {
                tracing::debug!(%error, prefix = prefix.as_str(), "a watched prefix cannot be listed");
                work.list_failed();
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Sends what was found at a key, if that differs from what the client holds. What there is no room for is read again: as it was `asked` for,
    /// or listed.
    async fn found(
        &mut self,
        key: &Arc<str>,
        found: Option<Config>,
        freshness: Freshness,
        asked: Option<Consistency>,
        work: &mut Work,
    ) {
        let again = |work: &mut Work| match asked {
            Some(asked) => work.look_at(Arc::clone(key), asked),
            None => work.owe(Arc::clone(key), Consistency::Since(freshness.as_of)),
        };
        if self.waits_for.is_some() {
            return again(work);
        }
        let is_stale = freshness.source == Source::Stale;
        let lags = found
            .as_ref()
            .is_some_and(|config| self.configs.reads_lag(&config.backend));
        let is_known_here = freshness.as_of < work.began;
        let is_behind = !is_stale
            && !is_known_here
            && found
                .as_ref()
                .is_some_and(|config| self.ledger.is_behind(key, config, lags));
        let held = self.ledger.state(key);
        match (&found, &held) {
            (Some(config), Some(held)) if held.etag == Some(config.entry.etag) => {
                let is_first = self.ledger.is_still_held(key, config.origin);
                if is_first {
                    self.is_shown(key, config.entry.etag);
                }
            }
            // It was known here before the client came, which may have heard of something newer elsewhere.
            (_, Some(_)) if !is_stale && is_known_here => {
                work.look_at(Arc::clone(key), Consistency::After(work.began));
                return;
            }
            // What the client holds is as good as what was found, which may be older; and that there was nothing once is
            // no answer.
            (_, Some(_)) | (None, None) if is_stale || is_behind => return work.failed(Arc::clone(key)),
            _ => {}
        }
        let etag = found.as_ref().map(|config| config.entry.etag);
        match (found, held) {
            (Some(_), Some(held)) if held.etag == etag => {}
            (Some(mut config), _) => {
                if self.asked.keys_only {
                    config.entry.value = bytes::Bytes::new();
                }
                let (etag, origin) = (config.entry.etag, config.origin);
                let news = self.news(Update::Put(config));
                let Some(room) = self.room(news.bytes()).await else {
                    return again(work);
                };
                self.is_shown(key, etag);
                // Before it is sent, so that whoever acknowledges it acknowledges what is held.
                self.ledger.hold(key, etag, origin);
                self.tell(news, room);
            }
            (None, held) => {
                let is_news = held.is_some() || (work.owes(key) && self.ledger.named().contains(key));
                if is_news && !self.remove(key).await {
                    return again(work);
                }
            }
        }
        work.answered(key);
        if is_stale {
            work.failed(Arc::clone(key));
        }
    }

    /// The client holds that from here on.
    fn is_shown(&self, key: &Arc<str>, etag: Etag) {
        if let Some(registration) = &self.registration {
            registration.shown(key, etag);
        }
    }

    /// Whether another try may find something better. A client that had everything once keeps it, whatever fails.
    fn may_pass(&self, error: &ConfigError) -> bool {
        match error {
            ConfigError::Backend(error) => !matches!(error, BackendError::TooManyNames(_)),
            ConfigError::Decide(DecideError::Resting(_) | DecideError::Busy) | ConfigError::StrategyDisabled => true,
            ConfigError::Decide(DecideError::Failed) | ConfigError::StrategyRejected => self.was_synced,
            _ => false,
        }
    }

    /// Room for what was read, soon. None: the client does not take what it is sent, and has nothing held for it until it does.
    async fn room(&mut self, bytes: usize) -> Option<Room> {
        if self.waits_for.is_some() {
            return None;
        }
        if let Some((reserved, room)) = self.reserved.take()
            && bytes <= reserved
        {
            return Some(room);
        }
        let room = timeout(self.patience, self.outbox.room(bytes)).await.ok();
        if room.is_none() {
            self.waits_for = Some(bytes);
        }
        room
    }

    /// False: there is no room to say so.
    async fn remove(&mut self, key: &Arc<str>) -> bool {
        let news = self.removal(key);
        let room = self.room(news.bytes()).await;
        if let Some(room) = room {
            self.ledger.held().remove(key);
            self.tell(news, room);
            return true;
        }
        false
    }

    fn removal(&self, key: &Arc<str>) -> News {
        let held = self.ledger.state(key).and_then(|held| held.etag);
        self.news(Update::Removed {
            key: key.to_string(),
            etag: held.map(|etag| etag.to_string()).unwrap_or_default(),
        })
    }

    async fn send(&mut self, update: Update) {
        // Who waits for room while it keeps some could wait for itself.
        self.reserved = None;
        let news = self.news(update);
        let room = self.outbox.room(news.bytes()).await;
        self.tell(news, room);
    }

    fn tell(&self, news: News, room: Room) {
        self.hub.metrics().told(&news.update);
        self.outbox.send(news.into(), room);
    }

    fn news(&self, update: Update) -> News {
        News {
            subscription: Arc::clone(&self.asked.id),
            update,
        }
    }
}
