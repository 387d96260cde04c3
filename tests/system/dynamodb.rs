//! Promises of a store that is a network away: what it does to a call is told as it is, and to the caller in our own words;
//! nothing that was acknowledged is lost, and nothing is done twice.

use std::time::Duration;

use serde_json::json;
use tagway_proto::v1::{Consistency, GetConfigRequest};
use tagway_servers::{Fault, Microburst, Ministack, Roto, boto3};
use tagway_tests::client::{Client, get, refused, why};
use tagway_tests::gateway::Gateway;
use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

const KEY: &str = "tenant_config_a";
/// More often than anybody tries again.
const ALWAYS: u32 = 1000;

/// What may happen once or twice, and nobody notices.
const PASSING: [(&str, Fault, u32); 8] = [
    ("throttled twice", Fault::Throttled, 2),
    ("status 500 twice", Fault::Internal, 2),
    ("reset twice", Fault::Reset, 2),
    ("hung once", Fault::Slow(Duration::from_secs(3)), 1),
    ("cut within the answer", Fault::Cut, 1),
    ("half an answer", Fault::Truncated, 1),
    ("done, and the answer lost", Fault::Lost, 1),
    ("done, and the answer lost, twice", Fault::Lost, 2),
];

/// What stays: the caller is told to come back, and the operator what to do.
const LASTING: [(&str, Fault, &str); 6] = [
    ("throttled", Fault::Throttled, "raise its capacity"),
    ("status 500", Fault::Internal, "health page"),
    ("reset", Fault::Reset, "check the network"),
    ("hung", Fault::Slow(Duration::from_secs(3)), "check the network"),
    ("half an answer", Fault::Truncated, "the answer was cut off"),
    ("expired credentials", Fault::ExpiredToken, "renew them"),
];

/// `UNAVAILABLE` with the time to come back, and no word of what is behind.
fn told_to_come_back(status: &Status) {
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(refused(status).reason, "BACKEND_UNAVAILABLE");
    assert!(
        status
            .get_error_details()
            .retry_info()
            .is_some_and(|retry| retry.retry_delay.is_some())
    );
    let told = format!("{status:?}").to_lowercase();
    for word in ["dynamo", "table", "tagway_", "aws", "127.0.0.1", "item", "hot", "arn:"] {
        assert!(!told.contains(word), "{word:?} in {told}");
    }
}

async fn versions(client: &Client, key: &str) -> Vec<(u64, String)> {
    let request = tagway_proto::v1::ListConfigVersionsRequest {
        key: key.to_owned(),
        ..Default::default()
    };
    let mut stub = client.grpc.clone();
    let page = stub
        .list_config_versions(client.request(request))
        .await
        .unwrap()
        .into_inner();

    page.versions
        .into_iter()
        .map(|config| (config.version, String::from_utf8(config.value.to_vec()).unwrap()))
        .collect()
}

#[tokio::test]
async fn what_passes_is_not_noticed_and_nothing_is_done_twice() {
    let (ministack, roto) = (Ministack::start(), Roto::start());
    for (server, upstream) in [("ministack", ministack.endpoint()), ("roto", roto.endpoint())] {
        let faults = Microburst::start(upstream);
        let gateway = Gateway::start_over_dynamodb(faults.endpoint(), "");
        let client = gateway.client("acme").await;
        let mut written = 0;
        for (what, fault, times) in PASSING {
            written += 1;
            faults.inject("TransactWriteItems", fault, times);
            let begun = Instant::now();
            let value = format!("{what} {written}");
            let answer = client
                .put(KEY, &value)
                .await
                .unwrap_or_else(|error| panic!("{server}: put {what}: {error:?}"));
            let put = begun.elapsed();
            assert_eq!(answer.version, written, "{server}: {what}");
            for operation in ["GetItem", "Query"] {
                faults.inject(operation, fault, times);
            }
            let begun = Instant::now();
            let found = client
                .get(KEY)
                .await
                .unwrap_or_else(|error| panic!("{server}: get {what}: {error:?}"));
            assert_eq!(found.value, value);
            println!("{server:9} {what:33} put {put:>8.0?} get {:>8.0?}", begun.elapsed());
            faults.clear();
            let past = versions(&client, KEY).await;
            assert_eq!(past.len() as u64, written, "{server}: {what}: done once");
            assert_eq!(past[0], (written, value));
        }
    }
}

#[tokio::test]
async fn what_lasts_is_told_in_our_own_words_and_to_operators_in_its_own() {
    let server = Ministack::start();
    let faults = Microburst::start(server.endpoint());
    let gateway = Gateway::start_over_dynamodb(faults.endpoint(), "");
    let client = gateway.client("acme").await;
    let mut acknowledged = client.put(KEY, "kept to itself").await.unwrap().version;
    let denied =
        json!({ "error": { "status": 400, "code": "AccessDeniedException", "message": "arn:aws:x is not allowed" } });
    let lasting = LASTING.map(|(what, fault, fix)| (what, Some(fault), fix));
    for (what, fault, fix) in lasting.into_iter().chain([("denied", None, "gateway/deploy")]) {
        for operation in ["GetItem", "BatchGetItem", "Query", "TransactWriteItems"] {
            if let Some(fault) = fault {
                faults.inject(operation, fault, ALWAYS);
            } else {
                let mut rule = denied.clone();
                rule["operation"] = operation.into();
                faults.rule(&rule);
            }
        }
        let before = gateway.log().len();
        let begun = Instant::now();
        let latest = GetConfigRequest {
            consistency: Consistency::Latest.into(),
            ..get(KEY)
        };
        let read = client.get_with(latest).await.unwrap_err();
        told_to_come_back(&read);
        let read_in = begun.elapsed();
        let begun = Instant::now();
        told_to_come_back(&client.put(KEY, "kept to itself").await.unwrap_err());
        println!(
            "{what:20} get {read_in:>8.0?} put {:>8.0?} {}",
            begun.elapsed(),
            read.message()
        );
        told_to_come_back(&client.list("tenant_config_", 10).await.unwrap_err());
        let log = gateway.log().split_off(before);
        assert!(
            log.contains(fix) && log.contains("backends.hot"),
            "{what}: {fix:?} is not in {log}"
        );
        // Neither what stands in the store nor what was to be written.
        assert!(!log.contains("kept to itself") && !log.contains("panicked"), "{log}");
        faults.clear();
        // It is back as soon as the store is, and what was not acknowledged was done once or not at all.
        let written = client.put(KEY, "kept to itself").await.unwrap().version;
        assert!(
            (acknowledged + 1..=acknowledged + 2).contains(&written),
            "{what}: {written} after {acknowledged}"
        );
        acknowledged = written;
        assert_eq!(client.get(KEY).await.unwrap().value, "kept to itself");
    }
}

#[tokio::test]
async fn a_dead_store_slows_nobody_else() {
    let server = Ministack::start();
    let faults = Microburst::start(server.endpoint());
    let gateway = Gateway::start_over_dynamodb(faults.endpoint(), "in_flight = 4\ntimeout = \"1s\"");
    let client = gateway.client("acme").await;
    client.put("param_config_a", "alive").await.unwrap();
    let median = async || {
        let mut times = Vec::new();
        for _ in 0..50 {
            let begun = Instant::now();
            assert_eq!(client.get("param_config_a").await.unwrap().value, "alive");
            times.push(begun.elapsed());
        }
        times.sort_unstable();
        times[25]
    };
    let alone = median().await;
    faults.inject("GetItem", Fault::Slow(Duration::from_secs(3)), ALWAYS);
    let dead: Vec<_> = (0..200)
        .map(|i| {
            let client = client.clone();
            tokio::spawn(async move { why(client.get(&format!("tenant_config_{i}")).await) })
        })
        .collect();
    let beside = median().await;
    println!("beside a dead store: {beside:?}, alone {alone:?}");
    for call in dead {
        assert_eq!(
            call.await.unwrap(),
            (Code::Unavailable, "BACKEND_UNAVAILABLE".to_owned())
        );
    }
}

/// 400 KB are DynamoDB's limit for an item; what a value may have of them is told before anybody is asked.
#[tokio::test]
async fn a_value_that_is_too_large_is_not_sent() {
    let server = Ministack::start();
    let faults = Microburst::start(server.endpoint());
    let gateway = Gateway::start_over_dynamodb(faults.endpoint(), "");
    let client = gateway.client("acme").await;
    let before = faults.calls();
    let error = client.put(KEY, &"x".repeat((396 << 10) + 1)).await.unwrap_err();
    let refused = refused(&error);
    assert_eq!(
        (refused.code, refused.field.as_deref()),
        (Code::InvalidArgument, Some("value"))
    );
    assert!(error.message().contains("405505 bytes"), "{error:?}");
    assert_eq!(faults.calls(), before, "nobody was asked");
}

#[tokio::test]
async fn provision_says_what_it_would_do_does_it_and_then_has_nothing_to_do() {
    let server = Ministack::start();
    let gateway = Gateway::start_over_dynamodb(server.endpoint(), "");
    let provision = |more: &[&str]| {
        let output = gateway.tagway("acme", &[&["provision", "tagway.toml"], more].concat(), b"");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(provision(&[]), "hot: table tagway is as it has to be\n");
    let undone = "import boto3\nd = boto3.client('dynamodb', 'eu-west-1')\n\
                  d.update_table(TableName='tagway', DeletionProtectionEnabled=False)\n\
                  d.delete_table(TableName='tagway')\n";
    let _ = boto3(undone, server.endpoint());
    let would = provision(&["--dry-run"]);
    assert!(would.contains("would create the table"), "{would}");
    assert_eq!(provision(&["--dry-run"]), would, "nothing was done");
    let done = provision(&[]);
    assert_eq!(done, would.replace("would ", "done: "));
    let table = "import boto3\nd = boto3.client('dynamodb', 'eu-west-1')\nt = d.describe_table(TableName='tagway')['Table']\n\
                 print(t['BillingModeSummary']['BillingMode'], t['StreamSpecification']['StreamViewType'],\n\
                 t['DeletionProtectionEnabled'], t['SSEDescription']['Status'],\n\
                 d.describe_continuous_backups(TableName='tagway')['ContinuousBackupsDescription']\
                 ['PointInTimeRecoveryDescription']['PointInTimeRecoveryStatus'],\n\
                 d.describe_time_to_live(TableName='tagway')['TimeToLiveDescription']['AttributeName'])\n";
    let table = boto3(table, server.endpoint());
    assert_eq!(
        table.trim(),
        "PAY_PER_REQUEST NEW_AND_OLD_IMAGES True ENABLED ENABLED expires_at"
    );
    // A table of somebody else's is left alone.
    let another = "import boto3\nd = boto3.client('dynamodb', 'eu-west-1')\n\
                   d.update_table(TableName='tagway', DeletionProtectionEnabled=False)\n\
                   d.delete_table(TableName='tagway')\n\
                   d.create_table(TableName='tagway', BillingMode='PAY_PER_REQUEST',\n\
                   AttributeDefinitions=[dict(AttributeName='id', AttributeType='S')],\n\
                   KeySchema=[dict(AttributeName='id', KeyType='HASH')])\n";
    let _ = boto3(another, server.endpoint());
    let output = gateway.tagway("acme", &["provision", "tagway.toml"], b"");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && told.contains("has other keys"), "{told}");
}
