//! Read your write, No stale fill and Bounded staleness, over many readers and writers whose steps fall together as chance
//! has it. Time is paused: a run is the same for the same seed. Each validator is shown caches with a bug too, and has to
//! notice.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, advance, sleep};

use super::mutant::{Bug, Mutant};
use super::*;

/// A cache before the store of a world.
#[derive(Clone)]
enum Subject {
    Real,
    Mutant(Arc<Mutant>),
}

impl Subject {
    fn of(bug: Option<Bug>) -> Self {
        bug.map_or(Self::Real, |bug| Self::Mutant(Arc::new(Mutant::new(bug, POLICY))))
    }

    async fn read(&self, world: &World, consistency: Consistency) -> Read<Option<Entry>> {
        match self {
            Self::Real => world.read_as(consistency).await.unwrap(),
            Self::Mutant(mutant) => mutant.read(world, consistency).await,
        }
    }

    async fn write(&self, world: &World, value: &str) -> Entry {
        match self {
            Self::Real => world.write(value).await,
            Self::Mutant(mutant) => mutant.write(world, value).await,
        }
    }
}

/// Nothing is read that is older than what was acknowledged before it was asked for.
async fn read_your_write(seed: u64, subject: Subject) -> Result<(), String> {
    fastrand::seed(seed);
    let world = Arc::new(World::new());
    *world.store.pause.lock().unwrap() = Duration::from_millis(50);
    // The newest state that was acknowledged.
    let known = Arc::new(Mutex::new(None::<Etag>));
    let writers = (0..3).map(|writer| {
        let (world, known, subject) = (Arc::clone(&world), Arc::clone(&known), subject.clone());
        tokio::spawn(async move {
            for write in 0..30 {
                sleep(Duration::from_millis(fastrand::u64(..200))).await;
                if fastrand::u8(..5) == 0 {
                    // Nobody knows what becomes of it.
                    let lost = subject.write(&world, "lost");
                    _ = tokio::time::timeout(Duration::from_millis(fastrand::u64(..60)), lost).await;
                    continue;
                }
                let written = subject.write(&world, &format!("{writer}.{write}")).await;
                let mut newest = known.lock().unwrap();
                *newest = newest.max(Some(written.etag));
            }
            Ok(())
        })
    });
    let readers = (0..8).map(|reader| {
        let (world, known, subject) = (Arc::clone(&world), Arc::clone(&known), subject.clone());
        tokio::spawn(async move {
            for _ in 0..100 {
                sleep(Duration::from_millis(fastrand::u64(..60))).await;
                let newest = *known.lock().unwrap();
                let consistency = if reader == 0 {
                    Consistency::Latest
                } else {
                    Consistency::Cached
                };
                let read = subject.read(&world, consistency).await;
                let etag = read.found.map(|found| found.etag);
                if etag < newest {
                    return Err(format!(
                        "seed {seed}: {etag:?} was read after {newest:?} was acknowledged"
                    ));
                }
            }
            Ok(())
        })
    });
    for task in writers.chain(readers).collect::<Vec<_>>() {
        task.await.unwrap()?;
    }
    Ok(())
}

/// With another gateway's writes behind the cache: what is believed was true no longer ago than the policy says, and than it
/// says itself.
async fn bounded_staleness(seed: u64, subject: Subject) -> Result<(), String> {
    fastrand::seed(seed);
    let world = World::new();
    *world.store.pause.lock().unwrap() = Duration::from_millis(20);
    // Each state, and until when it stood.
    let mut stood: BTreeMap<Etag, Instant> = BTreeMap::new();
    let mut standing = None;
    for step in 0..500 {
        // Now and then nobody reads for longer than anything is believed.
        let pause = if fastrand::u8(..50) == 0 { 200_000 } else { 2000 };
        sleep(Duration::from_millis(fastrand::u64(..pause))).await;
        // Before the read, while it is under way, or after it.
        let change = async {
            if fastrand::bool() {
                sleep(Duration::from_millis(fastrand::u64(..50))).await;
                let now = Instant::now();
                let stands = world.store.put(&world.place, &step.to_string()).etag;
                if let Some(before) = standing.replace(stands) {
                    stood.insert(before, now);
                }
            }
        };
        let read = async {
            let read = subject.read(&world, Consistency::Cached).await;
            let age = read.freshness.as_of.elapsed();
            (read, age)
        };
        let ((read, age), ()) = tokio::join!(read, change);
        let most = match read.freshness.source {
            Source::Stale => POLICY.ttl + POLICY.stale,
            Source::Cache | Source::Backend => POLICY.ttl,
        };
        if age > most + Duration::from_millis(100) {
            return Err(format!("seed {seed}: {age:?} of {most:?}"));
        }
        let Some(until) = read.found.and_then(|found| stood.get(&found.etag)) else {
            continue;
        };
        if *until < read.freshness.as_of {
            let late = read.freshness.as_of - *until;
            return Err(format!(
                "seed {seed}: it stood no more {late:?} before the time that it says"
            ));
        }
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn what_was_acknowledged_is_read() {
    for seed in 0..30 {
        read_your_write(seed, Subject::Real).await.unwrap();
    }
    for bug in [Bug::KeepsWhatWasWritten, Bug::FillsWithWhatWas, Bug::FillsOverAWrite] {
        let mut noticed = false;
        for seed in 0..30 {
            noticed |= read_your_write(seed, Subject::of(Some(bug))).await.is_err();
        }
        assert!(noticed, "{bug:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_believed_was_true_no_longer_ago_than_its_time() {
    for seed in 0..10 {
        bounded_staleness(seed, Subject::Real).await.unwrap();
    }
    for bug in [Bug::BelievesForEver, Bug::DatesByTheAnswer, Bug::RenewsByReading] {
        let mut noticed = false;
        for seed in 0..10 {
            noticed |= bounded_staleness(seed, Subject::of(Some(bug))).await.is_err();
        }
        assert!(noticed, "{bug:?}");
    }
}

/// A thousand readers of a hundred keys for a minute, each of which is believed for a second.
#[tokio::test(start_paused = true)]
async fn a_thousand_readers_cost_a_call_a_key_and_ttl() {
    const SECONDS: usize = 60;
    let world = Arc::new(World::new());
    let policy = CachePolicy {
        ttl: Duration::from_secs(1),
        ..POLICY
    };
    let places: Arc<Vec<Place>> = Arc::new(super::places(&world, 100));
    for place in &*places {
        world.store.put(place, "one");
    }
    let end = Instant::now() + Duration::from_secs(SECONDS as u64);
    let readers = (0..1000).map(|_| {
        let (world, places) = (Arc::clone(&world), Arc::clone(&places));
        tokio::spawn(async move {
            let mut reads = 0;
            while Instant::now() < end {
                let place = &places[fastrand::usize(..places.len())];
                let read = world
                    .cache
                    .read(&world.tenant, &world.backend, place, policy, Consistency::Cached);
                read.await.unwrap();
                reads += 1;
                sleep(Duration::from_millis(fastrand::u64(50..150))).await;
            }
            reads
        })
    });
    let reads: usize = join_all(readers.collect::<Vec<_>>())
        .await
        .into_iter()
        .map(Result::unwrap)
        .sum();
    let calls = world.store.calls();
    // A key is asked for again when its second is over, which may be a tenth short.
    let most = places.len() * (SECONDS * 10 / 9 + 2);
    assert!(reads > 500_000, "{reads}");
    assert!(calls <= most, "{calls} calls for {reads} reads, {most} at most");
    advance(Duration::from_secs(1)).await;
}
