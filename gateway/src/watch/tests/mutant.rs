//! A subscription of a few lines, each time with another bug: whoever validates a promise has to notice it.

use tokio::time::Instant;

use super::*;
use crate::backend::BackendError;
use crate::cache::{Consistency, Source};

/// What is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bug {
    /// Nothing: the validators let it pass.
    None,
    /// What changes between its first look and its place in the hub is lost.
    LooksBeforeItWatches,
    /// What could not be had is not tried again.
    ForgetsWhatFailed,
    /// What could not be had is gone.
    RemovesWhatFailed,
    /// Each look answers when it likes.
    AnswersOutOfOrder,
    /// What is marked while it looks counts as looked at.
    LosesMarks,
    /// One tenant's subscription looks as another.
    LooksAsAnother,
}

pub(super) const KEYS: [&str; 4] = ["t_0", "t_1", "t_2", "t_3"];

pub(super) struct Mutant {
    bug: Bug,
    configs: Arc<Configs>,
    hub: Arc<Hub>,
    marks: Arc<Marks>,
    outbox: Outbox<News>,
    tenant: &'static str,
    held: BTreeMap<String, Option<Etag>>,
}

impl World {
    pub(super) fn watch_with_bug(
        &self,
        bug: Bug,
        tenant: &'static str,
        known: HashMap<String, Option<Etag>>,
    ) -> Client {
        let (outbox, outgoing) = outbox();
        let marks = Arc::new(Marks::default());
        let mutant = Mutant {
            bug,
            configs: Arc::clone(&self.configs),
            hub: Arc::clone(&self.hub),
            marks: Arc::clone(&marks),
            outbox,
            tenant,
            held: known.into_iter().collect(),
        };
        Client {
            marks,
            task: tokio::spawn(mutant.run()),
            outgoing,
            readers: watch::Sender::new(reader(tenant)),
            held: BTreeMap::new(),
            told: Vec::new(),
        }
    }
}

impl Mutant {
    async fn run(mut self) -> ConfigError {
        let mut looks = Instant::now();
        if self.bug == Bug::LooksBeforeItWatches {
            self.look(KEYS.map(str::to_owned).to_vec(), looks).await;
            sleep(Duration::from_millis(fastrand::u64(..3000))).await;
        }
        let keys = KEYS.map(str::to_owned);
        let interest = self
            .configs
            .interest(&reader(self.tenant), &[], &keys, &Context::default())
            .await;
        let _registration = self.hub.register(&reader(self.tenant), interest.unwrap(), &self.marks);
        if self.bug != Bug::LooksBeforeItWatches {
            self.failed(keys.to_vec(), looks).await;
        }
        self.marks.synced();
        loop {
            self.marks.marked().await;
            let marked: Vec<String> = self.marks.take().keys.into_keys().map(|key| key.to_string()).collect();
            looks = Instant::now();
            if self.bug == Bug::AnswersOutOfOrder && fastrand::bool() {
                let late = self.read(&marked, looks).await;
                sleep(Duration::from_millis(fastrand::u64(..3000))).await;
                self.failed(marked.clone(), Instant::now()).await;
                self.send(marked, late).await;
            } else {
                self.failed(marked, looks).await;
            }
            if self.bug == Bug::LosesMarks {
                self.marks.take();
            }
            self.marks.looked(false);
        }
    }

    /// Looks until nothing fails any more, or not.
    async fn failed(&mut self, mut keys: Vec<String>, mut since: Instant) {
        loop {
            keys = self.look(keys, since).await;
            if keys.is_empty() || self.bug == Bug::ForgetsWhatFailed || self.bug == Bug::RemovesWhatFailed {
                return;
            }
            sleep(Duration::from_millis(500)).await;
            since = Instant::now();
        }
    }

    async fn read(&self, keys: &[String], since: Instant) -> Vec<Result<Option<Config>, ConfigError>> {
        let as_another = self.bug == Bug::LooksAsAnother && fastrand::u8(..8) == 0;
        let reader = reader(if as_another { "globex" } else { self.tenant });
        let asked: Vec<_> = keys
            .iter()
            .map(|key| (key.as_str(), Consistency::Since(since)))
            .collect();
        let read = self
            .configs
            .batch(&reader, &asked, &Context::default(), PAGE_BYTES)
            .await;
        let answer = |read: crate::cache::Read<_>| match read.freshness.source {
            // What stood once is no answer.
            Source::Stale => Err(BackendError::Away("it is past its time".to_owned()).into()),
            Source::Backend | Source::Cache => Ok(read.found),
        };
        read.into_iter().map(|read| read.and_then(answer)).collect()
    }

    /// Returns what could not be had.
    async fn look(&mut self, keys: Vec<String>, since: Instant) -> Vec<String> {
        let read = self.read(&keys, since).await;
        self.send(keys, read).await
    }

    async fn send(&mut self, keys: Vec<String>, read: Vec<Result<Option<Config>, ConfigError>>) -> Vec<String> {
        let mut failed = Vec::new();
        for (key, found) in keys.into_iter().zip(read) {
            let update = match found {
                Ok(Some(config)) if self.held.get(&key) == Some(&Some(config.entry.etag)) => continue,
                Ok(Some(config)) => {
                    self.held.insert(key, Some(config.entry.etag));
                    Update::Put(config)
                }
                Err(_) if self.bug != Bug::RemovesWhatFailed => {
                    failed.push(key);
                    continue;
                }
                Ok(None) | Err(_) => {
                    self.held.remove(&key);
                    let etag = String::new();
                    Update::Removed { key, etag }
                }
            };
            let news = News {
                subscription: Arc::default(),
                update,
            };
            let room = self.outbox.room(news.bytes()).await;
            self.outbox.send(news, room);
        }
        failed
    }
}
