//! A store that does as it is told: it counts its calls, takes its time, fails, and lags.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, sleep};

use crate::backend::embedded::CAPABILITIES;
use crate::backend::{
    Access, Backend, BackendError, Capabilities, Conditions, Deleted, Entry, HistoryPage, NewEntry, Page, PageRequest,
    Precondition, ReadMany, WriteError, scope_root,
};
use crate::clock::Clock;
use crate::identity::VerifiedTenant;
use crate::key::{Etag, Life, TenantId};
use crate::placement::{PhysicalName, Place};

/// Of a store that others write to.
const SHARED: Capabilities = Capabilities {
    others_write: true,
    ..CAPABILITIES
};

/// Of one that may be behind, besides.
const LAGGING: Capabilities = Capabilities {
    reads_lag: true,
    ..SHARED
};

#[derive(Default)]
pub(crate) struct Fake {
    lags: AtomicBool,
    states: Mutex<BTreeMap<PhysicalName, Entry>>,
    lives: AtomicUsize,
    calls: AtomicUsize,
    fails: AtomicBool,
    fails_for: Mutex<Option<TenantId>>,
    /// Reads that have seen what they will answer.
    looks: tokio::sync::watch::Sender<usize>,
    /// Before the next read is answered.
    answers_after: Mutex<Duration>,
    yesterday: Mutex<Option<BTreeMap<PhysicalName, Entry>>>,
    /// Before and after it does something, drawn up to this.
    pub(crate) pause: Mutex<Duration>,
}

pub(crate) fn entry(value: &str) -> NewEntry {
    NewEntry {
        value: value.to_owned().into(),
        content_type: "text/plain".to_owned(),
        secret: false,
    }
}

impl Fake {
    /// Behind everybody's back.
    pub(crate) fn put(&self, place: &Place, value: &str) -> Entry {
        self.change(&place.name, value)
    }

    fn change(&self, name: &PhysicalName, value: &str) -> Entry {
        let mut states = self.states.lock().unwrap();
        let begin = || {
            let begun = self.lives.fetch_add(1, Ordering::SeqCst);
            // No other store's.
            let whose = std::ptr::from_ref(self).addr();
            Life(ulid::Ulid::from_parts(
                u64::try_from(begun).unwrap(),
                u128::try_from(whose).unwrap(),
            ))
        };
        let before = states.get(name).map(|before| before.etag);
        let etag = Etag {
            life: before.map_or_else(begin, |before| before.life),
            version: before.map_or(1, |before| before.version + 1),
        };
        let stands = Entry {
            value: value.to_owned().into(),
            content_type: "text/plain".to_owned(),
            etag,
            updated_at: Clock::system().now(),
            updated_by: "tester".to_owned(),
            secret: false,
        };
        states.insert(name.clone(), stands.clone());
        stands
    }

    /// Reads since this was asked last.
    pub(crate) fn calls(&self) -> usize {
        self.calls.swap(0, Ordering::SeqCst)
    }

    pub(crate) fn fail(&self, fails: bool) {
        self.fails.store(fails, Ordering::SeqCst);
    }

    /// This tenant's reads fail.
    pub(crate) fn fail_for(&self, tenant: &TenantId) {
        *self.fails_for.lock().unwrap() = Some(tenant.clone());
    }

    /// Behind everybody's back.
    pub(crate) fn remove(&self, place: &Place) {
        self.states.lock().unwrap().remove(&place.name);
    }

    /// The next read is answered so long after the store looked.
    pub(crate) fn answer_after(&self, time: Duration) {
        *self.answers_after.lock().unwrap() = time;
    }

    /// It says that it may be behind.
    pub(crate) fn lag(&self) {
        self.lags.store(true, Ordering::SeqCst);
    }

    /// Reads that have looked.
    pub(crate) fn looks(&self) -> usize {
        *self.looks.borrow()
    }

    /// Returns when so many reads have looked.
    pub(crate) async fn looked(&self, reads: usize) {
        let mut looks = self.looks.subscribe();
        looks.wait_for(|looks| *looks >= reads).await.unwrap();
    }

    pub(crate) fn state(&self) -> BTreeMap<PhysicalName, Entry> {
        self.states.lock().unwrap().clone()
    }

    /// Reads see this from here on, whatever is written; or what stands.
    pub(crate) fn answer_with(&self, yesterday: Option<BTreeMap<PhysicalName, Entry>>) {
        *self.yesterday.lock().unwrap() = yesterday;
    }

    async fn pause(&self) -> Result<(), BackendError> {
        let longest = *self.pause.lock().unwrap();
        sleep(Duration::from_millis(1) + longest.mul_f64(fastrand::f64())).await;
        if self.fails.load(Ordering::SeqCst) {
            return Err(BackendError::Away("told so".to_owned()));
        }
        Ok(())
    }

    fn look(&self, name: &PhysicalName) -> Option<Entry> {
        let yesterday = self.yesterday.lock().unwrap();
        match &*yesterday {
            Some(yesterday) => yesterday.get(name).cloned(),
            None => self.states.lock().unwrap().get(name).cloned(),
        }
    }
}

fn unasked<T>() -> Result<T, BackendError> {
    Err(BackendError::Damaged("no cache asks for this".to_owned()))
}

#[async_trait]
impl Backend for Fake {
    fn capabilities(&self) -> &Capabilities {
        if self.lags.load(Ordering::SeqCst) {
            &LAGGING
        } else {
            &SHARED
        }
    }

    async fn read(&self, tenant: &VerifiedTenant, name: &PhysicalName) -> Result<Option<Entry>, BackendError> {
        scope_root(tenant, name.range(), Access::Read)?;
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.pause().await?;
        if self.fails_for.lock().unwrap().as_ref() == Some(tenant.id()) {
            return Err(BackendError::Away("this tenant's session".to_owned()));
        }
        let found = self.look(name);
        self.looks.send_modify(|looks| *looks += 1);
        let late = std::mem::take(&mut *self.answers_after.lock().unwrap());
        sleep(late).await;
        self.pause().await?;
        Ok(found)
    }

    async fn read_many(
        &self,
        tenant: &VerifiedTenant,
        names: &[&PhysicalName],
        _: usize,
    ) -> Vec<Result<ReadMany, BackendError>> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let paused = self.pause().await;
        let look = |name: &&PhysicalName| {
            paused.clone()?;
            scope_root(tenant, name.range(), Access::Read)?;
            Ok(self.look(name).map_or(ReadMany::Nothing, ReadMany::Found))
        };
        names.iter().map(look).collect()
    }

    async fn read_version(&self, _: &VerifiedTenant, _: &PhysicalName, _: u64) -> Result<Option<Entry>, BackendError> {
        unasked()
    }

    async fn history(
        &self,
        _: &VerifiedTenant,
        _: &PhysicalName,
        _: &str,
        _: usize,
        _: usize,
    ) -> Result<HistoryPage, BackendError> {
        unasked()
    }

    async fn list(&self, tenant: &VerifiedTenant, request: PageRequest<'_>) -> Result<Page, BackendError> {
        scope_root(tenant, request.range, Access::Read)?;
        let mut page = Page::new(Instant::now());
        self.pause().await?;
        let yesterday = self.yesterday.lock().unwrap().clone();
        let states = yesterday.unwrap_or_else(|| self.state());
        self.pause().await?;
        for (name, entry) in states {
            let text = name.name().as_str();
            if name.range() == request.range && text.starts_with(request.prefix) && text > request.after {
                page.more = page.entries.len() == request.entries;
                if page.more {
                    break;
                }
                page.entries.push((name.name().clone(), entry));
            }
        }
        Ok(page)
    }

    async fn write(
        &self,
        _: &VerifiedTenant,
        name: &PhysicalName,
        entry: NewEntry,
        conditions: Conditions,
    ) -> Result<Entry, WriteError> {
        self.pause().await?;
        if conditions.precondition == Precondition::Never {
            return Err(WriteError::PreconditionFailed);
        }
        let text = String::from_utf8(entry.value.to_vec()).unwrap();
        let mut stands = self.change(name, &text);
        stands.value.clear();
        stands.secret = entry.secret;
        self.pause().await?;
        Ok(stands)
    }

    async fn delete(
        &self,
        _: &VerifiedTenant,
        name: &PhysicalName,
        elsewhere: bool,
        _: Conditions,
    ) -> Result<Deleted, WriteError> {
        self.pause().await?;
        let stood = self.states.lock().unwrap().remove(name).is_some();
        self.pause().await?;
        Ok(if stood {
            Deleted::Stood(None)
        } else {
            Deleted::nothing(elsewhere)
        })
    }
}
