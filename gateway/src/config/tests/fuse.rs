//! Stores that fail at a chosen call, as when a process or a network ends between two steps of a request.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;

use crate::backend::{
    Backend, BackendError, Capabilities, Conditions, Deleted, Entry, HistoryPage, NewEntry, Page, PageRequest,
    WriteError,
};
use crate::identity::VerifiedTenant;
use crate::placement::PhysicalName;

/// Where a request is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// Before the call.
    Before,
    /// After it: what it did is done, and nobody is told.
    After,
}

/// How many calls are still let through, of all stores together; then each fails. None: all of them.
#[derive(Debug, Default)]
pub(super) struct Fuse(Mutex<Option<(usize, Cut)>>);

impl Fuse {
    pub(super) fn arm(&self, calls: usize, cut: Cut) {
        *self.0.lock().unwrap() = Some((calls, cut));
    }

    /// True if it had blown.
    pub(super) fn disarm(&self) -> bool {
        let before = self.0.lock().unwrap().take();
        before.is_some_and(|(left, _)| left == usize::MAX)
    }

    /// Lets a call through, or not, or lets it through and loses its answer.
    fn burn(&self) -> Result<bool, BackendError> {
        let mut fuse = self.0.lock().unwrap();
        match &mut *fuse {
            None => Ok(true),
            Some((usize::MAX, _)) => Err(cut()),
            Some((left @ 0, how)) => {
                *left = usize::MAX;
                match how {
                    Cut::Before => Err(cut()),
                    Cut::After => Ok(false),
                }
            }
            Some((left, _)) => {
                *left -= 1;
                Ok(true)
            }
        }
    }
}

fn cut() -> BackendError {
    BackendError::Away("cut off".to_owned())
}

/// A store behind a fuse.
pub(super) struct Fused {
    pub(super) store: Arc<dyn Backend>,
    pub(super) fuse: Arc<Fuse>,
}

impl Fused {
    async fn through<T, E: From<BackendError>>(&self, call: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let told = self.fuse.burn()?;
        let answer = call.await;
        if told { answer } else { Err(cut().into()) }
    }
}

#[async_trait]
impl Backend for Fused {
    fn capabilities(&self) -> &Capabilities {
        self.store.capabilities()
    }

    async fn read(&self, tenant: &VerifiedTenant, name: &PhysicalName) -> Result<Option<Entry>, BackendError> {
        self.through(self.store.read(tenant, name)).await
    }

    async fn read_version(
        &self,
        tenant: &VerifiedTenant,
        name: &PhysicalName,
        version: u64,
    ) -> Result<Option<Entry>, BackendError> {
        self.through(self.store.read_version(tenant, name, version)).await
    }

    async fn history(
        &self,
        tenant: &VerifiedTenant,
        name: &PhysicalName,
        after: &str,
        entries: usize,
        bytes: usize,
    ) -> Result<HistoryPage, BackendError> {
        self.through(self.store.history(tenant, name, after, entries, bytes))
            .await
    }

    async fn list(&self, tenant: &VerifiedTenant, request: PageRequest<'_>) -> Result<Page, BackendError> {
        self.through(self.store.list(tenant, request)).await
    }

    async fn write(
        &self,
        tenant: &VerifiedTenant,
        name: &PhysicalName,
        entry: NewEntry,
        conditions: Conditions,
    ) -> Result<Entry, WriteError> {
        self.through(self.store.write(tenant, name, entry, conditions)).await
    }

    async fn delete(
        &self,
        tenant: &VerifiedTenant,
        name: &PhysicalName,
        elsewhere: bool,
        conditions: Conditions,
    ) -> Result<Deleted, WriteError> {
        self.through(self.store.delete(tenant, name, elsewhere, conditions))
            .await
    }
}
