//! Promise: Hot swap. Activating strategies under load fails no request and mixes no decision.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tagway_proto::v1;
use tagway_proto::v1::batch_get_configs_response::result::Outcome;
use tagway_proto::v1::strategy::State;
use tagway_tests::admin::{activate, distinct};
use tagway_tests::client::{Client, Door};
use tagway_tests::mutant::{Bug, Mutant, noticed};
use tagway_tests::watcher::{Watcher, to_prefix};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::{SCRIPTED, World, both, explained, with_settings};

const KEYS: u64 = 50;

fn key(number: u64) -> String {
    format!("t_k{}", number % KEYS)
}

/// Requests that go on until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    requests: Arc<AtomicU64>,
    tasks: Vec<JoinHandle<()>>,
}

impl Load {
    fn new() -> Self {
        Self {
            stop: Arc::default(),
            requests: Arc::default(),
            tasks: Vec::new(),
        }
    }

    fn add<F: Future<Output = ()> + Send>(&mut self, request: impl Fn(u64) -> F + Send + 'static) {
        let (stop, requests) = (Arc::clone(&self.stop), Arc::clone(&self.requests));
        self.tasks.push(tokio::spawn(async move {
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                request(number).await;
                requests.fetch_add(1, Ordering::Relaxed);
                number += 1;
            }
        }));
    }

    /// Returns how many there were.
    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("no request fails");
        }
        self.requests.load(Ordering::Relaxed)
    }
}

/// All of these were decided by one strategy: each holds the name of the store that it lies in.
fn one_mind(found: &[v1::Config]) {
    assert_eq!(found.len() as u64, KEYS);
    let first = &found[0].backend;
    for config in found {
        assert_eq!(
            (&config.backend, config.value.as_ref()),
            (first, first.as_bytes()),
            "{}",
            config.key
        );
    }
}

async fn lists_of_one_mind(door: Door) {
    let client = door.client("acme").await;
    for number in 0..KEYS {
        client.put(&key(number), "a").await.unwrap();
    }
    one_mind(&client.list("t_", 1000).await.unwrap());
}

#[tokio::test]
async fn a_gateway_that_mixes_decisions_is_noticed() {
    lists_of_one_mind(Mutant::start(Bug::None).await.door().clone()).await;
    let wrong = Mutant::start(Bug::MixesDecisions).await;
    assert!(noticed(lists_of_one_mind(wrong.door().clone())).await);
}

async fn batch(client: &Client, keys: Vec<String>) -> Vec<v1::Config> {
    let request = client.request(v1::BatchGetConfigsRequest {
        keys,
        ..v1::BatchGetConfigsRequest::default()
    });
    let answer = client
        .grpc
        .clone()
        .batch_get_configs(request)
        .await
        .unwrap()
        .into_inner();
    let results = answer.results.into_iter();
    results
        .map(|result| match result.outcome.unwrap() {
            Outcome::Config(config) => config,
            Outcome::Failure(failure) => panic!("{failure:?}"),
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_components_that_are_swapped_twice_a_second_fail_no_request() {
    let world = World::new();
    let script = both(&json!({ "home": ["a", ""] }));
    let gateway = world.start(&script);
    let client = gateway.client("acme").await;
    for number in 0..KEYS {
        client.put(&key(number), "0").await.unwrap();
    }
    let watcher = Watcher::of(&client, to_prefix("all", "t_")).await;
    let mut load = Load::new();
    for _ in 0..2 {
        let reader = client.clone();
        load.add(move |number| {
            let reader = reader.clone();
            async move { _ = reader.get(&key(number)).await.unwrap() }
        });
    }
    let lister = client.clone();
    load.add(move |_| {
        let lister = lister.clone();
        async move { assert_eq!(lister.keys("t_").await.unwrap().len() as u64, KEYS) }
    });
    let writer = client.clone();
    load.add(move |number| {
        let writer = writer.clone();
        async move { _ = writer.put(&key(number), &number.to_string()).await.unwrap() }
    });
    let of_many = client.clone();
    load.add(move |_| {
        let of_many = of_many.clone();
        async move { _ = batch(&of_many, (0..10).map(key).collect()).await }
    });
    let mut admin = gateway.admin().await;
    let begun = Instant::now();
    let mut slowest = Duration::ZERO;
    for round in 0..20 {
        sleep_until(begun + Duration::from_millis(500) * round).await;
        let sent = Instant::now();
        let request = activate("scripted", Some(distinct(&SCRIPTED, round)));
        let taken = admin.activate_strategy(request).await.unwrap().into_inner();
        slowest = slowest.max(sent.elapsed());
        let strategy = taken.strategy.unwrap();
        assert_eq!(strategy.state(), State::Active, "{strategy:?}");
    }
    let requests = load.end().await;
    println!("{requests} requests, none failed; the slowest of 20 activations took {slowest:?}");
    // Who watched all the while holds what stands, and was never told otherwise.
    let mut watcher = watcher;
    let stands = client.list("t_", 0).await.unwrap();
    for config in stands {
        let of = ("all".to_owned(), config.key.clone());
        while watcher.held.get(&of).is_none_or(|held| held.etag != config.etag) {
            watcher.next().await.unwrap();
        }
    }
    assert_eq!(watcher.held.len() as u64, KEYS);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_mixes_two_strategies() {
    let world = World::new();
    let homes: [Value; 2] = ["a", "b"].map(|home| both(&json!({ "home": [home, ""] })));
    let gateway = world.start(&homes[0]);
    let client = gateway.client("acme").await;
    let mut admin = gateway.admin().await;
    let leads = Arc::new(Mutex::new(HashMap::new()));
    let take = |round: usize| v1::ActivateStrategyRequest {
        allow_moves: true,
        ..with_settings(&homes[round % 2])
    };
    let first = explained(&client, "t_k0").await.generation;
    leads.lock().unwrap().insert(first, "a");
    for number in 0..KEYS {
        client.put(&key(number), "a").await.unwrap();
    }
    let other = admin
        .activate_strategy(take(1))
        .await
        .unwrap()
        .into_inner()
        .strategy
        .unwrap();
    leads.lock().unwrap().insert(other.generation, "b");
    for number in 0..KEYS {
        client.put(&key(number), "b").await.unwrap();
    }
    // Each generation, and where it was seen to lead.
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut load = Load::new();
    let (explainer, noted) = (client.clone(), Arc::clone(&seen));
    load.add(move |number| {
        let (explainer, noted) = (explainer.clone(), Arc::clone(&noted));
        async move {
            let route = explained(&explainer, &key(number)).await;
            assert_eq!(route.steps.len(), 1);
            let backend = route.steps[0].backend.clone();
            noted.lock().unwrap().push((route.generation, backend));
        }
    });
    let reader = client.clone();
    load.add(move |number| {
        let reader = reader.clone();
        async move {
            let config = reader.get(&key(number)).await.unwrap();
            assert_eq!(config.value, config.backend.as_bytes());
        }
    });
    let lister = client.clone();
    load.add(move |_| {
        let lister = lister.clone();
        async move { one_mind(&lister.list("t_", 1000).await.unwrap()) }
    });
    let of_many = client.clone();
    load.add(move |_| {
        let of_many = of_many.clone();
        async move {
            one_mind(&batch(&of_many, (0..KEYS).map(key).collect()).await);
        }
    });
    for round in 0..40 {
        let taken = admin.activate_strategy(take(round)).await.unwrap().into_inner();
        let strategy = taken.strategy.unwrap();
        assert_eq!(strategy.state(), State::Active, "{strategy:?}");
        leads.lock().unwrap().insert(strategy.generation, ["a", "b"][round % 2]);
    }
    let requests = load.end().await;
    let seen = seen.lock().unwrap();
    let leads = leads.lock().unwrap();
    for (generation, backend) in seen.iter() {
        assert_eq!(
            leads.get(generation),
            Some(&backend.as_str()),
            "generation {generation}"
        );
    }
    println!("{requests} requests over {} generations", leads.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_that_have_drained_free_their_memory() {
    let world = World::new();
    let gateway = world.start(&both(&json!({ "home": ["a", ""] })));
    let client = gateway.client("acme").await;
    client.put("t_x", "1").await.unwrap();
    let mut admin = gateway.admin().await;
    let mut after = Vec::new();
    for round in 0..500 {
        client.get("t_x").await.unwrap();
        let request = activate("scripted", Some(distinct(&SCRIPTED, round)));
        let taken = admin.activate_strategy(request).await.unwrap().into_inner();
        assert_eq!(taken.strategy.unwrap().state(), State::Active);
        if round == 49 || round == 499 {
            after.push(gateway.resident_bytes());
        }
    }
    println!(
        "{} KiB after 50 swaps, {} KiB after 500",
        after[0] >> 10,
        after[1] >> 10
    );
    // Ten versions' worth would be more.
    assert!(after[1] < after[0] + (16 << 20), "{after:?}");
}
