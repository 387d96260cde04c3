//! Who watches, for operators.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::ledger::Ledger;
use super::marks::Marks;
use crate::identity::VerifiedTenant;
use crate::key::{Etag, TenantId};

/// Refused keys of one stream that are told.
const REFUSED: usize = 100;

/// All streams, in the order in which they came.
#[derive(Default)]
pub struct Roster {
    streams: Mutex<BTreeMap<u64, Arc<Stream>>>,
    opened: AtomicU64,
}

/// By their ids.
type Subscriptions = HashMap<Arc<str>, (Arc<Ledger>, Arc<Marks>)>;

/// One of them.
pub struct Stream {
    peer: String,
    tenant: VerifiedTenant,
    since: SystemTime,
    sent: AtomicU64,
    subscriptions: Mutex<Subscriptions>,
}

/// One of them, until this is dropped.
pub struct Listed {
    roster: Arc<Roster>,
    number: u64,
    stream: Arc<Stream>,
}

/// How one of them does.
#[derive(Debug, Clone)]
pub struct Watching {
    /// Its number: those that came later have greater ones.
    pub number: u64,
    /// Whence it comes.
    pub peer: String,
    /// For whom.
    pub tenant: TenantId,
    /// Who.
    pub subject: Arc<str>,
    /// Since when.
    pub since: SystemTime,
    /// Messages that it was sent.
    pub sent: u64,
    /// Keys that it is yet to be told of.
    pub lag: u64,
    /// Keys that it does not run with, and why: of the first hundred.
    pub refused: BTreeMap<Arc<str>, Box<str>>,
    /// What it acknowledged last, of the key that is asked for.
    pub acknowledged: Option<Etag>,
    /// Keys that it holds.
    pub keys: u64,
    /// Of those, the ones that it acknowledged as they are.
    pub current: u64,
}

impl Roster {
    /// One more.
    pub fn list(self: &Arc<Self>, peer: String, tenant: VerifiedTenant, since: SystemTime) -> Listed {
        let stream = Arc::new(Stream {
            peer,
            tenant,
            since,
            sent: AtomicU64::new(0),
            subscriptions: Mutex::default(),
        });
        // 0 is before all.
        let number = 1 + self.opened.fetch_add(1, Ordering::Relaxed);
        self.streams().insert(number, Arc::clone(&stream));
        Listed {
            roster: Arc::clone(self),
            number,
            stream,
        }
    }

    /// At most so many that came after that one: of `tenant`, or all; those that watch `key`, or all. Whether there are more.
    #[must_use]
    pub fn page(
        &self,
        after: u64,
        at_most: usize,
        tenant: Option<&TenantId>,
        key: Option<&str>,
    ) -> (Vec<Watching>, bool) {
        let later = (Bound::Excluded(after), Bound::Unbounded);
        // What takes long is not done under the lock that each new stream needs.
        let streams: Vec<_> = {
            let streams = self.streams();
            let of_tenant = |stream: &Stream| tenant.is_none_or(|tenant| stream.tenant.id() == tenant);
            let later = streams.range(later).filter(|(_, stream)| of_tenant(stream));
            later.map(|(number, stream)| (*number, Arc::clone(stream))).collect()
        };
        let watching = streams
            .iter()
            .filter(|(_, stream)| key.is_none_or(|key| stream.watches(key)));
        let mut page: Vec<Watching> = watching
            .take(at_most + 1)
            .map(|(number, stream)| stream.watching(*number, key))
            .collect();
        let is_more = page.len() > at_most;
        page.truncate(at_most);
        (page, is_more)
    }

    fn streams(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Stream>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stream {
    /// It was sent another message.
    pub fn was_sent_one(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
    }

    /// It has that subscription.
    pub fn begins(&self, id: &Arc<str>, ledger: &Arc<Ledger>, marks: &Arc<Marks>) {
        let of_it = (Arc::clone(ledger), Arc::clone(marks));
        self.subscriptions().insert(Arc::clone(id), of_it);
    }

    /// It has it no more.
    pub fn ends(&self, id: &str) {
        self.subscriptions().remove(id);
    }

    fn watches(&self, key: &str) -> bool {
        self.subscriptions().values().any(|(ledger, _)| ledger.covers(key))
    }

    fn watching(&self, number: u64, key: Option<&str>) -> Watching {
        let mut watching = Watching {
            number,
            peer: self.peer.clone(),
            tenant: self.tenant.id().clone(),
            subject: Arc::clone(self.tenant.caller().subject()),
            since: self.since,
            sent: self.sent.load(Ordering::Relaxed),
            lag: 0,
            refused: BTreeMap::new(),
            acknowledged: None,
            keys: 0,
            current: 0,
        };
        for (ledger, marks) in self.subscriptions().values() {
            let told = ledger.told(REFUSED);
            watching.keys += told.keys;
            watching.current += told.current;
            watching.lag += marks.lag().unwrap_or(told.keys);
            watching.refused.extend(told.refused);
            let acknowledged = key.and_then(|key| ledger.acknowledged(key));
            watching.acknowledged = watching.acknowledged.max(acknowledged);
        }
        while watching.refused.len() > REFUSED {
            watching.refused.pop_last();
        }
        watching
    }

    fn subscriptions(&self) -> MutexGuard<'_, Subscriptions> {
        self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listed {
    /// The stream.
    #[must_use]
    pub fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.roster.streams().remove(&self.number);
    }
}
