//! Every event may be lost: what the sweep finds, and that it finds everything.

use std::collections::BTreeSet;

use tokio::task::JoinHandle;

use super::*;
use crate::backend::Catalog;
use crate::event::{EventMetrics, Sweep};

const PERIOD: Duration = Duration::from_secs(20);
/// Some of them.
const SWEPT: Duration = Duration::from_mins(3);

impl World {
    fn catalog(&self) -> Catalog {
        let stores = ["a", "b", "c"].into_iter().zip(self.fakes.clone());
        Catalog::new(stores.map(|(id, fake)| (id.into(), fake as Arc<dyn Backend>)).collect())
    }

    fn sweeps(&self) -> (Arc<Sweep>, Sweeping) {
        let (cache, hub) = (Arc::clone(&self.cache), Arc::clone(&self.hub));
        let sweep = Sweep::new(self.catalog(), cache, hub, PERIOD, EventMetrics::default());
        let sweep = Arc::new(sweep);
        let running = Arc::clone(&sweep);
        (sweep, Sweeping(tokio::spawn(async move { running.run().await })))
    }

    /// Where a key may be, the home first.
    async fn places(&self, tenant: &str, key: &str) -> Vec<Place> {
        let keys = [key.to_owned()];
        let interest = self
            .configs
            .interest(&reader(tenant), &[], &keys, &Context::default())
            .await;
        interest.unwrap().places.into_iter().map(|(_, place)| place).collect()
    }

    fn fake(&self, place: &Place) -> &Arc<Fake> {
        &self.fakes[["a", "b", "c"].iter().position(|id| *id == &*place.backend).unwrap()]
    }
}

struct Sweeping(JoinHandle<()>);

impl Drop for Sweeping {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// By its name, and by the beginning of its name.
fn both_ways() -> [Asked; 2] {
    [to_keys(&["t_a"]), to_prefix("t_")]
}

#[tokio::test(start_paused = true)]
async fn what_came_with_a_word_and_went_without_one_is_gone() {
    for asked in both_ways() {
        let world = World::new().await;
        let (_, _sweeping) = world.sweeps();
        let mut client = world.watch("acme", asked);
        client.until(&Told::Synced(false)).await;
        let place = world.places("acme", "t_a").await.remove(0);
        for _ in 0..5 {
            // Both between two comparisons.
            sleep(PERIOD).await;
            world.fakes[0].put(&place, "here");
            world.hub.doubt(&place);
            client.shows("t_a", Some("here")).await;
            world.fakes[0].remove(&place);
            client.shows("t_a", None).await;
        }
    }
}

/// What one tenant is refused another may read: of what all watch, each is asked for it now and then.
#[tokio::test(start_paused = true)]
async fn each_who_watches_is_asked_for_what_is_compared() {
    let world = World::new().await;
    let mut watching = Vec::new();
    for tenant in ["acme", "globex"] {
        for asked in both_ways() {
            let mut client = world.watch(tenant, asked);
            client.until(&Told::Synced(false)).await;
            watching.push(client);
        }
    }
    let (mut of_places, mut of_ranges) = (BTreeSet::new(), BTreeSet::new());
    for _ in 0..100 {
        let watched = world.hub.watched("c");
        of_places.extend(watched.places.into_iter().map(|place| place.tenant.id().to_string()));
        of_ranges.extend(watched.ranges.into_iter().map(|range| range.tenant.id().to_string()));
    }
    let both = ["acme", "globex"].map(str::to_owned).into();
    assert_eq!((&of_places, &of_ranges), (&both, &both));
}

#[tokio::test(start_paused = true)]
async fn what_somebody_else_saw_first_is_told_all_the_same() {
    for asked in both_ways() {
        // Room for next to nothing.
        let script = json!({ "acme": { "": at_home() } });
        let world = World::keeping(&script, POLICY, 1).await;
        world.put("acme", "t_a", "old").await;
        let (_, _sweeping) = world.sweeps();
        let mut client = world.watch("acme", asked);
        client.until(&Told::Synced(false)).await;
        let place = world.place("t_a");
        world.fakes[0].put(&place, "new");
        world.read("t_a").await;
        client.shows("t_a", Some("new")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_where_a_slow_client_has_passed_is_listed_again() {
    let world = World::new().await;
    for i in 0..400 {
        world.put("acme", &format!("t_{i:03}"), &"x".repeat(5000)).await;
    }
    let mut client = world.watch("acme", to_prefix("t_"));
    // The first page is on its way.
    client.next().await;
    let place = world.places("acme", "t_000a").await.remove(0);
    world.fakes[0].put(&place, "between");
    world.fakes[0].remove(&world.place("t_001"));
    let (_, _sweeping) = world.sweeps();
    sleep(SWEPT).await;
    client.until(&Told::Synced(false)).await;
    client.shows("t_000a", Some("between")).await;
    client.shows("t_001", None).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_is_compared_when_it_is_back() {
    let world = World::new().await;
    world.put("acme", "t_a", "1").await;
    let (sweep, _sweeping) = world.sweeps();
    let mut client = world.watch("acme", to_prefix("t_"));
    client.until(&Told::Synced(false)).await;
    sleep(SWEPT).await;
    world.fail(true);
    let asked = sweep.begin();
    sleep(SWEPT).await;
    assert!(!sweep.has_answered(asked));
    world.fakes[0].put(&world.place("t_a"), "2");
    world.fail(false);
    client.shows("t_a", Some("2")).await;
    sleep(SWEPT).await;
    assert!(sweep.has_answered(asked));
}

/// Changes of which half are told, watchers that come and go, readers, a cache with hardly any room.
async fn a_history(seed: u64) -> Result<(), String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let script = json!({ "acme": { "": at_home() }, "globex": { "": at_home() } });
    let bytes = [1, 2000, 1 << 20][random.usize(..3)];
    let world = World::keeping(&script, POLICY, bytes).await;
    for fake in &world.fakes {
        *fake.pause.lock().unwrap() = Duration::from_millis(random.u64(..200));
    }
    let (_, _sweeping) = world.sweeps();
    let asked = |random: &mut fastrand::Rng| {
        if random.bool() {
            to_keys(&["t_0", "t_1", "t_2"])
        } else {
            to_prefix("t_")
        }
    };
    let mut clients: Vec<(&str, Client)> = ["acme", "acme", "globex"]
        .map(|tenant| (tenant, world.watch(tenant, asked(&mut random))))
        .into();
    for step in 0..100 {
        let tenant = ["acme", "globex"][random.usize(..2)];
        let key = format!("t_{}", random.u8(..3));
        let places = world.places(tenant, &key).await;
        let place = &places[random.usize(..places.len())];
        if random.u8(..3) == 0 {
            world.fake(place).remove(place);
        } else {
            world.fake(place).put(place, &format!("{step}"));
        }
        if random.bool() {
            world.hub.doubt(place);
        }
        if random.bool() {
            let (reader, context) = (reader(tenant), Context::default());
            let read = world
                .configs
                .get(&reader, &key, 0, &context, Scope::Own, Consistency::Cached);
            _ = read.await;
        }
        let at = random.usize(..clients.len());
        if random.u8(..10) == 0 {
            let tenant = clients[at].0;
            clients[at].1 = world.watch(tenant, asked(&mut random));
        }
        let patience = Duration::from_millis(random.u64(..3000));
        _ = timeout(patience, async { while clients[at].1.hear().await != Told::Resync {} }).await;
        if random.u8(..20) == 0 {
            world.fail(true);
            sleep(Duration::from_millis(random.u64(..5000))).await;
            world.fail(false);
        }
    }
    let until = tokio::time::Instant::now() + SWEPT;
    for (tenant, client) in &mut clients {
        _ = tokio::time::timeout_at(until, async {
            loop {
                client.hear().await;
            }
        })
        .await;
        let listed = world.list(tenant, "t_", &Context::default()).await;
        while timeout(Duration::from_secs(1), client.hear()).await.is_ok() {}
        if client.values() != listed {
            return Err(format!(
                "{tenant} holds {:?} and a list shows {listed:?}: {:?}",
                client.values(),
                client.told
            ));
        }
    }
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn histories_with_lost_events_converge() {
    for seed in 0..60 {
        a_history(seed)
            .await
            .unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
    }
}
