//! What the hot paths cost beside the least that they could: each beside a floor, the bare call that it cannot do without.
//! The two take turns in one process, so that a slow hour of the machine is no difference between them; a round's ratio
//! says more than its times. It reports and judges nothing.
//!
//! `cargo bench --package tagway --features internals --bench floors`

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a measurement that cannot be made says so by failing, prints what it found, and takes real time"
)]

use std::alloc::System;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderMap;
use http::header::AUTHORIZATION;
use quick_cache::sync::Cache;
use redb::{Database, ReadableDatabase, TableDefinition};
use serde_json::Map;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tagway::app::strategy_catalog;
use tagway::backend::embedded::Embedded;
use tagway::backend::{Backend, Catalog, Conditions, NewEntry};
use tagway::cache::Cache as ConfigCache;
use tagway::clock::Clock;
use tagway::config::{Configs, PageTokens};
use tagway::identity::development::{Claims, DevelopmentKey};
use tagway::identity::{KeySets, Token, VerifiedTenant, Verifier};
use tagway::internals;
use tagway::key::ConfigKey;
use tagway::placement::CachePolicy;
use tagway::settings::development::development;
use tagway::settings::{Permission, Settings};
use tagway::strategy::{Context, Engine, Operation, Registry, Snapshot};
use tagway::watch::Hub;
use tagway::wit;
use tagway_proto::v1;
use tagway_proto::v1::config_service_server::ConfigService as _;
use tempfile::TempDir;
use tonic::{Request, Response};
use wasmtime::Store;
use wasmtime::component::{Component, Linker};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const ROUNDS: usize = 31;
/// The very bytes that the gateway was built with.
const TAG_PREFIX: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tag-prefix.wasm"));
const TABLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("values");
/// Of a value.
const BYTES: usize = 256;
/// Keys and tokens that take turns.
const SEVERAL: usize = 64;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // On a disk, where there is one: a sync into memory costs nothing.
    let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let key = DevelopmentKey::open_or_create(folder.path()).unwrap();
    let settings = development(folder.path(), []).unwrap();
    let engine = Engine::new().unwrap();
    let catalog = strategy_catalog(&settings);
    let registry = Registry::load(&engine, &settings.strategies, &settings.limits, &catalog).await;
    let snapshot = registry.current();

    println!(
        "{:<22}{:>12}{:>12}{:>8}{:>14}",
        "", "floor", "gateway", "ratio", "allocations"
    );
    let tenant = tokens(&settings, &key).await;
    remembered_decisions(&snapshot, &tenant).await;
    fresh_decisions(&snapshot, &tenant, &engine, &catalog[0]).await;
    reads_and_writes(&snapshot, &tenant, folder.path()).await;
    kept_reads(&settings, registry, &tenant, folder.path()).await;
}

#[allow(clippy::cast_precision_loss, reason = "a count of calls is far below 2^52")]
/// Runs both sides in turn, so many calls of each a round. Each is told how many calls of it came before.
async fn compare(what: &str, calls: usize, floor: impl Fn(usize), gateway: impl AsyncFn(usize)) {
    let mut rounds = Vec::new();
    // One more, that only warms up.
    for round in 0..=ROUNDS {
        let these = round * calls..(round + 1) * calls;
        let begun = Instant::now();
        for call in these.clone() {
            floor(call);
        }
        let half = Instant::now();
        for call in these {
            gateway(call).await;
        }
        rounds.push((half - begun, half.elapsed()));
    }
    let allocations = Region::new(ALLOCATOR);
    for call in 0..calls {
        gateway(call).await;
    }
    let allocations = allocations.change().allocations;
    rounds.remove(0);
    let median = |of: &dyn Fn(&(Duration, Duration)) -> f64| {
        let mut each: Vec<f64> = rounds.iter().map(of).collect();
        each.sort_by(f64::total_cmp);
        each[ROUNDS / 2]
    };
    let nanoseconds = |round: Duration| round.as_secs_f64() * 1e9 / calls as f64;
    println!(
        "{what:<22}{:>9.0} ns{:>9.0} ns{:>8.2}{:>14.1}",
        median(&|(floor, _)| nanoseconds(*floor)),
        median(&|(_, gateway)| nanoseconds(*gateway)),
        median(&|(floor, gateway)| gateway.as_secs_f64() / floor.as_secs_f64()),
        allocations as f64 / calls as f64,
    );
}

/// A token that verified before, out of a request's metadata, beside a look into a cache. Returns one's tenant.
async fn tokens(settings: &Settings, key: &DevelopmentKey) -> VerifiedTenant {
    let keys = KeySets::open(&settings.identity).await.unwrap();
    let verifier = Verifier::new(&settings.identity, keys, Clock::system());
    let cache = Cache::new(2 * SEVERAL);
    let mut tokens: Vec<Token> = Vec::new();
    let mut requests = Vec::new();
    for number in 0..SEVERAL {
        let claims = Claims {
            tenants: &["acme".to_owned()],
            subject: &format!("somebody-{number}"),
            permissions: &Permission::ALL,
            lifetime: Duration::from_hours(1),
            // As long as issuers make them.
            further: &Map::from_iter([("groups".to_owned(), "g".repeat(300).into())]),
        };
        let token = key.mint(&claims, &Clock::system()).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, format!("Bearer {}", token.reveal()).parse().unwrap());
        let tenant = verifier.verify(&headers).await.unwrap();
        cache.insert(token.clone(), Arc::clone(tenant.caller()));
        tokens.push(token);
        requests.push(headers);
    }
    compare(
        "remembered token",
        10_000,
        |call| drop(black_box(cache.get(&tokens[call % SEVERAL]).unwrap())),
        async |call| drop(black_box(verifier.verify(&requests[call % SEVERAL]).await.unwrap())),
    )
    .await;
    verifier.verify(&requests[0]).await.unwrap()
}

fn key(snapshot: &Snapshot, number: usize) -> ConfigKey {
    snapshot
        .tags()
        .parse(&format!("tenant_config_payment-gateway/{number}"))
        .unwrap()
}

/// A decision that was made before, beside a look into a cache with a key of the same parts.
async fn remembered_decisions(snapshot: &Snapshot, tenant: &VerifiedTenant) {
    let keys: Vec<ConfigKey> = (0..SEVERAL).map(|number| key(snapshot, number)).collect();
    let strategy = snapshot.strategy(keys[0].tag()).unwrap();
    let nothing: Vec<(String, String)> = Vec::new();
    let question = |key: &ConfigKey| (key.clone(), Operation::Read, nothing.clone(), nothing.clone());
    let questions: Vec<_> = keys.iter().map(question).collect();
    let cache = Cache::new(2 * SEVERAL);
    let context = Context::default();
    for (key, question) in keys.iter().zip(&questions) {
        let decided = strategy.decide(tenant, key, Operation::Read, &context).await.unwrap();
        cache.insert(question.clone(), decided);
    }
    compare(
        "remembered decision",
        10_000,
        |call| drop(black_box(cache.get(&questions[call % SEVERAL]).unwrap())),
        async |call| {
            let decided = strategy.decide(tenant, &keys[call % SEVERAL], Operation::Read, &context);
            drop(black_box(decided.await.unwrap()));
        },
    )
    .await;
}

/// A decision that nobody asked for before, beside a bare instance of the same component in the same engine that is
/// configured and asked the same.
async fn fresh_decisions(
    snapshot: &Snapshot,
    tenant: &VerifiedTenant,
    engine: &Engine,
    backend: &tagway::strategy::Backend,
) {
    const CALLS: usize = 500;

    let context = Context::default();
    let keys: Vec<ConfigKey> = (0..=ROUNDS)
        .flat_map(|round| (0..CALLS).map(move |call| round * CALLS + call))
        .map(|number| key(snapshot, SEVERAL + number))
        .collect();
    let strategy = snapshot.strategy(keys[0].tag()).unwrap();
    let wasmtime = internals::wasmtime(engine);
    let component = Component::from_binary(wasmtime, TAG_PREFIX).unwrap();
    let linker = Linker::new(wasmtime);
    let bare = wit::StrategyPre::new(linker.instantiate_pre(&component).unwrap()).unwrap();
    let setup = wit::Setup {
        settings: r#"{"tenant_config_": {"backend": "local"}, "param_config_": {"backend": "local"}}"#.to_owned(),
        catalog: vec![wit::BackendInfo {
            id: backend.id.to_string(),
            kind: backend.kind.clone(),
            max_value_bytes: backend.max_value_bytes,
            attributes: Vec::new(),
        }],
        attributes: Vec::new(),
    };
    let request = wit::Request {
        tag: keys[0].tag().to_string(),
        name: keys[0].name().to_string(),
        operation: wit::Operation::Read,
        tenant: tenant.id().to_string(),
        claims: Vec::new(),
        context: Vec::new(),
        attributes: Vec::new(),
    };
    compare(
        "fresh decision",
        CALLS,
        |_| {
            let mut store = Store::new(wasmtime, ());
            store.set_fuel(u64::MAX).unwrap();
            store.set_epoch_deadline(1_000_000);
            let instance = bare.instantiate(&mut store).unwrap();
            let lifecycle = instance.tagway_strategy_lifecycle();
            lifecycle.call_configure(&mut store, &setup).unwrap().unwrap();
            let decided = instance.tagway_strategy_router().call_decide(&mut store, &request);
            drop(black_box(decided.unwrap().unwrap()));
        },
        async |call| {
            let decided = strategy.decide(tenant, &keys[call], Operation::Read, &context);
            drop(black_box(decided.await.unwrap()));
        },
    )
    .await;
}

/// Reads and durable writes, one after the other, beside those of a bare database with one table.
async fn reads_and_writes(snapshot: &Snapshot, tenant: &VerifiedTenant, folder: &Path) {
    let value = vec![b'v'; BYTES];
    let database = Database::create(folder.join("bare.redb")).unwrap();
    let store = Embedded::open(&folder.join("store.redb"), 100, Clock::system()).unwrap();
    let mut names = Vec::new();
    for number in 0..SEVERAL {
        let key = key(snapshot, number);
        let strategy = snapshot.strategy(key.tag()).unwrap();
        let context = Context::default();
        let decided = strategy.decide(tenant, &key, Operation::Write, &context).await;
        names.push(decided.unwrap().home.name.clone());
    }
    let paths: Vec<String> = names.iter().map(ToString::to_string).collect();
    let write = |call: usize| {
        let mut transaction = database.begin_write().unwrap();
        transaction.set_two_phase_commit(true);
        let path = paths[call % SEVERAL].as_str();
        transaction
            .open_table(TABLE)
            .unwrap()
            .insert(path, value.as_slice())
            .unwrap();
        transaction.commit().unwrap();
    };
    let entry = NewEntry {
        value: value.clone().into(),
        content_type: "text/plain".to_owned(),
        secret: false,
    };
    let written = async |call: usize| {
        let name = &names[call % SEVERAL];
        let written = store.write(tenant, name, entry.clone(), Conditions::default());
        drop(black_box(written.await.unwrap()));
    };
    compare("durable write", SEVERAL, write, written).await;
    compare(
        "read",
        10_000,
        |call| {
            let values = database.begin_read().unwrap().open_table(TABLE).unwrap();
            let found = values.get(paths[call % SEVERAL].as_str()).unwrap().unwrap();
            drop(black_box(found.value().to_vec()));
        },
        async |call| {
            let found = store.read(tenant, &names[call % SEVERAL]).await;
            drop(black_box(found.unwrap().unwrap()));
        },
    )
    .await;
}

/// A Get of what is kept near, from its message to its answer, beside a look into a cache.
async fn kept_reads(settings: &Settings, registry: Registry, tenant: &VerifiedTenant, folder: &Path) {
    let store = Embedded::open(&folder.join("kept.redb"), 100, Clock::system()).unwrap();
    let store: Arc<dyn Backend> = Arc::new(store);
    let policy = CachePolicy {
        ttl: Duration::from_hours(1),
        stale: Duration::ZERO,
        negative: Duration::from_hours(1),
    };
    let near = ConfigCache::new(64 << 20, policy, policy);
    let configs = Configs::new(
        Arc::new(registry),
        Catalog::new(BTreeMap::from([("local".into(), store)])),
        PageTokens::new(&[0; 32], Clock::system()).unwrap(),
        Arc::clone(&near),
    );
    let keys = KeySets::open(&settings.identity).await.unwrap();
    let verifier = Verifier::new(&settings.identity, keys, Clock::system());
    let service = internals::config_service(settings, Arc::new(configs), Arc::new(verifier), Hub::new(near));
    let keys: Vec<String> = (0..SEVERAL)
        .map(|number| format!("tenant_config_kept/{number}"))
        .collect();
    let cache = Cache::new(2 * SEVERAL);
    for key in &keys {
        let mut request = Request::new(v1::PutConfigRequest {
            key: key.clone(),
            value: vec![b'v'; BYTES].into(),
            ..Default::default()
        });
        internals::of_tenant(&mut request, tenant.clone());
        service.put_config(request).await.unwrap();
        cache.insert((tenant.id().clone(), key.clone()), Arc::new(vec![b'v'; BYTES]));
    }
    let looked_up: Vec<_> = keys.iter().map(|key| (tenant.id().clone(), key.clone())).collect();
    let get = async |key: String| {
        let mut request = Request::new(v1::GetConfigRequest {
            key,
            ..Default::default()
        });
        internals::of_tenant(&mut request, tenant.clone());
        service.get_config(request).await
    };
    compare(
        "kept Get",
        10_000,
        |call| drop(black_box(cache.get(&looked_up[call % SEVERAL]).unwrap())),
        async |call| drop(black_box(get(keys[call % SEVERAL].clone()).await.unwrap())),
    )
    .await;
    // The least that a handler can do: the same request and the same answer, around that look.
    let answer = get(keys[0].clone()).await.unwrap().into_inner();
    compare(
        "kept Get, messages too",
        10_000,
        |call| {
            let mut request = Request::new(v1::GetConfigRequest {
                key: keys[call % SEVERAL].clone(),
                ..Default::default()
            });
            internals::of_tenant(&mut request, tenant.clone());
            drop(black_box(cache.get(&looked_up[call % SEVERAL]).unwrap()));
            drop(black_box((request, Response::new(answer.clone()))));
        },
        async |call| drop(black_box(get(keys[call % SEVERAL].clone()).await.unwrap())),
    )
    .await;
}
