//! Connections of peers of whom nothing is known: so many, each of which has to say something soon, and take what it asked for.

use std::future::{Future as _, poll_fn};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use prost::Message as _;
use tagway_proto::v1::watch_configs_response::Kind;
use tagway_tests::client::{Client, why};
use tagway_tests::gateway::Gateway;
use tagway_tests::issuer::claims;
use tagway_tests::watcher::{Watcher, to_keys};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tonic::Code;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::process::http;

const KEY: &str = "tenant_config_a";
/// Longer than anything may take.
const PATIENCE: Duration = Duration::from_mins(1);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Waits until `address` has hung up, and returns how much it said before.
fn said_until_closed(mut stream: TcpStream) -> usize {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut said = Vec::new();
    match stream.read_to_end(&mut said) {
        Ok(_) => said.len(),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => said.len(),
        Err(error) => panic!("it did not hang up: {error}"),
    }
}

/// The line of a metric.
fn metric(gateway: &Gateway, name: &str) -> u64 {
    let answer = http(&gateway.ops, "/metrics");
    let line = answer.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_is_let_go_and_keeps_nobody_waiting() {
    let gateway = Gateway::start_with("[limits]\nhandshake = \"1s\"");
    let client = gateway.client("acme").await;
    client.put(KEY, "1").await.unwrap();
    let silent: Vec<TcpStream> = (0..100)
        .map(|_| TcpStream::connect(&gateway.address).unwrap())
        .collect();
    let mut half = TcpStream::connect(&gateway.address).unwrap();
    half.write_all(&PREFACE[..10]).unwrap();
    let probe = TcpStream::connect(&gateway.ops).unwrap();
    // A byte now and then is no greeting either.
    let mut dribble = TcpStream::connect(&gateway.address).unwrap();
    let dribbles = std::thread::spawn(move || {
        for byte in PREFACE.chunks(1) {
            std::thread::park_timeout(Duration::from_millis(200));
            if dribble.write_all(byte).is_err() {
                break;
            }
        }
        said_until_closed(dribble)
    });
    // Meanwhile, who comes is served.
    assert_eq!(gateway.client("acme").await.get(KEY).await.unwrap().value, "1");
    assert!(metric(&gateway, "tagway_connections{listener=\"grpc\"}") >= 100);
    let closed = tokio::task::spawn_blocking(move || {
        for stream in silent.into_iter().chain([half, probe]) {
            said_until_closed(stream);
        }
        dribbles.join().unwrap();
    });
    timeout(PATIENCE, closed).await.unwrap().unwrap();
    // Who was there before, and said something, is there.
    assert_eq!(client.get(KEY).await.unwrap().value, "1");
    assert_eq!(
        metric(
            &gateway,
            "tagway_connections_cut_total{listener=\"grpc\",reason=\"silent\"}"
        ),
        102
    );
    assert_eq!(
        metric(
            &gateway,
            "tagway_connections_cut_total{listener=\"ops\",reason=\"silent\"}"
        ),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_too_many_has_the_place_of_a_stranger_or_none() {
    let gateway = Gateway::start_with("[limits]\nconnections = 3\nhandshake = \"1h\"");
    let client = gateway.client("acme").await;
    client.put(KEY, "1").await.unwrap();
    let silent = TcpStream::connect(&gateway.address).unwrap();
    // It says something, but not whose it is.
    let mut stranger = TcpStream::connect(&gateway.address).unwrap();
    stranger
        .write_all(&[PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat())
        .unwrap();
    let mut clients = Vec::new();
    for (stranger, tenant) in [(silent, "globex"), (stranger, "initech")] {
        let next = gateway.client(tenant).await;
        assert_eq!(why(next.get(KEY).await).0, Code::NotFound);
        clients.push(next);
        tokio::task::spawn_blocking(|| said_until_closed(stranger))
            .await
            .unwrap();
    }
    let cut = "tagway_connections_cut_total{listener=\"grpc\",reason=\"for another\"}";
    assert_eq!(metric(&gateway, cut), 2);

    // Nobody who is known makes room.
    let fourth = TcpStream::connect(&gateway.address).unwrap();
    assert_eq!(
        tokio::task::spawn_blocking(|| said_until_closed(fourth)).await.unwrap(),
        0
    );
    let refused = "tagway_connections_refused_total{listener=\"grpc\",reason=\"full\"}";
    assert_eq!(metric(&gateway, refused), 1);
    clients.pop();
    let again = async {
        loop {
            if let Ok(client) = gateway.door().try_client("acme").await
                && client.get(KEY).await.is_ok()
            {
                return;
            }
        }
    };
    timeout(PATIENCE, again).await.unwrap();
    assert_eq!(client.get(KEY).await.unwrap().value, "1");
    // Operators have places of their own.
    assert!(http(&gateway.ops, "/livez").starts_with("HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_tenant_holds_all_connections_against_another() {
    let gateway = Gateway::start_with("[limits]\nconnections = 8\nhandshake = \"1h\"");
    let mut held = Vec::new();
    for _ in 0..8 {
        let client = gateway.client("acme").await;
        assert_eq!(why(client.get(KEY).await).0, Code::NotFound);
        held.push(client);
    }
    // Half of them were acme's own; the others make room.
    for tenant in ["globex", "initech"] {
        let client = gateway.client(tenant).await;
        assert_eq!(why(client.get(KEY).await).0, Code::NotFound);
        held.push(client);
    }
    assert_eq!(
        metric(
            &gateway,
            "tagway_connections_cut_total{listener=\"grpc\",reason=\"for another\"}"
        ),
        2
    );
    assert_eq!(why(held[0].get(KEY).await).0, Code::NotFound, "the first are its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_are_answered_however_many_hold_their_connections() {
    let gateway = Gateway::start_with("[limits]\nhandshake = \"1h\"");
    let mut held = Vec::new();
    for number in 0..300 {
        let mut stream = TcpStream::connect(&gateway.ops).unwrap();
        // Half of a request.
        _ = stream.write_all(b"GET /livez HTTP/1.1\r\nHost: someone\r\n");
        held.push(stream);
        // The system's own queue is short, and what does not fit into it waits for seconds.
        if number % 50 == 0 {
            assert!(http(&gateway.ops, "/livez").starts_with("HTTP/1.1 200"));
        }
    }
    for _ in 0..10 {
        assert!(http(&gateway.ops, "/livez").starts_with("HTTP/1.1 200"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_nothing_of_the_wire_is_cut_too() {
    let gateway = Gateway::start_serving(
        "max_connection_age = \"2s\"\nmax_connection_grace = \"1s\"",
        "[limits]\nrequest_timeout = \"1s\"",
    );
    let stream = TcpStream::connect(&gateway.address).unwrap();
    let mut writer = stream.try_clone().unwrap();
    writer.set_write_timeout(Some(PATIENCE)).unwrap();
    // Each ping has an answer, and none is read: by and by the gateway cannot write, nor read more.
    let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
    let pings = ping.repeat(1000);
    let flood = tokio::task::spawn_blocking(move || {
        writer
            .write_all(&[PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat())
            .unwrap();
        // Until it is cut.
        while writer.write_all(&pings).is_ok() {}
    });
    timeout(PATIENCE, flood).await.unwrap().unwrap();
    drop(stream);
    let open = "tagway_connections{listener=\"grpc\"}";
    let gone = async {
        while metric(&gateway, open) > 0 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, gone).await.unwrap();
}

/// A connection goes when it is old, with all that is on it.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_begins_late_on_its_connection_is_told_before_that_goes() {
    let gateway = Gateway::start_serving(
        "max_connection_age = \"3s\"\nmax_connection_grace = \"1s\"",
        "[limits]\nrequest_timeout = \"1s\"",
    );
    let client = gateway.client("acme").await;
    client.put("tenant_config_a", "1").await.unwrap();
    sleep(Duration::from_millis(2500)).await;
    let mut watcher = Watcher::of(&client, to_keys("k", &["tenant_config_a"])).await;
    watcher.until(|_, kind| matches!(kind, Kind::Closing(_))).await;
    let status = watcher.ends().await;
    assert_eq!(why::<()>(Err(status)), (Code::Unavailable, "CLOSING".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_needs_no_token_sends_little() {
    let gateway = Gateway::start();
    let channel = Endpoint::from_shared(format!("http://{}", gateway.address)).unwrap();
    let mut health = HealthClient::new(channel.connect().await.unwrap());
    let ask = |service: String| HealthCheckRequest { service };
    health.check(ask(String::new())).await.unwrap();
    let refused = health.check(ask("x".repeat(5000))).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
}

/// Asks for a large value, as acme does.
fn ask(requests: &mut SendRequest<Bytes>, gateway: &Gateway) -> ResponseFuture {
    let mut message = vec![0; 5];
    tagway_tests::client::get("tenant_config_large")
        .encode(&mut message)
        .unwrap();
    message[4] = u8::try_from(message.len() - 5).unwrap();
    let uri = format!("http://{}/tagway.v1.ConfigService/GetConfig", gateway.address);
    let request = http::Request::post(uri)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header(
            "authorization",
            format!("Bearer {}", gateway.key.token(&claims("acme"))),
        )
        .body(())
        .unwrap();
    let (answer, mut body) = requests.send_request(request, false).unwrap();
    body.send_data(message.into(), true).unwrap();
    answer
}

/// The soak found it: a replica that was told to go as it came reset whoever had connected and was not accepted yet.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_at_the_door_when_it_closes_is_answered() {
    let mut gateway = Gateway::start();
    gateway
        .client("acme")
        .await
        .put("tenant_config_large", "x")
        .await
        .unwrap();
    gateway.signal("STOP");
    let mut asked = Vec::new();
    for _ in 0..50 {
        let socket = tokio::net::TcpStream::connect(&gateway.address).await.unwrap();
        let (mut requests, connection) = h2::client::handshake(socket).await.unwrap();
        let answer = ask(&mut requests, &gateway);
        let mut connection = Box::pin(connection);
        // There is room for all that it says, so it has said it then.
        let waits = poll_fn(|context| Poll::Ready(connection.as_mut().poll(context).is_pending()));
        assert!(waits.await);
        asked.push((answer, requests, connection));
    }
    gateway.signal("TERM");
    gateway.signal("CONT");
    for (answer, _requests, connection) in asked {
        let connection = tokio::spawn(connection);
        let answer = timeout(PATIENCE, answer).await.unwrap().unwrap();
        let mut body = answer.into_body();
        while let Some(part) = body.data().await {
            body.flow_control().release_capacity(part.unwrap().len()).unwrap();
        }
        let trailers = body.trailers().await.unwrap().expect("how it ended");
        assert_eq!(trailers["grpc-status"], "0");
        timeout(PATIENCE, connection).await.unwrap().unwrap().unwrap();
    }
    assert!(gateway.wait().success());
}

/// A client that asks, and has room for so many bytes of what it is answered. What it returns ends when its connection does.
async fn never_reads(gateway: &Gateway, window: u32) -> JoinHandle<()> {
    let socket = tokio::net::TcpStream::connect(&gateway.address).await.unwrap();
    let (mut requests, connection) = h2::client::Builder::new()
        .initial_window_size(window)
        .handshake::<_, Bytes>(socket)
        .await
        .unwrap();
    let connection = tokio::spawn(async move { _ = connection.await });
    loop {
        let answer = ask(&mut requests, gateway).await.unwrap();
        // Refused: the one before is still under way.
        if answer.headers().get("grpc-status").is_some() {
            continue;
        }
        return tokio::spawn(async move {
            let _kept = (answer, requests);
            connection.await.unwrap();
        });
    }
}

/// A window of a byte has the gateway make its answer, and keep it. Whatever a tenant leaves untaken, there is room for others.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_taken_is_bounded_in_bytes() {
    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    client.put("tenant_config_large", &"x".repeat(1 << 20)).await.unwrap();
    let socket = tokio::net::TcpStream::connect(&gateway.address).await.unwrap();
    let (mut requests, connection) = h2::client::Builder::new()
        .initial_window_size(1)
        .handshake::<_, Bytes>(socket)
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let mut kept = Vec::new();
    for _ in 0..190 {
        requests = requests.ready().await.unwrap();
        kept.push(ask(&mut requests, &gateway));
    }
    let mut refused = 0;
    let mut answers = Vec::new();
    for answer in kept {
        let answer = timeout(PATIENCE, answer).await.unwrap().unwrap();
        if let Some(status) = answer.headers().get("grpc-status") {
            assert_eq!(status, "8");
            refused += 1;
        }
        answers.push(answer);
    }
    // A MiB each, and half of what there is.
    assert!((50..75).contains(&refused), "{refused}");
    assert_eq!(why(client.get("tenant_config_large").await).0, Code::ResourceExhausted);
    let other = gateway.client("globex").await;
    let large = "y".repeat(1 << 20);
    other.put("tenant_config_large", &large).await.unwrap();
    assert_eq!(other.get("tenant_config_large").await.unwrap().value, large);
    drop((answers, requests));
    connection.abort();
    let again = async { while client.get("tenant_config_large").await.is_err() {} };
    timeout(PATIENCE, again).await.expect("who goes gives it back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_takes_nothing_is_cut_as_anybody() {
    let gateway = Gateway::start_with("[limits]\nrequest_timeout = \"500ms\"");
    let client = gateway.client("acme").await;
    let large = "x".repeat(1 << 20);
    let put = async {
        // Its first sync may be slow.
        while client.put("tenant_config_large", &large).await.is_err() {}
    };
    timeout(PATIENCE, put).await.unwrap();
    let narrow = Endpoint::from_shared(format!("http://{}", gateway.address)).unwrap();
    let narrow = narrow
        .initial_stream_window_size(1000)
        .initial_connection_window_size(70_000);
    let token = gateway.key.token(&claims("acme"));
    let narrow = Client::over(narrow.connect().await.unwrap(), Some(&token));
    let watcher = Watcher::open(&narrow).await.unwrap();
    watcher.subscribe(to_keys("k", &["tenant_config_large"]));
    let mut reads = Watcher::of(&client, to_keys("k", &["tenant_config_a"])).await;
    let cut = "tagway_connections_cut_total{listener=\"grpc\",reason=\"answers not taken\"}";
    timeout(PATIENCE, async {
        while metric(&gateway, cut) == 0 {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .unwrap();
    client.put("tenant_config_a", "1").await.unwrap();
    timeout(PATIENCE, reads.shows("k", "tenant_config_a", Some("1")))
        .await
        .expect("who takes what it is sent is not cut");
    drop(watcher);
    client.get("tenant_config_large").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_watches_health_leaves_room_for_who_asks() {
    let gateway = Gateway::start();
    let channel = Endpoint::from_shared(format!("http://{}", gateway.address)).unwrap();
    let mut health = HealthClient::new(channel.connect().await.unwrap());
    let ask = || HealthCheckRequest::default();
    let mut watches = Vec::new();
    for _ in 0..4 {
        watches.push(health.watch(ask()).await.unwrap().into_inner());
    }
    assert_eq!(
        why(health.watch(ask()).await),
        (Code::ResourceExhausted, "OVERLOADED".to_owned())
    );
    health.check(ask()).await.unwrap();
    watches.pop();
    timeout(PATIENCE, async { while health.watch(ask()).await.is_err() {} })
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_take_its_answers_is_cut_and_gives_back_its_place() {
    let gateway = Gateway::start_with("[limits]\nin_flight = 2\nrequest_timeout = \"500ms\"");
    let client = gateway.client("acme").await;
    let large = "x".repeat(1 << 20);
    let put = async {
        // Its first sync may be slow.
        while client.put("tenant_config_large", &large).await.is_err() {}
    };
    timeout(PATIENCE, put).await.unwrap();
    // None at all; and one byte, after which HTTP/2 has taken over the rest.
    for (cut, window) in [(1, 0), (2, 1)] {
        let stuck = never_reads(&gateway, window).await;
        let other = gateway.client("globex").await;
        // There are two places, so it has no more; and others have.
        let refused = async {
            while !matches!(client.get("tenant_config_large").await, Err(status) if status.code() == Code::ResourceExhausted)
            {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, refused).await.unwrap();
        assert_eq!(why(other.get(KEY).await).0, Code::NotFound);
        let served = async {
            while client.get("tenant_config_large").await.is_err() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, served).await.unwrap();
        timeout(PATIENCE, stuck).await.expect("it was cut").unwrap();
        let name = "tagway_connections_cut_total{listener=\"grpc\",reason=\"answers not taken\"}";
        assert_eq!(metric(&gateway, name), cut);
    }
}
