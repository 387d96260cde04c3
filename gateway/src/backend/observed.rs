//! A store, and how it does: operators are told when it is away and when it is back, and what it is asked is counted.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::time::Instant;
use tracing::{Instrument as _, Span, info_span};

use super::metrics::BackendMetrics;
use super::{
    Backend, BackendError, Capabilities, Compared, Conditions, Deleted, Entry, HistoryPage, NewEntry, Page,
    PageRequest, ReadMany, WriteError,
};
use crate::identity::VerifiedTenant;
use crate::key::TenantId;
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
    /// Whom it refused last.
    denied: Mutex<Option<TenantId>>,
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
            denied: Mutex::default(),
        }
    }

    fn noted<T>(
        &self,
        tenant: &VerifiedTenant,
        call: Call,
        answer: Result<T, BackendError>,
    ) -> Result<T, BackendError> {
        self.note(tenant, answer.as_ref().err());
        self.count(call, answer.as_ref().err());
        answer
    }

    fn noted_write<T>(
        &self,
        tenant: &VerifiedTenant,
        call: Call,
        answer: Result<T, WriteError>,
    ) -> Result<T, WriteError> {
        let error = match &answer {
            Err(WriteError::Backend(error)) => Some(error),
            Ok(_) | Err(_) => None,
        };
        self.note(tenant, error);
        self.count(call, error);
        answer
    }

    /// One call for many names; the first failure is how it ended.
    fn noted_many<T>(
        &self,
        tenant: &VerifiedTenant,
        call: Call,
        answers: Vec<Result<T, BackendError>>,
    ) -> Vec<Result<T, BackendError>> {
        if answers.is_empty() {
            return answers;
        }
        let failure = answers.iter().find_map(|answer| answer.as_ref().err());
        // It was answered, if anything was. What it does not answer fails once, for however many names.
        self.note(tenant, failure.filter(|_| answers.iter().all(Result::is_err)));
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

    fn note(&self, tenant: &VerifiedTenant, error: Option<&BackendError>) {
        match error {
            Some(error @ (BackendError::Away(_) | BackendError::Full)) => self.has_failed(error),
            // Of one tenant alone that is no word on the store.
            Some(error @ BackendError::Denied(_)) => {
                let mut denied = self.denied.lock().unwrap_or_else(PoisonError::into_inner);
                let before = denied.replace(tenant.id().clone());
                drop(denied);
                if before.is_some_and(|before| before != *tenant.id()) {
                    self.has_failed(error);
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

    fn has_failed(&self, error: &BackendError) {
        // One that fails for one tenant alone is not away: others' calls go well between its failures.
        if self.failures.fetch_add(1, Ordering::SeqCst) + 1 == IN_A_ROW {
            tracing::warn!(%error, "a store is taken for away");
            self.part.is_away("it does not answer; the log says why");
            self.is_away.store(true, Ordering::SeqCst);
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
        self.noted(tenant, call, self.store.read(tenant, name).instrument(span).await)
    }

    async fn read_many(
        &self,
        tenant: &VerifiedTenant,
        names: &[&PhysicalName],
        bytes: usize,
    ) -> Vec<Result<ReadMany, BackendError>> {
        let (call, span) = self.begin("read_many");
        self.noted_many(
            tenant,
            call,
            self.store.read_many(tenant, names, bytes).instrument(span).await,
        )
    }

    async fn compare(&self, tenant: &VerifiedTenant, names: &[&PhysicalName]) -> Vec<Result<Compared, BackendError>> {
        let (call, span) = self.begin("compare");
        self.noted_many(tenant, call, self.store.compare(tenant, names).instrument(span).await)
    }

    async fn read_version(
        &self,
        tenant: &VerifiedTenant,
        name: &PhysicalName,
        version: u64,
    ) -> Result<Option<Entry>, BackendError> {
        let (call, span) = self.begin("read_version");
        self.noted(
            tenant,
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
            tenant,
            call,
            self.store
                .history(tenant, name, after, entries, bytes)
                .instrument(span)
                .await,
        )
    }

    async fn list(&self, tenant: &VerifiedTenant, request: PageRequest<'_>) -> Result<Page, BackendError> {
        let (call, span) = self.begin("list");
        self.noted(tenant, call, self.store.list(tenant, request).instrument(span).await)
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
            tenant,
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
            tenant,
            call,
            self.store
                .delete(tenant, name, elsewhere, conditions)
                .instrument(span)
                .await,
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

    use super::*;
    use crate::backend::embedded::Embedded;
    use crate::clock::Clock;
    use crate::status::Parts;

    #[tokio::test]
    async fn what_is_refused_to_one_tenant_or_fails_at_once_for_many_names_is_no_word_on_the_store() {
        let folder = tempfile::TempDir::new().unwrap();
        let store = Embedded::open(&folder.path().join("store.redb"), 5, Clock::system()).unwrap();
        let part = Parts::new(Clock::system()).part("backend:a", true, "");
        let observed = Observed::new("a".into(), Arc::new(store), part, BackendMetrics::default());
        let [acme, globex] = ["acme", "globex"].map(VerifiedTenant::for_tests);
        let denied = BackendError::Denied("not yours".to_owned());
        let is_away = || observed.is_away.load(Ordering::SeqCst);
        for _ in 0..20 {
            observed.note(&acme, Some(&denied));
        }
        assert!(!is_away());
        for tenant in [&acme, &globex].repeat(5) {
            observed.note(tenant, Some(&denied));
        }
        assert!(is_away(), "nobody is let");
        observed.note(&acme, None);
        assert!(!is_away());
        let away = BackendError::Away("no answer".to_owned());
        let (call, _) = observed.begin("read_many");
        let answers: Vec<Result<(), _>> = vec![Err(away.clone()); 100];
        observed.noted_many(&acme, call, answers);
        assert!(!is_away(), "one call");
        for _ in 1..IN_A_ROW {
            observed.note(&acme, Some(&away));
        }
        assert!(is_away());
    }
}
