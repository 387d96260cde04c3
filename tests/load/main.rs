//! What a Get through the gateway costs beside a bare tonic echo of the same bytes: both servers on this machine, one
//! after the other with the same client, the same token in the metadata and the same answer. It reports and judges
//! nothing: a machine's speed changes with the hour, the ratio says more.
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

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use hdrhistogram::Histogram;
use tagway_proto::v1;
use tagway_proto::v1::config_service_server::{ConfigService, ConfigServiceServer};
use tagway_tests::client::{Client, get};
use tagway_tests::gateway::Gateway;
use tagway_tests::issuer::{Key, claims, key_set};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status};

/// A real key of an ordinary name.
const KEY: &str = "tenant_config_payment-gateway";

#[derive(Parser)]
struct Load {
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

#[tokio::main]
async fn main() {
    let load = Load::parse();
    // RS256, as most issuers sign: the dearest to mint, and the one whose tokens are long.
    let key = Arc::new(Key::rsa("load"));
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("keys.json"), key_set(&[&key]).to_string()).unwrap();
    let settings = tagway_tests::gateway::settings("file:keys.json", "[telemetry]\nlog = \"info\"");
    let gateway = Gateway::start_in(Arc::new(folder), Arc::clone(&key), &settings);
    let token = key.token(&claims("acme"));
    let client = gateway.client_with(&token).await;
    client.put(KEY, &"x".repeat(load.value)).await.unwrap();
    let answer = client.get_with(get(KEY)).await.unwrap();
    let echo = echo(answer).await;

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
            let bare = measure(&load, &echo, &token, keys).await;
            let real = measure(&load, &gateway.address, &token, keys).await;
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

/// A bare tonic server that answers everything with `answer`; where it listens.
async fn echo(answer: v1::GetConfigResponse) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    // A process's worth of threads of its own, as the gateway has.
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            tonic::transport::Server::builder()
                .add_service(ConfigServiceServer::new(Echo(answer)))
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
    });
    address
}

struct Echo(v1::GetConfigResponse);

/// The one method that is measured; the others are no part of it.
#[tonic::async_trait]
impl ConfigService for Echo {
    async fn get_config(&self, _: Request<v1::GetConfigRequest>) -> Result<Response<v1::GetConfigResponse>, Status> {
        Ok(Response::new(self.0.clone()))
    }

    async fn batch_get_configs(
        &self,
        _: Request<v1::BatchGetConfigsRequest>,
    ) -> Result<Response<v1::BatchGetConfigsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_configs(
        &self,
        _: Request<v1::ListConfigsRequest>,
    ) -> Result<Response<v1::ListConfigsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn put_config(&self, _: Request<v1::PutConfigRequest>) -> Result<Response<v1::PutConfigResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn delete_config(
        &self,
        _: Request<v1::DeleteConfigRequest>,
    ) -> Result<Response<v1::DeleteConfigResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_config_versions(
        &self,
        _: Request<v1::ListConfigVersionsRequest>,
    ) -> Result<Response<v1::ListConfigVersionsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn rollback_config(
        &self,
        _: Request<v1::RollbackConfigRequest>,
    ) -> Result<Response<v1::RollbackConfigResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn explain_route(
        &self,
        _: Request<v1::ExplainRouteRequest>,
    ) -> Result<Response<v1::ExplainRouteResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    type WatchConfigsStream = tokio_stream::Empty<Result<v1::WatchConfigsResponse, Status>>;

    async fn watch_configs(
        &self,
        _: Request<tonic::Streaming<v1::WatchConfigsRequest>>,
    ) -> Result<Response<Self::WatchConfigsStream>, Status> {
        Err(Status::unimplemented(""))
    }
}
