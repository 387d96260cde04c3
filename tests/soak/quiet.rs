//! A quiet point: nothing disturbs, nobody writes, and the whole state is compared, store by store, replica by replica. Now and then it
//! lasts until what is kept for a while only has been let go, and what the processes hold then is noted.

use std::sync::Arc;
use std::time::Duration;

use tagway_tests::validators::agreement::{Held, difference};
use tagway_tests::validators::ledger::Place;
use tagway_tests::validators::timeline::Store;
use tokio::time::{Instant, sleep};
use tonic::Status;

use crate::caller::Caller;
use crate::fleet::{stores, tag};
use crate::leaks::Leaks;
use crate::load::{STORES, count_in, counters, store_of};
use crate::watchers::Watching;
use crate::{REPLICAS, Soak, TENANTS};

/// In which everything agrees: some sweeps, on a machine that is busy with everything else.
const AGREED: Duration = Duration::from_mins(1);
/// After that, what was only under way is over, and so are idle connections to AWS: hyper-util keeps one for 90 s and looks every 90 s. How
/// many there are until then says how busy the last storms were, and nothing of leaks.
const REST: Duration = Duration::from_secs(2 * 90 + 5);
/// What a list is asked for, to hold all that is watched.
const PREFIXES: [&str; 2] = [tag(Store::DynamoDb), tag(Store::ParameterStore)];

/// What stands for one tenant, through one replica.
struct Standing {
    tenant: &'static str,
    replica: usize,
    listed: Held,
    /// By Gets out of the cache, and of the store.
    got: [Held; 2],
}

/// Waits until everything agrees, and has that judged, or that it does not. With `leaks`, it rests and takes samples.
pub(super) async fn point(soak: &Arc<Soak>, watchers: &[Watching], leaks: Option<&mut Leaks>) {
    let _closed = soak.gate.write().await;
    soak.fleet.heal().await;
    let mut callers: Vec<Caller> = Vec::new();
    for tenant in TENANTS {
        callers.extend((0..REPLICAS).map(|replica| Caller::new(soak, tenant, replica)));
    }
    let until = Instant::now() + AGREED;
    loop {
        let standing = look(soak, &mut callers).await;
        let is_late = Instant::now() > until;
        match standing {
            Err(status) if is_late => {
                let breach = format!("{AGREED:?} after the last fault a list cannot be had: {status}");
                soak.judges.bench().agreement.compared(Some(breach));
                break;
            }
            Err(_) => {}
            Ok(standing) => {
                let (agree, converge) = compare(&standing, watchers);
                let differ = agree.iter().chain(&converge).any(Option::is_some);
                if !differ || is_late {
                    let mut bench = soak.judges.bench();
                    for breach in agree {
                        bench.agreement.compared(breach);
                    }
                    for breach in converge {
                        bench.convergence.compared(breach);
                    }
                    break;
                }
            }
        }
        sleep(Duration::from_millis(200)).await;
    }
    soak.judges.bench().ledger.settled();
    for (place, replica) in counters() {
        let mut caller = Caller::new(soak, place.tenant, replica);
        // Where it cannot be read, that was judged.
        if let Ok(Some((config, _))) = caller.get(&place.key, store_of(&place.key), true).await {
            let mut bench = soak.judges.bench();
            bench.lost_update.settled(&place, count_in(&config.value));
        }
    }
    drop(callers);
    soak.fleet.expire().await;
    soak.fleet.bury().await;
    if let Some(leaks) = leaks {
        sleep(REST).await;
        for replica in 0..REPLICAS {
            leaks.sample(&soak.fleet, replica).await;
        }
    }
}

async fn look(soak: &Soak, callers: &mut [Caller]) -> Result<Vec<Standing>, Status> {
    let places: Vec<Place> = soak.judges.bench().ledger.places().cloned().collect();
    let mut standing = Vec::new();
    for caller in callers {
        let mut listed = Held::new();
        for prefix in PREFIXES {
            let configs = caller.list(prefix, &stores(prefix), 0).await?.configs;
            listed.extend(configs.into_iter().map(|config| (config.key, config.etag)));
        }
        let is_its = |place: &&Place| {
            place.tenant == caller.tenant && place.replica.is_none_or(|replica| replica == caller.replica)
        };
        let written = places.iter().filter(is_its).map(|place| place.key.clone());
        // And what nobody of ours knows to be there.
        let mut keys: Vec<String> = written.chain(listed.keys().cloned()).collect();
        keys.sort();
        keys.dedup();
        let mut got = [Held::new(), Held::new()];
        for (held, is_latest) in got.iter_mut().zip([false, true]) {
            let answers = caller.batch(&keys, &STORES, is_latest).await?;
            let found = answers
                .into_iter()
                .filter_map(|(key, found)| Some((key, found?.0.etag)));
            held.extend(found);
        }
        standing.push(Standing {
            tenant: caller.tenant,
            replica: caller.replica,
            listed,
            got,
        });
    }
    Ok(standing)
}

type Differences = Vec<Option<String>>;

/// Lists with Gets and with one another; and watchers with lists.
fn compare(standing: &[Standing], watchers: &[Watching]) -> (Differences, Differences) {
    let (mut agree, mut converge) = (Vec::new(), Vec::new());
    for here in standing {
        let whose = |what: &str| format!("{}'s {what} through replica {}", here.tenant, here.replica);
        let list = whose("list");
        for (got, how) in here.got.iter().zip(["Gets", "Gets of the store"]) {
            agree.push(difference((&list, &here.listed), (&whose(how), got)));
        }
        let all = |other: &&Standing| other.tenant == here.tenant && other.replica > here.replica;
        for other in standing.iter().filter(all) {
            let theirs = format!("that through replica {}", other.replica);
            let shared = [here, other].map(|side| shared(&side.listed));
            agree.push(difference((&list, &shared[0]), (&theirs, &shared[1])));
        }
        let its = |watcher: &&Watching| (watcher.tenant, watcher.replica) == (here.tenant, here.replica);
        for watcher in watchers.iter().filter(its) {
            converge.push(difference((&list, &here.listed), ("its watcher", &watcher.held())));
        }
    }
    (agree, converge)
}

/// What both replicas have.
fn shared(listed: &Held) -> Held {
    let shared = listed.iter().filter(|(key, _)| store_of(key) != Store::Embedded);
    shared.map(|(key, etag)| (key.clone(), etag.clone())).collect()
}
