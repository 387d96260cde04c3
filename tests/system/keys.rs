//! The issuer's keys: they come and go, and the issuer is down.

use std::sync::Arc;

use axum::http::StatusCode;
use serde_json::json;
use tagway_tests::client::why;
use tagway_tests::gateway::{Gateway, settings};
use tagway_tests::issuer::{Key, claims, encode, key_set, with, without};
use tagway_tests::jwks_server::JwksServer;
use tempfile::TempDir;
use tonic::Code;

use super::process::http;

const KEY: &str = "tenant_config_a";

/// A gateway whose keys are at a server of ours.
fn gateway_of(server: &JwksServer, key: &Arc<Key>, identity: &str) -> Gateway {
    let folder = TempDir::new().unwrap();
    Gateway::start_in(folder.into(), Arc::clone(key), &settings(&server.url, identity))
}

#[tokio::test]
async fn every_allowed_algorithm_verifies() {
    let (rsa, ec, ed) = (Key::rsa("r"), Key::ec("e"), Arc::new(Key::ed("d")));
    let server = JwksServer::start(&key_set(&[&rsa, &ec, &ed]));
    let gateway = gateway_of(&server, &ed, "");
    let client = gateway.client("acme").await;
    client.put(KEY, "1").await.unwrap();
    for key in [&rsa, &ec] {
        let client = client.with_token(&key.token(&claims("acme")));
        client
            .get(KEY)
            .await
            .unwrap_or_else(|error| panic!("{}: {error}", key.algorithm()));
        // Signed by one key under the name of another, of another kind.
        let swapped = key.sign(&with(key.header(), "kid", json!("d")), &claims("acme"));
        let (code, _) = why(client.with_token(&swapped).get(KEY).await);
        assert_eq!(code, Code::Unauthenticated);
    }
    // Several keys, and a token that names none: which of them is not guessed where there are two of a kind.
    let two = [&Key::ed("one"), &Key::ed("two")];
    let server = JwksServer::start(&key_set(&two));
    let gateway = gateway_of(&server, &ed, "");
    let anonymous = two[0].sign(&without(two[0].header(), "kid"), &claims("acme"));
    let client = gateway.client_with(&anonymous).await;
    assert_eq!(
        why(client.get(KEY).await),
        (Code::Unauthenticated, "TOKEN_SIGNATURE".to_owned())
    );
}

#[tokio::test]
async fn a_new_key_is_noticed_at_once_and_made_up_ones_ask_no_more() {
    let (old, new) = (Arc::new(Key::ed("old")), Key::ec("new"));
    let server = JwksServer::start(&key_set(&[&old]));
    let gateway = gateway_of(&server, &old, "jwks_refresh = \"1h\"");
    let client = gateway.client("acme").await;
    client.put(KEY, "1").await.unwrap();
    assert_eq!(server.asked(), 1);

    server.set(Ok(key_set(&[&old, &new]).to_string()));
    // Many at once, and one look for all of them.
    let rotated = client.with_token(&new.token(&claims("acme")));
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let client = rotated.clone();
            tokio::spawn(async move { client.get(KEY).await })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(server.asked(), 2);
    client.get(KEY).await.unwrap();

    for kid in 0..50 {
        let made_up = old.sign(
            &with(old.header(), "kid", json!(format!("made-up-{kid}"))),
            &claims("acme"),
        );
        let refused = client.with_token(&made_up).get(KEY).await;
        assert_eq!(why(refused), (Code::Unauthenticated, "TOKEN_SIGNATURE".to_owned()));
    }
    assert_eq!(
        server.asked(),
        2,
        "within half a minute nobody asks for the sake of unknown keys again"
    );
}

#[tokio::test]
async fn a_withdrawn_key_ends_its_tokens_remembered_or_not() {
    let (old, new) = (Arc::new(Key::ed("old")), Key::ed("new"));
    let mut server = JwksServer::start(&key_set(&[&old, &new]));
    let gateway = gateway_of(&server, &old, "jwks_refresh = \"100ms\"");
    let client = gateway.client("acme").await;
    let staying = client.with_token(&new.token(&claims("acme")));
    client.put(KEY, "1").await.unwrap();
    client.get(KEY).await.unwrap();
    staying.get(KEY).await.unwrap();

    server.set(Ok(key_set(&[&new]).to_string()));
    server.asked_twice_more().await;
    assert_eq!(
        why(client.get(KEY).await),
        (Code::Unauthenticated, "TOKEN_SIGNATURE".to_owned())
    );
    staying.get(KEY).await.unwrap();
    // The same name with another key: the old signature is worth nothing under it.
    let impostor = Key::ed("new");
    server.set(Ok(key_set(&[&impostor]).to_string()));
    server.asked_twice_more().await;
    assert_eq!(
        why(staying.get(KEY).await),
        (Code::Unauthenticated, "TOKEN_SIGNATURE".to_owned())
    );
    client
        .with_token(&impostor.token(&claims("acme")))
        .get(KEY)
        .await
        .unwrap();
}

#[tokio::test]
async fn the_last_good_keys_serve_while_the_issuer_is_down_for_their_grace() {
    let key = Arc::new(Key::ed("key"));
    let mut server = JwksServer::start(&key_set(&[&key]));
    let gateway = gateway_of(&server, &key, "jwks_refresh = \"100ms\"");
    let client = gateway.client("acme").await;
    client.put(KEY, "1").await.unwrap();
    let weak = json!({ "keys": [{ "kty": "RSA", "n": encode(&[0xff; 128]), "e": "AQAB", "kid": "key" }] });
    let symmetric = json!({ "keys": [{ "kty": "oct", "k": "c2VjcmV0", "kid": "key" }] });
    for bad in [
        Err(StatusCode::INTERNAL_SERVER_ERROR),
        Err(StatusCode::NOT_FOUND),
        Err(StatusCode::FOUND),
        Ok("{".to_owned()),
        Ok("<html>".to_owned()),
        Ok("{}".to_owned()),
        Ok(" ".repeat(2 << 20)),
        Ok(weak.to_string()),
        Ok(symmetric.to_string()),
    ] {
        server.set(bad.clone());
        server.asked_twice_more().await;
        client
            .get(KEY)
            .await
            .unwrap_or_else(|error| panic!("after {:.60?}: {error}", format!("{bad:?}")));
    }

    // A grace that is over: no token passes any more, and none is called false for it.
    let short = Arc::new(Key::ed("key"));
    let mut server = JwksServer::start(&key_set(&[&short]));
    let gateway = gateway_of(&server, &short, "jwks_refresh = \"100ms\"\njwks_grace = \"300ms\"");
    let client = gateway.client("acme").await;
    client.put(KEY, "1").await.unwrap();
    server.set(Err(StatusCode::SERVICE_UNAVAILABLE));
    let away = loop {
        server.asked_twice_more().await;
        if let Err(status) = client.get(KEY).await {
            break status;
        }
    };
    assert_eq!(
        why(Err::<(), _>(away)),
        (Code::Unavailable, "KEYS_UNAVAILABLE".to_owned())
    );
    server.set(Ok(key_set(&[&short]).to_string()));
    server.asked_twice_more().await;
    client.get(KEY).await.unwrap();
}

#[tokio::test]
async fn an_issuer_that_is_down_at_the_start_does_not_keep_the_gateway_down() {
    let key = Arc::new(Key::ed("key"));
    let mut server = JwksServer::start(&json!("nothing yet"));
    let gateway = gateway_of(&server, &key, "jwks_refresh = \"100ms\"");
    let client = gateway.client("acme").await;
    assert_eq!(why(client.get(KEY).await).0, Code::Unavailable);
    // But traffic stays with those that it is to replace: they may have the keys still.
    let ready = http(&gateway.ops, "/readyz");
    assert!(
        ready.starts_with("HTTP/1.1 503") && ready.ends_with("keys were never had\n"),
        "{ready}"
    );
    server.set(Ok(key_set(&[&key]).to_string()));
    loop {
        match client.get(KEY).await {
            Err(status) if status.code() == Code::Unavailable => tokio::task::yield_now().await,
            answer => break assert_eq!(why(answer).0, Code::NotFound),
        }
    }
    assert!(http(&gateway.ops, "/readyz").starts_with("HTTP/1.1 200"));
    // Who had them is not taken out when they are away for everybody.
    server.set(Err(StatusCode::SERVICE_UNAVAILABLE));
    server.asked_twice_more().await;
    assert!(http(&gateway.ops, "/readyz").starts_with("HTTP/1.1 200"));
}
