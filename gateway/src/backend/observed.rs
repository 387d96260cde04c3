//! A store, and how it does: operators are told when it is away and when it is back, and what it is asked is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use async_trait::async_trait;
use tokio::time::Instant;
use tracing::{Instrument as _, Span, info_span};

use super::metrics::BackendMetrics;
use super::{
    Backend, BackendError, Capabilities, Compared, Conditions, Deleted, Entry, HistoryPage, NewEntry, Page,
    PageRequest, ReadMany, WriteError,
};
use crate::identity::VerifiedTenant;
use crate::placement::PhysicalName;
use crate::status::Part;
use crate::telemetry::TRACE;

/// Failures without an answer between them, after which a store is away.
const IN_A_ROW: u32 = 5;

/// Does what the store does, and says how that went.
pub struct Observed {
    id: Arc<str>,
    store: Arc<dyn Backend>,
    part: Part,
    metrics: BackendMetrics,
    /// Without an answer between them.
    failures: AtomicU32,
    /// It was told so.
    is_away: AtomicBool,
}

impl Observed {
    /// What `store` does is said of `part`, and counted under `id`.
    #[must_use]
    pub fn new(id: Arc<str>, store: Arc<dyn Backend>, part: Part, metrics: BackendMetrics) -> Self {
        metrics.begin(&id);
        Self {
            id,
            store,
            part,
            metrics,
            failures: AtomicU32::new(0),
            is_away: AtomicBool::new(false),
        }
    }

    fn noted<T>(&self, call: Call, answer: Result<T, BackendError>) -> Result<T, BackendError> {
        self.note(answer.as_ref().err());
        self.count(call, answer.as_ref().err());
        answer
    }

    fn noted_write<T>(&self, call: Call, answer: Result<T, WriteError>) -> Result<T, WriteError> {
        let error = match &answer {
            Err(WriteError::Backend(error)) => Some(error),
            Ok(_) | Err(_) => None,
        };
        self.note(error);
        self.count(call, error);
        answer
    }

    /// One call for many names; the first failure is how it ended.
    fn noted_many<T>(&self, call: Call, answers: Vec<Result<T, BackendError>>) -> Vec<Result<T, BackendError>> {
        if answers.is_empty() {
            return answers;
        }
        let failure = answers.iter().find_map(|answer| answer.as_ref().err());
        // It was answered, if anything was. What it does not answer fails once, for however many names.
        self.note(failure.filter(|_| answers.iter().all(Result::is_err)));
        self.count(call, failure);
        answers
    }

    fn begin(&self, operation: &'static str) -> (Call, Span) {
        let span = info_span!(
            target: TRACE, "backend", otel.name = operation, otel.kind = "client", tagway.backend = &*self.id
        );
        let began = Instant::now();
        (Call { operation, began }, span)
    }

    fn count(&self, Call { operation, began }: Call, error: Option<&BackendError>) {
        let outcome = error.map_or("answered", BackendError::kind);
        self.metrics.ended(&self.id, operation, outcome, began.elapsed());
    }

    fn note(&self, error: Option<&BackendError>) {
        match error {
            Some(error @ (BackendError::Away(_) | BackendError::Denied(_) | BackendError::Full)) => {
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

/// One that is under way.
struct Call {
    operation: &'static str,
    began: Instant,
}

#[async_trait]
impl Backend for Observed {
    fn capabilities(&self) -> &Capabilities {
        self.store.capabilities()
    }

    async fn read(&self, tenant: &VerifiedTenant, name: &PhysicalName) -> Result<Option<Entry>, BackendError> {
        let (call, span) = self.begin("read");
        self.noted(call, self.store.read(tenant, name).instrument(span).await)
    }

    async fn read_many(
        &self,
        tenant: &VerifiedTenant,
        names: &[&PhysicalName],
        bytes: usize,
    ) -> Vec<Result<ReadMany, BackendError>> {
        let (call, span) = self.begin("read_many");
        self.noted_many(call, self.store.read_many(tenant, names, bytes).instrument(span).await)
    }

    async fn compare(&self, tenant: &VerifiedTenant, names: &[&PhysicalName]) -> Vec<Result<Compared, BackendError>> {
        let (call, span) = self.begin("compare");
        self.noted_many(call, self.store.compare(tenant, names).instrument(span).await)
    }

    async fn read_version(
        &self,
        tenant: &VerifiedTenant,
        name: &PhysicalName,
        version: u64,
    ) -> Result<Option<Entry>, BackendError> {
        let (call, span) = self.begin("read_version");
        self.noted(
            call,
            self.store.read_version(tenant, name, version).instrument(span).await,
        )
    }

    async fn history(
        &self,
        tenant: &VerifiedTenant,
        name: &PhysicalName,
        after: &str,
        entries: usize,
        bytes: usize,
    ) -> Result<HistoryPage, BackendError> {
        let (call, span) = self.begin("history");
        self.noted(
            call,
            self.store
                .history(tenant, name, after, entries, bytes)
                .instrument(span)
                .await,
        )
    }

    async fn list(&self, tenant: &VerifiedTenant, request: PageRequest<'_>) -> Result<Page, BackendError> {
        let (call, span) = self.begin("list");
        self.noted(call, self.store.list(tenant, request).instrument(span).await)
    }

    async fn write(
        &self,
        tenant: &VerifiedTenant,
        name: &PhysicalName,
        entry: NewEntry,
        conditions: Conditions,
    ) -> Result<Entry, WriteError> {
        let (call, span) = self.begin("write");
        self.noted_write(
            call,
            self.store.write(tenant, name, entry, conditions).instrument(span).await,
        )
    }

    async fn delete(
        &self,
        tenant: &VerifiedTenant,
        name: &PhysicalName,
        elsewhere: bool,
        conditions: Conditions,
    ) -> Result<Deleted, WriteError> {
        let (call, span) = self.begin("delete");
        self.noted_write(
            call,
            self.store
                .delete(tenant, name, elsewhere, conditions)
                .instrument(span)
                .await,
        )
    }
}
