//! The process: how it starts, stops, is overloaded, and what peers of every kind may do to it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use tagway_tests::client::why;
use tagway_tests::gateway::{Gateway, command, settings};
use tokio::time::Instant;
use tonic::{Code, Status};

const KEY: &str = "tenant_config_a";

/// What operators' HTTP answers.
pub(crate) fn http(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Nobody listens any more; or hyper gave the request back, because the connection closed before it was sent.
pub(crate) fn never_taken(status: &Status) -> bool {
    status.code() == Code::Unavailable
        || (status.code() == Code::Cancelled && status.message() == "operation was canceled")
}

#[tokio::test]
async fn probes_answer() {
    let gateway = Gateway::start();
    assert!(http(&gateway.ops, "/livez").starts_with("HTTP/1.1 200"));
    assert!(http(&gateway.ops, "/readyz").starts_with("HTTP/1.1 200"));
    assert!(http(&gateway.ops, "/nosuch").starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn without_a_strategy_it_is_not_ready_and_says_why() {
    let gateway = Gateway::start_with("[strategies.tag-prefix.limits]\nfuel = 1");
    let answer = http(&gateway.ops, "/readyz");
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.ends_with("no strategy serves\n"),
        "{answer}"
    );
    assert!(http(&gateway.ops, "/livez").starts_with("HTTP/1.1 200"));
    let failed = (Code::Internal, "STRATEGY_FAILED".to_owned());
    let client = gateway.client("acme").await;
    assert_eq!(why(client.get(KEY).await), failed);
    assert_eq!(why(client.list("", 0).await), failed, "a list is whole or an error");
}

#[tokio::test]
async fn terminated_under_load_it_fails_no_request_that_it_took() {
    let mut gateway = Gateway::start();
    let client = gateway.client("acme").await;
    client.put(KEY, "0").await.unwrap();
    // Peers that say nothing, or nothing more, keep nothing up.
    let _silent: Vec<TcpStream> = (0..5).map(|_| TcpStream::connect(&gateway.address).unwrap()).collect();
    let (started, mut begun) = tokio::sync::mpsc::channel(1);
    let load: Vec<_> = (0..8)
        .map(|_| {
            let (client, started) = (client.clone(), started.clone());
            tokio::spawn(async move {
                let mut done = 0;
                loop {
                    match client.put(KEY, "x").await {
                        Ok(_) => done += 1,
                        // Told to go, and nobody is there any more: what came after that was never sent, or never taken.
                        Err(status) if never_taken(&status) => return (done, None),
                        Err(status) => return (done, Some(status)),
                    }
                    if done == 20 {
                        started.send(()).await.unwrap();
                    }
                }
            })
        })
        .collect();
    for _ in 0..8 {
        begun.recv().await.unwrap();
    }
    let stopped = Instant::now();
    gateway.signal("TERM");
    let status = tokio::task::spawn_blocking(move || {
        let status = gateway.wait();
        (status, gateway)
    });
    let mut done = 0;
    for worker in load {
        let (puts, failed) = worker.await.unwrap();
        assert!(failed.is_none(), "{failed:?}");
        done += puts;
    }
    let (status, gateway) = status.await.unwrap();
    assert!(status.success());
    assert!(
        stopped.elapsed() < Duration::from_secs(15),
        "the drain did not wait for silent peers"
    );
    assert!(!gateway.log().contains("still under way"), "{}", gateway.log());

    let settings = settings("file:keys.json", "");
    let again = Gateway::start_in(gateway.folder.clone(), gateway.key.clone(), &settings);
    let found = again.client("acme").await.get(KEY).await.unwrap();
    assert!(
        found.version > done,
        "{} acknowledged, and version {} stands",
        done,
        found.version
    );
}

#[tokio::test]
async fn a_file_that_cannot_grow_is_an_error_to_writers_and_reads_go_on() {
    let mut gateway = Gateway::start();
    gateway.client("acme").await.put(KEY, "before").await.unwrap();
    gateway.signal("TERM");
    gateway.wait();
    let settings = settings("file:keys.json", "[limits]\nrequest_bytes = \"4MiB\"");
    let gateway = gateway.start_again_cramped(16 << 10, &settings);
    let client = gateway.client("acme").await;
    let large = "x".repeat(1 << 20);
    let mut acknowledged = 0;
    let refused = loop {
        match client.put("tenant_config_large", &large).await {
            Ok(written) => acknowledged = written.version,
            Err(status) => break status,
        }
    };
    assert_eq!(
        why::<()>(Err(refused)),
        (Code::Unavailable, "BACKEND_UNAVAILABLE".to_owned())
    );
    assert!(acknowledged > 0, "it had room for one");

    // The file is opened again at once, and as long as nothing large is written all is well.
    let found = loop {
        match client.get(KEY).await {
            Err(status) if status.code() == Code::Unavailable => {}
            other => break other.unwrap(),
        }
    };
    assert_eq!(found.value, "before");
    let large = client.get("tenant_config_large").await.unwrap();
    assert_eq!(large.version, acknowledged);
    assert!(http(&gateway.ops, "/readyz").starts_with("HTTP/1.1 200"));
    assert!(gateway.log().contains("is open again"), "{}", gateway.log());
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill_under_concurrent_writes() {
    let mut gateway = Gateway::start();
    let settings = settings("file:keys.json", "");
    let mut random = fastrand::Rng::new();
    for round in 0..50 {
        let client = gateway.client("acme").await;
        let (acknowledged, mut seen) = tokio::sync::mpsc::unbounded_channel();
        for writer in 0..8 {
            let (client, acknowledged) = (client.clone(), acknowledged.clone());
            tokio::spawn(async move {
                for i in 0.. {
                    let key = format!("tenant_config_{round}/{writer}/{i}");
                    let Ok(written) = client.put(&key, &format!("{i}")).await else {
                        return;
                    };
                    if acknowledged.send((key, written.etag)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(acknowledged);
        let mut written = Vec::new();
        // Somewhere in the middle of things.
        for _ in 0..random.usize(1..100) {
            written.push(seen.recv().await.unwrap());
        }
        gateway.signal("KILL");
        gateway.wait();
        while let Some(late) = seen.recv().await {
            written.push(late);
        }
        gateway = Gateway::start_in(gateway.folder.clone(), gateway.key.clone(), &settings);
        let client = gateway.client("acme").await;
        for (key, etag) in written {
            assert_eq!(client.get(&key).await.unwrap().etag, etag, "{key}");
        }
    }
}

#[tokio::test]
async fn an_embedded_store_has_one_gateway() {
    let gateway = Gateway::start();
    let output = command(gateway.folder.path())
        .args(["serve", "--config", "tagway.toml"])
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        error.contains("backends.local.path = store.redb: another process has it open"),
        "{error}"
    );

    let taken = settings("file:keys.json", "").replacen("127.0.0.1:0", &gateway.address, 1);
    std::fs::write(gateway.folder.path().join("taken.toml"), taken).unwrap();
    let output = command(gateway.folder.path())
        .args(["serve", "--config", "taken.toml"])
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        error.contains(&format!("server.listen = {}: ", gateway.address)),
        "{error}"
    );
}

#[tokio::test]
async fn a_damaged_store_is_an_error_and_no_panic() {
    let mut gateway = Gateway::start();
    let client = gateway.client("acme").await;
    for i in 0..50 {
        client
            .put(&format!("tenant_config_{i}"), &"x".repeat(4000))
            .await
            .unwrap();
    }
    gateway.signal("TERM");
    gateway.wait();
    let store = gateway.folder.path().join("store.redb");
    let good = std::fs::read(&store).unwrap();
    let mut random = fastrand::Rng::with_seed(7);
    for damage in 0..12 {
        let mut bytes = good.clone();
        match damage {
            0 => bytes = b"no store".to_vec(),
            1 => bytes.truncate(good.len() / 2),
            2 => bytes[..64].fill(0xff),
            3 => {
                let half = bytes.len() / 2;
                bytes[8192..half].iter_mut().for_each(|byte| *byte = random.u8(..));
            }
            _ => {
                for _ in 0..2000 {
                    let at = random.usize(..bytes.len());
                    bytes[at] = random.u8(..);
                }
            }
        }
        std::fs::write(&store, bytes).unwrap();
        // A port that nobody may listen on: what opens the store all the same ends there.
        let output = command(gateway.folder.path())
            .env("TAGWAY_SERVER__OPS_LISTEN", "192.0.2.1:1")
            .args(["serve", "--config", "tagway.toml"])
            .output()
            .unwrap();
        assert_eq!(
            output.status.code(),
            Some(1),
            "damage {damage}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

#[tokio::test]
async fn more_at_once_than_it_takes_are_told_at_once() {
    let gateway = Gateway::start_with("[limits]\nin_flight = 1");
    let client = gateway.client("acme").await;
    client.put(KEY, "x").await.unwrap();
    let calls: Vec<_> = (0..64)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.put(KEY, "x").await })
        })
        .collect();
    let mut refused = 0;
    for call in calls {
        if let Err(status) = call.await.unwrap() {
            let details = tonic_types::StatusExt::get_error_details(&status);
            assert!(details.retry_info().is_some());
            assert_eq!(
                why(Err::<(), _>(status)),
                (Code::ResourceExhausted, "OVERLOADED".to_owned())
            );
            refused += 1;
        }
    }
    assert!((1..64).contains(&refused), "{refused} of 64");
    client.get(KEY).await.unwrap();
}

#[tokio::test]
async fn a_request_ends_at_its_deadline() {
    let gateway = Gateway::start_with("[limits]\nrequest_timeout = \"1ms\"");
    let client = gateway.client("acme").await;
    // A thousand syncs take longer than that, whatever one of them takes.
    let mut exceeded = 0;
    for _ in 0..1000 {
        if let Err(status) = client.put(KEY, &"x".repeat(1 << 20)).await {
            assert_eq!(
                why(Err::<(), _>(status)),
                (Code::DeadlineExceeded, "DEADLINE_EXCEEDED".to_owned())
            );
            exceeded += 1;
            break;
        }
    }
    assert!(exceeded > 0);
}

#[tokio::test]
async fn peers_that_say_nothing_or_nonsense_hold_nobody_up() {
    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    client.put(KEY, "x").await.unwrap();
    let silent: Vec<TcpStream> = (0..50).map(|_| TcpStream::connect(&gateway.address).unwrap()).collect();
    let mut random = fastrand::Rng::with_seed(1);
    for length in [0, 1, 9, 24, 100, 10_000] {
        let mut stream = TcpStream::connect(&gateway.address).unwrap();
        let bytes: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
        // It may hang up half-way, which is as good an answer as any.
        _ = stream.write_all(&bytes);
    }
    let mut stream = TcpStream::connect(&gateway.address).unwrap();
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\xff")
        .unwrap();
    // New connections and old ones are served.
    client.get(KEY).await.unwrap();
    gateway.client("acme").await.get(KEY).await.unwrap();
    drop(silent);
}
