//! Room for so much at once, of which one tenant leaves a quarter to others: who asks for much waits for itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::key::TenantId;

/// Of so many tenants those are looked for who ask for nothing any more.
const LOOKED_THROUGH: usize = 256;

/// It.
pub(in crate::backend) struct Room {
    all: Semaphore,
    most: usize,
    tenants: Mutex<HashMap<TenantId, Arc<Semaphore>>>,
}

/// A place in it, until this is dropped.
pub(in crate::backend) struct Place<'r> {
    _of_all: Option<SemaphorePermit<'r>>,
    _of_its: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// With so many places; at least four.
    pub(in crate::backend) fn new(places: usize) -> Self {
        Self {
            all: Semaphore::new(places),
            most: places - places / 4,
            tenants: Mutex::default(),
        }
    }

    /// A place for that tenant, once there is one. Only as many of a tenant's as have one wait among those of all.
    pub(in crate::backend) async fn enter(&self, tenant: &TenantId) -> Place<'_> {
        // Neither is ever closed.
        let its = self.of(tenant).acquire_owned().await.ok();
        Place {
            _of_all: self.all.acquire().await.ok(),
            _of_its: its,
        }
    }

    fn of(&self, tenant: &TenantId) -> Arc<Semaphore> {
        // Nothing in here is left half done.
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
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
        let room = Room::new(8);
        let (acme, globex) = (tenant("acme"), tenant("globex"));
        let mut much: Vec<_> = (0..100).map(|_| Box::pin(room.enter(&acme))).collect();
        let mut had: Vec<_> = much.iter_mut().filter_map(FutureExt::now_or_never).collect();
        assert_eq!(had.len(), 6);
        let other = join_all((0..2).map(|_| room.enter(&globex))).now_or_never();
        assert!(other.is_some(), "whoever waits of the other's");
        assert!(much[6].as_mut().now_or_never().is_none());
        had.pop();
        assert!(much[6].as_mut().now_or_never().is_some());
    }

    #[test]
    fn who_has_gone_is_forgotten() {
        let room = Room::new(4);
        for number in 0..10 * LOOKED_THROUGH {
            assert!(room.enter(&tenant(&format!("t{number}"))).now_or_never().is_some());
        }
        assert!(room.tenants.lock().unwrap().len() <= LOOKED_THROUGH);
    }
}
