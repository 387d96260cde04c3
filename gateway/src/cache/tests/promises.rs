//! Read your write, No stale fill and Bounded staleness, over many readers and writers whose steps fall together as chance
//! has it. Time is paused: a run is the same for the same seed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Consistency, Source, World};
use crate::key::Etag;

const TTL: Duration = super::POLICY.ttl;

async fn run(seed: u64) {
    fastrand::seed(seed);
    let world = Arc::new(World::new());
    *world.store.pause.lock().unwrap() = Duration::from_millis(50);
    // The newest state that was acknowledged.
    let known = Arc::new(Mutex::new(None::<Etag>));
    let writers = (0..3).map(|writer| {
        let (world, known) = (Arc::clone(&world), Arc::clone(&known));
        tokio::spawn(async move {
            for write in 0..30 {
                sleep(Duration::from_millis(fastrand::u64(..200))).await;
                if fastrand::u8(..5) == 0 {
                    // Nobody knows what becomes of it.
                    let lost = world.write("lost");
                    _ = tokio::time::timeout(Duration::from_millis(fastrand::u64(..60)), lost).await;
                    continue;
                }
                let written = world.write(&format!("{writer}.{write}")).await;
                let mut newest = known.lock().unwrap();
                *newest = newest.max(Some(written.etag));
            }
        })
    });
    let readers = (0..8).map(|reader| {
        let (world, known) = (Arc::clone(&world), Arc::clone(&known));
        tokio::spawn(async move {
            for _ in 0..100 {
                sleep(Duration::from_millis(fastrand::u64(..60))).await;
                let newest = *known.lock().unwrap();
                let consistency = if reader == 0 {
                    Consistency::Latest
                } else {
                    Consistency::Cached
                };
                let read = world.read_as(consistency).await.unwrap();
                let etag = read.found.map(|found| found.etag);
                assert!(
                    etag >= newest,
                    "seed {seed}: {etag:?} was read after {newest:?} was acknowledged"
                );
                let age = read.freshness.as_of.elapsed();
                assert!(
                    read.freshness.source == Source::Stale || age <= TTL + Duration::from_millis(200),
                    "{age:?}"
                );
            }
        })
    });
    for task in writers.chain(readers).collect::<Vec<_>>() {
        task.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_acknowledged_is_read() {
    for seed in 0..30 {
        run(seed).await;
    }
}

/// With another gateway's writes behind the cache: what is believed was true no longer ago than the policy says.
#[tokio::test(start_paused = true)]
async fn what_is_believed_was_true_no_longer_ago_than_its_time() {
    for seed in 0..10 {
        fastrand::seed(seed);
        let world = World::new();
        *world.store.pause.lock().unwrap() = Duration::from_millis(20);
        // Each state, and until when it stood.
        let mut stood: BTreeMap<Etag, Instant> = BTreeMap::new();
        let mut standing = None;
        for step in 0..500 {
            sleep(Duration::from_millis(fastrand::u64(..2000))).await;
            if fastrand::u8(..3) == 0 {
                if let Some(before) = standing {
                    stood.insert(before, Instant::now());
                }
                standing = Some(world.store.put(&world.place, &step.to_string()).etag);
                continue;
            }
            let read = world.read_as(Consistency::Cached).await.unwrap();
            let Some(found) = read.found else { continue };
            let Some(until) = stood.get(&found.etag) else {
                continue;
            };
            let since = until.elapsed();
            let age = read.freshness.as_of.elapsed();
            // It says how old it is at most, and is no older.
            assert!(
                since <= age,
                "seed {seed}: it stood until {since:?} ago and says {age:?}"
            );
            let most = match read.freshness.source {
                Source::Stale => TTL + super::POLICY.stale,
                Source::Cache | Source::Backend => TTL,
            };
            assert!(
                age <= most + Duration::from_millis(100),
                "seed {seed}: {age:?} of {most:?}"
            );
        }
    }
}
