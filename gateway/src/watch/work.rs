//! What a subscription has to do before everything is compared anew: keys to look at, prefixes to list, what could not be had
//! and when it is tried again. Plain state, without a clock of its own but for pauses.

use std::collections::{HashMap, HashSet, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::subscription::{PAUSES, TOGETHER};
use crate::clock::backoff;
use crate::key::KeyPrefix;

/// What is to be looked at, before all is compared anew.
pub(super) struct Work {
    began: Instant,
    /// In the order in which it came.
    queue: VecDeque<Arc<str>>,
    /// Each that is in the queue, as of then or later.
    since: HashMap<Arc<str>, Instant>,
    /// What has to be answered before the client has all that stood.
    owed: HashSet<Arc<str>>,
    /// What could not be had.
    failed: HashSet<Arc<str>>,
    /// Held keys that no page has named yet.
    unlisted: HashSet<Arc<str>>,
    /// The prefixes that are yet to be listed, and where the first of them is.
    prefixes: VecDeque<KeyPrefix>,
    page_token: String,
    /// The list cannot go on before that.
    list_after: Option<Instant>,
    retry_at: Option<Instant>,
    pauses: Box<dyn Iterator<Item = Duration> + Send>,
    /// Whether the client was told that it has everything.
    pub(super) is_synced: bool,
}

/// How it goes on.
pub(super) enum Next {
    Look(Vec<(Arc<str>, Instant)>),
    List(KeyPrefix),
    Wait,
}

impl Work {
    /// All of these prefixes and keys; and the other keys that are held.
    pub(super) fn new(
        prefixes: impl Iterator<Item = KeyPrefix>,
        named: impl Iterator<Item = Arc<str>>,
        held: impl Iterator<Item = Arc<str>>,
    ) -> Self {
        let mut work = Self {
            began: Instant::now(),
            queue: VecDeque::new(),
            since: HashMap::new(),
            owed: HashSet::new(),
            failed: HashSet::new(),
            unlisted: held.collect(),
            prefixes: prefixes.collect(),
            page_token: String::new(),
            list_after: None,
            retry_at: None,
            pauses: Box::new(backoff(PAUSES)),
            is_synced: false,
        };
        for key in named {
            work.owe(key);
        }
        work
    }

    pub(super) fn look_at(&mut self, key: Arc<str>, since: Instant) {
        if let Some(before) = self.since.get_mut(&key) {
            *before = since.max(*before);
        } else {
            self.since.insert(Arc::clone(&key), since);
            self.queue.push_back(key);
        }
    }

    /// The client does not have all before it has an answer for that.
    fn owe(&mut self, key: Arc<str>) {
        self.owed.insert(Arc::clone(&key));
        let began = self.began;
        self.look_at(key, began);
    }

    pub(super) fn owes(&self, key: &Arc<str>) -> bool {
        self.owed.contains(key)
    }

    /// Where the list goes on.
    pub(super) fn page_token(&self) -> &str {
        &self.page_token
    }

    /// The prefix that is being listed, from its beginning.
    pub(super) fn list_again(&mut self) {
        self.page_token = String::new();
    }

    pub(super) fn answered(&mut self, key: &Arc<str>) {
        self.owed.remove(key);
        self.unlisted.remove(key);
        self.failed.remove(key);
    }

    /// Everything was looked at; and what could be had.
    pub(super) fn rests(&mut self) {
        if !self.is_stale() {
            self.retry_at = None;
            self.pauses = Box::new(backoff(PAUSES));
        }
    }

    pub(super) fn failed(&mut self, key: Arc<str>) {
        self.failed.insert(key);
        self.pause();
    }

    pub(super) fn list_failed(&mut self) {
        let at = self.pause();
        self.list_after = Some(at);
    }

    fn pause(&mut self) -> Instant {
        let next = self.pauses.next().unwrap_or(PAUSES.1);
        *self.retry_at.get_or_insert_with(|| Instant::now() + next)
    }

    pub(super) fn listed(&mut self, next_page_token: String) {
        self.list_after = None;
        self.page_token = next_page_token;
        if self.page_token.is_empty() {
            self.prefixes.pop_front();
        }
        if self.prefixes.is_empty() {
            // What no page named stands no more, or moved from where the list was yet to come to where it had been.
            for key in mem::take(&mut self.unlisted) {
                self.owe(key);
            }
        }
    }

    pub(super) fn next(&mut self) -> Next {
        if !self.queue.is_empty() {
            let together = self.queue.len().min(TOGETHER);
            let keys = self.queue.drain(..together);
            let since = &mut self.since;
            // Each in the queue has its time.
            return Next::Look(keys.filter_map(|key| since.remove_entry(&key)).collect());
        }
        match self.prefixes.front() {
            Some(prefix) if self.list_after.is_none() => Next::List(prefix.clone()),
            _ => Next::Wait,
        }
    }

    pub(super) fn is_whole(&self) -> bool {
        self.prefixes.is_empty() && self.owed.is_empty()
    }

    pub(super) fn is_stale(&self) -> bool {
        !self.failed.is_empty() || self.list_after.is_some()
    }

    pub(super) fn due(&self) -> Option<Instant> {
        self.retry_at
    }

    /// What could not be had is looked at once more.
    pub(super) fn retry(&mut self) {
        self.retry_at = None;
        self.list_after = None;
        let now = Instant::now();
        for key in mem::take(&mut self.failed) {
            self.look_at(key, now);
        }
    }
}
