#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

mod mutant;
mod promises;
mod snapshot;
pub(crate) mod store;

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::advance;

use super::*;
use crate::backend::conformance::names;
use crate::backend::{BackendError, Conditions, NewEntry, PageRequest, Precondition, ReadMany, Urgency, WriteError};
use crate::identity::VerifiedTenant;
use crate::key::Etag;
use crate::placement::PhysicalName;
use store::{Fake, entry};

const POLICY: CachePolicy = CachePolicy {
    ttl: Duration::from_secs(10),
    stale: Duration::from_secs(100),
    negative: Duration::from_secs(2),
};

impl Cache {
    /// One that believes nothing, for tests of what is behind it.
    pub(crate) fn of_nothing() -> Arc<Self> {
        let nothing = CachePolicy {
            ttl: Duration::ZERO,
            stale: Duration::ZERO,
            negative: Duration::ZERO,
        };
        Self::new(1 << 20, nothing, nothing)
    }
}

/// A cache before one store, and one tenant's place in it.
struct World {
    cache: Arc<Cache>,
    store: Arc<Fake>,
    backend: Arc<dyn Backend>,
    tenant: VerifiedTenant,
    place: Place,
}

fn place(name: PhysicalName) -> Place {
    Place {
        backend: "store".into(),
        name,
    }
}

impl World {
    fn new() -> Self {
        Self::of(1 << 20)
    }

    fn of(bytes: u64) -> Self {
        let store = Arc::new(Fake::default());
        let tenant = VerifiedTenant::for_tests("acme");
        let [own, _] = names(&tenant, "ns", "t_a");
        Self {
            cache: Cache::new(bytes, POLICY, POLICY),
            backend: Arc::clone(&store) as Arc<dyn Backend>,
            store,
            place: place(own),
            tenant,
        }
    }

    async fn read_as(&self, consistency: Consistency) -> Result<Read<Option<Entry>>, BackendError> {
        self.cache
            .read(&self.tenant, &self.backend, &self.place, POLICY, consistency)
            .await
    }

    /// The value, and where it came from.
    async fn read(&self) -> Result<(Option<String>, Source), BackendError> {
        let read = self.read_as(Consistency::Cached).await?;
        Ok((text(read.found), read.freshness.source))
    }

    async fn write(&self, value: &str) -> Entry {
        let written = self.cache.write(
            &self.tenant,
            &self.backend,
            &self.place,
            entry(value),
            Conditions::default(),
        );
        written.await.unwrap()
    }

    async fn delete(&self) -> bool {
        let deleted = self
            .cache
            .delete(&self.tenant, &self.backend, &self.place, false, Conditions::default());
        deleted.await.unwrap().something()
    }
}

/// Anybody may have writes refused as often as the quota lets them: none has watchers look for long, or others told.
#[tokio::test(start_paused = true)]
async fn who_is_refused_leaves_no_doubt() {
    let world = World::new();
    world.write("one").await;
    world.cache.feed().take().await;
    let conditions = Conditions {
        precondition: Precondition::Never,
        once: None,
    };
    let refused = world
        .cache
        .write(&world.tenant, &world.backend, &world.place, entry("two"), conditions);
    assert!(matches!(refused.await, Err(WriteError::PreconditionFailed)));
    let taken = world.cache.feed().take().await;
    assert_ne!(taken.places[&world.place].doubt, Doubt::Open);
    // What its writer did not know of may be known to nobody here.
    world.store.put(&world.place, "another");
    assert_eq!(world.read().await.unwrap(), some("another", Source::Backend));
}

fn text(found: Option<Entry>) -> Option<String> {
    Some(String::from_utf8(found?.value.to_vec()).unwrap())
}

fn some(value: &str, source: Source) -> (Option<String>, Source) {
    (Some(value.to_owned()), source)
}

#[tokio::test(start_paused = true)]
async fn a_thousand_at_once_make_one_call() {
    let world = World::new();
    world.store.put(&world.place, "one");
    let reads = join_all((0..1000).map(|_| world.read())).await;
    assert!(
        reads
            .into_iter()
            .all(|read| read.unwrap() == some("one", Source::Backend))
    );
    assert_eq!(world.store.calls(), 1);
    assert_eq!(world.read().await.unwrap(), some("one", Source::Cache));
    // One that is not there, too.
    world.delete().await;
    let reads = join_all((0..1000).map(|_| world.read())).await;
    assert!(reads.into_iter().all(|read| read.unwrap().0.is_none()));
    assert_eq!(world.store.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_leaves_takes_nobody_along() {
    let world = Arc::new(World::new());
    world.store.put(&world.place, "one");
    let leaving = tokio::spawn({
        let world = Arc::clone(&world);
        async move { world.read().await }
    });
    tokio::task::yield_now().await;
    let staying = tokio::spawn({
        let world = Arc::clone(&world);
        async move { world.read().await }
    });
    tokio::task::yield_now().await;
    leaving.abort();
    assert_eq!(staying.await.unwrap().unwrap(), some("one", Source::Backend));
    assert_eq!(world.store.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_past_its_time_is_served_while_it_is_asked_for() {
    let world = World::new();
    world.store.put(&world.place, "one");
    world.read().await.unwrap();
    world.store.put(&world.place, "two");
    advance(Duration::from_secs(8)).await;
    assert_eq!(world.read().await.unwrap(), some("one", Source::Cache), "believed");
    advance(Duration::from_secs(3)).await;
    let reads = join_all((0..100).map(|_| world.read())).await;
    assert!(
        reads
            .into_iter()
            .all(|read| read.unwrap() == some("one", Source::Stale))
    );
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.store.calls(), 2, "asked for once, behind a hundred");
    assert_eq!(world.read().await.unwrap(), some("two", Source::Cache));
    // Past all of its time it is not served, but asked for.
    advance(Duration::from_mins(2)).await;
    world.store.put(&world.place, "three");
    assert_eq!(world.read().await.unwrap(), some("three", Source::Backend));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_is_stood_in_for_until_its_time_is_over() {
    let world = World::new();
    world.store.put(&world.place, "one");
    world.store.fail(true);
    for calls in [1, 1] {
        world.read().await.unwrap_err();
        assert_eq!(world.store.calls(), calls, "a failure is no answer to remember");
    }
    world.store.fail(false);
    world.read().await.unwrap();
    world.store.fail(true);
    let read = async || world.read_as(Consistency::Cached).await;
    for _ in 0..10 {
        advance(Duration::from_secs(10)).await;
        let read = read().await.unwrap();
        assert_eq!(text(read.found).unwrap(), "one");
    }
    let stale = read().await.unwrap().freshness;
    assert_eq!((stale.source, stale.as_of.elapsed().as_secs()), (Source::Stale, 100));
    world.read_as(Consistency::Latest).await.unwrap_err();
    advance(Duration::from_secs(11)).await;
    read().await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn that_there_is_none_is_believed_for_its_own_time() {
    let world = World::new();
    assert_eq!(world.read().await.unwrap(), (None, Source::Backend));
    assert_eq!(world.read().await.unwrap(), (None, Source::Cache));
    world.store.put(&world.place, "one");
    advance(Duration::from_secs(2)).await;
    assert_eq!(world.read().await.unwrap(), some("one", Source::Backend));
}

#[tokio::test(start_paused = true)]
async fn the_latest_is_asked_for_and_refreshes_what_is_kept() {
    let world = World::new();
    world.store.put(&world.place, "one");
    world.read().await.unwrap();
    world.store.put(&world.place, "two");
    let latest = world.read_as(Consistency::Latest).await.unwrap();
    assert_eq!(text(latest.found).unwrap(), "two");
    assert_eq!(world.read().await.unwrap(), some("two", Source::Cache));
}

#[tokio::test(start_paused = true)]
async fn own_writes_are_read_and_cost_no_read() {
    let world = World::new();
    world.write("one").await;
    assert_eq!(world.read().await.unwrap(), some("one", Source::Cache));
    world.write("two").await;
    assert_eq!(world.read().await.unwrap(), some("two", Source::Cache));
    assert_eq!(world.store.calls(), 0);
    world.delete().await;
    assert_eq!(world.read().await.unwrap(), (None, Source::Backend));
    // A write of which nobody knows whether it was done leaves nothing to believe, and nothing to stand in.
    world.write("three").await;
    world.store.fail(true);
    let failed = world.cache.write(
        &world.tenant,
        &world.backend,
        &world.place,
        entry("four"),
        Conditions::default(),
    );
    failed.await.unwrap_err();
    world.read().await.unwrap_err();
    world.store.fail(false);
    assert_eq!(world.read().await.unwrap(), some("three", Source::Backend));
    // So does one that was refused.
    let refused = Conditions {
        precondition: Precondition::Never,
        once: None,
    };
    let refused = world
        .cache
        .write(&world.tenant, &world.backend, &world.place, entry("five"), refused);
    refused.await.unwrap_err();
    assert_eq!(world.read().await.unwrap(), some("three", Source::Backend));
}

#[tokio::test(start_paused = true)]
async fn what_was_seen_is_not_taken_back_by_a_store_that_is_behind() {
    let world = World::new();
    world.store.put(&world.place, "one");
    world.read().await.unwrap();
    let yesterday = world.store.state();
    let second = world.write("two").await;
    // Another replica of the store answers with what stood before.
    world.store.answer_with(Some(yesterday.clone()));
    let behind = world.read_as(Consistency::Latest).await;
    assert!(matches!(behind, Err(BackendError::Away(_))), "{behind:?}");
    assert_eq!(world.read().await.unwrap(), some("two", Source::Cache));
    // It catches up while it is asked.
    let catches_up = async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        world.store.answer_with(None);
    };
    let (read, ()) = tokio::join!(world.read_as(Consistency::Latest), catches_up);
    assert_eq!(read.unwrap().found.unwrap().etag, second.etag);
    // What was deleted does not come back either.
    let ended = world.store.state();
    world.delete().await;
    world.store.answer_with(Some(ended));
    world.read().await.unwrap_err();
    // But no store is behind for ever: what it insists on is so.
    world.store.answer_with(Some(yesterday));
    advance(Duration::from_secs(31)).await;
    assert_eq!(world.read().await.unwrap(), some("one", Source::Backend));
}

#[tokio::test(start_paused = true)]
async fn who_has_seen_what_a_write_leaves_does_not_see_what_stood_before_it() {
    let world = World::new();
    world.write("1").await;
    *world.store.pause.lock().unwrap() = Duration::from_secs(1);
    for value in 2..30 {
        let value = value.to_string();
        let reads = async {
            while text(world.read_as(Consistency::Latest).await.unwrap().found).as_ref() != Some(&value) {}
            text(world.read_as(Consistency::Cached).await.unwrap().found)
        };
        let ((), seen) = tokio::join!(async { _ = world.write(&value).await }, reads);
        assert_eq!(seen, Some(value));
    }
}

impl World {
    /// What a list shows at the place.
    async fn list(&self) -> Option<Entry> {
        let request = PageRequest {
            range: self.place.name.range(),
            prefix: "",
            after: "",
            since: None,
            entries: 10,
            bytes: 1 << 20,
            keys_only: false,
            urgency: Urgency::Asked,
        };
        let page = self.backend.list(&self.tenant, request).await.unwrap();
        let (_, entry) = page.entries.into_iter().next()?;
        self.cache.listed(&self.backend, &self.place, entry, page.as_of, true)
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_seen_it_in_a_list_does_not_see_what_stood_before_it() {
    for _ in 0..1000 {
        let world = World::new();
        *world.store.pause.lock().unwrap() = Duration::from_secs(1);
        _ = world.read_as(Consistency::Cached).await;
        let reads = async {
            for _ in 0..10 {
                _ = world.read_as(Consistency::Latest).await;
            }
        };
        let lists = async {
            while world.list().await.is_none() {}
            let came = Instant::now() - Duration::from_millis(500);
            text(world.read_as(Consistency::Since(came)).await.unwrap().found)
        };
        let (_, (), seen) = tokio::join!(world.write("1"), reads, lists);
        assert_eq!(seen.as_deref(), Some("1"));
    }
}

#[tokio::test(start_paused = true)]
async fn another_tenants_place_is_refused_also_where_it_is_kept() {
    let world = World::new();
    world.write("secret").await;
    let globex = VerifiedTenant::for_tests("globex");
    for consistency in [Consistency::Cached, Consistency::Latest] {
        let read = world
            .cache
            .read(&globex, &world.backend, &world.place, POLICY, consistency)
            .await;
        assert!(matches!(read, Err(BackendError::Foreign)));
    }
    let places = [(&world.place, POLICY, Consistency::Cached)];
    let read = world.cache.read_many(&globex, &world.backend, &places, 1 << 20).await;
    assert!(matches!(read[..], [Err(BackendError::Foreign)]), "{read:?}");
    // Nor does what was kept of it stand in.
    advance(POLICY.ttl).await;
    let read = world.cache.read_many(&globex, &world.backend, &places, 1 << 20).await;
    assert!(matches!(read[..], [Err(BackendError::Foreign)]), "{read:?}");
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_late_takes_nothing_newer_back() {
    let world = World::new();
    world.store.put(&world.place, "one");
    // The store has looked, and its answer is under way.
    let slow = world.read_as(Consistency::Latest);
    let deleted = async {
        world.store.looked(1).await;
        world.store.remove(&world.place);
        world.read_as(Consistency::Latest).await.unwrap()
    };
    world.store.answer_after(Duration::from_secs(1));
    let (slow, deleted) = tokio::join!(slow, async {
        let deleted = deleted.await;
        assert_eq!(world.read().await.unwrap(), (None, Source::Cache));
        deleted
    });
    assert!(deleted.found.is_none() && slow.unwrap().found.is_some());
    assert_eq!(world.read().await.unwrap(), (None, Source::Cache));
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_of_a_write_keeps_nothing_of_its_request() {
    let world = World::new();
    let request = Bytes::from(vec![b'x'; 1 << 20]);
    let mut written = entry("");
    written.value = request.slice(7..8);
    let write = world.cache.write(
        &world.tenant,
        &world.backend,
        &world.place,
        written,
        Conditions::default(),
    );
    write.await.unwrap();
    let kept = world.read_as(Consistency::Cached).await.unwrap();
    assert_eq!(
        (kept.freshness.source, &kept.found.unwrap().value[..]),
        (Source::Cache, &b"x"[..])
    );
    assert!(request.is_unique(), "something still holds all of it");
}

#[tokio::test(start_paused = true)]
async fn what_another_tenant_meets_with_is_no_answer() {
    let world = World::new();
    let globex = VerifiedTenant::for_tests("globex");
    let [_, shared] = names(&world.tenant, "ns", "t_a");
    let shared = place(shared);
    world.store.put(&shared, "all");
    world.store.fail_for(world.tenant.id());
    let read = async |tenant| {
        let read = world
            .cache
            .read(tenant, &world.backend, &shared, POLICY, Consistency::Cached);
        read.await
    };
    let (theirs, own) = tokio::join!(read(&world.tenant), read(&globex));
    theirs.unwrap_err();
    assert_eq!(text(own.unwrap().found).unwrap(), "all");
}

#[tokio::test(start_paused = true)]
async fn of_many_only_what_is_not_known_is_asked_for_and_at_once() {
    let world = World::new();
    let places: Vec<_> = (0..100)
        .map(|i| {
            let [own, _] = names(&world.tenant, "ns", &format!("t_{i}"));
            place(own)
        })
        .collect();
    for place in places.iter().step_by(2) {
        world.store.put(place, "value");
    }
    let all = |consistency| -> Vec<_> { places.iter().map(|place| (place, POLICY, consistency)).collect() };
    let read = async |consistency: Consistency| {
        let read = world
            .cache
            .read_many(&world.tenant, &world.backend, &all(consistency), 1 << 20)
            .await;
        for (i, read) in read.iter().enumerate() {
            let found = matches!(read.as_ref().unwrap().found, ReadMany::Found(_));
            assert_eq!(found, i % 2 == 0);
        }
        world.store.calls()
    };
    assert_eq!(read(Consistency::Cached).await, 1);
    assert_eq!(read(Consistency::Cached).await, 0);
    assert_eq!(read(Consistency::Latest).await, 1);
    advance(Duration::from_secs(3)).await;
    assert_eq!(read(Consistency::Cached).await, 1, "only those that were not there");
    world.store.fail(true);
    advance(Duration::from_secs(50)).await;
    let read = world
        .cache
        .read_many(&world.tenant, &world.backend, &all(Consistency::Cached), 1 << 20)
        .await;
    assert!(
        read.into_iter()
            .all(|read| read.unwrap().freshness.source == Source::Stale)
    );
}

#[tokio::test(start_paused = true)]
async fn it_holds_so_many_bytes_and_no_more() {
    let world = World::of(100_000);
    for i in 0..1000 {
        let [own, _] = names(&world.tenant, "ns", &format!("t_{i}"));
        let place = place(own);
        world.store.put(&place, &"x".repeat(1000));
        let read = world
            .cache
            .read(&world.tenant, &world.backend, &place, POLICY, Consistency::Cached);
        assert!(read.await.unwrap().found.is_some());
    }
    assert!(world.cache.known.weight() <= 100_000 && world.cache.known.len() > 40);
    assert!(
        world
            .cache
            .shards
            .iter()
            .all(|shard| shard.lock().unwrap().fences.is_empty()),
        "nothing is under way"
    );
}

/// Of many places, all of them believed for the same time.
async fn read_many(world: &World, places: &[Place], policy: CachePolicy) -> Vec<(Option<String>, Source)> {
    let places: Vec<_> = places
        .iter()
        .map(|place| (place, policy, Consistency::Cached))
        .collect();
    let read = world.cache.read_many(&world.tenant, &world.backend, &places, 1 << 20);
    let read = read.await.into_iter().map(|read| {
        let read = read.unwrap();
        let found = match read.found {
            ReadMany::Found(entry) => text(Some(entry)),
            ReadMany::Nothing => None,
            ReadMany::Unread => panic!("there is room for all"),
        };
        (found, read.freshness.source)
    });
    read.collect()
}

fn places(world: &World, many: usize) -> Vec<Place> {
    let place = |at| place(names(&world.tenant, "ns", &format!("t_{at}"))[0].clone());
    (0..many).map(place).collect()
}

#[tokio::test(start_paused = true)]
async fn batches_and_single_reads_wait_for_each_other() {
    let world = World::new();
    let places = places(&world, 100);
    for place in &places {
        world.store.put(place, "one");
    }
    let single = async |place| {
        let read = world
            .cache
            .read(&world.tenant, &world.backend, place, POLICY, Consistency::Cached);
        read.await.unwrap().freshness.source
    };
    let (first, many, single) = tokio::join!(
        single(&places[7]),
        join_all((0..50).map(|_| read_many(&world, &places, POLICY))),
        join_all(places.iter().map(single)),
    );
    assert_eq!(first, Source::Backend);
    assert!(
        many.into_iter()
            .flatten()
            .all(|read| read == some("one", Source::Backend))
    );
    assert!(single.into_iter().all(|source| source == Source::Backend));
    assert_eq!(
        world.store.calls(),
        2,
        "the first single one, and a batch of the others"
    );
    // Past their time, they are asked for together too, and behind the caller.
    advance(POLICY.ttl).await;
    let read = read_many(&world, &places, POLICY).await;
    assert!(read.into_iter().all(|read| read == some("one", Source::Stale)));
    advance(Duration::from_secs(1)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(world.store.calls(), 1);
    let read = read_many(&world, &places, POLICY).await;
    assert!(read.into_iter().all(|read| read == some("one", Source::Cache)));
}

#[tokio::test(start_paused = true)]
async fn who_believes_nothing_waits_for_no_earlier_read() {
    let world = World::new();
    let nothing = CachePolicy {
        ttl: Duration::ZERO,
        stale: Duration::ZERO,
        negative: Duration::ZERO,
    };
    world.store.put(&world.place, "one");
    world.store.answer_after(Duration::from_secs(1));
    let late = async {
        world.store.looked(1).await;
        world.store.put(&world.place, "two");
        advance(Duration::from_millis(1)).await;
        read_many(&world, std::slice::from_ref(&world.place), nothing).await
    };
    let (early, late) = tokio::join!(world.read(), late);
    assert_eq!(late, [some("two", Source::Backend)]);
    // Nor is what was seen meanwhile taken back.
    assert_eq!(early.unwrap(), some("two", Source::Backend));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_lags_is_not_believed_against_what_was_done_here() {
    let world = World::new();
    world.store.lag();
    // It says that there is nothing, right after a write.
    let before = world.store.state();
    world.write("one").await;
    world.store.answer_with(Some(before));
    let latest = async { text(world.read_as(Consistency::Latest).await.unwrap().found) };
    let catches_up = async {
        world.store.looked(2).await;
        world.store.answer_with(None);
    };
    let (latest, ()) = tokio::join!(latest, catches_up);
    assert_eq!(latest.as_deref(), Some("one"));
    // Somebody else deleted it: that is believed too, in the end, and then at once.
    world.store.remove(&world.place);
    world.store.calls();
    assert!(world.read_as(Consistency::Latest).await.unwrap().found.is_none());
    assert!(
        world.store.calls() <= 2,
        "what was seen since is no longer this gateway's own word"
    );
    // It tells of what was deleted, and nobody here knew of that.
    world.store.put(&world.place, "two");
    let before = world.store.state();
    let world = World {
        cache: Cache::new(1 << 20, POLICY, POLICY),
        ..world
    };
    world.delete().await;
    world.store.answer_with(Some(before));
    let looked = world.store.looks();
    let catches_up = async {
        world.store.looked(looked + 2).await;
        world.store.answer_with(None);
    };
    let (read, ()) = tokio::join!(world.read(), catches_up);
    assert_eq!(read.unwrap(), (None, Source::Backend));
}

#[tokio::test(start_paused = true)]
async fn what_was_written_to_a_store_that_lags_is_not_forgotten_for_want_of_room() {
    // Room for some entries.
    let world = World::of(16 << 10);
    world.store.lag();
    world.store.put(&world.place, "before");
    let before = world.store.state();
    world.write("one").await;
    // Somebody sees it there, which says nothing of what the next is shown.
    assert!(world.read_as(Consistency::Latest).await.unwrap().found.is_some());
    let other = VerifiedTenant::for_tests("globex");
    for number in 0..1000 {
        let [name, _] = names(&other, "ns", &format!("t_{number}"));
        let place = place(name);
        world.store.put(&place, &"x".repeat(500));
        let read = world
            .cache
            .read(&other, &world.backend, &place, POLICY, Consistency::Cached);
        read.await.unwrap();
    }
    world.store.answer_with(Some(before));
    assert_eq!(
        world.read().await.unwrap(),
        some("one", Source::Cache),
        "it reads what it wrote"
    );
}

#[tokio::test(start_paused = true)]
async fn what_a_list_says_is_kept_and_gives_way_to_what_is_known_since() {
    let world = World::new();
    let gathered = Instant::now();
    let old = world.store.put(&world.place, "old");
    let listed = |entry: &Entry, as_of| {
        let shown = world
            .cache
            .listed(&world.backend, &world.place, entry.clone(), as_of, true);
        text(shown)
    };
    advance(Duration::from_secs(1)).await;
    let as_of = Instant::now();
    assert_eq!(listed(&old, as_of).as_deref(), Some("old"));
    assert_eq!(world.read().await.unwrap(), some("old", Source::Cache));
    assert_eq!(world.store.calls(), 0);
    world.write("new").await;
    assert_eq!(listed(&old, as_of).as_deref(), Some("new"));
    assert_eq!(world.read().await.unwrap(), some("new", Source::Cache));
    world.store.remove(&world.place);
    assert!(world.read_as(Consistency::Latest).await.unwrap().found.is_none());
    assert_eq!(listed(&old, as_of), None, "it was seen to be gone since");
    // What a list saw before a change is shown, and not kept.
    let other = World::new();
    let old = other.store.put(&other.place, "old");
    other.delete().await;
    let shown = other.cache.listed(&other.backend, &other.place, old, gathered, true);
    assert_eq!(text(shown).as_deref(), Some("old"));
    assert_eq!(other.read().await.unwrap(), (None, Source::Backend));
}
