//! From a change to its delivery at each of many watchers, beside bare tonic streams and beside etcd: up to 100 connections with up to
//! 100 streams each, all of which watch one key. The bare server keeps what it is told as safely as the gateway does. Each change
//! is made when all have the one before, so that no time is that of
//! a queue.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use hdrhistogram::Histogram;
use tagway_proto::v1;
use tokio::sync::Notify;

use super::bare;
use super::etcd::Etcd;
use super::side::Side;

/// Streams of a connection.
const STREAMS: usize = 100;
/// Changes that only warm up.
const WARM: usize = 5;

/// How watches are loaded.
#[derive(Args)]
pub(super) struct Load {
    /// Watchers, each on a stream of its own
    #[arg(long, value_delimiter = ',', default_value = "1,100,10000")]
    watchers: Vec<usize>,
    /// Deliveries that are measured, at least, of each number of watchers
    #[arg(long, default_value_t = 500)]
    deliveries: usize,
    /// Bytes of the value
    #[arg(long, default_value_t = 256)]
    value: usize,
}

struct Measured {
    put: Duration,
    p50: Duration,
    p99: Duration,
    /// Memory of the server, for each watcher.
    bytes: Option<u64>,
}

/// Measures all of them in turn.
pub(super) async fn run(load: &Load) {
    let (gateway, token) = Side::gateway();
    let answer = v1::GetConfigResponse {
        config: Some(v1::Config::default()),
        freshness: None,
    };
    let address = bare::serve(answer).await;
    let bare = Side::Ours {
        address,
        token: token.clone(),
    };
    let etcd = Etcd::start().await;
    let ours = Side::Ours {
        address: gateway.address.clone(),
        token,
    };
    if etcd.is_none() {
        println!("no etcd on the PATH: Debian's package etcd-server has it");
    }
    println!(
        "{:<10}{:<10}{:>12}{:>12}{:>12}{:>10}{:>16}",
        "watchers", "", "put", "p50", "p99", "of bare", "bytes a watcher"
    );
    for &watchers in &load.watchers {
        let floor = measure(load, watchers, &bare, None).await;
        print(watchers, "bare", &floor, &floor);
        print(
            watchers,
            "tagway",
            &measure(load, watchers, &ours, Some(gateway.id())).await,
            &floor,
        );
        if let Some(etcd) = &etcd {
            let side = Side::Etcd {
                address: etcd.address.clone(),
            };
            print(
                watchers,
                "etcd",
                &measure(load, watchers, &side, Some(etcd.id())).await,
                &floor,
            );
        }
    }
}

fn print(watchers: usize, name: &str, measured: &Measured, floor: &Measured) {
    let ratio = measured.p50.as_secs_f64() / floor.p50.as_secs_f64();
    let bytes = measured.bytes.map(|bytes| bytes.to_string()).unwrap_or_default();
    let Measured { put, p50, p99, .. } = measured;
    println!("{watchers:<10}{name:<10}{put:>12.1?}{p50:>12.1?}{p99:>12.1?}{ratio:>10.2}{bytes:>16}");
}

/// What all watchers share.
struct Shared {
    begun: Instant,
    /// When the change under way was begun, in nanoseconds after that.
    sent: AtomicU64,
    left: AtomicUsize,
    all: Notify,
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap()
    }

    fn one_more(&self) {
        if self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.all.notify_one();
        }
    }
}

async fn measure(load: &Load, watchers: usize, side: &Side, server: Option<u32>) -> Measured {
    let changes = WARM + load.deliveries.div_ceil(watchers).max(30);
    let before = server.map(resident_bytes);
    let shared = Arc::new(Shared {
        begun: Instant::now(),
        sent: AtomicU64::new(0),
        left: AtomicUsize::new(watchers),
        all: Notify::new(),
    });
    let writer = side.connect().await;
    writer.put("first").await;
    let mut tasks = Vec::with_capacity(watchers);
    for first in (0..watchers).step_by(STREAMS) {
        let connection = Arc::new(side.connect().await);
        for _ in first..watchers.min(first + STREAMS) {
            let (connection, shared) = (Arc::clone(&connection), Arc::clone(&shared));
            tasks.push(tokio::spawn(async move {
                let mut times = Vec::with_capacity(changes);
                let watching = connection.watch(
                    || shared.one_more(),
                    |_| {
                        times.push(shared.now() - shared.sent.load(Ordering::SeqCst));
                        shared.one_more();
                        times.len() < changes
                    },
                );
                watching.await;
                times
            }));
        }
    }
    shared.all.notified().await;
    let bytes = server.zip(before).map(|(server, before)| {
        let taken = resident_bytes(server).saturating_sub(before);
        taken / u64::try_from(watchers).unwrap()
    });
    let mut puts = Histogram::<u64>::new(3).unwrap();
    for change in 0..changes {
        shared.left.store(watchers, Ordering::SeqCst);
        shared.sent.store(shared.now(), Ordering::SeqCst);
        let took = writer.put(&format!("{change:0width$}", width = load.value)).await;
        puts.record(u64::try_from(took.as_nanos()).unwrap()).unwrap();
        shared.all.notified().await;
    }
    let mut times = Histogram::<u64>::new(3).unwrap();
    for task in tasks {
        for time in task.await.unwrap().into_iter().skip(WARM) {
            times.record(time).unwrap();
        }
    }
    let at = |times: &Histogram<u64>, quantile| Duration::from_nanos(times.value_at_quantile(quantile));
    Measured {
        put: at(&puts, 0.5),
        p50: at(&times, 0.5),
        p99: at(&times, 0.99),
        bytes,
    }
}

/// What a process holds.
fn resident_bytes(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kilobytes << 10
}
