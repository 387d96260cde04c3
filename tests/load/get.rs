//! What a Get through the gateway costs beside a bare tonic echo of the same bytes: one after the other with the same client,
//! the same token in the metadata and the same answer.

use std::time::{Duration, Instant};

use clap::Args;
use hdrhistogram::Histogram;
use tagway_tests::client::{Client, get};
use tonic::Code;

use super::bare;
use super::side::{KEY, Side};

/// How Get is loaded.
#[derive(Args)]
pub(super) struct Load {
    /// Connections
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Requests under way on each
    #[arg(long, default_value_t = 16)]
    in_flight: usize,
    /// Seconds that each side is measured, after one that warms it up
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Bytes of the value
    #[arg(long, default_value_t = 256)]
    value: usize,
    /// Keys that are hot, and that are missing
    #[arg(long, default_value_t = 1000)]
    keys: usize,
    /// How often both are measured, in turn
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

struct Measured {
    per_second: f64,
    p50: Duration,
    p99: Duration,
}

/// Measures both in turn.
pub(super) async fn run(load: &Load) {
    let (gateway, token) = Side::gateway();
    let client = gateway.client_with(&token).await;
    client.put(KEY, &"x".repeat(load.value)).await.unwrap();
    let answer = client.get_with(get(KEY)).await.unwrap();
    let echo = bare::serve(answer).await;

    println!(
        "{} connections x {} in flight, {} bytes of value, {} of token",
        load.connections,
        load.in_flight,
        load.value,
        token.len()
    );
    println!(
        "{:<6}{:<10}{:>14}{:>14}{:>10}{:>12}{:>12}",
        "round", "keys", "echo/s", "get/s", "ratio", "get p50", "get p99"
    );
    for number in 0..load.keys {
        client.put(&hot(number), &"x".repeat(load.value)).await.unwrap();
    }
    for keys in [Keys::One, Keys::Hot, Keys::Missing] {
        let mut ratios = Vec::new();
        for round in 1..=load.rounds {
            let bare = measure(load, &echo, &token, keys).await;
            let real = measure(load, &gateway.address, &token, keys).await;
            let ratio = real.per_second / bare.per_second;
            println!(
                "{round:<6}{keys:<10?}{:>14.0}{:>14.0}{ratio:>10.2}{:>12.2?}{:>12.2?}",
                bare.per_second, real.per_second, real.p50, real.p99
            );
            ratios.push(ratio);
        }
        ratios.sort_by(f64::total_cmp);
        println!("{keys:?}: median ratio {:.2}", ratios[ratios.len() / 2]);
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keys {
    /// One, again and again.
    One,
    /// Many, in turn.
    Hot,
    /// As many that there are not. The echo answers them too.
    Missing,
}

fn hot(number: usize) -> String {
    format!("{KEY}/{number}")
}

async fn measure(load: &Load, address: &str, token: &str, keys: Keys) -> Measured {
    let begin = Instant::now() + Duration::from_secs(1);
    let end = begin + Duration::from_secs(load.seconds);
    let mut workers = Vec::new();
    for _ in 0..load.connections {
        let client = Client::connect(address, Some(token)).await;
        for worker in 0..load.in_flight {
            let client = client.clone();
            let count = load.keys;
            workers.push(tokio::spawn(async move {
                let mut times = Histogram::<u64>::new(3).unwrap();
                let mut asked = worker;
                loop {
                    asked = (asked + 1) % count;
                    let key = match keys {
                        Keys::One => KEY.to_owned(),
                        Keys::Hot => hot(asked),
                        Keys::Missing => format!("{KEY}/missing/{asked}"),
                    };
                    let sent = Instant::now();
                    if sent >= end {
                        return times;
                    }
                    match client.get(&key).await {
                        Ok(_) => {}
                        Err(status) => assert_eq!((status.code(), keys), (Code::NotFound, Keys::Missing)),
                    }
                    if sent >= begin {
                        times.record(u64::try_from(sent.elapsed().as_nanos()).unwrap()).unwrap();
                    }
                }
            }));
        }
    }
    let mut times = Histogram::<u64>::new(3).unwrap();
    for worker in workers {
        times.add(worker.await.unwrap()).unwrap();
    }
    let at = |quantile| Duration::from_nanos(times.value_at_quantile(quantile));
    Measured {
        #[allow(clippy::cast_precision_loss, reason = "a count of requests is far below 2^52")]
        per_second: times.len() as f64 / Duration::from_secs(load.seconds).as_secs_f64(),
        p50: at(0.5),
        p99: at(0.99),
    }
}
