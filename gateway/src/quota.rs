//! What one tenant may ask of this replica, however much another asks: requests a second, streams, keys that are watched, and bytes on their
//! way.
//!
//! A tenant beyond its quota is told so at once, and when to come back; it waits for nothing and holds nothing, so it takes nothing
//! from its neighbours.

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use quick_cache::sync::Cache;
use quick_cache::{DefaultHashBuilder, Lifecycle, UnitWeighter};

use crate::audit::NOTED;
use crate::key::TenantId;
use crate::settings::QuotaSettings;

/// Tenants of which it is known what they ask for. Those who ask for least are forgotten first, and begin anew.
const TENANTS: usize = 100_000;

/// Of all requests and answers that are under way. A tenant that has none may have one whatever the others hold.
pub(crate) const UNDER_WAY_BYTES: u64 = 256 << 20;

/// Of all that watchers have sent and that is kept for them.
pub(crate) const KEPT_BYTES: u64 = 128 << 20;
/// Of that, what a tenant may have whatever the others have.
const KEPT_ANYWAY: u64 = 64 << 10;

/// The quotas of one replica.
pub struct Quotas {
    settings: ArcSwap<QuotaSettings>,
    bytes: Arc<AtomicU64>,
    kept: Arc<AtomicU64>,
    shares: Cache<TenantId, Arc<Share>, UnitWeighter, DefaultHashBuilder, WhileUsed>,
}

/// What one tenant asks for.
#[derive(Debug)]
pub struct Share {
    tenant: TenantId,
    requests: ArcSwap<DefaultDirectRateLimiter>,
    streams: AtomicU64,
    watched: AtomicU64,
    under_way: AtomicU64,
    connections: AtomicU64,
    bytes: AtomicU64,
    bytes_of_all: Arc<AtomicU64>,
    kept: AtomicU64,
    kept_of_all: Arc<AtomicU64>,
    most: ArcSwap<QuotaSettings>,
    /// Refusals that are written down.
    notes: DefaultDirectRateLimiter,
    /// That it asks for too much: operators are told so now and then.
    told: DefaultDirectRateLimiter,
}

/// One of its requests, until this is dropped.
#[derive(Debug)]
pub struct UnderWay {
    share: Arc<Share>,
    bytes: AtomicU64,
}

/// Bytes that one of its requests holds besides, until this is dropped.
pub struct Meanwhile<'u> {
    under_way: &'u UnderWay,
    bytes: u64,
}

/// Bytes on their way to it, until this is dropped.
pub struct Weight {
    share: Arc<Share>,
    bytes: u64,
}

/// One of its connections, until this is dropped.
#[derive(Debug)]
pub struct Connected(Arc<Share>);

/// One of its streams, until this is dropped.
pub struct Stream(Arc<Share>);

/// What one of its streams or subscriptions has sent and is kept for it, until this is dropped.
pub struct Kept {
    share: Arc<Share>,
    bytes: AtomicU64,
}

/// Keys that one of its subscriptions holds, until this is dropped.
pub struct Watched {
    share: Arc<Share>,
    keys: AtomicU64,
}

/// A tenant asks for more than its quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Exceeded {
    /// Requests.
    #[error("more than {most} requests a second")]
    Requests {
        /// So many it may.
        most: u32,
        /// After which one more may be asked for.
        retry: Duration,
    },
    /// Requests that are under way.
    #[error("it has {0} requests under way, as many as there are places left for others")]
    AtOnce(u64),
    /// Bytes of requests and answers that are under way.
    #[error("its requests and answers under way hold {0} bytes, as many as there is room left for others")]
    Bytes(u64),
    /// Bytes that are kept for watchers.
    #[error("what its watchers have sent holds {0} bytes, more than there is room left for others")]
    Kept(u64),
    /// Streams.
    #[error("more than {0} streams")]
    Streams(u32),
    /// Keys that are watched.
    #[error("more than {0} watched keys")]
    Watched(u32),
}

impl Quotas {
    /// These, for each tenant.
    #[must_use]
    pub fn new(settings: &QuotaSettings) -> Arc<Self> {
        let lifecycle = WhileUsed;
        let hasher = DefaultHashBuilder::default();
        Arc::new(Self {
            settings: ArcSwap::from_pointee(settings.clone()),
            bytes: Arc::default(),
            kept: Arc::default(),
            shares: Cache::with(TENANTS, TENANTS as u64, UnitWeighter, hasher, lifecycle),
        })
    }

    /// Others hold from here on.
    pub fn set(&self, settings: &QuotaSettings) {
        if **self.settings.load() == *settings {
            return;
        }
        self.settings.store(Arc::new(settings.clone()));
        for (_, share) in self.shares.iter() {
            share.requests.store(limiter(settings).into());
            share.most.store(Arc::new(settings.clone()));
        }
    }

    /// What that tenant asks for.
    #[must_use]
    pub fn of(&self, tenant: &TenantId) -> Arc<Share> {
        if let Some(share) = self.shares.get(tenant) {
            return share;
        }
        let new = || {
            let settings = self.settings.load_full();
            Ok::<_, std::convert::Infallible>(Arc::new(Share {
                tenant: tenant.clone(),
                requests: ArcSwap::from_pointee(limiter(&settings)),
                streams: AtomicU64::new(0),
                watched: AtomicU64::new(0),
                under_way: AtomicU64::new(0),
                connections: AtomicU64::new(0),
                bytes: AtomicU64::new(0),
                bytes_of_all: Arc::clone(&self.bytes),
                kept: AtomicU64::new(0),
                kept_of_all: Arc::clone(&self.kept),
                most: ArcSwap::new(settings),
                notes: RateLimiter::direct(Quota::per_second(NOTED)),
                told: RateLimiter::direct(Quota::per_minute(NonZero::<u32>::MIN)),
            }))
        };
        match self.shares.get_or_insert_with(tenant, new) {
            Ok(share) => share,
            Err(never) => match never {},
        }
    }
}

fn limiter(settings: &QuotaSettings) -> DefaultDirectRateLimiter {
    RateLimiter::direct(Quota::per_second(settings.requests_per_second))
}

impl Share {
    /// One more request, while there are so many places left for all. A tenant gets no more of them than are left, so however many
    /// tenants take all that they get, there is some left for another.
    pub fn request(self: &Arc<Self>, left: u64) -> Result<UnderWay, Exceeded> {
        let request = UnderWay {
            share: Arc::clone(self),
            bytes: AtomicU64::new(0),
        };
        let before = self.under_way.fetch_add(1, Ordering::Relaxed);
        if before >= left.max(1) {
            return Err(self.refused(Exceeded::AtOnce(before)));
        }
        self.message().map(|()| request)
    }

    /// One more that comes on a stream and takes as much as a request.
    pub fn message(&self) -> Result<(), Exceeded> {
        self.requests.load().check().map_err(|not_yet| {
            self.refused(Exceeded::Requests {
                most: self.most.load().requests_per_second.get(),
                retry: not_yet.wait_time_from(DefaultClock::default().now()),
            })
        })
    }

    /// Metrics name no tenant, so the log does: once a minute for each.
    fn refused(&self, exceeded: Exceeded) -> Exceeded {
        if self.told.check().is_ok() {
            tracing::warn!(tenant = %self.tenant, %exceeded, "a tenant asks for more than its quota");
        }
        exceeded
    }

    /// One more connection of its own, while there are so many places left for all; as many as are left. More are a stranger's.
    #[must_use]
    pub fn connection(self: &Arc<Self>, left: u64) -> Option<Connected> {
        let connection = Connected(Arc::clone(self));
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        (before < left.max(1)).then_some(connection)
    }

    /// So many bytes of a stream go out, and are kept until they have been taken.
    #[must_use]
    pub fn weigh(self: &Arc<Self>, bytes: u64) -> Weight {
        self.keep(bytes);
        Weight {
            share: Arc::clone(self),
            bytes,
        }
    }

    /// Whether more of a stream may go out: not while it has as many bytes under way as there is room left for others.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let own = self.bytes.load(Ordering::Relaxed);
        own == 0 || own < UNDER_WAY_BYTES.saturating_sub(self.bytes_of_all.load(Ordering::Relaxed))
    }

    /// Counts them, also where they are too many: who holds them lets them go. Returns what it had before, and what all have now.
    fn keep(&self, bytes: u64) -> (u64, u64) {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let all = self.bytes_of_all.fetch_add(bytes, Ordering::Relaxed) + bytes;
        (before, all)
    }

    fn let_go(&self, bytes: u64) {
        self.bytes_of_all.fetch_sub(bytes, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Whether one more refusal is worth a line of the audit: not of a flood of them.
    #[must_use]
    pub fn may_be_noted(&self) -> bool {
        self.notes.check().is_ok()
    }

    /// One more stream.
    pub fn stream(self: &Arc<Self>) -> Result<Stream, Exceeded> {
        let most = self.most.load().streams;
        let stream = Stream(Arc::clone(self));
        if self.streams.fetch_add(1, Ordering::Relaxed) < u64::from(most) {
            Ok(stream)
        } else {
            Err(self.refused(Exceeded::Streams(most)))
        }
    }

    /// What one more stream or subscription sends, which is nothing yet.
    #[must_use]
    pub fn kept(self: &Arc<Self>) -> Kept {
        Kept {
            share: Arc::clone(self),
            bytes: AtomicU64::new(0),
        }
    }

    /// Keys of one more subscription, which holds none yet.
    #[must_use]
    pub fn watched(self: &Arc<Self>) -> Watched {
        Watched {
            share: Arc::clone(self),
            keys: AtomicU64::new(0),
        }
    }
}

impl UnderWay {
    /// So many bytes of it came, or its answer has so many. They are kept until that has been taken, so they are bounded as requests are.
    pub fn holds(&self, bytes: u64) -> Result<(), Exceeded> {
        let own = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let (others, all) = self.share.keep(bytes);
        // What else it has under way, and as much again as all have.
        let others = others.saturating_sub(own);
        if others > 0 && others + own + bytes > UNDER_WAY_BYTES.saturating_sub(all) {
            return Err(self.share.refused(Exceeded::Bytes(others + own)));
        }
        Ok(())
    }

    fn lets_go(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.share.let_go(bytes);
    }

    /// What it is about to hold, and not until it has been answered.
    #[must_use]
    pub fn meanwhile(&self) -> Meanwhile<'_> {
        Meanwhile {
            under_way: self,
            bytes: 0,
        }
    }
}

impl Meanwhile<'_> {
    /// It is so many bytes now.
    pub fn holds(&mut self, bytes: u64) -> Result<(), Exceeded> {
        self.under_way.lets_go(std::mem::replace(&mut self.bytes, bytes));
        self.under_way.holds(bytes)
    }
}

impl Kept {
    /// It is so many bytes.
    pub fn holds(&self, bytes: u64) -> Result<(), Exceeded> {
        let before = self.bytes.swap(bytes, Ordering::Relaxed);
        let becomes = |count: &AtomicU64| {
            // Added first, so that it is never less than nothing.
            let with_both = count.fetch_add(bytes, Ordering::Relaxed) + bytes;
            count.fetch_sub(before, Ordering::Relaxed);
            with_both - before
        };
        let (own, all) = (becomes(&self.share.kept), becomes(&self.share.kept_of_all));
        if bytes > before && own > KEPT_BYTES.saturating_sub(all).max(KEPT_ANYWAY) {
            return Err(self.share.refused(Exceeded::Kept(own)));
        }
        Ok(())
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.share.let_go(self.bytes.load(Ordering::Relaxed));
        self.share.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Meanwhile<'_> {
    fn drop(&mut self) {
        self.under_way.lets_go(self.bytes);
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let bytes = self.bytes.load(Ordering::Relaxed);
        self.share.kept.fetch_sub(bytes, Ordering::Relaxed);
        self.share.kept_of_all.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.share.let_go(self.bytes);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Watched {
    /// It holds so many.
    pub fn holds(&self, keys: u64) -> Result<(), Exceeded> {
        let before = self.keys.swap(keys, Ordering::Relaxed);
        // Added first, so that it is never less than nothing.
        let all = self.share.watched.fetch_add(keys, Ordering::Relaxed) + keys - before;
        self.share.watched.fetch_sub(before, Ordering::Relaxed);
        let most = self.share.most.load().watched_keys;
        if all > u64::from(most) && keys > before {
            Err(self.share.refused(Exceeded::Watched(most)))
        } else {
            Ok(())
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let keys = self.keys.load(Ordering::Relaxed);
        self.share.watched.fetch_sub(keys, Ordering::Relaxed);
    }
}

/// Who has streams is not forgotten.
#[derive(Clone)]
struct WhileUsed;

impl Lifecycle<TenantId, Arc<Share>> for WhileUsed {
    type RequestState = ();

    fn is_pinned(&self, _: &TenantId, share: &Arc<Share>) -> bool {
        Arc::strong_count(share) > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quotas(requests: u32, streams: u32, watched_keys: u32) -> Arc<Quotas> {
        let settings = QuotaSettings {
            requests_per_second: NonZero::new(requests).unwrap(),
            streams,
            watched_keys,
        };
        Quotas::new(&settings)
    }

    #[tokio::test]
    async fn each_tenant_has_its_own_requests_and_is_told_when_to_come_back() {
        let quotas = quotas(10, 1, 1);
        let [acme, globex] = ["acme", "globex"].map(|tenant| quotas.of(&tenant.parse().unwrap()));
        let refused = (0..100).filter(|_| acme.request(1000).is_err()).count();
        assert!((85..=90).contains(&refused), "a second's worth at once: {refused}");
        let Err(Exceeded::Requests { most: 10, retry }) = acme.request(1000) else {
            panic!("it has none left");
        };
        assert!(
            retry > Duration::ZERO && retry <= Duration::from_millis(100),
            "{retry:?}"
        );
        assert!(globex.request(1000).is_ok());
        // It is true.
        tokio::time::sleep(retry).await;
        assert!(acme.request(1000).is_ok());
        quotas.set(&QuotaSettings {
            requests_per_second: NonZero::new(1000).unwrap(),
            ..QuotaSettings::default()
        });
        assert!((0..100).all(|_| acme.request(1000).is_ok()), "others hold");
    }

    #[test]
    fn each_tenant_leaves_room_for_another() {
        let quotas = quotas(100_000, 1, 1);
        let of = |tenant: &str| quotas.of(&tenant.parse().unwrap());
        let mut under_way = Vec::new();
        for (tenant, gets) in [("acme", 50), ("globex", 25), ("initech", 12)] {
            let share = of(tenant);
            let mut got = 0;
            while let Ok(request) = share.request(99 - under_way.len() as u64) {
                under_way.push(request);
                got += 1;
            }
            assert_eq!(got, gets, "{tenant}");
        }
        assert!(of("hooli").request(0).is_ok(), "who has none gets what there is");
        under_way.clear();
        assert!(of("acme").request(1).is_ok());
    }

    #[test]
    fn what_is_sent_leaves_room_for_what_others_send() {
        let quotas = quotas(100_000, 1, 1);
        let [acme, globex] = ["acme", "globex"].map(|tenant| quotas.of(&tenant.parse().unwrap()));
        let large = 4 << 20;
        let mut held = Vec::new();
        loop {
            let request = acme.request(100).unwrap();
            let sent = request.holds(large);
            held.push(request);
            if sent.is_err() {
                break;
            }
        }
        assert_eq!(held.len(), 33, "half of it, and the one that was refused");
        let other = globex.request(100).unwrap();
        assert_eq!(other.holds(large), Ok(()));
        drop(held);
        let again = acme.request(100).unwrap();
        assert_eq!(again.holds(large), Ok(()));
        drop((again, other));
        assert_eq!(quotas.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_a_request_holds_meanwhile_counts_and_is_let_go() {
        let quotas = quotas(100_000, 1, 1);
        let acme = quotas.of(&"acme".parse().unwrap());
        let (first, second) = (acme.request(100).unwrap(), acme.request(100).unwrap());
        let mut meanwhile = first.meanwhile();
        for pages in 1..=32 {
            assert_eq!(
                meanwhile.holds(pages * (4 << 20)),
                Ok(()),
                "one may hold whatever it needs"
            );
        }
        assert!(matches!(second.holds(4 << 20), Err(Exceeded::Bytes(_))));
        assert_eq!(meanwhile.holds(4 << 20), Ok(()));
        assert_eq!(second.holds(4 << 20), Ok(()));
        drop(meanwhile);
        // What was too much is counted too, until its request goes.
        assert_eq!(quotas.bytes.load(Ordering::Relaxed), 8 << 20);
        drop((first, second));
        assert_eq!(quotas.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_watchers_send_leaves_room_for_what_others_send() {
        let quotas = quotas(100_000, 1, 1);
        let of = |tenant: &str| quotas.of(&tenant.parse().unwrap());
        let mut held = Vec::new();
        for tenant in ["acme", "globex"] {
            let share = of(tenant);
            let before = held.len();
            loop {
                let kept = share.kept();
                let sent = kept.holds(4 << 20);
                held.push(kept);
                if sent.is_err() {
                    break;
                }
            }
            assert_eq!(
                held.len() - before,
                if tenant == "acme" { 17 } else { 8 },
                "{tenant}: half of what there is"
            );
        }
        // However little is left, a tenant may have some.
        let full = of("initech").kept();
        assert!(full.holds(KEPT_BYTES).is_err());
        let other = of("hooli").kept();
        assert_eq!(other.holds(KEPT_ANYWAY), Ok(()));
        assert!(matches!(other.holds(KEPT_ANYWAY + 1), Err(Exceeded::Kept(_))));
        assert_eq!(other.holds(1), Ok(()), "less is never too much");
        drop((held, full, other));
        assert_eq!(quotas.kept.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn streams_and_watched_keys_are_counted_while_they_are_there() {
        let quotas = quotas(1, 2, 10);
        let acme = quotas.of(&"acme".parse().unwrap());
        let streams = [acme.stream().unwrap(), acme.stream().unwrap()];
        assert_eq!(acme.stream().err(), Some(Exceeded::Streams(2)));
        drop(streams);
        assert!(acme.stream().is_ok());
        let (one, other) = (acme.watched(), acme.watched());
        assert_eq!(one.holds(6), Ok(()));
        assert_eq!(other.holds(4), Ok(()));
        assert_eq!(other.holds(5), Err(Exceeded::Watched(10)));
        assert_eq!(one.holds(2), Ok(()), "fewer are never too many");
        assert_eq!(other.holds(8), Ok(()));
        drop(one);
        assert_eq!(other.holds(10), Ok(()));
    }
}
