//! `WatchConfigs`: what a client is sent, and what becomes of its stream.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use tagway_proto::v1;
use tagway_proto::v1::watch_configs_request::{Kind as Asking, Subscribe};
use tagway_proto::v1::watch_configs_response::Kind;
use tagway_servers::Ministack;
use tagway_tests::client::{put, refused, why};
use tagway_tests::gateway::{Gateway, settings, settings_over_dynamodb};
use tagway_tests::issuer::{Key, claims, key_set};
use tagway_tests::watcher::{Watcher, to_keys, to_prefix};
use tempfile::TempDir;
use tokio::time::Instant;
use tonic::Code;

use crate::process::never_taken;

const A: &str = "tenant_config_a";
const B: &str = "tenant_config_b";
const MISSING: &str = "tenant_config_missing";

/// The reason of a subscription's end.
fn reason(kind: &Kind) -> Option<(Code, String)> {
    let Kind::Ended(ended) = kind else {
        panic!("{kind:?} is no end");
    };
    let failure = ended.failure.as_ref()?;
    Some((Code::from_i32(failure.code), failure.reason.clone()))
}

#[tokio::test]
async fn what_stands_comes_first_and_then_what_changes() {
    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    let written = client.put(A, "1").await.unwrap();
    let mut watcher = Watcher::open(&client).await.unwrap();
    assert!(watcher.session.expire_time.is_some() && watcher.session.progress_interval.is_some());
    watcher.subscribe(to_keys("k", &[A, MISSING]));
    let before = watcher.synced("k").await;
    assert_eq!(before.len(), 2, "{before:?}");
    assert_eq!(watcher.held[&("k".to_owned(), A.to_owned())], {
        let mut config = client.get(A).await.unwrap();
        config.etag.clone_from(&written.etag);
        config
    });
    assert!(
        before
            .iter()
            .any(|(_, kind)| matches!(kind, Kind::Removed(removed) if removed.key == MISSING)),
        "a key that was named and does not stand is told: {before:?}"
    );

    client.put(A, "2").await.unwrap();
    watcher.shows("k", A, Some("2")).await;
    client.put(MISSING, "here").await.unwrap();
    watcher.shows("k", MISSING, Some("here")).await;
    let etag = client.put(A, "3").await.unwrap().etag;
    watcher.shows("k", A, Some("3")).await;
    client.delete(A).await.unwrap();
    let (_, kind) = watcher.next().await.unwrap();
    assert!(
        matches!(&kind, Kind::Removed(removed) if removed.key == A && removed.etag == etag),
        "{kind:?}"
    );

    // Nobody else's changes come, nor those of other keys.
    let globex = gateway.client("globex").await;
    globex.put(A, "another tenant's").await.unwrap();
    client.put(B, "another key").await.unwrap();
    client.put(A, "4").await.unwrap();
    let (_, kind) = watcher.next().await.unwrap();
    assert!(matches!(&kind, Kind::Put(config) if config.value == "4"), "{kind:?}");
}

#[tokio::test]
async fn a_prefix_is_what_a_list_of_it_is() {
    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    for i in 0..250 {
        client.put(&format!("tenant_config_x/{i}"), "v").await.unwrap();
    }
    client.put(A, "no part of it").await.unwrap();
    let mut watcher = Watcher::of(&client, to_prefix("p", "tenant_config_x/")).await;
    assert_eq!(watcher.held.len(), 250);
    client.put("tenant_config_x/new", "n").await.unwrap();
    client.put("tenant_config_x/7", "7").await.unwrap();
    client.delete("tenant_config_x/8").await.unwrap();
    watcher.shows("p", "tenant_config_x/new", Some("n")).await;
    watcher.shows("p", "tenant_config_x/7", Some("7")).await;
    watcher.shows("p", "tenant_config_x/8", None).await;
    let listed = client.list("tenant_config_x/", 0).await.unwrap();
    let held: Vec<_> = watcher.held.values().cloned().collect();
    assert_eq!(held, listed);

    // Everything that may be read, whatever its tag.
    client.put("param_config_p", "p").await.unwrap();
    let mut all = Watcher::of(&client, to_prefix("all", "")).await;
    let everything = client.list("", 0).await.unwrap();
    let keys: Vec<&String> = all.held.keys().map(|(_, key)| key).collect();
    assert_eq!(keys, everything.iter().map(|config| &config.key).collect::<Vec<_>>());
    client.put("param_config_q", "q").await.unwrap();
    all.shows("all", "param_config_q", Some("q")).await;
    // Keys alone, where that is asked for.
    let keys_only = Subscribe {
        keys_only: true,
        ..to_prefix("keys", "param_config_")
    };
    let mut keys = Watcher::of(&client, keys_only).await;
    client.put("param_config_q", "r").await.unwrap();
    let (_, kind) = keys.next().await.unwrap();
    assert!(
        matches!(&kind, Kind::Put(config) if config.value.is_empty() && config.version == 2),
        "{kind:?}"
    );
}

#[tokio::test]
async fn what_is_known_is_not_sent_again_and_what_is_gone_is_removed() {
    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    for key in ["same", "changed", "gone"] {
        client.put(&format!("tenant_config_{key}"), "1").await.unwrap();
    }
    let watcher = Watcher::of(&client, to_prefix("before", "tenant_config_")).await;
    let mut known = watcher.known("before");
    drop(watcher);
    client.put("tenant_config_changed", "2").await.unwrap();
    client.delete("tenant_config_gone").await.unwrap();
    client.put("tenant_config_new", "1").await.unwrap();
    known.insert("param_config_elsewhere".to_owned(), "whatever".to_owned());
    known.insert("tenant_config_never".to_owned(), "no etag".to_owned());
    let mut watcher = Watcher::open(&client).await.unwrap();
    watcher.subscribe(Subscribe {
        known_etags: known,
        ..to_prefix("again", "tenant_config_")
    });
    let mut sent = Vec::new();
    for (_, kind) in watcher.synced("again").await {
        match kind {
            Kind::Put(config) => sent.push(("put", config.key)),
            Kind::Removed(removed) => sent.push(("removed", removed.key)),
            other => panic!("{other:?}"),
        }
    }
    sent.sort();
    let expected = [
        ("put", "tenant_config_changed"),
        ("put", "tenant_config_new"),
        ("removed", "param_config_elsewhere"),
        ("removed", "tenant_config_gone"),
        ("removed", "tenant_config_never"),
    ];
    assert_eq!(sent, expected.map(|(what, key)| (what, key.to_owned())));
}

#[tokio::test]
async fn subscriptions_are_each_for_themselves() {
    let gateway = Gateway::start_with("[limits]\nsubscriptions = 3");
    let client = gateway.client("acme").await;
    client.put(A, "1").await.unwrap();
    let mut watcher = Watcher::of(&client, to_keys("one", &[A])).await;
    watcher.subscribe(to_prefix("two", "tenant_config_"));
    watcher.synced("two").await;
    // A key that two of them cover is sent for both.
    client.put(A, "2").await.unwrap();
    watcher.shows("one", A, Some("2")).await;
    watcher.shows("two", A, Some("2")).await;

    // One that fails is its own matter.
    for (subscribe, expected) in [
        (to_keys("bad", &["nosuch_tag"]), (Code::NotFound, "TAG_UNKNOWN")),
        (
            to_keys("bad", &["tenant_config_../b"]),
            (Code::InvalidArgument, "INVALID_ARGUMENT"),
        ),
        (to_prefix("bad", "nosuch_"), (Code::NotFound, "TAG_UNKNOWN")),
        (
            to_prefix("bad", "tenant_config_ü"),
            (Code::InvalidArgument, "INVALID_ARGUMENT"),
        ),
        (to_keys("bad", &[]), (Code::InvalidArgument, "INVALID_ARGUMENT")),
        (to_keys("bad", &[A; 1001]), (Code::InvalidArgument, "INVALID_ARGUMENT")),
    ] {
        watcher.subscribe(subscribe);
        let (id, kind) = watcher.next().await.unwrap();
        assert_eq!(
            (id.as_str(), reason(&kind)),
            ("bad", Some((expected.0, expected.1.to_owned())))
        );
    }
    // The third is the last.
    watcher.subscribe(to_keys("three", &[B]));
    watcher.synced("three").await;
    watcher.subscribe(to_keys("four", &[B]));
    let (id, kind) = watcher.next().await.unwrap();
    let too_many = (Code::ResourceExhausted, "TOO_MANY_SUBSCRIPTIONS".to_owned());
    assert_eq!((id.as_str(), reason(&kind)), ("four", Some(too_many)));

    // What has ended sends no more; and its name is free.
    watcher.unsubscribe("one");
    let ended = watcher.until(|id, kind| id == "one" && matches!(kind, Kind::Ended(ended) if ended.failure.is_none()));
    assert!(ended.await.is_empty());
    client.put(A, "3").await.unwrap();
    watcher.shows("two", A, Some("3")).await;
    client.put(A, "4").await.unwrap();
    let (id, _) = watcher.next().await.unwrap();
    assert_eq!(id, "two");
    assert_eq!(watcher.value("one", A).as_deref(), Some("2"));
    watcher.subscribe(to_keys("one", &[A]));
    watcher.synced("one").await;
    watcher.unsubscribe("never");
    let (id, kind) = watcher.next().await.unwrap();
    assert_eq!((id.as_str(), reason(&kind)), ("never", None));

    // What would be ambiguous ends the stream.
    watcher.subscribe(to_keys("two", &[B]));
    let refused = refused(&watcher.ends().await);
    assert_eq!(
        (refused.code, refused.field.as_deref()),
        (Code::InvalidArgument, Some("subscribe.id"))
    );
    for id in ["", &"x".repeat(65)] {
        let watcher = Watcher::open(&client).await.unwrap();
        watcher.subscribe(to_keys(id, &[A]));
        assert_eq!(watcher.ends().await.code(), Code::InvalidArgument);
    }
    let write_only = gateway.key.token(&{
        let mut claims = claims("acme");
        claims["scope"] = "config:write".into();
        claims
    });
    let client = client.with_token(&write_only);
    let denied = (Code::PermissionDenied, "PERMISSION_MISSING".to_owned());
    assert_eq!(why(Watcher::open(&client).await.map(drop)), denied);
}

#[tokio::test]
async fn unsubscribed_in_the_middle_nothing_comes_after_the_end() {
    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    let large = "x".repeat(20_000);
    for i in 0..200 {
        client.put(&format!("tenant_config_x/{i}"), &large).await.unwrap();
    }
    let mut watcher = Watcher::open(&client).await.unwrap();
    watcher.subscribe(to_prefix("p", "tenant_config_"));
    watcher.next().await.unwrap();
    watcher.unsubscribe("p");
    watcher.until(|_, kind| matches!(kind, Kind::Ended(_))).await;
    assert!(watcher.held.len() < 200, "it had all before it was ended");
    watcher.subscribe(to_keys("k", &["tenant_config_x/1"]));
    let before = watcher.synced("k").await;
    assert!(before.iter().all(|(id, _)| id == "k"), "{before:?}");
}

/// Claims of a token that lives for so long.
fn lasting(seconds: u64) -> serde_json::Value {
    let mut claims = claims("acme");
    let now = claims["iat"].as_u64().unwrap();
    claims["exp"] = (now + seconds).into();
    claims
}

#[tokio::test]
async fn a_stream_ends_with_its_token_whatever_goes_on() {
    let gateway = Gateway::start_with("leeway = \"0s\"");
    let writer = gateway.client("acme").await;
    let short = writer.with_token(&gateway.key.token(&lasting(3)));
    let begun = Instant::now();
    let idle = Watcher::of(&short, to_keys("k", &[B])).await;
    let busy = Watcher::of(&short, to_keys("k", &[A])).await;
    let mut renewed = Watcher::of(&short, to_keys("k", &[A])).await;
    let mut half_closed = Watcher::of(&short, to_keys("k", &[A])).await;
    half_closed.half_close();
    // Not another's, and not another tenant's; the stream goes on with the older one.
    let mut of_another = lasting(60);
    of_another["sub"] = "somebody-else".into();
    for (token, reason) in [
        (gateway.key.token(&of_another), "SUBJECT_DIFFERS"),
        (gateway.key.token(&claims("globex")), "TENANT_NOT_GRANTED"),
        ("nonsense".to_owned(), "TOKEN_MALFORMED"),
        (Key::ed("first").token(&lasting(60)), "TOKEN_SIGNATURE"),
    ] {
        renewed.renew(&token);
        let (_, kind) = renewed.next().await.unwrap();
        let Kind::Session(session) = kind else {
            panic!("{kind:?}")
        };
        assert_eq!(session.failure.unwrap().reason, reason);
        assert_eq!(session.expire_time, renewed.session.expire_time);
    }
    renewed.renew(&gateway.key.token(&lasting(60)));
    let (_, kind) = renewed.next().await.unwrap();
    assert!(
        matches!(&kind, Kind::Session(session) if session.failure.is_none()),
        "{kind:?}"
    );
    let writing = tokio::spawn(async move {
        for i in 0.. {
            writer.put(A, &i.to_string()).await.unwrap();
            if begun.elapsed() > Duration::from_secs(5) {
                return i;
            }
        }
        0
    });
    for watcher in [idle, busy, half_closed] {
        let status = watcher.ends().await;
        assert_eq!(why::<()>(Err(status)), (Code::Unauthenticated, "TOKEN_OVER".to_owned()));
        let lasted = begun.elapsed();
        assert!(lasted < Duration::from_millis(4200), "it went on for {lasted:?}");
    }
    let last = writing.await.unwrap();
    renewed.shows("k", A, Some(&last.to_string())).await;

    // A newer token that may not read ends what is read by it, at once.
    let mut write_only = lasting(60);
    write_only["scope"] = "config:write".into();
    renewed.renew(&gateway.key.token(&write_only));
    let ended = renewed.until(|_, kind| matches!(kind, Kind::Ended(_)));
    ended.await;
    renewed.subscribe(to_keys("k", &[A]));
    let (_, kind) = renewed.next().await.unwrap();
    assert_eq!(
        reason(&kind),
        Some((Code::PermissionDenied, "PERMISSION_MISSING".to_owned()))
    );
}

#[tokio::test]
async fn a_stream_ends_when_its_key_is_withdrawn() {
    let gateway = Gateway::start_with("jwks_refresh = \"1s\"");
    let client = gateway.client("acme").await;
    let watcher = Watcher::of(&client, to_keys("k", &[A])).await;
    let other = Key::ed("second");
    let both = key_set(&[&gateway.key, &other]).to_string();
    fs::write(gateway.folder.path().join("keys.json"), both).unwrap();
    let by_other = client.with_token(&other.token(&claims("acme")));
    let mut stays = loop {
        // The new key is known with the next look.
        if let Ok(watcher) = Watcher::open(&by_other).await {
            break watcher;
        }
    };
    stays.subscribe(to_keys("k", &[A]));
    stays.synced("k").await;
    let only_other = key_set(&[&other]).to_string();
    fs::write(gateway.folder.path().join("keys.json"), only_other).unwrap();
    let status = watcher.ends().await;
    assert_eq!(why::<()>(Err(status)), (Code::Unauthenticated, "TOKEN_OVER".to_owned()));
    by_other.put(A, "still here").await.unwrap();
    stays.shows("k", A, Some("still here")).await;
}

#[tokio::test]
async fn a_gateway_that_goes_tells_its_watchers() {
    let mut gateway = Gateway::start();
    let client = gateway.client("acme").await;
    client.put(A, "1").await.unwrap();
    let mut watchers = Vec::new();
    for _ in 0..10 {
        watchers.push(Watcher::of(&client, to_keys("k", &[A])).await);
    }
    let begun = Instant::now();
    gateway.signal("TERM");
    let mut delays = Vec::new();
    for mut watcher in watchers {
        let (id, kind) = watcher.next().await.unwrap();
        let Kind::Closing(closing) = kind else {
            panic!("{kind:?}")
        };
        assert_eq!(id, "");
        delays.push(Duration::try_from(closing.delay.unwrap()).unwrap());
        // Those who wait for its end are told that too.
        if delays.len() == 1 {
            let status = watcher.ends().await;
            assert_eq!(why::<()>(Err(status)), (Code::Unavailable, "CLOSING".to_owned()));
        }
    }
    assert!(
        delays.iter().all(|delay| *delay <= Duration::from_secs(10)),
        "{delays:?}"
    );
    delays.sort();
    delays.dedup();
    assert!(delays.len() > 5, "they do not come back at once: {delays:?}");
    let status = tokio::task::spawn_blocking(move || (gateway.wait(), gateway))
        .await
        .unwrap()
        .0;
    assert!(status.success() && begun.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn a_prefix_of_ten_thousand_keys_syncs_and_says_what_is_gone() {
    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    let writers = (0..20).map(|writer| {
        let client = client.clone();
        tokio::spawn(async move {
            for i in 0..500 {
                client.put(&format!("tenant_config_{writer}/{i}"), "v").await.unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let watcher = Watcher::of(&client, to_prefix("p", "tenant_config_")).await;
    assert_eq!(watcher.held.len(), 10_000);
    let known = watcher.known("p");
    drop(watcher);
    client.delete("tenant_config_3/7").await.unwrap();
    let mut again = Watcher::open(&client).await.unwrap();
    again.subscribe(Subscribe {
        known_etags: known.clone(),
        ..to_prefix("p", "tenant_config_")
    });
    let sent = again.synced("p").await;
    assert!(
        matches!(&sent[..], [(_, Kind::Removed(removed))] if removed.key == "tenant_config_3/7"),
        "{sent:?}"
    );
    let mut known = known;
    known.insert("tenant_config_more".to_owned(), String::new());
    again.subscribe(Subscribe {
        known_etags: known,
        ..to_prefix("q", "tenant_config_")
    });
    let (_, kind) = again.next().await.unwrap();
    assert_eq!(reason(&kind).unwrap().0, Code::InvalidArgument);
}

#[tokio::test]
async fn a_tenant_with_nothing_and_words_that_say_nothing() {
    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    let mut watcher = Watcher::open(&client).await.unwrap();
    watcher.subscribe(to_prefix("all", ""));
    assert!(watcher.synced("all").await.is_empty());
    let put_back = v1::watch_configs_request::Ack {
        key: A.to_owned(),
        etag: "x".to_owned(),
        error: "cannot\u{1b} parse it".to_owned(),
        subscription_id: "all".to_owned(),
    };
    watcher.ask(Asking::Ack(put_back));
    client.put_with(put(A, "1")).await.unwrap();
    watcher.shows("all", A, Some("1")).await;
    assert!(gateway.logs("cannot parse it"), "{}", gateway.log());
}

/// Nothing is kept near, so that a gateway sees what another wrote.
const NOTHING_NEAR: &str = "[cache]\nttl = \"0s\"\nstale = \"0s\"\nnegative = \"0s\"\n";

#[tokio::test]
async fn gateways_restart_in_turn_and_nobody_misses_anything() {
    let ministack = Ministack::start();
    let first = Gateway::start_over_dynamodb(ministack.endpoint(), NOTHING_NEAR);
    let settings = settings_over_dynamodb("file:keys.json", ministack.endpoint(), NOTHING_NEAR);
    let start = |key: &Arc<Key>| {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("keys.json"), key_set(&[key]).to_string()).unwrap();
        Gateway::start_in(Arc::new(folder), Arc::clone(key), &settings)
    };
    let key = Arc::clone(&first.key);
    let (serving, mut serves) = tokio::sync::watch::channel(first.door());
    let mut current = first;
    // Writes wherever is served, and takes no refusal.
    let writer = tokio::spawn({
        let mut serves = serving.subscribe();
        async move {
            let door = serves.borrow_and_update().clone();
            let mut client = door.client("acme").await;
            let mut written = 0;
            while serves.has_changed().is_ok() {
                if serves.has_changed().unwrap() {
                    let door = serves.borrow_and_update().clone();
                    client = door.client("acme").await;
                }
                let (key, value) = (format!("tenant_config_{}", written % 20), written.to_string());
                match client.put(&key, &value).await {
                    Ok(_) => written += 1,
                    Err(status) if never_taken(&status) => tokio::task::yield_now().await,
                    Err(status) => panic!("{status:?}"),
                }
            }
            written
        }
    });
    let mut watcher = Watcher::of(&current.client("acme").await, to_prefix("p", "tenant_config_")).await;
    for _ in 0..3 {
        let next = start(&key);
        serving.send_replace(next.door());
        current.signal("TERM");
        watcher.until(|_, kind| matches!(kind, Kind::Closing(_))).await;
        let mut again = Watcher::open(&next.client("acme").await).await.unwrap();
        again.subscribe(Subscribe {
            known_etags: watcher.known("p"),
            ..to_prefix("p", "tenant_config_")
        });
        again.held = std::mem::take(&mut watcher.held);
        again.synced("p").await;
        watcher = again;
        let mut gone = std::mem::replace(&mut current, next);
        let status = tokio::task::spawn_blocking(move || gone.wait()).await.unwrap();
        assert!(status.success());
        // A while of ordinary life.
        watcher
            .until(|_, kind| matches!(kind, Kind::Put(config) if config.key == "tenant_config_7"))
            .await;
    }
    serves.borrow_and_update();
    drop((serving, serves));
    let written = writer.await.unwrap();
    assert!(written > 20, "{written} written");
    let client = current.client("acme").await;
    let last = format!("tenant_config_{}", (written - 1) % 20);
    watcher.shows("p", &last, Some(&(written - 1).to_string())).await;
    let held: Vec<_> = watcher.held.values().cloned().collect();
    assert_eq!(held, client.list("tenant_config_", 0).await.unwrap());
}

#[tokio::test]
async fn who_was_to_go_because_of_its_age_goes_sooner_if_the_gateway_does() {
    let key = Key::ed("first");
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("keys.json"), key_set(&[&key]).to_string()).unwrap();
    let settings = settings("file:keys.json", "").replace(
        "[server]",
        "[server]\nmax_connection_age = \"500ms\"\nmax_connection_grace = \"1h\"\ndrain = \"6s\"",
    );
    let mut gateway = Gateway::start_in(Arc::new(folder), Arc::new(key), &settings);
    let client = gateway.client("acme").await;
    let mut watcher = Watcher::of(&client, to_keys("k", &[A])).await;
    watcher.until(|_, kind| matches!(kind, Kind::Closing(_))).await;
    let begun = Instant::now();
    gateway.signal("TERM");
    watcher.until(|_, kind| matches!(kind, Kind::Closing(_))).await;
    let status = watcher.ends().await;
    assert_eq!(why::<()>(Err(status)), (Code::Unavailable, "CLOSING".to_owned()));
    let status = tokio::task::spawn_blocking(move || (gateway.wait(), gateway))
        .await
        .unwrap();
    assert!(status.0.success());
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    assert!(!status.1.log().contains("still under way"));
}
