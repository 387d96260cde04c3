//! Who reads, writes and counts, at an even pace: it measures health, and not speed. The keys are few, so that everything meets.

use std::sync::Arc;
use std::time::Duration;

use tagway_proto::v1;
use tagway_tests::client::{delete, if_match, put};
use tagway_tests::validators::ledger::{Place, State};
use tagway_tests::validators::timeline::Store;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tonic::Code;

use crate::caller::Caller;
use crate::fleet::{stores, tag};
use crate::judges::Read;
use crate::{REPLICAS, Soak, TENANTS};

/// All stores.
pub(super) const STORES: [Store; 3] = [Store::DynamoDb, Store::ParameterStore, Store::Embedded];
/// Keys of each tenant in each store that come and go.
const KEYS: usize = 8;
/// Whose counters there are.
const COUNTING: &str = TENANTS[0];
/// A page may be older than the first by that, as two clocks are read one after the other.
const MOMENT: Duration = Duration::from_millis(2);
/// Requests a second of each writer, reader and counter, of 200 in all.
const PACE: (f64, f64, f64) = (3.0, 23.0, 1.5);

/// A key of that store.
fn key(store: Store, number: usize) -> String {
    format!("{}{number}", tag(store))
}

/// Where a key of that tag lies that was written through that replica.
pub(super) fn place(tenant: &'static str, store: Store, key: &str, replica: usize) -> Place {
    Place {
        tenant,
        key: key.to_owned(),
        replica: (store == Store::Embedded).then_some(replica),
    }
}

/// In which store a key lies.
pub(super) fn store_of(key: &str) -> Store {
    let tags = [Store::Embedded, Store::DynamoDb, Store::ParameterStore];
    let of = tags.into_iter().find(|&store| key.starts_with(tag(store)));
    of.expect("a key of ours")
}

/// Where counters are: those at AWS are everybody's.
pub(super) fn counters() -> Vec<(Place, usize)> {
    let of = |store, replica| place(COUNTING, store, &format!("{}counter", tag(store)), replica);
    let mut counters = vec![(of(Store::DynamoDb, 0), 0)];
    counters.extend((0..REPLICAS).map(|replica| (of(Store::Embedded, replica), replica)));
    counters
}

/// Makes what has to be there.
pub(super) async fn prepare(soak: &Arc<Soak>) {
    for (place, replica) in counters() {
        let mut caller = Caller::new(soak, place.tenant, replica);
        let client = caller.client().await;
        client.put(&place.key, &counted(&place, 0)).await.expect("written");
    }
}

/// Starts all of them.
pub(super) fn start(soak: &Arc<Soak>, seed: u64, tasks: &mut JoinSet<()>) {
    let mut seeds = fastrand::Rng::with_seed(seed);
    for tenant in TENANTS {
        for store in STORES {
            tasks.spawn(write(Arc::clone(soak), tenant, store, seeds.fork()));
        }
        for replica in 0..REPLICAS {
            tasks.spawn(read(Caller::new(soak, tenant, replica), Arc::clone(soak), seeds.fork()));
        }
    }
    for (place, replica) in counters() {
        for number in 0..4 {
            let replica = if place.replica.is_some() {
                replica
            } else {
                number % REPLICAS
            };
            let caller = Caller::new(soak, place.tenant, replica);
            tasks.spawn(count(caller, Arc::clone(soak), place.clone(), seeds.fork()));
        }
    }
}

impl Soak {
    /// Waits for the next request of somebody who sends so many a second where all together send 200.
    async fn pace(&self, random: &mut fastrand::Rng, of_200: f64) {
        let mean = 200.0 / (of_200 * self.rate);
        sleep(Duration::from_secs_f64(2.0 * mean * random.f64())).await;
    }
}

/// Writes and removes one tenant's keys of one store, one after the other, and looks at what became of them.
async fn write(soak: Arc<Soak>, tenant: &'static str, store: Store, mut random: fastrand::Rng) {
    let mut callers: Vec<Caller> = (0..REPLICAS)
        .map(|replica| Caller::new(&soak, tenant, replica))
        .collect();
    for number in 0_u64.. {
        soak.pace(&mut random, PACE.0).await;
        let _open = soak.gate.read().await;
        let replica = random.usize(..REPLICAS);
        let caller = &mut callers[replica];
        let key = key(store, random.usize(..KEYS));
        let place = place(tenant, store, &key, replica);
        if random.u8(..8) == 0 {
            remove(&soak, caller, &place, store).await;
        } else {
            let message = put(&key, &format!("{tenant} {key} {number}"));
            let written = caller
                .call(&format!("Put {key}"), &[store], |client| {
                    let message = message.clone();
                    async move { client.put_with(message).await }
                })
                .await;
            if let Ok(written) = written {
                let mut bench = soak.judges.bench();
                let state = State::of(&written.etag);
                bench.ledger.acknowledged(&place, replica, Instant::now(), Some(state));
            }
        }
        if random.u8(..3) == 0 {
            // Through the one that wrote, or the other.
            let replica = if store == Store::Embedded {
                replica
            } else {
                random.usize(..REPLICAS)
            };
            look(&soak, &mut callers[replica], &key, false).await;
        }
    }
}

async fn remove(soak: &Soak, caller: &mut Caller, place: &Place, store: Store) {
    soak.judges.bench().ledger.removes(place, Instant::now());
    let message = v1::DeleteConfigRequest {
        allow_missing: true,
        ..delete(&place.key)
    };
    let removed = caller
        .call(&format!("Delete {}", place.key), &[store], |client| {
            let message = message.clone();
            async move { client.delete_with(message).await }
        })
        .await;
    let mut bench = soak.judges.bench();
    match removed {
        Ok(()) => bench.ledger.acknowledged(place, caller.replica, Instant::now(), None),
        Err(_) => bench.ledger.doubts(place),
    }
}

/// Reads as services do: mostly one key, mostly out of the cache.
async fn read(mut caller: Caller, soak: Arc<Soak>, mut random: fastrand::Rng) {
    loop {
        soak.pace(&mut random, PACE.1).await;
        let _open = soak.gate.read().await;
        let store = STORES[random.usize(..STORES.len())];
        match random.u8(..100) {
            0..8 => walk(&soak, &mut caller, tag(store), random.i32(1..20)).await,
            8..16 => look_at_many(&soak, &mut caller, &mut random).await,
            roll => {
                let key = key(store, random.usize(..KEYS));
                look(&soak, &mut caller, &key, roll < 26).await;
            }
        }
    }
}

/// Reads one key.
async fn look(soak: &Soak, caller: &mut Caller, key: &str, is_latest: bool) {
    let store = store_of(key);
    if let Ok(found) = caller.get(key, store, is_latest).await {
        let waited = caller.sent.elapsed();
        soak.judges.bench().read(Read {
            place: place(caller.tenant, store, key, caller.replica),
            replica: caller.replica,
            sent: caller.sent,
            waited,
            is_latest,
            found,
        });
    }
}

async fn look_at_many(soak: &Soak, caller: &mut Caller, random: &mut fastrand::Rng) {
    let keys: Vec<String> = (0..10)
        .map(|_| key(STORES[random.usize(..STORES.len())], random.usize(..KEYS)))
        .collect();
    let Ok(answers) = caller.batch(&keys, &STORES, false).await else {
        return;
    };
    let waited = caller.sent.elapsed();
    let mut bench = soak.judges.bench();
    for (key, found) in answers {
        bench.read(Read {
            place: place(caller.tenant, store_of(&key), &key, caller.replica),
            replica: caller.replica,
            sent: caller.sent,
            waited,
            is_latest: false,
            found,
        });
    }
}

/// Lists by pages of that size, and has the list judged as so many reads.
async fn walk(soak: &Soak, caller: &mut Caller, prefix: &'static str, page_size: i32) {
    let Ok(walk) = caller.list(prefix, &stores(prefix), page_size).await else {
        return;
    };
    let listed = walk.configs;
    let mut bench = soak.judges.bench();
    let bench = &mut *bench;
    for config in &listed {
        bench.isolation.saw(caller.tenant, &config.key, &config.value);
        let place = place(caller.tenant, store_of(&config.key), &config.key, caller.replica);
        let state = State::of(&config.etag);
        bench
            .read_your_write
            .saw(&bench.ledger, &place, caller.replica, caller.sent, Some(&state));
    }
    let is_in_it = |place: &&Place| {
        let here = place.replica.is_none_or(|replica| replica == caller.replica);
        place.tenant == caller.tenant && here && place.key.starts_with(prefix)
    };
    let stood = bench.ledger.standing(walk.since).filter(is_in_it);
    let stood: Vec<String> = stood.map(|place| place.key.clone()).collect();
    let listed: Vec<String> = listed.into_iter().map(|config| config.key).collect();
    let whose = format!(
        "{}'s list of {prefix} through replica {}",
        caller.tenant, caller.replica
    );
    let before = walk.since.saturating_duration_since(walk.oldest);
    let older = (before > MOMENT).then(|| format!("{whose}: a page shows what stood {before:.3?} before the first"));
    bench.agreement.compared(older);
    bench.agreement.walked(&whose, &listed, &stood);
}

/// What a counter holds.
fn counted(place: &Place, count: u64) -> String {
    format!("{} {} {count}", place.tenant, place.key)
}

/// What a counter's value says.
pub(super) fn count_in(value: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(value);
    let count = text.rsplit_once(' ').and_then(|(_, count)| count.parse().ok());
    count.expect("a counter holds a number")
}

/// Adds one to a counter again and again, if nobody else did meanwhile.
async fn count(mut caller: Caller, soak: Arc<Soak>, place: Place, mut random: fastrand::Rng) {
    let store = store_of(&place.key);
    loop {
        soak.pace(&mut random, PACE.2).await;
        let _open = soak.gate.read().await;
        let Ok(Some((config, _))) = caller.get(&place.key, store, random.bool()).await else {
            continue;
        };
        let next = v1::PutConfigRequest {
            precondition: if_match(&config.etag),
            ..put(&place.key, &counted(&place, count_in(&config.value) + 1))
        };
        let written = caller
            .call(&format!("Put {} if_match", place.key), &[store], |client| {
                let next = next.clone();
                async move { client.put_with(next).await }
            })
            .await;
        let mut bench = soak.judges.bench();
        match written {
            Ok(_) => bench.lost_update.acknowledged(&place, &config.etag),
            Err(status) if status.code() == Code::Aborted => {}
            Err(_) => bench.lost_update.unknown(&place),
        }
    }
}
