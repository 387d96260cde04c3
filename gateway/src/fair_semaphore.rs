//! A semaphore for so much at once, of which one tenant leaves a quarter to others: who asks for much waits for itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::key::TenantId;

/// Of so many tenants those are looked for who ask for nothing any more.
const LOOKED_THROUGH: usize = 256;

/// One of so many permits.
pub(crate) struct FairSemaphore {
    all: Arc<Semaphore>,
    most: usize,
    tenants: Mutex<HashMap<TenantId, Arc<Semaphore>>>,
}

/// One permit, until this is dropped.
pub(crate) struct Permit {
    _of_all: Option<OwnedSemaphorePermit>,
    _of_its: Option<OwnedSemaphorePermit>,
}

impl FairSemaphore {
    /// With so many permits. Of fewer than four it leaves none to others.
    pub(crate) fn new(permits: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(permits)),
            most: permits - permits / 4,
            tenants: Mutex::default(),
        }
    }

    /// A permit for that tenant, once there is one. Only as many of a tenant's as have one wait among those of all.
    pub(crate) async fn enter(&self, tenant: &TenantId) -> Permit {
        // Neither is ever closed.
        let its = self.of(tenant).acquire_owned().await.ok();
        Permit {
            _of_all: Arc::clone(&self.all).acquire_owned().await.ok(),
            _of_its: its,
        }
    }

    /// A permit for that tenant, if there is one now.
    pub(crate) fn try_enter(&self, tenant: &TenantId) -> Option<Permit> {
        let its = self.of(tenant).try_acquire_owned().ok()?;
        Some(Permit {
            _of_all: Some(Arc::clone(&self.all).try_acquire_owned().ok()?),
            _of_its: Some(its),
        })
    }

    /// Whether somebody waits, or would.
    pub(crate) fn is_full(&self) -> bool {
        let is_full = |semaphore: &Semaphore| semaphore.available_permits() == 0;
        is_full(&self.all) || self.tenants().values().any(|its| is_full(its))
    }

    /// Whether nobody has any.
    #[cfg(test)]
    pub(crate) fn is_free(&self) -> bool {
        self.tenants().values().all(|its| its.available_permits() == self.most)
    }

    fn tenants(&self) -> MutexGuard<'_, HashMap<TenantId, Arc<Semaphore>>> {
        // Nothing in here is left half done.
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, tenant: &TenantId) -> Arc<Semaphore> {
        let mut tenants = self.tenants();
        if tenants.len() >= LOOKED_THROUGH && tenants.len().is_multiple_of(LOOKED_THROUGH) {
            // Who waits or has a place has it too.
            tenants.retain(|_, its| Arc::strong_count(its) > 1);
        }
        let its = tenants.entry(tenant.clone());
        Arc::clone(its.or_insert_with(|| Arc::new(Semaphore::new(self.most))))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

    use futures_util::FutureExt;
    use futures_util::future::join_all;

    use super::*;

    fn tenant(id: &str) -> TenantId {
        id.parse().unwrap()
    }

    #[test]
    fn who_asks_for_much_leaves_room_for_others() {
        let semaphore = FairSemaphore::new(8);
        let (acme, globex) = (tenant("acme"), tenant("globex"));
        let mut much: Vec<_> = (0..100).map(|_| Box::pin(semaphore.enter(&acme))).collect();
        let mut had: Vec<_> = much.iter_mut().filter_map(FutureExt::now_or_never).collect();
        assert_eq!(had.len(), 6);
        let other = join_all((0..2).map(|_| semaphore.enter(&globex))).now_or_never();
        assert!(other.is_some(), "whoever waits of the other's");
        assert!(much[6].as_mut().now_or_never().is_none());
        assert!(semaphore.try_enter(&acme).is_none() && semaphore.try_enter(&globex).is_none());
        had.pop();
        assert!(much[6].as_mut().now_or_never().is_some());
    }

    #[test]
    fn who_has_gone_is_forgotten() {
        let semaphore = FairSemaphore::new(4);
        for number in 0..10 * LOOKED_THROUGH {
            assert!(semaphore.enter(&tenant(&format!("t{number}"))).now_or_never().is_some());
        }
        assert!(semaphore.tenants.lock().unwrap().len() <= LOOKED_THROUGH);
    }
}
