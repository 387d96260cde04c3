//! Promise: Containment. A strategy that loops, hogs, traps, lies or floods costs its own tags an error, and nothing
//! else: each hostile answer is one clear error for who asked, and no error for a neighbour on another strategy.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tagway_proto::v1;
use tagway_tests::client::{Client, Door, why};
use tagway_tests::gateway::{Gateway, settings};
use tagway_tests::issuer::{Key, claims, key_set};
use tagway_tests::mutant::{Bug, Mutant, noticed};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

static HOSTILE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugins");
    tagway_plugin_builder::build("hostile", &target).unwrap()
});

/// A gateway with the default strategy, and beside it the hostile one with `more` of its settings.
fn gateway(more: &str) -> Gateway {
    let key = Key::ed("key");
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("keys.json"), key_set(&[&key]).to_string()).unwrap();
    fs::write(folder.path().join("hostile.wasm"), &*HOSTILE).unwrap();
    let strategies = format!(
        r#"
[backends.secret]
kind = "embedded"
path = "secret.redb"

[strategies.hostile]
source = "file:hostile.wasm"
tags = ["hostile_"]
backends = ["local"]
{more}
"#
    );
    Gateway::start_in(
        Arc::new(folder),
        Arc::new(key),
        &settings("file:keys.json", &strategies),
    )
}

const PATIENT: &str = "breaker = { failures = 100_000, window = \"10s\", rest = \"5s\" }";

/// A neighbour who reads and writes through another strategy all the while, until it is asked how it was.
struct Neighbour {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<Vec<Duration>, Status>>,
}

/// Longer than any neighbour waits for an answer, on a machine that is busy with everything else.
const HELD_UP: Duration = Duration::from_secs(1);

impl Neighbour {
    async fn start(door: &Door) -> Self {
        let client = door.client("neighbour").await;
        client.put("tenant_config_a", "x").await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut times = Vec::new();
            // At least once, however short the hostile part was.
            loop {
                let sent = Instant::now();
                client.get("tenant_config_a").await?;
                // One that is not remembered, so that it needs the engine too.
                let unseen = client.get(&format!("tenant_config_{}", times.len())).await;
                if let Err(status) = unseen
                    && status.code() != Code::NotFound
                {
                    return Err(status);
                }
                times.push(sent.elapsed());
                if stopped.load(Ordering::Relaxed) {
                    return Ok(times);
                }
            }
        });
        Self { stop, task }
    }

    /// p50 and p99 of its requests, of which none failed.
    async fn well(self) -> (Duration, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        let mut times = self.task.await.unwrap().expect("no request of the neighbour's fails");
        times.sort();
        let longest = times.last().copied().unwrap_or_default();
        assert!(longest < HELD_UP, "the neighbour was held up for {longest:?}");
        (times[times.len() / 2], times[times.len() * 99 / 100])
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_hostile_answer_is_one_error_for_who_asked() {
    let gateway = gateway(PATIENT);
    let client = gateway.client("acme").await;
    client.put("hostile_fine", "x").await.unwrap();
    println!(
        "{:<20}{:>12}{:>16}{:>16}",
        "it", "answered in", "neighbour p50", "neighbour p99"
    );
    for how in [
        "loop",
        "memory",
        "recursion",
        "trap",
        "panic",
        "placements",
        "string",
        "reason",
        "utf8",
        "outside",
        "unknown-backend",
        "ungranted-backend",
        "shared-home",
        "option",
        "namespace-up",
        "namespace-root",
        "namespace-tag",
        "namespace-unicode",
        "namespace-nul",
    ] {
        contained(gateway.door(), how).await;
    }
    for prefix in ["hostile_loop", "hostile_many", "hostile_escape"] {
        assert_eq!(
            why(client.keys(prefix).await),
            (Code::Internal, "STRATEGY_FAILED".to_owned()),
            "{prefix}"
        );
    }
    // A long and colourful refusal is an answer, cut and cleaned.
    let refusal = client.get("hostile_refusal").await.unwrap_err();
    assert!(refusal.code() == Code::Internal || refusal.message().len() <= 1024);
    assert!(!refusal.message().contains('\u{1b}'));
    // Its faults are told to operators, and none of its words to callers.
    let log = gateway.log();
    for fault in [
        "units of fuel",
        "names the backend `secret`",
        "shared scope",
        "namespace",
        "option",
    ] {
        assert!(log.contains(fault), "{fault}");
    }
    assert!(
        !client
            .get("hostile_ungranted-backend")
            .await
            .unwrap_err()
            .message()
            .contains("secret")
    );
    assert_eq!(client.keys("hostile_").await.unwrap(), ["hostile_fine"]);
}

/// Who asks gets an error, a neighbour notices nothing, and the next call of the same strategy is served.
#[allow(clippy::print_stdout, reason = "a table for who runs it with --nocapture")]
async fn contained(door: Door, how: &str) {
    let client = door.client("acme").await;
    client.put("hostile_fine", "x").await.unwrap();
    let neighbour = Neighbour::start(&door).await;
    let key = format!("hostile_{how}");
    let failed = (Code::Internal, "STRATEGY_FAILED".to_owned());
    let mut slowest = Duration::ZERO;
    for _ in 0..5 {
        let sent = Instant::now();
        assert_eq!(why(client.get(&key).await), failed, "{how}");
        assert_eq!(why(client.put(&key, "x").await), failed, "{how}");
        assert_eq!(why(client.delete(&key).await), failed, "{how}");
        slowest = slowest.max(sent.elapsed() / 3);
    }
    let (p50, p99) = neighbour.well().await;
    println!("{how:<20}{slowest:>12.1?}{p50:>16.1?}{p99:>16.1?}");
    assert_eq!(client.get("hostile_fine").await.unwrap().value, "x");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_contains_nothing_is_noticed() {
    let right = Mutant::start(Bug::None).await;
    for how in ["trap", "loop"] {
        contained(right.door().clone(), how).await;
    }
    for (bug, how) in [(Bug::TrapPoisons, "trap"), (Bug::LoopBlocks, "loop")] {
        let wrong = Mutant::start(bug).await;
        assert!(noticed(contained(wrong.door().clone(), how)).await, "{bug:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_loops_of_many_tenants_leaves_the_others_served() {
    let gateway = gateway(PATIENT);
    let first = gateway.client("tenant-0").await;
    let neighbour = Neighbour::start(&gateway.door()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let loops: Vec<_> = (0..32)
        .map(|i| {
            let client = first.with_token(&gateway.key.token(&claims(&format!("tenant-{}", i % 4))));
            let stop = Arc::clone(&stop);
            tokio::spawn(async move {
                let mut refused = 0;
                while !stop.load(Ordering::Relaxed) {
                    let (code, _) = why(client.get("hostile_loop").await);
                    assert!(
                        matches!(code, Code::Internal | Code::Unavailable | Code::DeadlineExceeded),
                        "{code:?}"
                    );
                    refused += 1;
                }
                refused
            })
        })
        .collect();
    // Of the same strategy: somebody who asks for nothing bad waits for a turn, and gets it.
    let fine = first.with_token(&gateway.key.token(&claims("patient")));
    for i in 0..20 {
        fine.put(&format!("hostile_fine-{i}"), "x").await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    let mut refused = 0;
    for task in loops {
        refused += task.await.unwrap();
    }
    let (p50, p99) = neighbour.well().await;
    println!("{refused} loops refused; the neighbour's p50 {p50:.1?}, p99 {p99:.1?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_breaker_rests_one_tenant_and_no_other() {
    let gateway = gateway("breaker = { failures = 5, window = \"10s\", rest = \"1s\" }");
    let acme = gateway.client("acme").await;
    let globex = acme.with_token(&gateway.key.token(&claims("globex")));
    acme.put("hostile_known", "x").await.unwrap();
    let resting = |status: &Status| {
        let retry = status.get_error_details().retry_info().cloned();
        retry
            .and_then(|retry| retry.retry_delay)
            .inspect(|delay| assert!(*delay <= Duration::from_secs(1)))
    };
    for _ in 0..5 {
        let status = acme.get("hostile_trap").await.unwrap_err();
        assert_eq!(resting(&status), None, "it is called until it has failed five times");
    }
    let status = acme.get("hostile_unseen").await.unwrap_err();
    let rest = resting(&status).expect("it says for how long");
    assert_eq!(
        why(Err::<(), _>(status)),
        (Code::Internal, "STRATEGY_FAILED".to_owned())
    );
    // What is remembered needs no call; another tenant and another strategy have breakers of their own.
    acme.put("hostile_known", "y").await.unwrap();
    globex.put("hostile_unseen", "x").await.unwrap();
    acme.put("tenant_config_a", "x").await.unwrap();
    tokio::time::sleep(rest).await;
    // One may try; it fails, and the rest begins again. Then one succeeds.
    assert_eq!(resting(&acme.get("hostile_trap").await.unwrap_err()), None);
    let rest = resting(&acme.get("hostile_unseen").await.unwrap_err()).expect("it rests again");
    tokio::time::sleep(rest).await;
    acme.put("hostile_unseen", "x").await.unwrap();
    acme.put("hostile_unseen-too", "x").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_one_call_is_there_for_the_next() {
    let gateway = gateway("");
    let first = gateway.client("tenant-0").await;
    for tenant in 0..20 {
        let client = first.with_token(&gateway.key.token(&claims(&format!("tenant-{tenant}"))));
        assert_eq!(reason(&client, "hostile_counter").await, "1");
        // What another tenant's call wrote into its memory, this one does not find there.
        assert_eq!(reason(&client, "hostile_leftovers").await, "0 bytes");
    }
}

async fn reason(client: &Client, key: &str) -> String {
    let request = v1::ExplainRouteRequest {
        key: key.to_owned(),
        ..Default::default()
    };
    let answer = client
        .grpc
        .clone()
        .explain_route(client.request(request))
        .await
        .unwrap();
    answer.into_inner().reason
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_hostile_before_it_serves_is_rejected_in_time() {
    for how in ["loop-configure", "loop-describe", "trap-describe"] {
        let began = Instant::now();
        let gateway = gateway(&format!("settings = {{ how = \"{how}\" }}"));
        println!("{how}: started in {:.1?}", began.elapsed());
        let client = gateway.client("acme").await;
        assert_eq!(
            why(client.get("hostile_fine").await),
            (Code::Internal, "STRATEGY_FAILED".to_owned())
        );
        client.put("tenant_config_a", "x").await.unwrap();
        assert!(
            gateway.log().contains(r#""stage":"configured""#),
            "{how}: {}",
            gateway.log()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_that_a_guest_took_comes_back() {
    let gateway = gateway(PATIENT);
    let client = gateway.client("acme").await;
    let hog = async |times| {
        for _ in 0..times {
            assert_eq!(why(client.get("hostile_memory").await).0, Code::Internal);
            assert_eq!(why(client.get("hostile_string").await).0, Code::Internal);
        }
        gateway.resident_bytes()
    };
    let after_few = hog(20).await;
    let after_many = hog(200).await;
    println!(
        "resident after 20 hogs: {} MiB, after 220: {} MiB",
        after_few >> 20,
        after_many >> 20
    );
    assert!(
        after_many < after_few + (16 << 20),
        "not one guest's memory more than before"
    );
}
