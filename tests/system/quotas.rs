//! What one tenant may ask of a replica, however much another asks.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tagway_proto::v1::watch_configs_response::Kind;
use tagway_tests::client::{Client, refused, why};
use tagway_tests::gateway::Gateway;
use tagway_tests::watcher::{Watcher, to_keys, to_prefix};
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;
use tonic_types::StatusExt as _;

/// Longer than anything may take.
const PATIENCE: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_at_ten_times_its_quota_adds_no_error_to_another() {
    let gateway = Gateway::start_within("requests_per_second = 100");
    let (greedy, modest) = (gateway.client("acme").await, gateway.client("globex").await);
    let stop = Arc::new(AtomicBool::new(false));
    let floods: Vec<_> = (0..8)
        .map(|_| {
            let (client, stop) = (greedy.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let (mut taken, mut refusals) = (0u32, 0u32);
                while !stop.load(Ordering::Relaxed) {
                    match why(client.get("tenant_config_a").await) {
                        (Code::NotFound, _) => taken += 1,
                        (Code::ResourceExhausted, reason) if reason == "QUOTA" => refusals += 1,
                        other => panic!("{other:?}"),
                    }
                }
                (taken, refusals)
            })
        })
        .collect();
    let begun = Instant::now();
    // Half of what it may.
    for _ in 0..100 {
        assert_eq!(why(modest.get("tenant_config_a").await).0, Code::NotFound);
        sleep(Duration::from_millis(20)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let seconds = begun.elapsed().as_secs_f64();
    let (mut taken, mut refusals) = (0, 0);
    for flood in floods {
        let (more, refused) = flood.await.unwrap();
        taken += more;
        refusals += refused;
    }
    println!("{taken} taken and {refusals} refused in {seconds:.1} s");
    // A second's worth at once, and then as many as come in the time.
    assert!(f64::from(taken) <= 100.0 * (seconds + 1.0) + 10.0, "{taken}");
    assert!(refusals > 10 * taken, "it was a flood");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_is_told_when_to_come_back_and_that_is_true() {
    let gateway = Gateway::start_within("requests_per_second = 1");
    let client = gateway.client("acme").await;
    assert_eq!(why(client.get("tenant_config_a").await).0, Code::NotFound);
    let status = client.get("tenant_config_a").await.unwrap_err();
    assert_eq!(refused(&status).reason, "QUOTA");
    let retry = status.get_error_details().retry_info().unwrap().retry_delay.unwrap();
    assert!(retry > Duration::ZERO && retry <= Duration::from_secs(1), "{retry:?}");
    sleep(retry).await;
    assert_eq!(why(client.get("tenant_config_a").await).0, Code::NotFound);
}

async fn opens(client: &Client) -> Result<Watcher, (Code, String)> {
    Watcher::open(client).await.map_err(|status| why(Err::<(), _>(status)))
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_and_watched_keys_are_bounded_for_each_tenant() {
    let gateway = Gateway::start_within("streams = 2, watched_keys = 10");
    let (acme, globex) = (gateway.client("acme").await, gateway.client("globex").await);
    for number in 0..12 {
        acme.put(&format!("tenant_config_{number:02}"), "x").await.unwrap();
    }
    let first = Watcher::of(&acme, to_keys("few", &["tenant_config_00"])).await;
    let mut second = Watcher::open(&acme).await.unwrap();
    let too_many = (Code::ResourceExhausted, "QUOTA".to_owned());
    assert_eq!(opens(&acme).await.err(), Some(too_many));
    let other = Watcher::of(&globex, to_prefix("all", "")).await;
    // All of them are more than it may watch: that subscription ends, and says why.
    second.subscribe(to_prefix("all", "tenant_config_"));
    let ended = timeout(PATIENCE, async {
        loop {
            if let (id, Kind::Ended(ended)) = second.next().await.unwrap() {
                return (id, ended.failure.unwrap().reason);
            }
        }
    });
    assert_eq!(ended.await.unwrap(), ("all".to_owned(), "QUOTA".to_owned()));
    // What is within goes on.
    second.subscribe(to_prefix("some", "tenant_config_1"));
    second.synced("some").await;
    drop(first);
    timeout(PATIENCE, async {
        while opens(&acme).await.is_err() {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("who goes makes room");
    drop(other);
}

/// What is named is kept, looked for and compared, whether it stands or not; and each subscription is asked for.
#[tokio::test(flavor = "multi_thread")]
async fn who_watches_what_is_not_there_has_it_counted_too() {
    let gateway = Gateway::start_within("requests_per_second = 20, watched_keys = 10");
    let client = gateway.client("acme").await;
    let mut watcher = Watcher::open(&client).await.unwrap();
    let names: Vec<String> = (0..8).map(|number| format!("tenant_config_none-{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    watcher.subscribe(to_keys("first", &names));
    watcher.synced("first").await;
    watcher.subscribe(to_keys("second", &names));
    let is_ended = |kind: &Kind| matches!(kind, Kind::Ended(ended) if ended.failure.as_ref().is_some_and(|failure| failure.reason == "QUOTA"));
    watcher.until(|id, kind| id == "second" && is_ended(kind)).await;
    watcher.unsubscribe("first");
    watcher
        .until(|id, kind| id == "first" && matches!(kind, Kind::Ended(_)))
        .await;
    for number in 0..60 {
        watcher.subscribe(to_keys(&format!("s{number}"), &names[..1]));
        watcher.unsubscribe(&format!("s{number}"));
    }
    let is_too_fast = |kind: &Kind| matches!(kind, Kind::Ended(ended) if ended.failure.as_ref().is_some_and(|failure| failure.message.contains("requests a second")));
    watcher.until(|_, kind| is_too_fast(kind)).await;
}

/// What a subscription came to: all was told, or it was refused, or its stream was in the middle of a message.
async fn answer(watcher: &mut Watcher) -> Result<(), (String, String)> {
    loop {
        match watcher.next().await {
            Ok((_, Kind::Synced(_))) => return Ok(()),
            Ok((_, Kind::Ended(ended))) => {
                let failure = ended.failure.unwrap();
                return Err((failure.reason, failure.message));
            }
            Ok(_) => {}
            Err(status) => return Err((refused(&status).reason, status.message().to_owned())),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_watchers_have_sent_is_bounded_for_each_tenant() {
    let gateway = Gateway::start_within("watched_keys = 10_000_000");
    let (acme, globex) = (gateway.client("acme").await, gateway.client("globex").await);
    let names: Vec<String> = (0..1000)
        .map(|number| format!("tenant_config_{}{number:03}", "x".repeat(230)))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut watchers = Vec::new();
    let refused = loop {
        let mut watcher = Watcher::open(&acme).await.unwrap();
        watcher.subscribe(to_keys("many", &names));
        let answer = timeout(PATIENCE, answer(&mut watcher)).await.expect("it is answered");
        watchers.push(watcher);
        if let Err(refused) = answer {
            break refused;
        }
    };
    assert_eq!(refused.0, "QUOTA");
    assert!(refused.1.contains("what its watchers have sent"), "{refused:?}");
    // A quarter of a megabyte each, twice: as it came, and as it is kept; and half of what all may.
    assert!((100..=140).contains(&watchers.len()), "{}", watchers.len());
    drop(Watcher::of(&globex, to_keys("many", &names)).await);
    drop(watchers);
    let again = async {
        loop {
            let mut watcher = Watcher::open(&acme).await.unwrap();
            watcher.subscribe(to_keys("many", &names));
            if answer(&mut watcher).await.is_ok() {
                return;
            }
        }
    };
    timeout(PATIENCE, again).await.expect("who goes makes room");
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_are_taken_up_while_the_gateway_runs() {
    let gateway = Gateway::start_within("requests_per_second = 1");
    let client = gateway.client("acme").await;
    let file = gateway.folder.path().join("tagway.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(
        &file,
        text.replace("requests_per_second = 1", "requests_per_second = 100_000"),
    )
    .unwrap();
    assert!(gateway.logs("settings were read again"));
    for _ in 0..50 {
        assert_eq!(why(client.get("tenant_config_a").await).0, Code::NotFound);
    }
}
