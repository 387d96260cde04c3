//! A store, and whether it answers: operators are told when it is away and when it is back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use async_trait::async_trait;

use super::{
    Backend, BackendError, Capabilities, Compared, Conditions, Entry, HistoryPage, NewEntry, Page, PageRequest,
    ReadMany, WriteError,
};
use crate::identity::VerifiedTenant;
use crate::placement::PhysicalName;
use crate::status::Part;

/// Failures without an answer between them, after which a store is away.
const IN_A_ROW: u32 = 5;

/// Does what the store does, and says how that went.
pub struct Observed {
    store: Arc<dyn Backend>,
    part: Part,
    /// Without an answer between them.
    failures: AtomicU32,
    /// It was told so.
    is_away: AtomicBool,
}

impl Observed {
    /// What `store` does is said of `part`.
    #[must_use]
    pub fn new(store: Arc<dyn Backend>, part: Part) -> Self {
        Self {
            store,
            part,
            failures: AtomicU32::new(0),
            is_away: AtomicBool::new(false),
        }
    }

    fn noted<T>(&self, answer: Result<T, BackendError>) -> Result<T, BackendError> {
        self.note(answer.as_ref().err());
        answer
    }

    fn noted_write<T>(&self, answer: Result<T, WriteError>) -> Result<T, WriteError> {
        match &answer {
            Err(WriteError::Backend(error)) => self.note(Some(error)),
            Ok(_) | Err(_) => self.note(None),
        }
        answer
    }

    fn note(&self, error: Option<&BackendError>) {
        match error {
            Some(error @ (BackendError::Away(_) | BackendError::Full)) => {
                // One that fails for one tenant alone is not away: others' calls go well between its failures.
                if self.failures.fetch_add(1, Ordering::SeqCst) + 1 == IN_A_ROW {
                    tracing::warn!(%error, "a store is taken for away");
                    self.part.is_away("it does not answer; the log says why");
                    self.is_away.store(true, Ordering::SeqCst);
                }
            }
            // That it is asked too much, or for what it should not be, is no word on the store.
            Some(BackendError::Busy { .. } | BackendError::TooManyNames(_) | BackendError::Foreign) => {}
            // What is damaged is one key's matter, and was answered.
            Some(BackendError::Damaged(_)) | None => {
                if self.failures.load(Ordering::SeqCst) != 0 {
                    self.failures.store(0, Ordering::SeqCst);
                }
                if self.is_away.load(Ordering::SeqCst) && self.is_away.swap(false, Ordering::SeqCst) {
                    self.part.is_ready("");
                }
            }
        }
    }
}

#[async_trait]
impl Backend for Observed {
    fn capabilities(&self) -> &Capabilities {
        self.store.capabilities()
    }

    async fn read(&self, tenant: &VerifiedTenant, name: &PhysicalName) -> Result<Option<Entry>, BackendError> {
        self.noted(self.store.read(tenant, name).await)
    }

    async fn read_many(
        &self,
        tenant: &VerifiedTenant,
        names: &[&PhysicalName],
        bytes: usize,
    ) -> Vec<Result<ReadMany, BackendError>> {
        let answers = self.store.read_many(tenant, names, bytes).await;
        answers.into_iter().map(|answer| self.noted(answer)).collect()
    }

    async fn compare(&self, tenant: &VerifiedTenant, names: &[&PhysicalName]) -> Vec<Result<Compared, BackendError>> {
        let answers = self.store.compare(tenant, names).await;
        answers.into_iter().map(|answer| self.noted(answer)).collect()
    }

    async fn read_version(
        &self,
        tenant: &VerifiedTenant,
        name: &PhysicalName,
        version: u64,
    ) -> Result<Option<Entry>, BackendError> {
        self.noted(self.store.read_version(tenant, name, version).await)
    }

    async fn history(
        &self,
        tenant: &VerifiedTenant,
        name: &PhysicalName,
        after: &str,
        entries: usize,
        bytes: usize,
    ) -> Result<HistoryPage, BackendError> {
        self.noted(self.store.history(tenant, name, after, entries, bytes).await)
    }

    async fn list(&self, tenant: &VerifiedTenant, request: PageRequest<'_>) -> Result<Page, BackendError> {
        self.noted(self.store.list(tenant, request).await)
    }

    async fn write(
        &self,
        tenant: &VerifiedTenant,
        name: &PhysicalName,
        entry: NewEntry,
        conditions: Conditions,
    ) -> Result<Entry, WriteError> {
        self.noted_write(self.store.write(tenant, name, entry, conditions).await)
    }

    async fn delete(
        &self,
        tenant: &VerifiedTenant,
        name: &PhysicalName,
        elsewhere: bool,
        conditions: Conditions,
    ) -> Result<bool, WriteError> {
        self.noted_write(self.store.delete(tenant, name, elsewhere, conditions).await)
    }
}
