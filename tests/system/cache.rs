//! What is kept near, over the end of a gateway and of the stores behind it.

use std::fs;
use std::sync::Arc;

use tagway_proto::v1::freshness::Source;
use tagway_proto::v1::{Consistency, GetConfigRequest};
use tagway_servers::Ministack;
use tagway_tests::client::{get, why};
use tagway_tests::gateway::{Gateway, settings_over_dynamodb};
use tagway_tests::issuer::{Key, key_set};
use tempfile::TempDir;
use tonic::Code;

use crate::process::http;

const KEY: &str = "tenant_config_a";

#[tokio::test]
async fn what_was_last_known_good_is_served_by_a_gateway_that_starts_while_its_store_is_away() {
    let server = Ministack::start();
    let key = Arc::new(Key::ed("first"));
    let folder = Arc::new(TempDir::new().unwrap());
    fs::write(folder.path().join("keys.json"), key_set(&[&key]).to_string()).unwrap();
    let settings = settings_over_dynamodb("file:keys.json", server.endpoint(), "timeout = \"500ms\"");
    let settings = format!("{settings}\n[cache]\nsnapshot = \"cache\"\n");
    let mut gateway = Gateway::start_in(Arc::clone(&folder), Arc::clone(&key), &settings);
    let made = gateway.tagway("acme", &["provision", "tagway.toml"], b"");
    assert!(made.status.success(), "{made:?}");
    gateway.client("acme").await.put(KEY, "good").await.unwrap();
    gateway.signal("TERM");
    assert!(gateway.wait().success());
    drop(server);

    let gateway = Gateway::start_in(Arc::clone(&folder), Arc::clone(&key), &settings);
    let client = gateway.client("acme").await;
    let found = client.get_with(get(KEY)).await.unwrap();
    assert_eq!(found.config.unwrap().value, "good");
    let freshness = found.freshness.unwrap();
    assert_eq!(freshness.source(), Source::Stale);
    assert!(freshness.age.is_some());
    let latest = client.get_with(GetConfigRequest {
        consistency: Consistency::Latest.into(),
        ..get(KEY)
    });
    assert_eq!(why(latest.await).0, Code::Unavailable);
    assert_eq!(why(gateway.client("globex").await.get(KEY).await).0, Code::Unavailable);

    // One that is damaged is told of, and nothing else comes of it.
    drop(gateway);
    let path = folder.path().join("cache/known");
    let mut damaged = fs::read(&path).unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    fs::write(&path, damaged).unwrap();
    let gateway = Gateway::start_in(folder, key, &settings);
    assert!(gateway.logs("cache.snapshot is ignored"));
    assert_eq!(why(gateway.client("acme").await.get(KEY).await).0, Code::Unavailable);
}

#[tokio::test]
async fn what_the_cache_does_is_told_in_numbers() {
    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    client.put(KEY, "x").await.unwrap();
    for _ in 0..3 {
        client.get(KEY).await.unwrap();
        _ = client.get("tenant_config_none").await;
    }
    let told = http(&gateway.ops, "/metrics");
    assert!(told.contains("content-type: application/openmetrics-text"), "{told}");
    for line in [
        "tagway_cache_reads_total{result=\"hit\"} 3",
        "tagway_cache_reads_total{result=\"negative\"} 2",
        "tagway_cache_reads_total{result=\"miss\"} 1",
        "tagway_cache_evictions_total 0",
        "tagway_cache_entries 2.0",
        "tagway_cache_under_way 0.0",
    ] {
        assert!(told.lines().any(|told| told == line), "{line} in\n{told}");
    }
    assert!(told.ends_with("# EOF\n") && !told.contains("acme"));
}
