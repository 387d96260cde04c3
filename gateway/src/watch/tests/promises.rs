//! Recorded histories of writers and watchers, and one validator a promise.

use super::mutant::{Bug, KEYS};
use super::*;

/// Why a history breaks a promise.
type Broken = String;

/// Order: within a subscription a key never goes back to an earlier state of the same life.
fn order(told_all: &[Told]) -> Result<(), Broken> {
    let mut last: BTreeMap<&str, Etag> = BTreeMap::new();
    for told in told_all {
        if let Told::Put(key, _, etag) = told
            && let Some(before) = last.insert(key, *etag)
            && before.life == etag.life
            && etag.version <= before.version
        {
            let of_it = told_of(told_all, key);
            return Err(format!("{key} went from {before} to {etag}: {of_it:?}"));
        }
    }
    Ok(())
}

/// All that was said of a key, and of everything.
fn told_of<'t>(told: &'t [Told], of: &str) -> Vec<&'t Told> {
    let concerns = |told: &&Told| match told {
        Told::Put(key, ..) | Told::Removed(key) => key == of,
        Told::Synced(_) | Told::Resync => true,
    };
    told.iter().filter(concerns).collect()
}

/// Isolation: what a tenant is told is its own, or everybody's.
fn isolation(tenant: &str, told: &[Told]) -> Result<(), Broken> {
    let foreign = told.iter().find(|told| match told {
        Told::Put(_, value, _) => !value.starts_with(tenant) && !value.starts_with("all"),
        _ => false,
    });
    foreign.map_or(Ok(()), |told| Err(format!("{tenant} was told {told:?}")))
}

/// Convergence and Agreement: when changes stop, a watcher holds what a list shows.
fn agreement(held: &BTreeMap<String, String>, listed: &BTreeMap<String, String>) -> Result<(), Broken> {
    if held == listed {
        Ok(())
    } else {
        Err(format!("a watcher holds {held:?} and a list shows {listed:?}"))
    }
}

const TENANTS: [&str; 2] = ["acme", "globex"];

/// One of a few keys.
fn a_key(random: &mut fastrand::Rng) -> String {
    format!("t_{}", random.u8(..4))
}

async fn writer(world: Arc<World>, mut random: fastrand::Rng, steps: usize) {
    for step in 0..steps {
        let tenant = TENANTS[random.usize(..TENANTS.len())];
        let key = a_key(&mut random);
        let writer = VerifiedTenant::for_tests(tenant).writer().unwrap();
        let shared = random.u8(..4) == 0;
        let options = WriteOptions {
            scope: if shared { Scope::Shared } else { Scope::Own },
            ..WriteOptions::default()
        };
        let whose = if shared { "all" } else { tenant };
        let value = entry(&format!("{whose} {step} {}", random.u32(..)));
        let is_delete = random.u8(..4) == 0;
        let change = async {
            // What fails may have happened or not.
            if is_delete {
                _ = world.configs.delete(&writer, &key, &options).await;
            } else {
                _ = world.configs.put(&writer, &key, value, &options).await;
            }
        };
        let patience = if random.u8(..8) == 0 { random.u64(..40) } else { 10_000 };
        _ = timeout(Duration::from_millis(patience), change).await;
        sleep(Duration::from_millis(random.u64(..100))).await;
    }
}

/// Watches, reads as fast or as slowly as it likes, goes and comes back with what it holds. Returns all that it was told since
/// it last came, and what it holds in the end.
async fn watcher(
    world: Arc<World>,
    tenant: &'static str,
    bug: Option<Bug>,
    mut random: fastrand::Rng,
    mut over: watch::Receiver<bool>,
) -> (Vec<Vec<Told>>, BTreeMap<String, String>, bool) {
    let by_name = random.bool();
    let asked = || {
        if by_name { to_keys(&KEYS) } else { to_prefix("t_") }
    };
    let mut streams = Vec::new();
    let watch = |known| match bug {
        Some(bug) => world.watch_with_bug(bug, tenant, known),
        None => world.watch(tenant, Asked { known, ..asked() }),
    };
    let mut client = watch(HashMap::new());
    loop {
        tokio::select! {
            _ = client.hear() => {}
            () = sleep(Duration::from_millis(random.u64(1..2000))) => {}
            _ = over.wait_for(|over| *over) => break,
        }
        if random.u8(..4) == 0 {
            sleep(Duration::from_millis(random.u64(..3000))).await;
        }
        if random.u8(..16) == 0 {
            let known = client.known();
            let held = std::mem::take(&mut client.held);
            streams.push(std::mem::take(&mut client.told));
            client = watch(known);
            client.held = held;
        }
    }
    client.settle().await;
    let is_synced = client.marks.progress().is_synced;
    streams.push(std::mem::take(&mut client.told));
    (streams, client.values(), is_synced)
}

async fn a_history(seed: u64, bug: Option<Bug>) -> Result<usize, Broken> {
    let mut random = fastrand::Rng::with_seed(seed);
    let ttl = [0, 1, 30][random.usize(..3)];
    let policy = CachePolicy {
        ttl: Duration::from_secs(ttl),
        stale: Duration::from_secs([0, 60][random.usize(..2)]),
        negative: Duration::from_secs(ttl),
    };
    let script = json!({ "acme": { "": at_home() }, "globex": { "": at_home() } });
    let world = Arc::new(World::deciding(&script, policy).await);
    for fake in &world.fakes {
        *fake.pause.lock().unwrap() = Duration::from_millis(random.u64(..200));
    }
    let (end, over) = watch::channel(false);
    let watchers: Vec<_> = (0..6)
        .map(|number| {
            let tenant = TENANTS[number % 2];
            (
                tenant,
                tokio::spawn(watcher(Arc::clone(&world), tenant, bug, random.fork(), over.clone())),
            )
        })
        .collect();
    let writers: Vec<_> = (0..3)
        .map(|_| tokio::spawn(writer(Arc::clone(&world), random.fork(), 60)))
        .collect();
    while !writers.iter().all(tokio::task::JoinHandle::is_finished) {
        sleep(Duration::from_millis(random.u64(..3000))).await;
        let fake = &world.fakes[random.usize(..3)];
        fake.fail(true);
        sleep(Duration::from_millis(random.u64(..3000))).await;
        fake.fail(false);
    }
    for writer in writers {
        writer.await.unwrap();
    }
    // Somebody else writes, and the news of it come while the store is away.
    world.fakes[0].fail(true);
    world.change_elsewhere();
    sleep(Duration::from_secs(5)).await;
    world.fakes[0].fail(false);
    end.send_replace(true);
    let mut told = 0;
    for (tenant, watcher) in watchers {
        let (streams, held, is_synced) = watcher.await.unwrap();
        for stream in &streams {
            order(stream)?;
            isolation(tenant, stream)?;
            told += stream.len();
        }
        agreement(&held, &world.list(tenant, "t_", &Context::default()).await)?;
        if !is_synced {
            return Err("it never had everything".to_owned());
        }
    }
    Ok(told)
}

#[tokio::test(start_paused = true)]
async fn histories_keep_the_promises() {
    let mut told = 0;
    for seed in 0..40 {
        told += a_history(seed, None)
            .await
            .unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
    }
    println!("{told} messages");
    assert!(told > 1000);
}

#[tokio::test(start_paused = true)]
async fn each_bug_is_noticed_by_the_promise_that_it_breaks() {
    for (bug, expected) in [
        (Bug::LooksBeforeItWatches, "a watcher holds"),
        (Bug::ForgetsWhatFailed, "a watcher holds"),
        (Bug::RemovesWhatFailed, "a watcher holds"),
        (Bug::AnswersOutOfOrder, "went from"),
        (Bug::LosesMarks, "a watcher holds"),
        (Bug::LooksAsAnother, "acme was told"),
    ] {
        let mut noticed = None;
        for seed in 0..400 {
            match a_history(seed, Some(bug)).await {
                Err(broken) if broken.contains(expected) => {
                    noticed = Some(seed);
                    break;
                }
                _ => {}
            }
        }
        println!("{bug:?}: seed {noticed:?}");
        assert!(noticed.is_some(), "{bug:?} passed for a promise kept");
    }
    for seed in 0..10 {
        let kept = a_history(seed, Some(Bug::None)).await;
        assert!(kept.is_ok(), "seed {seed}: {kept:?}");
    }
}
