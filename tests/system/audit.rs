//! The audit: who changed what, and who was not let, complete for what was acknowledged.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tagway_tests::admin::activate;
use tagway_tests::client::{Client, put, why};
use tagway_tests::gateway::{Gateway, settings};
use tagway_tests::issuer::claims;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::Code;

/// Longer than anything may take.
const PATIENCE: Duration = Duration::from_mins(1);
const KEY: &str = "tenant_config_a";
const AUDIT: &str = "[telemetry]\naudit = \"audit.jsonl\"";

fn file(gateway: &Gateway) -> PathBuf {
    gateway.folder.path().join("audit.jsonl")
}

fn lines(gateway: &Gateway) -> Vec<Value> {
    let text = fs::read_to_string(file(gateway)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The lines of that kind, which are there soon.
async fn of(gateway: &Gateway, what: &str, outcome: &str) -> Vec<Value> {
    let found = async {
        loop {
            let mut lines = lines(gateway);
            lines.retain(|line| line["what"] == what && line["outcome"] == outcome);
            if !lines.is_empty() {
                return lines;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, found).await.expect("it is written down")
}

#[tokio::test]
async fn each_write_says_who_what_and_from_which_state_to_which() {
    let gateway = Gateway::start_with(AUDIT);
    let client = gateway.client("acme").await;
    let first = client.put(KEY, "a secret thing").await.unwrap();
    let second = client.put(KEY, "another secret thing").await.unwrap();
    client
        .grpc
        .clone()
        .rollback_config(client.request(tagway_proto::v1::RollbackConfigRequest {
            key: KEY.to_owned(),
            version: 1,
            ..Default::default()
        }))
        .await
        .unwrap();
    let third = client.get(KEY).await.unwrap();
    client.delete(KEY).await.unwrap();
    let done: Vec<Value> = lines(&gateway)
        .into_iter()
        .filter(|line| line["tenant"] == "acme")
        .collect();
    let told = |index: usize, name: &str| done[index][name].as_str().unwrap_or_default().to_owned();
    for (index, (what, before, after)) in [
        ("PutConfig", "", &*first.etag),
        ("PutConfig", &first.etag, &second.etag),
        ("RollbackConfig", &second.etag, &third.etag),
        ("DeleteConfig", &third.etag, ""),
    ]
    .into_iter()
    .enumerate()
    {
        let line = [
            told(index, "what"),
            told(index, "etag_before"),
            told(index, "etag_after"),
        ];
        assert_eq!(line, [what, before, after], "{}", done[index]);
        let line = [
            told(index, "outcome"),
            told(index, "key"),
            told(index, "subject"),
            told(index, "strategy"),
        ];
        assert_eq!(
            line,
            ["done", KEY, claims("acme")["sub"].as_str().unwrap(), "tag-prefix"]
        );
        assert!(done[index]["generation"].as_u64().unwrap() > 0);
        assert!(told(index, "peer").starts_with("127.0.0.1:"));
    }
    // What is not done has its reason.
    let mut absent = put(KEY, "x");
    absent.precondition = tagway_tests::client::if_absent();
    client.put_with(absent.clone()).await.unwrap();
    assert_eq!(why(client.put_with(absent).await).0, Code::AlreadyExists);
    let refused = of(&gateway, "PutConfig", "refused").await;
    assert_eq!(
        (refused[0]["reason"].as_str(), refused[0]["key"].as_str()),
        (Some("ALREADY_EXISTS"), Some(KEY))
    );
    let text = fs::read_to_string(file(&gateway)).unwrap();
    assert!(!text.contains("secret thing"), "no value is in it");
}

#[tokio::test]
async fn who_is_not_let_is_written_down_and_a_flood_of_them_is_not() {
    let gateway = Gateway::start_with(AUDIT);
    let mut reader = claims("acme");
    reader["scope"] = "read".into();
    let token = gateway.key.token(&reader);
    let reader = gateway.client_with(&token).await;
    assert_eq!(why(reader.put(KEY, "x").await).0, Code::PermissionDenied);
    let refused = of(&gateway, "PutConfig", "refused").await;
    assert_eq!(
        (refused[0]["reason"].as_str(), refused[0]["tenant"].as_str()),
        (Some("PERMISSION_MISSING"), Some("acme"))
    );
    let mut writer = claims("globex");
    writer["scope"] = "write".into();
    let writer = gateway.client_with(&gateway.key.token(&writer)).await;
    assert_eq!(why(writer.get(KEY).await).0, Code::PermissionDenied);
    let refused = of(&gateway, "GetConfig", "refused").await;
    assert_eq!(
        (refused[0]["reason"].as_str(), refused[0]["tenant"].as_str()),
        (Some("PERMISSION_MISSING"), Some("globex"))
    );

    // A good token that does not grant the tenant that was asked for says whose it is.
    let stranger = gateway.client("acme").await.for_tenant("initech");
    assert_eq!(why(stranger.delete(KEY).await).0, Code::PermissionDenied);
    let refused = of(&gateway, "DeleteConfig", "refused").await;
    assert_eq!(
        (refused[0]["reason"].as_str(), &refused[0]["subject"]),
        (Some("TENANT_NOT_GRANTED"), &claims("acme")["sub"])
    );

    let nobody = Client::connect(&gateway.address, Some("not.a.token")).await;
    for _ in 0..500 {
        assert_eq!(why(nobody.list("", 0).await).0, Code::Unauthenticated);
        assert_eq!(why(reader.put(KEY, "x").await).0, Code::PermissionDenied);
    }
    // One tenant's do not push out another's.
    assert_eq!(why(writer.list("", 0).await).0, Code::PermissionDenied);
    let listed = async {
        loop {
            let lines = lines(&gateway);
            if lines
                .iter()
                .any(|line| line["what"] == "ListConfigs" && line["tenant"] == "globex")
            {
                return lines;
            }
            tokio::task::yield_now().await;
        }
    };
    let lines = timeout(PATIENCE, listed).await.unwrap();
    let strangers = lines
        .iter()
        .filter(|line| line["what"] == "ListConfigs" && line["tenant"].is_null());
    let (strangers, all) = (strangers.count(), lines.len());
    assert!(strangers >= 50 && all < 800, "{strangers} of {all}");
    let omitted: u64 = lines.iter().filter_map(|line| line["omitted"].as_u64()).sum();
    assert!(omitted > 100, "{omitted}");
    let text = fs::read_to_string(file(&gateway)).unwrap();
    assert!(!text.contains(&token) && !text.contains("not.a.token"));
}

#[tokio::test]
async fn what_operators_do_and_what_serves_is_written_down() {
    let gateway = Gateway::start_serving("admin_listen = \"127.0.0.1:0\"", AUDIT);
    let serves = of(&gateway, "StrategyServes", "done").await;
    assert_eq!(serves[0]["strategy"], "tag-prefix");
    let mut admin = gateway.admin().await;
    let garbage = admin
        .activate_strategy(activate("tag-prefix", Some(b"no component".to_vec())))
        .await
        .unwrap();
    assert_ne!(garbage.into_inner().strategy.unwrap().rejected_reason, "");
    let refused = of(&gateway, "ActivateStrategy", "refused").await;
    assert_eq!(refused[0]["strategy"], "tag-prefix");
    assert_eq!(refused[0]["subject"], claims("acme")["sub"]);
    assert_ne!(refused[0]["reason"].as_str().unwrap_or_default(), "");
    assert!(gateway.operate(&["strategy", "disable", "tag-prefix"]).status.success());
    assert!(!of(&gateway, "DisableStrategy", "done").await.is_empty());
    assert!(!of(&gateway, "StrategyServesNoMore", "done").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_write_is_in_it_whenever_the_process_is_killed() {
    let mut gateway = Gateway::start_with(AUDIT);
    let settings = settings("file:keys.json", AUDIT);
    let mut acknowledged = Vec::new();
    for round in 0..10 {
        let client = gateway.client("acme").await;
        let (done, mut seen) = mpsc::unbounded_channel();
        for writer in 0..8 {
            let (client, done) = (client.clone(), done.clone());
            tokio::spawn(async move {
                for i in 0.. {
                    let Ok(written) = client.put(&format!("tenant_config_{round}/{writer}/{i}"), "x").await else {
                        return;
                    };
                    if done.send(written.etag).is_err() {
                        return;
                    }
                }
            });
        }
        drop(done);
        for _ in 0..fastrand::usize(1..100) {
            acknowledged.push(seen.recv().await.unwrap());
        }
        gateway.signal("KILL");
        gateway.wait();
        while let Some(late) = seen.recv().await {
            acknowledged.push(late);
        }
        gateway = Gateway::start_in(gateway.folder.clone(), gateway.key.clone(), &settings);
    }
    let text = fs::read_to_string(file(&gateway)).unwrap();
    // A kill may tear the last line of a round, which nobody was told of.
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let audited: HashSet<String> = lines
        .filter(|line| line["outcome"] == "done")
        .filter_map(|line| Some(line["etag_after"].as_str()?.to_owned()))
        .collect();
    for etag in &acknowledged {
        assert!(audited.contains(etag), "{etag} of {}", acknowledged.len());
    }
}

#[tokio::test]
async fn where_nothing_can_be_written_down_nothing_is_written() {
    let gateway = Gateway::start_with(AUDIT);
    let client = gateway.client("acme").await;
    client.put(KEY, "before").await.unwrap();
    fs::remove_file(file(&gateway)).unwrap();
    symlink("/dev/full", file(&gateway)).unwrap();
    let unavailable = (Code::Unavailable, "AUDIT_UNAVAILABLE".to_owned());
    // The first is found to be so; the others are not begun.
    assert_eq!(why(client.put(KEY, "first").await), unavailable);
    for _ in 0..5 {
        assert_eq!(why(client.put(KEY, "later").await), unavailable);
    }
    assert_ne!(client.get(KEY).await.unwrap().value, "later");
    fs::remove_file(file(&gateway)).unwrap();
    let again = async {
        while client.put(KEY, "after").await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, again).await.unwrap();
    let keys: Vec<Value> = lines(&gateway)
        .into_iter()
        .filter(|line| line["outcome"] == "done")
        .collect();
    assert!(
        keys.len() >= 2,
        "the first was done, and is written down late: {keys:?}"
    );
}

#[tokio::test]
async fn what_is_no_key_is_not_repeated_and_a_retry_says_that_it_is_one() {
    let gateway = Gateway::start_with(AUDIT);
    let client = gateway.client("acme").await;
    for key in [
        "a secret thing, in the wrong field".to_owned(),
        "\u{1}".repeat(100_000),
        "x".repeat(1_000_000),
    ] {
        let mut message = put(&key, "x");
        message.request_id = "a secret thing".to_owned();
        assert_eq!(why(client.put_with(message).await).0, Code::InvalidArgument);
    }
    let refused = of(&gateway, "PutConfig", "refused").await;
    assert!(
        refused
            .iter()
            .all(|line| line["key"].is_null() && line["request_id"].is_null()),
        "{refused:?}"
    );
    let text = fs::read_to_string(file(&gateway)).unwrap();
    assert!(text.len() < 10_000 && !text.contains("secret thing"), "{text}");

    let mut message = put(KEY, "x");
    message.request_id = "2c5ea4c0-4067-11e9-8bad-9b1deb4d3b7d".to_owned();
    let first = client.put_with(message.clone()).await.unwrap();
    let second = client.put(KEY, "y").await.unwrap();
    assert_eq!(client.put_with(message.clone()).await.unwrap().etag, first.etag);
    let done = of(&gateway, "PutConfig", "done").await;
    let told: Vec<(&str, bool)> = done
        .iter()
        .map(|line| (line["etag_after"].as_str().unwrap(), line["replayed"] == true))
        .collect();
    assert_eq!(
        told,
        [(&*first.etag, false), (&*second.etag, false), (&*first.etag, true)]
    );
    assert_eq!(done[2]["request_id"], message.request_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_caller_left_is_written_down_however_many_were_refused() {
    let gateway = Gateway::start_with(AUDIT);
    let client = gateway.client("acme").await;
    client.put(KEY, "0").await.unwrap();
    // What a flood of refusals may take of the audit is used up.
    for _ in 0..200 {
        assert_eq!(why(client.put("no key", "x").await).0, Code::InvalidArgument);
    }
    let mut left = 0;
    for _ in 0..300 {
        let mut request = client.request(put(KEY, &"x".repeat(1 << 19)));
        request.set_timeout(Duration::from_micros(fastrand::u64(500..8000)));
        left += u64::from(client.grpc.clone().put_config(request).await.is_err());
    }
    // What the store was given it has done by now: this one is behind them all.
    let last = client.put(KEY, "last").await.unwrap();
    let lines = lines(&gateway);
    let counted = |outcome: &str| {
        let of = lines
            .iter()
            .filter(|line| line["what"] == "PutConfig" && line["outcome"] == outcome);
        of.count() as u64
    };
    let (done, unknown) = (counted("done"), counted("unknown"));
    println!("{left} left, {done} done, {unknown} unknown, version {}", last.version);
    assert!(left > 0 && unknown > 0, "some were cut off: {left}, {unknown}");
    assert!(
        last.version <= done + unknown,
        "{} versions, {done} done and {unknown} unknown",
        last.version
    );
}
