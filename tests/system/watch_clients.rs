//! What watching clients may do to a gateway: not read, ask without end, come all at once, fall silent.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use tagway_proto::v1;
use tagway_proto::v1::watch_configs_request::{Kind as Asking, Renew, Subscribe, Unsubscribe};
use tagway_tests::client::refused;
use tagway_tests::gateway::{Gateway, settings};
use tagway_tests::issuer::{Key, key_set};
use tagway_tests::watcher::{Watcher, to_keys, to_prefix};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

#[tokio::test]
async fn who_never_reads_costs_little_and_nobody_else() {
    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    // Each on a connection of its own, for what is not read there fills that.
    let mut silent = Vec::new();
    for _ in 0..10 {
        let watcher = Watcher::open(&gateway.client("acme").await).await.unwrap();
        watcher.subscribe(to_prefix("p", "tenant_config_"));
        silent.push(watcher);
    }
    let mut reading = Watcher::of(&client, to_prefix("p", "tenant_config_")).await;
    let large = "x".repeat(100_000);
    for i in 0..50 {
        client.put(&format!("tenant_config_{}", i % 10), &large).await.unwrap();
    }
    let before = gateway.resident_bytes();
    for i in 0..1000 {
        let value = format!("{i} {large}");
        client.put(&format!("tenant_config_{}", i % 10), &value).await.unwrap();
    }
    let last = format!("999 {large}");
    reading.shows("p", "tenant_config_9", Some(&last)).await;
    let after = gateway.resident_bytes();
    println!(
        "RSS {} MiB before 100 MB of changes, {} MiB after",
        before >> 20,
        after >> 20
    );
    assert!(after < before + (100 << 20), "{before} bytes before, {after} after");
    // Who reads again has what stands: some states were skipped, the last is not.
    for mut watcher in silent {
        watcher.shows("p", "tenant_config_9", Some(&last)).await;
    }
}

/// Asks that again and again and reads nothing, until it is not listened to any more: it waits, or the connection is closed
/// that so many small messages wait on.
#[allow(clippy::print_stdout, reason = "figures for who runs it with --nocapture")]
async fn never_reads(gateway: &Gateway, question: impl Fn(u32) -> Asking) {
    let client = gateway.client("acme").await;
    let (requests, asked) = mpsc::channel(1);
    let request = client.request(ReceiverStream::new(asked));
    let _unread = client.grpc.clone().watch_configs(request).await.unwrap();
    let before = gateway.resident_bytes();
    let mut asked = 0;
    loop {
        let kind = Some(question(asked));
        let sent = requests.send(v1::WatchConfigsRequest { kind });
        if !matches!(timeout(Duration::from_secs(2), sent).await, Ok(Ok(()))) {
            break;
        }
        asked += 1;
        assert!(asked < 300_000, "it is listened to for ever");
    }
    let after = gateway.resident_bytes();
    println!(
        "{asked} questions; RSS {} MiB before, {} MiB after",
        before >> 20,
        after >> 20
    );
    assert!(after < before + (32 << 20), "{before} bytes before, {after} after");
}

#[tokio::test]
async fn who_asks_and_never_reads_is_not_listened_to_for_ever() {
    let gateway = Gateway::start();
    let token = "no.token.at-all".to_owned();
    never_reads(&gateway, |_| Asking::Renew(Renew { token: token.clone() })).await;
    let id = "i".repeat(64);
    never_reads(&gateway, |_| Asking::Unsubscribe(Unsubscribe { id: id.clone() })).await;
    // Each ends at once, for its key is none.
    let subscribe = |asked: u32| Asking::Subscribe(to_keys(&asked.to_string(), &["tenant_config_/"]));
    never_reads(&gateway, subscribe).await;
    let watcher = Watcher::open(&gateway.client("acme").await).await.unwrap();
    watcher.unsubscribe(&"i".repeat(65));
    assert_eq!(refused(&watcher.ends().await).field.as_deref(), Some("unsubscribe.id"));
}

#[tokio::test]
async fn a_thousand_clients_that_come_back_at_once_are_all_served() {
    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    for i in 0..10 {
        client.put(&format!("tenant_config_{i}"), "1").await.unwrap();
    }
    let known = Watcher::of(&client, to_prefix("p", "tenant_config_")).await.known("p");
    client.put("tenant_config_3", "2").await.unwrap();
    let mut coming = Vec::new();
    for _ in 0..20 {
        let connection = gateway.client("acme").await;
        for _ in 0..50 {
            let (connection, known) = (connection.clone(), known.clone());
            coming.push(tokio::spawn(async move {
                let mut watcher = Watcher::open(&connection).await.unwrap();
                watcher.subscribe(Subscribe {
                    known_etags: known,
                    ..to_prefix("p", "tenant_config_")
                });
                (watcher.synced("p").await.len(), watcher)
            }));
        }
    }
    let mut watchers = Vec::new();
    for coming in coming {
        let (sent, watcher) = coming.await.unwrap();
        assert_eq!(sent, 1, "what differs, and nothing else");
        watchers.push(watcher);
    }
    client.put("tenant_config_5", "3").await.unwrap();
    for mut watcher in watchers {
        watcher.shows("p", "tenant_config_5", Some("3")).await;
    }
}

/// A frame's type and length (RFC 9113, 4.1), and its payload passed over. None: the connection is closed.
fn frame(connection: &mut TcpStream) -> Option<u8> {
    let mut head = [0; 9];
    match connection.read_exact(&mut head) {
        Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => return None,
        read => read.unwrap(),
    }
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; length as usize];
    connection.read_exact(&mut payload).unwrap();
    Some(head[3])
}

#[test]
fn a_peer_that_fell_silent_is_asked_and_then_let_go() {
    const PING: u8 = 6;
    let key = Key::ed("first");
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("keys.json"), key_set(&[&key]).to_string()).unwrap();
    let settings = settings("file:keys.json", "").replace(
        "[server]",
        "[server]\nkeepalive = { interval = \"100ms\", timeout = \"300ms\" }",
    );
    let gateway = Gateway::start_in(Arc::new(folder), Arc::new(key), &settings);
    let mut silent = TcpStream::connect(&gateway.address).unwrap();
    silent.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    // What a connection begins with, and settings without any (RFC 9113, 3.4 and 6.5).
    silent
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .unwrap();
    let mut frames = Vec::new();
    while let Some(frame) = frame(&mut silent) {
        frames.push(frame);
    }
    assert!(frames.contains(&PING), "{frames:?}");
}
