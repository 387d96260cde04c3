//! What the settings grant no more is gone, on every way there is.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tagway_proto::v1;
use tagway_proto::v1::strategy::Mode;
use tagway_tests::admin::{activate, distinct};
use tagway_tests::client::why;
use tagway_tests::gateway::Gateway;
use tagway_tests::issuer::{Key, key_set};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use tonic::Code;

use super::{PATIENCE, SCRIPTED, World, becomes, both, taken};

#[tokio::test(flavor = "multi_thread")]
async fn what_the_settings_grant_no_more_is_gone_at_once_and_does_not_come_back() {
    let world = World::new();
    let former = both(&json!({ "home": ["b", ""], "former": [["a", ""]] }));
    let mut gateway = world.start(&former);
    let client = gateway.client("acme").await;
    client.put("t_x", "1").await.unwrap();
    let mut admin = gateway.admin().await;
    let second = taken(&mut admin, activate("scripted", Some(distinct(&SCRIPTED, 1))))
        .await
        .strategy
        .unwrap();
    let file = world.folder.path().join("tagway.toml");
    let less = world
        .settings(&former)
        .replace("backends = [\"a\", \"b\"]", "backends = [\"a\"]");
    fs::write(&file, &less).unwrap();
    let failed = (Code::Internal, "STRATEGY_FAILED".to_owned());
    let clipped = becomes(&mut admin, "one with less", |active| {
        active.generation > second.generation
    })
    .await;
    assert_eq!(clipped.digest, second.digest);
    assert_eq!(why(client.get("t_x").await), failed);
    // Not by way of the version before, nor by way of a pause, nor by a restart.
    let back = v1::RollbackStrategyRequest {
        name: "scripted".to_owned(),
        generation: 0,
    };
    admin.rollback_strategy(back).await.unwrap();
    assert_eq!(why(client.get("t_x").await), failed);
    for mode in [Mode::Disabled, Mode::Pinned] {
        let mode = v1::SetStrategyModeRequest {
            name: "scripted".to_owned(),
            mode: mode.into(),
        };
        admin.set_strategy_mode(mode).await.unwrap();
    }
    assert_eq!(why(client.get("t_x").await), failed);
    gateway.signal("KILL");
    gateway.wait();
    let gateway = Gateway::start_in(Arc::clone(&world.folder), Arc::clone(&world.key), &less);
    assert_eq!(why(gateway.client("acme").await.get("t_x").await), failed);
    // What is granted again is used again.
    fs::write(&file, world.settings(&former)).unwrap();
    assert!(gateway.logs("settings were read again"));
    let mut admin = gateway.admin().await;
    let follow = v1::SetStrategyModeRequest {
        name: "scripted".to_owned(),
        mode: Mode::Follow.into(),
    };
    admin.set_strategy_mode(follow).await.unwrap();
    let again = v1::ActivateStrategyRequest {
        allow_moves: true,
        ..activate("scripted", None)
    };
    taken(&mut admin, again).await;
    assert_eq!(gateway.client("acme").await.get("t_x").await.unwrap().value, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn fewer_tags_leave_the_others_as_they_are_over_a_restart() {
    let key = Arc::new(Key::ed("key"));
    let folder = Arc::new(TempDir::new().unwrap());
    fs::write(folder.path().join("keys.json"), key_set(&[&key]).to_string()).unwrap();
    let all = tagway_tests::gateway::settings("file:keys.json", "").replace(
        "[server]",
        "[server]\nadmin_listen = \"127.0.0.1:0\"\nstate = \"state\"",
    );
    let mut gateway = Gateway::start_in(Arc::clone(&folder), Arc::clone(&key), &all);
    let client = gateway.client("acme").await;
    client.put("tenant_config_a", "1").await.unwrap();
    client.put("param_config_a", "1").await.unwrap();
    let fewer = all.replace("\"param_config_\", ", "");
    assert_ne!(fewer, all);
    fs::write(folder.path().join("tagway.toml"), &fewer).unwrap();
    assert!(gateway.logs("the settings grant it less"));
    let gone = (Code::NotFound, "TAG_UNKNOWN".to_owned());
    assert_eq!(why(client.get("param_config_a").await), gone);
    assert_eq!(client.get("tenant_config_a").await.unwrap().value, "1");
    gateway.signal("KILL");
    gateway.wait();
    let gateway = Gateway::start_in(Arc::clone(&folder), Arc::clone(&key), &fewer);
    let client = gateway.client("acme").await;
    assert_eq!(client.get("tenant_config_a").await.unwrap().value, "1");
    assert_eq!(why(client.get("param_config_a").await), gone);
    // Granted again it is served again, as it was.
    fs::write(folder.path().join("tagway.toml"), &all).unwrap();
    timeout(PATIENCE, async {
        while client.get("param_config_a").await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
}
