//! What a subscription has to do before everything is compared anew: keys to look at, prefixes to list, what could not be had
//! and when it is tried again. Plain state, without a clock of its own but for pauses.

use std::collections::{HashMap, HashSet, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::subscription::{PAUSES, TOGETHER};
use crate::cache::Consistency;
use crate::clock::backoff;
use crate::key::KeyPrefix;

/// What is to be looked at, before all is compared anew.
pub(super) struct Work {
    /// What is known since then is new enough.
    pub(super) began: Instant,
    /// In the order in which it came.
    queue: VecDeque<Arc<str>>,
    /// How true the answer has to be, of each that is in the queue.
    wanted: HashMap<Arc<str>, Consistency>,
    /// Keys were looked at since a page was listed.
    has_looked: bool,
    /// What has to be answered before the client has all that stood.
    owed: HashSet<Arc<str>>,
    /// What could not be had.
    failed: HashSet<Arc<str>>,
    /// Held keys that no page has named yet.
    unlisted: HashSet<Arc<str>>,
    /// The prefixes that are yet to be listed, and where the first of them is.
    prefixes: VecDeque<KeyPrefix>,
    page_token: String,
    lists_again: bool,
    /// The list cannot go on before that.
    list_after: Option<Instant>,
    retry_at: Option<Instant>,
    pauses: Box<dyn Iterator<Item = Duration> + Send>,
    /// Whether the client was told that it has everything.
    pub(super) is_synced: bool,
}

/// How it goes on.
pub(super) enum Next {
    Look(Vec<(Arc<str>, Consistency)>),
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
            wanted: HashMap::new(),
            has_looked: false,
            owed: HashSet::new(),
            failed: HashSet::new(),
            unlisted: held.collect(),
            prefixes: prefixes.collect(),
            page_token: String::new(),
            lists_again: false,
            list_after: None,
            retry_at: None,
            pauses: Box::new(backoff(PAUSES)),
            is_synced: false,
        };
        for key in named {
            work.owe(key, Consistency::Since(work.began));
        }
        work
    }

    /// These prefixes are listed, from the first; and what is held and no page names is looked at.
    pub(super) fn list_all(&mut self, prefixes: impl Iterator<Item = KeyPrefix>, held: impl Iterator<Item = Arc<str>>) {
        self.lists_again = false;
        self.prefixes = prefixes.collect();
        self.unlisted = held.collect();
        self.page_token = String::new();
        // What is known from before is not new enough.
        self.began = Instant::now();
    }

    /// All is to be listed again, when what is being listed has been.
    pub(super) fn wants_to_list_again(&mut self) {
        self.lists_again = true;
    }

    /// Whether that is now.
    pub(super) fn is_to_list_again(&self) -> bool {
        self.lists_again && self.prefixes.is_empty()
    }

    pub(super) fn look_at(&mut self, key: Arc<str>, wanted: Consistency) {
        if let Some(before) = self.wanted.get_mut(&key) {
            *before = truer(*before, wanted);
        } else {
            self.wanted.insert(Arc::clone(&key), wanted);
            self.queue.push_back(key);
        }
    }

    /// How many keys are yet to be looked at, or again.
    pub(super) fn len(&self) -> usize {
        self.queue.len() + self.failed.len()
    }

    /// The client does not have all before it has an answer for that.
    pub(super) fn owe(&mut self, key: Arc<str>, wanted: Consistency) {
        self.owed.insert(Arc::clone(&key));
        self.look_at(key, wanted);
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

    /// What fails together is tried again together.
    fn pause(&mut self) -> Instant {
        let pauses = &mut self.pauses;
        *self
            .retry_at
            .get_or_insert_with(|| Instant::now() + pauses.next().unwrap_or(PAUSES.1))
    }

    pub(super) fn listed(&mut self, next_page_token: String) {
        self.list_after = None;
        self.has_looked = false;
        self.page_token = next_page_token;
        if self.page_token.is_empty() {
            self.prefixes.pop_front();
        }
        if self.prefixes.is_empty() {
            // What no page named stands no more, or moved from where the list was yet to come to where it had been.
            for key in mem::take(&mut self.unlisted) {
                self.owe(key, Consistency::After(self.began));
            }
        }
    }

    /// Keys and pages in turns, so that what changes all the time keeps nobody from what stands. Where room for `one` message is kept for it, one
    /// key is looked at: others wait for that room.
    pub(super) fn next(&mut self, one: bool) -> Next {
        if self.retry_at.is_some_and(|at| at <= Instant::now()) {
            self.retry();
        }
        let may_list = self.list_after.is_none();
        match self.prefixes.front().filter(|_| may_list) {
            Some(prefix) if self.queue.is_empty() || (self.has_looked && !one) => Next::List(prefix.clone()),
            _ if self.queue.is_empty() => Next::Wait,
            _ => {
                self.has_looked = true;
                let together = self.queue.len().min(if one { 1 } else { TOGETHER });
                let keys = self.queue.drain(..together);
                let wanted = &mut self.wanted;
                // Each in the queue has its own.
                Next::Look(keys.filter_map(|key| wanted.remove_entry(&key)).collect())
            }
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
    fn retry(&mut self) {
        self.retry_at = None;
        self.list_after = None;
        let now = Instant::now();
        for key in mem::take(&mut self.failed) {
            self.look_at(key, Consistency::After(now));
        }
    }
}

/// What answers both.
fn truer(one: Consistency, other: Consistency) -> Consistency {
    match (one, other) {
        (Consistency::After(one) | Consistency::Since(one), Consistency::After(other))
        | (Consistency::After(one), Consistency::Since(other)) => Consistency::After(one.max(other)),
        (Consistency::Since(one), Consistency::Since(other)) => Consistency::Since(one.max(other)),
        (Consistency::Cached, wanted) | (wanted, Consistency::Cached) => wanted,
        (Consistency::Latest, _) | (_, Consistency::Latest) => Consistency::Latest,
    }
}
