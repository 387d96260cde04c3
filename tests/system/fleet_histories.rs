//! Joint histories of three replicas: writers on each, somebody who changes what is in the stores behind everybody's back, events
//! that are lost, doubled and late, queues that vanish, replicas that are killed; and a validator of each promise over what
//! watchers on all of them were told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tagway_proto::v1::watch_configs_request::Subscribe;
use tagway_proto::v1::watch_configs_response::Kind;
use tagway_servers::Microburst;
use tagway_tests::client::Door;
use tagway_tests::gateway::Gateway;
use tagway_tests::validators::isolation::Isolation;
use tagway_tests::validators::ledger::State;
use tagway_tests::validators::order::Order;
use tagway_tests::watcher::{Watcher, to_prefix};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::fleet::{Fleet, with_queue};

const TENANTS: [&str; 2] = ["acme", "globex"];
const REPLICAS: usize = 3;
/// How long everything goes on.
const STORM: Duration = Duration::from_secs(25);
/// In which watchers converge afterwards: some sweeps, on a machine that is busy with everything else.
const CONVERGED: Duration = Duration::from_mins(1);
const SWEEP: &str = "sweep = \"2s\"";

type Held = BTreeMap<String, String>;

/// What a watcher was told, one list a stream, and what it holds.
#[derive(Default)]
struct Told {
    streams: Vec<Vec<(String, String)>>,
    held: Held,
}

/// Follows one tenant through one replica, whoever that is at the time, until the end.
async fn follow(tenant: &'static str, mut doors: watch::Receiver<Door>, told: Arc<Mutex<Told>>) {
    let mut known = BTreeMap::new();
    loop {
        let door = doors.borrow_and_update().clone();
        let Ok(client) = door.try_client(tenant).await else {
            _ = timeout(Duration::from_millis(100), doors.changed()).await;
            continue;
        };
        let Ok(mut watcher) = Watcher::open(&client).await else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        told.lock().unwrap().streams.push(Vec::new());
        watcher.held = known;
        watcher.subscribe(Subscribe {
            known_etags: watcher.known("s"),
            ..to_prefix("s", "")
        });
        while let Ok((_, kind)) = watcher.any().await {
            let mut told = told.lock().unwrap();
            if let (Kind::Put(config), Some(stream)) = (&kind, told.streams.last_mut()) {
                stream.push((config.key.clone(), config.etag.clone()));
            }
            let values = watcher.held.values();
            let held = values.map(|config| (config.key.clone(), String::from_utf8_lossy(&config.value).into_owned()));
            told.held = held.collect();
        }
        known = std::mem::take(&mut watcher.held);
    }
}

/// Writes for one tenant through whichever replica, until the end. Returns how much.
async fn write(
    tenant: &'static str,
    doors: Vec<watch::Receiver<Door>>,
    over: watch::Receiver<bool>,
    seed: u64,
) -> usize {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut written = 0;
    while !*over.borrow() {
        let door = doors[random.usize(..REPLICAS)].borrow().clone();
        let tag = ["tenant_config_", "param_config_"][random.usize(..2)];
        let key = format!("{tag}{}", random.u8(..4));
        // Whether it went well is nobody's matter: the replica may be gone, or another writer was faster.
        if let Ok(client) = door.try_client(tenant).await {
            let done = if random.u8(..4) == 0 {
                client.delete(&key).await.is_ok()
            } else {
                let value = format!("{tenant} {}", random.u32(..));
                client.put(&key, &value).await.is_ok()
            };
            written += usize::from(done);
        }
        sleep(Duration::from_millis(random.u64(..100))).await;
    }
    written
}

/// Somebody who knows the stores and not the gateways.
const BEHIND: &str = "
ssm, table = client('ssm'), client('dynamodb')
end = time.time() + SECONDS
while time.time() < end:
    tenant, number = random.choice(['acme', 'globex']), random.randrange(4)
    name = f'/tagway/{tenant}/live/eu-1/param_config_/{number}'
    value = f'{tenant} behind {random.random()}'
    try:
        if random.random() < 0.5:
            if random.random() < 0.3:
                ssm.delete_parameter(Name=name)
            else:
                ssm.put_parameter(Name=name, Value=value, Type='String', Overwrite=True)
        else:
            table.update_item(TableName='tagway',
                Key={'pk': {'S': f'TENANT#{tenant}'}, 'sk': {'S': f'CONFIG#tenant_config_/{number}'}},
                UpdateExpression='SET #v = :v ADD version :one', ConditionExpression='attribute_exists(pk)',
                ExpressionAttributeNames={'#v': 'value'},
                ExpressionAttributeValues={':v': {'B': value.encode()}, ':one': {'N': '1'}})
    except (ssm.exceptions.ParameterNotFound, table.exceptions.ConditionalCheckFailedException):
        pass
    time.sleep(random.random() / 5)
";

/// Makes trouble until `until`: replicas are killed and come back, queues vanish, AWS loses, doubles and delays.
async fn storm(fleet: &Fleet, faults: &Microburst, replicas: &mut [Gateway], doors: &[watch::Sender<Door>], seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let until = Instant::now() + STORM;
    while Instant::now() < until {
        match random.u8(..5) {
            0 => {
                let at = random.usize(..REPLICAS);
                // Dropped, it is killed.
                replicas[at] = fleet.start(&with_queue(faults.endpoint(), SWEEP));
                doors[at].send_replace(replicas[at].door());
            }
            1 => {
                let one = "
sqs = client('sqs')
urls = sqs.list_queues(QueueNamePrefix='tagway-events-').get('QueueUrls', [])
if urls:
    sqs.delete_queue(QueueUrl=random.choice(urls))";
                fleet.does(one).await;
            }
            // They are received, and that is not heard: so they come again, later and in another order.
            2 => faults.rule(&serde_json::json!({
                "operation": "ReceiveMessage", "times": 3, "response": { "abort_bytes": 10 },
            })),
            3 => faults.rule(&serde_json::json!({
                "operation": "PutEvents", "times": 20, "error": { "code": "InternalFailure", "status": 500, "message": "" },
            })),
            _ => faults.rule(&serde_json::json!({
                "operation": "DeleteMessageBatch", "times": 5, "latency": 300,
            })),
        }
        sleep(Duration::from_millis(random.u64(..2000))).await;
    }
    faults.clear();
}

/// Waits until all watchers hold what a list shows, which is the same everywhere.
async fn converged(replicas: &[Gateway], watchers: &[(&'static str, Arc<Mutex<Told>>)]) {
    let began = Instant::now();
    loop {
        let mut listed = Vec::new();
        for tenant in TENANTS {
            let client = replicas[0].client(tenant).await;
            let configs = client.list("", 0).await.unwrap();
            let configs = configs.into_iter();
            let held = configs.map(|config| (config.key, String::from_utf8_lossy(&config.value).into_owned()));
            listed.push(held.collect::<Held>());
        }
        let differs = watchers.iter().find_map(|(tenant, told)| {
            let listed = &listed[TENANTS.iter().position(|other| other == tenant).unwrap()];
            let held = &told.lock().unwrap().held;
            (held != listed).then(|| format!("{tenant} holds {held:?} and a list shows {listed:?}"))
        });
        match differs {
            None => return,
            Some(differs) if began.elapsed() > CONVERGED => {
                let logs: Vec<_> = replicas.iter().map(Gateway::log).collect();
                panic!("{differs}\n{}", logs.join("\n"));
            }
            Some(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

#[tokio::test]
#[allow(clippy::print_stdout, reason = "figures for who runs it with --nocapture")]
async fn whatever_happens_to_events_and_replicas_all_watchers_converge() {
    let fleet = Fleet::new();
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let faults = Microburst::start(fleet.aws.endpoint());
    let events = with_queue(faults.endpoint(), SWEEP);
    let mut replicas: Vec<Gateway> = (0..REPLICAS).map(|_| fleet.start(&events)).collect();
    let doors: Vec<_> = replicas
        .iter()
        .map(|replica| watch::Sender::new(replica.door()))
        .collect();
    let (end, over) = watch::channel(false);
    let mut watchers = Vec::new();
    let mut following: Vec<JoinHandle<()>> = Vec::new();
    for door in &doors {
        for tenant in TENANTS {
            let told: Arc<Mutex<Told>> = Arc::default();
            following.push(tokio::spawn(follow(tenant, door.subscribe(), Arc::clone(&told))));
            watchers.push((tenant, told));
        }
    }
    let writers: Vec<_> = (0..4)
        .map(|number| {
            let doors = doors.iter().map(watch::Sender::subscribe).collect();
            let seed = seed.wrapping_add(number);
            let tenant = TENANTS[usize::try_from(number).unwrap() % 2];
            tokio::spawn(write(tenant, doors, over.clone(), seed))
        })
        .collect();
    let behind = BEHIND.replace("SECONDS", &STORM.as_secs().to_string());
    tokio::join!(fleet.does(&behind), storm(&fleet, &faults, &mut replicas, &doors, seed));
    end.send_replace(true);
    let mut written = 0;
    for writer in writers {
        written += writer.await.unwrap();
    }
    let calm = Instant::now();
    converged(&replicas, &watchers).await;
    println!("converged {:?} after the last write", calm.elapsed());
    // All go and come back at once, and one more write is everywhere.
    for (replica, door) in replicas.iter_mut().zip(&doors) {
        *replica = fleet.start(&events);
        door.send_replace(replica.door());
    }
    let client = replicas[1].client("acme").await;
    client.put("tenant_config_last", "acme last").await.unwrap();
    client.put("param_config_last", "acme last").await.unwrap();
    converged(&replicas, &watchers).await;
    let (mut order, mut isolation) = (Order::default(), Isolation::default());
    for (tenant, watcher) in &watchers {
        let watcher = watcher.lock().unwrap();
        for states in &watcher.streams {
            let stream = order.begins();
            for (key, etag) in states {
                order.told(stream, key, State::of(etag));
            }
        }
        for (key, value) in &watcher.held {
            isolation.saw(tenant, key, value.as_bytes());
        }
    }
    let told = order.verdict.judged;
    for verdict in [order.verdict, isolation.verdict] {
        assert_eq!(verdict.broken, 0, "seed {seed}: {verdict:?}");
    }
    for following in following {
        following.abort();
    }
    println!("{written} written through gateways, {told} states told");
    assert!(written > 100 && told > 300, "{written} written, {told} told");
}
