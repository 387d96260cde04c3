//! What it costs requests that strategies are replaced meanwhile: the same load without swaps and with them, in turn, and how
//! long a component takes from its file to serving.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use hdrhistogram::Histogram;
use tagway_proto::v1;
use tagway_proto::v1::strategy::State;
use tagway_tests::admin::{Admin, activate, distinct};
use tagway_tests::client::Client;
use tagway_tests::gateway::{Gateway, settings};
use tagway_tests::issuer::{Key, claims, key_set};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::{sleep, sleep_until};

/// Components that are told apart.
const COMPONENTS: u32 = 20;
const STRATEGY: &str = "tag-prefix";

/// How swaps are measured.
#[derive(Args)]
pub(super) struct Load {
    /// Connections
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Requests under way on each
    #[arg(long, default_value_t = 4)]
    in_flight: usize,
    /// Seconds that each side is measured
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Swaps a second
    #[arg(long, default_value_t = 2)]
    swaps: u32,
    /// Keys that are read, listed and written in turn
    #[arg(long, default_value_t = 400)]
    keys: usize,
    /// How often both are measured, in turn
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// Measures it.
pub(super) async fn run(load: &Load) {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/load-plugins");
    let component = tagway_plugin_builder::build(STRATEGY, &target).unwrap();
    let key = Arc::new(Key::rsa("load"));
    let folder = Arc::new(TempDir::new().unwrap());
    let file = folder.path().join("strategy.wasm");
    fs::write(&file, &component).unwrap();
    fs::write(folder.path().join("keys.json"), key_set(&[&key]).to_string()).unwrap();
    let text = settings("file:keys.json", "")
        .replace(
            "[server]",
            "[server]\nadmin_listen = \"127.0.0.1:0\"\nstate = \"state\"",
        )
        .replace("builtin:tag-prefix", "file:strategy.wasm");
    let gateway = Gateway::start_in(folder, Arc::clone(&key), &text);
    let token = key.token(&claims("acme"));
    let client = gateway.client_with(&token).await;
    for number in 0..load.keys {
        client.put(&named(number), "x").await.unwrap();
    }
    println!(
        "{} connections x {} in flight over {} keys, 8 of 10 requests Get, 1 Put, 1 List of a page of 100",
        load.connections, load.in_flight, load.keys
    );
    println!(
        "{:<6}{:<8}{:>12}{:>10}{:>12}{:>12}{:>12}{:>14}",
        "round", "swaps", "requests", "failed", "p50", "p99", "p99.9", "slowest swap"
    );
    let mut admin = gateway.admin().await;
    for round in 1..=load.rounds {
        for swaps in [0, load.swaps] {
            let stop = Arc::new(AtomicBool::new(false));
            let workers = workers(load, &gateway.address, &token, &stop).await;
            let (count, slowest) = swap(load, &mut admin, &component, swaps).await;
            stop.store(true, Ordering::Relaxed);
            let (mut times, mut failed) = (Histogram::<u64>::new(3).unwrap(), 0);
            for worker in workers {
                let (of_one, failures) = worker.await.unwrap();
                times.add(of_one).unwrap();
                failed += failures;
            }
            let at = |quantile| Duration::from_nanos(times.value_at_quantile(quantile));
            println!(
                "{round:<6}{count:<8}{:>12}{failed:>10}{:>12.2?}{:>12.2?}{:>12.2?}{slowest:>14.2?}",
                times.len(),
                at(0.5),
                at(0.99),
                at(0.999)
            );
        }
    }
    from_file(&mut admin, &component, &file).await;
}

/// Replaces the strategy so many times a second. Returns how often that was, and the longest that it took.
async fn swap(load: &Load, admin: &mut Admin, component: &[u8], swaps: u32) -> (u32, Duration) {
    let begun = tokio::time::Instant::now();
    let end = begun + Duration::from_secs(load.seconds);
    let mut slowest = Duration::ZERO;
    let swaps = swaps * u32::try_from(load.seconds).unwrap();
    for count in 0..swaps {
        sleep_until(begun + Duration::from_secs(load.seconds) / swaps * count).await;
        let sent = Instant::now();
        let request = activate(STRATEGY, Some(distinct(component, count % COMPONENTS)));
        let taken = admin.activate_strategy(request).await.unwrap().into_inner();
        assert_eq!(taken.strategy.unwrap().state(), State::Active);
        slowest = slowest.max(sent.elapsed());
    }
    sleep_until(end).await;
    (swaps, slowest)
}

type Worker = JoinHandle<(Histogram<u64>, u64)>;

async fn workers(load: &Load, address: &str, token: &str, stop: &Arc<AtomicBool>) -> Vec<Worker> {
    let mut workers = Vec::new();
    for _ in 0..load.connections {
        let client = Client::connect(address, Some(token)).await;
        for worker in 0..load.in_flight {
            let (client, stop, keys) = (client.clone(), Arc::clone(stop), load.keys);
            workers.push(tokio::spawn(async move {
                let mut times = Histogram::<u64>::new(3).unwrap();
                let (mut number, mut failed) = (worker, 0);
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    let key = named(number % keys);
                    let sent = Instant::now();
                    let answered = match number % 10 {
                        0 => client.put(&key, "y").await.map(drop),
                        1 => client.page(page()).await.map(drop),
                        _ => client.get(&key).await.map(drop),
                    };
                    times.record(u64::try_from(sent.elapsed().as_nanos()).unwrap()).unwrap();
                    failed += u64::from(answered.is_err());
                }
                (times, failed)
            }));
        }
    }
    workers
}

/// From the moment that a component is in its place to the one that it serves.
async fn from_file(admin: &mut Admin, component: &[u8], file: &Path) {
    let mut times = Vec::new();
    for number in 0..10 {
        // What was looked at is looked at again after a second's rest.
        sleep(Duration::from_millis(1500)).await;
        let new = distinct(component, COMPONENTS + number);
        let beside = file.with_extension("new");
        fs::write(&beside, &new).unwrap();
        let before = active(admin).await;
        fs::rename(&beside, file).unwrap();
        let begun = Instant::now();
        while active(admin).await == before {
            sleep(Duration::from_millis(1)).await;
        }
        times.push(begun.elapsed());
    }
    times.sort();
    println!(
        "from file to active: {:.2?} in the middle of {}, {:.2?} at most",
        times[times.len() / 2],
        times.len(),
        times[times.len() - 1]
    );
}

async fn active(admin: &mut Admin) -> String {
    let listed = admin
        .list_strategies(v1::ListStrategiesRequest {})
        .await
        .unwrap()
        .into_inner();
    let mut active = listed
        .strategies
        .into_iter()
        .filter(|version| version.state() == State::Active);
    active.next().unwrap().digest
}

fn named(number: usize) -> String {
    format!("tenant_config_service-{number}")
}

fn page() -> v1::ListConfigsRequest {
    v1::ListConfigsRequest {
        prefix: "tenant_config_".to_owned(),
        page_size: 100,
        ..v1::ListConfigsRequest::default()
    }
}
