//! What lies in the table, as another program sees it, and what does not fit into it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use serde_json::{Value, json};
use tagway_servers::boto3;
use uuid::Uuid;

use super::{At, Server};
use crate::backend::aws::stand_in::proxy::{Proxy, answered};
use crate::backend::conformance::names;
use crate::backend::dynamodb::CAPABILITIES;
use crate::backend::dynamodb::item::{Path, number, string};
use crate::backend::{Backend, BackendError, Conditions, NewEntry, Once, Precondition, ReadMany, WriteError};
use crate::clock::Clock;
use crate::identity::VerifiedTenant;

/// Every item by its sort key, without lives and marks, which are made of chance.
const SCAN: &str = r#"
import base64, boto3, json
def plain(value):
    (kind, value), = value.items()
    return kind + ":" + (base64.b64encode(value).decode() if kind == "B" else str(value))
items = boto3.client("dynamodb", "eu-west-1").scan(TableName="tagway", ConsistentRead=True)["Items"]
print(json.dumps([{name: plain(value) for name, value in item.items()} for item in items]))
"#;

fn entry(value: impl Into<bytes::Bytes>) -> NewEntry {
    NewEntry {
        value: value.into(),
        content_type: "text/plain".to_owned(),
        secret: false,
    }
}

async fn scan(server: &Server) -> Vec<Value> {
    let endpoint = server.endpoint().to_owned();
    let text = tokio::task::spawn_blocking(move || boto3(SCAN, &endpoint))
        .await
        .unwrap();
    let mut items: Vec<Value> = serde_json::from_str(&text).unwrap();
    items.sort_by_key(|item| item["sk"].as_str().unwrap().to_owned());
    items
}

#[tokio::test]
async fn items_look_as_designed() {
    for server in Server::both() {
        let at = At::new(server.endpoint()).await;
        at.provision().await;
        let store = at.store_at(&Clock::standing_at(1_800_000_000));
        let acme = VerifiedTenant::for_tests("acme");
        let [own, shared] = names(&acme, "live/eu", "t_a/b");
        let id = Uuid::from_u128(7);
        let once = Conditions {
            once: Some(Once { id, digest: [9; 32] }),
            ..Conditions::default()
        };
        let first = store.write(&acme, &own, entry("one"), once).await.unwrap().etag;
        let second = store
            .write(&acme, &own, entry("two"), Conditions::default())
            .await
            .unwrap()
            .etag;
        store
            .write(&acme, &shared, entry("all"), Conditions::default())
            .await
            .unwrap();
        store
            .delete(&acme, &shared, false, Conditions::default())
            .await
            .unwrap();
        assert_eq!((first.life, first.version, second.version), (second.life, 1, 2));

        let life = first.life.0.to_string();
        let items = scan(&server).await;
        let keys: Vec<(&str, String)> = items
            .iter()
            .map(|item| {
                let sk = item["sk"].as_str().unwrap().replace(&life, "LIFE");
                let life = item["life"].as_str().unwrap_or_default().trim_start_matches("S:");
                (item["pk"].as_str().unwrap(), sk.replace(life, "THEIRS"))
            })
            .collect();
        let expected = [
            ("S:TENANT#acme", "S:CONFIG#live/eu/t_/a/b"),
            ("S:TENANT#acme", "S:REQUEST#acme/00000000-0000-0000-0000-000000000007"),
            ("S:TENANT#acme", "S:VERSION#live/eu/t_/a/b#LIFE#00000000000000000001"),
            ("S:TENANT#acme", "S:VERSION#live/eu/t_/a/b#LIFE#00000000000000000002"),
            ("S:SHARED", "S:VERSION#live/eu/t_/a/b#THEIRS#00000000000000000001"),
            ("S:SHARED", "S:VERSION#live/eu/t_/a/b#THEIRS#00000000000000000002"),
        ];
        let mut keys: Vec<_> = keys.iter().map(|(pk, sk)| (*pk, sk.as_str())).collect();
        keys.sort_by_key(|(pk, sk)| (*pk == "S:SHARED", *sk));
        assert_eq!(keys, expected);

        let at_path = |sk: &str| {
            items
                .iter()
                .find(|item| item["sk"].as_str().unwrap().contains(sk))
                .unwrap()
                .clone()
        };
        let mut current = at_path("CONFIG#");
        let mark = current["request_id"].take();
        assert_eq!(
            mark.as_str().unwrap().len(),
            "S:".len() + 26,
            "one of ours, where the caller gave none"
        );
        let expected = json!({
            "pk": "S:TENANT#acme", "sk": "S:CONFIG#live/eu/t_/a/b",
            "value": "B:dHdv", "content_type": "S:text/plain", "life": format!("S:{life}"), "version": "N:2",
            "updated_at": "S:2027-01-15T08:00:00.000000Z", "updated_by": "S:tester", "request_id": null,
        });
        assert_eq!(current, expected);
        let request = at_path("REQUEST#");
        assert_eq!(request["outcome"], "S:stands");
        assert_eq!(request["expires_at"], "N:1800000600");
        assert_eq!(
            at_path(&format!("#{life}#00000000000000000001"))["request_id"],
            format!("S:{id}")
        );
        let tombstone = items.iter().find(|item| item.get("deleted").is_some()).unwrap();
        assert_eq!((&tombstone["pk"], tombstone.get("value")), (&json!("S:SHARED"), None));
    }
}

/// Whatever the key: the largest value fits, and one that is larger is nobody's to send.
#[tokio::test]
async fn the_largest_value_fits_beside_the_longest_names() {
    let subject = VerifiedTenant::for_tests(&"t".repeat(128));
    let [name, _] = names(
        &subject,
        &format!("{}/b", "a".repeat(254)),
        &format!("t_{}", "n".repeat(254)),
    );
    let largest = vec![0xff; CAPABILITIES.max_value_bytes as usize];
    for server in Server::both() {
        let at = At::new(server.endpoint()).await;
        at.provision().await;
        let store = at.store();
        let value = NewEntry {
            value: largest.clone().into(),
            content_type: "c".repeat(128),
            secret: false,
        };
        store
            .write(&subject, &name, value, Conditions::default())
            .await
            .unwrap();
        let found = store.read(&subject, &name).await.unwrap().unwrap();
        assert!(found.value == largest);
    }
}

/// A version that another followed is there for its time, however long it stood before; and one that follows a state which
/// somebody wrote beside the gateway is written all the same.
#[tokio::test]
async fn history_goes_when_its_time_is_over_and_what_stands_does_not() {
    for server in Server::both() {
        let at = At::new(server.endpoint()).await;
        at.provision().await;
        let clock = Clock::standing_at(1_800_000_000);
        let store = at.store_keeping(Some(Duration::from_hours(1)), &clock);
        let acme = VerifiedTenant::for_tests("acme");
        let [name, _] = names(&acme, "ns", "t_a");
        let write = async |value: &str| {
            let written = store.write(&acme, &name, entry(value.to_owned()), Conditions::default());
            written.await.unwrap().etag
        };
        write("one").await;
        clock.set(1_900_000_000);
        let second = write("two").await;
        // Another program's third version has no record.
        let key = |sk: String| {
            [("pk", "TENANT#acme".to_owned()), ("sk", sk)].map(|(key, value)| (key.to_owned(), string(value)))
        };
        let current = Path("ns/t_/a").current();
        let put = at.client().put_item().table_name(super::TABLE);
        let put = put.set_item(Some(key(current).into())).item("value", string("three"));
        let put = put
            .item("life", string(second.life.0.to_string()))
            .item("version", number(3));
        put.send().await.unwrap();
        assert_eq!(write("four").await.version, 4);
        let past = store.history(&acme, &name, "", 10, 1 << 20).await.unwrap();
        let past: Vec<_> = past.entries.iter().map(|past| past.etag.version).collect();
        assert_eq!(past, [4, 2, 1]);
        assert_eq!(store.read_version(&acme, &name, 3).await.unwrap(), None);

        let records = at
            .client()
            .scan()
            .table_name(super::TABLE)
            .send()
            .await
            .unwrap()
            .items
            .unwrap();
        let mut expiring = 0;
        for record in records {
            let Some(expires) = record.get("expires_at") else {
                continue;
            };
            assert_eq!(expires.as_n().unwrap(), "1900003600");
            expiring += 1;
            // As DynamoDB does, some time later.
            let key = |name: &str| record[name].clone();
            let delete = at.client().delete_item().table_name(super::TABLE);
            delete.key("pk", key("pk")).key("sk", key("sk")).send().await.unwrap();
        }
        assert_eq!(
            expiring, 2,
            "what stands has no end, nor has what another program followed"
        );
        let past = store.history(&acme, &name, "", 10, 1 << 20).await.unwrap();
        let past: Vec<_> = past.entries.iter().map(|past| past.etag.version).collect();
        assert_eq!(past, [4, 2]);
        assert_eq!(
            store.read_version(&acme, &name, 4).await.unwrap().unwrap().value,
            "four"
        );
    }
}

/// What one tenant's calls cost does not depend on how many others there are.
#[tokio::test]
async fn a_tenants_calls_cost_the_same_with_a_thousand_others() {
    const KEYS: usize = 100;
    let server = Server::roto();
    At::new(server.endpoint()).await.provision().await;
    let proxy = Proxy::start(server.endpoint(), |_| None).await;
    let at = At::new(&proxy.endpoint()).await;
    let store = at.store();
    let acme = VerifiedTenant::for_tests("acme");
    let keys: Vec<_> = (0..KEYS)
        .map(|i| names(&acme, "ns", &format!("t_{i:03}")).into_iter().next().unwrap())
        .collect();
    for key in &keys {
        store
            .write(&acme, key, entry("v"), Conditions::default())
            .await
            .unwrap();
    }
    let cost = async || {
        let mut costs = Vec::new();
        let mut cost = |what: &'static str| {
            let calls = proxy.take();
            let bytes: usize = calls.iter().map(|call| call.answer).sum();
            let operations: Vec<_> = calls.into_iter().map(|call| call.operation).collect();
            costs.push((what, operations, bytes));
        };
        proxy.take();
        store.read(&acme, &keys[50]).await.unwrap();
        cost("get");
        let request = super::page(&keys[0], KEYS);
        assert_eq!(store.list(&acme, request).await.unwrap().entries.len(), KEYS);
        cost("list");
        store.history(&acme, &keys[50], "", 10, 1 << 20).await.unwrap();
        cost("history");
        let all: Vec<_> = keys.iter().collect();
        let found = store.read_many(&acme, &all, 1 << 20).await;
        assert!(found.iter().all(|found| matches!(found, Ok(ReadMany::Found(_)))));
        cost("batch of 100");
        costs
    };
    let alone = cost().await;
    others(&at, 1000, KEYS).await;
    let among_many = cost().await;
    for ((what, calls, bytes), (_, same, bytes_then)) in alone.iter().zip(&among_many) {
        println!("{what:13} {calls:?} {bytes} bytes; with 1000 others {bytes_then}");
        assert_eq!(calls, same, "{what}");
        // A mark or a time may be a byte shorter; an item more is not.
        assert!(bytes.abs_diff(*bytes_then) < 16, "{what}: {bytes} and {bytes_then}");
    }
    let calls = |what| alone.iter().find(|(name, ..)| *name == what).unwrap().1.len();
    assert_eq!((calls("get"), calls("list"), calls("batch of 100")), (1, 1, 1));
}

/// So many other tenants with so many keys each, as the store writes them.
async fn others(at: &At, tenants: usize, keys: usize) {
    use aws_sdk_dynamodb::types::{PutRequest, WriteRequest};
    use futures_util::StreamExt as _;

    use crate::backend::dynamodb::item::{Item, Path, described, string};

    let acme = VerifiedTenant::for_tests("acme");
    let [name, _] = names(&acme, "ns", "t_050");
    let entry = at.store().read(&acme, &name).await.unwrap().unwrap();
    let client = at.client();
    let writing: Vec<_> = (0..tenants)
        .map(|tenant| {
            let (client, entry) = (client.clone(), entry.clone());
            async move {
                let items = (0..keys).map(|key| {
                    let mut item: Item = described(&entry);
                    let sk = Path(&format!("ns/t_/{key:03}")).current();
                    item.extend([
                        ("pk".to_owned(), string(format!("TENANT#other-{tenant}"))),
                        ("sk".to_owned(), string(sk)),
                    ]);
                    let put = PutRequest::builder().set_item(Some(item)).build().unwrap();
                    WriteRequest::builder().put_request(put).build()
                });
                for batch in items.collect::<Vec<_>>().chunks(25) {
                    let request = client.batch_write_item().request_items(super::TABLE, batch.to_vec());
                    let left_out = request.send().await.unwrap().unprocessed_items;
                    assert!(left_out.is_none_or(|left_out| left_out.is_empty()));
                }
            }
        })
        .collect();
    let mut writing = futures_util::stream::iter(writing).buffer_unordered(16);
    while writing.next().await.is_some() {}
}

/// DynamoDB may leave out what it likes of a batch; it is asked again for that, and for no more than a hundred at once.
#[tokio::test]
async fn what_a_batch_leaves_out_is_asked_for_again() {
    let server = Server::roto();
    At::new(server.endpoint()).await.provision().await;
    let left_out = AtomicBool::new(false);
    let proxy = Proxy::start(server.endpoint(), move |call| {
        if call.operation != "BatchGetItem" || left_out.swap(true, Ordering::Relaxed) {
            return None;
        }
        let answer = json!({ "Responses": { "tagway": [] }, "UnprocessedKeys": call.body["RequestItems"] });
        Some(answered(StatusCode::OK, answer.to_string()))
    })
    .await;
    let at = At::new(&proxy.endpoint()).await;
    let store = at.store();
    let acme = VerifiedTenant::for_tests("acme");
    let names: Vec<_> = (0..250)
        .map(|i| names(&acme, "ns", &format!("t_{i}"))[0].clone())
        .collect();
    for name in names.iter().step_by(2) {
        store
            .write(&acme, name, entry("v"), Conditions::default())
            .await
            .unwrap();
    }
    proxy.take();
    let found = store.read_many(&acme, &names.iter().collect::<Vec<_>>(), 1 << 20).await;
    for (i, found) in found.into_iter().enumerate() {
        assert_eq!(matches!(found, Ok(ReadMany::Found(_))), i % 2 == 0, "{i}: {found:?}");
    }
    let asked: Vec<usize> = proxy
        .take()
        .iter()
        .map(|call| call.body["RequestItems"]["tagway"]["Keys"].as_array().unwrap().len())
        .collect();
    assert_eq!(asked, [100, 100, 100, 50]);
}

/// A transaction that is still under way when its call is sent again may be done or not: it is asked for under its own name
/// until that is known.
#[tokio::test]
async fn what_is_under_way_is_not_done_again() {
    let server = Server::roto();
    At::new(server.endpoint()).await.provision().await;
    let told = AtomicUsize::new(0);
    let proxy = Proxy::start(server.endpoint(), move |call| {
        let under_way = call.operation == "TransactWriteItems" && told.fetch_add(1, Ordering::Relaxed) % 7 < 6;
        let body = r#"{"__type": "com.amazonaws.dynamodb.v20120810#TransactionInProgressException"}"#;
        under_way.then(|| answered(StatusCode::BAD_REQUEST, body))
    })
    .await;
    let store = At::new(&proxy.endpoint()).await.store();
    let acme = VerifiedTenant::for_tests("acme");
    let [name, _] = names(&acme, "ns", "t_a");
    let written = store
        .write(&acme, &name, entry("v"), Conditions::default())
        .await
        .unwrap();
    assert_eq!(written.etag.version, 1);
    let calls = proxy.take();
    let tokens: std::collections::BTreeSet<_> = calls
        .iter()
        .filter(|call| call.operation == "TransactWriteItems")
        .map(|call| call.body["ClientRequestToken"].to_string())
        .collect();
    assert_eq!(tokens.len(), 1, "one request, however often it is sent");
    let deleted = store.delete(&acme, &name, false, Conditions::default()).await;
    assert!(deleted.unwrap().something());
}

/// What there is no room for is given up before its time is, and says why.
#[tokio::test]
async fn what_there_is_no_room_for_says_so() {
    let server = Server::roto();
    At::new(server.endpoint()).await.provision().await;
    let proxy = Proxy::start(server.endpoint(), |call| match call.operation.as_str() {
        "TransactWriteItems" => {
            let reasons = json!([{ "Code": "ThrottlingError" }, { "Code": "None" }]);
            let body = json!({
                "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
                "CancellationReasons": reasons,
            });
            Some(answered(StatusCode::BAD_REQUEST, body.to_string()))
        }
        "BatchGetItem" => {
            let body = json!({ "Responses": { "tagway": [] }, "UnprocessedKeys": call.body["RequestItems"] });
            Some(answered(StatusCode::OK, body.to_string()))
        }
        _ => None,
    })
    .await;
    let store = At::new(&proxy.endpoint()).await.store();
    let acme = VerifiedTenant::for_tests("acme");
    let [name, _] = names(&acme, "ns", "t_a");
    let refused = store.write(&acme, &name, entry("v"), Conditions::default()).await;
    let Err(WriteError::Backend(BackendError::Busy { problem, .. })) = refused else {
        panic!("{refused:?}");
    };
    assert!(problem.contains("raise its capacity"), "{problem}");
    let [refused] = &store.read_many(&acme, &[&name], 1 << 20).await[..] else {
        panic!("one answer a name");
    };
    assert!(matches!(refused, Err(BackendError::Busy { .. })), "{refused:?}");
    assert!(proxy.take().len() <= 20, "five rounds of each");
}

/// An etag is the caller's text.
#[tokio::test]
async fn an_etag_without_a_successor_is_none_of_ours() {
    let server = Server::roto();
    let at = At::new(server.endpoint()).await;
    at.provision().await;
    let store = at.store();
    let acme = VerifiedTenant::for_tests("acme");
    let [name, _] = names(&acme, "ns", "t_a");
    let etag = format!("01ARZ3NDEKTSV4RRFFQ69G5FAV-{}", u64::MAX);
    let conditions = Conditions {
        precondition: Precondition::Match(etag.parse().unwrap()),
        once: None,
    };
    let refused = store.write(&acme, &name, entry("v"), conditions).await;
    assert!(matches!(refused, Err(WriteError::PreconditionFailed)));
    let refused = store.delete(&acme, &name, false, conditions).await;
    assert!(matches!(refused, Err(WriteError::PreconditionFailed)));
}
