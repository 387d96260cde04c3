//! What the gateway costs beside the least that it could: everything on this machine, one after the other, by the same clients. It
//! reports and judges nothing: a machine's speed changes with the hour, the ratio says more.
//!
//! `cargo build --release --locked --workspace && target/release/load`

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measurement that cannot be made says so by failing, prints what it found, and takes real time"
)]

mod bare;
mod etcd;
mod events;
mod get;
mod side;
mod swaps;
mod watch;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Load {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    get: get::Load,
}

#[derive(Subcommand)]
enum What {
    /// From a change to its delivery
    Watch(watch::Load),
    /// From a write through one replica to another's watchers
    Events(events::Load),
    /// Requests while strategies are replaced
    Swaps(swaps::Load),
}

#[tokio::main]
async fn main() {
    let load = Load::parse();
    match load.what {
        None => get::run(&load.get).await,
        Some(What::Watch(load)) => watch::run(&load).await,
        Some(What::Events(load)) => events::run(&load).await,
        Some(What::Swaps(load)) => swaps::run(&load).await,
    }
}
