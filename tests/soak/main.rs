//! Load, swaps, faults, reconnections and restarts for as long as one likes, with a validator of each promise listening; and what two
//! processes take of the machine meanwhile. It ends with 1 if a promise was broken, was never put to the test, or something leaked.
//!
//! `cargo build --release --locked --workspace && target/release/soak --minutes 60`

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a soak that cannot go on says so by failing, and prints what it found"
)]

mod caller;
mod disturb;
mod fleet;
mod judges;
mod leaks;
mod load;
mod quiet;
mod report;
mod schedule;
mod watchers;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::RwLock;
use tokio::task::JoinSet;
use tokio::time::Instant;

use self::fleet::Fleet;
use self::judges::Judges;
use self::leaks::Leaks;
use self::schedule::Schedule;

/// Tenants whose requests are judged. None's name begins with another's and a blank.
const TENANTS: [&str; 3] = ["acme", "globex", "initech"];
/// The second is drained and killed; the first lives through it all.
const REPLICAS: usize = 2;

/// From one look for leaks to the next. It takes minutes in which nothing else is soaked.
const STORMS: u32 = 6;

/// Soaks two gateways.
#[derive(Parser)]
struct Options {
    /// How long, about: it ends with a quiet point
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// What the schedule is drawn from; none: a new one, which is printed
    #[arg(long)]
    seed: Option<u64>,
    /// Requests a second, about
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// A folder for the logs of all processes
    #[arg(long)]
    logs: Option<PathBuf>,
}

/// What everybody here shares.
struct Soak {
    judges: Judges,
    fleet: Fleet,
    rate: f64,
    /// Held by each request of the load, and at a quiet point by nobody else.
    gate: RwLock<()>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}");
    let soak = Arc::new(Soak {
        judges: Judges::default(),
        fleet: Fleet::start(options.logs).await,
        rate: options.rate.into(),
        gate: RwLock::new(()),
    });
    let began = Instant::now();
    let mut leaks = Leaks::default();
    let run = run(&soak, seed, Duration::from_secs(options.minutes * 60), &mut leaks);
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt()).expect("a handler"),
        signal(SignalKind::terminate()).expect("a handler"),
    );
    tokio::select! {
        () = run => {}
        _ = interrupt.recv() => println!("interrupted"),
        _ = terminate.recv() => println!("terminated"),
    }
    soak.fleet.write_logs().await;
    if report::print(&soak.judges, &leaks, began.elapsed()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

async fn run(soak: &Arc<Soak>, seed: u64, time: Duration, leaks: &mut Leaks) {
    let mut load = JoinSet::new();
    load::prepare(soak).await;
    let watchers = watchers::start(soak, &mut load);
    load::start(soak, seed, &mut load);
    load.spawn(report::progress(Arc::clone(soak)));
    let mut schedule = Schedule::new(seed, soak, &watchers);
    let until = Instant::now() + time;
    for storms in 0_u32.. {
        let is_over = Instant::now() > until;
        let is_look = is_over || storms.is_multiple_of(STORMS);
        quiet::point(soak, &watchers, is_look.then_some(&mut *leaks)).await;
        if let Some(ended) = load.try_join_next() {
            panic!("a part of the load has ended: {ended:?}");
        }
        if is_over {
            break;
        }
        schedule.storm().await;
    }
}
