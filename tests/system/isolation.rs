//! Promise: Isolation. No call, error, page token or etag lets a tenant learn that another's key exists.

use tagway_proto::v1;
use tagway_tests::client::{Client, Door, delete, get, if_absent, if_match, list, put, refused, why};
use tagway_tests::gateway::Gateway;
use tagway_tests::issuer::claims;
use tagway_tests::mutant::{Bug, Mutant, noticed};
use tonic::metadata::KeyRef;
use tonic::{Code, Status};

const TENANTS: [&str; 3] = ["acme", "globex", "acme-2"];
const KEYS: [&str; 4] = [
    "param_config_api/rate-limit",
    "tenant_config_a",
    "tenant_config_a/b",
    "tenant_config_x_deep",
];

async fn three(door: &Door) -> [Client; 3] {
    let acme = door.client(TENANTS[0]).await;
    let others = [1, 2].map(|i| acme.with_token(&door.key.token(&claims(TENANTS[i]))));
    let [globex, acme2] = others;
    [acme, globex, acme2]
}

/// Everything of an error that reaches a caller, but for the time of day.
fn whole(status: &Status) -> (Code, String, Vec<u8>, Vec<String>) {
    let metadata = status.metadata().keys().map(|key| match key {
        KeyRef::Ascii(key) => key.to_string(),
        KeyRef::Binary(key) => key.to_string(),
    });
    (
        status.code(),
        status.message().to_owned(),
        status.details().to_vec(),
        metadata.collect(),
    )
}

#[tokio::test]
async fn identical_keys_of_three_tenants_never_meet() {
    never_meet(Gateway::start().door()).await;
}

#[tokio::test]
async fn anothers_key_and_no_key_answer_alike() {
    answer_alike(Gateway::start().door()).await;
}

#[tokio::test]
async fn a_gateway_that_breaks_the_promise_is_noticed() {
    let right = Mutant::start(Bug::None).await;
    never_meet(right.door().clone()).await;
    answer_alike(right.door().clone()).await;
    for bug in [Bug::KeysWithoutTenant, Bug::ListsOfEverybody] {
        let wrong = Mutant::start(bug).await;
        assert!(noticed(never_meet(wrong.door().clone())).await, "{bug:?}");
    }
    let wrong = Mutant::start(Bug::TellsWhatExists).await;
    assert!(noticed(answer_alike(wrong.door().clone())).await);
}

async fn never_meet(door: Door) {
    let tenants = three(&door).await;
    for (tenant, client) in TENANTS.iter().zip(&tenants) {
        for key in KEYS {
            assert_eq!(why(client.get(key).await), (Code::NotFound, "NOT_FOUND".to_owned()));
            let written = client.put_with(v1::PutConfigRequest {
                precondition: if_absent(),
                ..put(key, &format!("{tenant}'s {key}"))
            });
            assert_eq!(written.await.unwrap().version, 1, "for {tenant} there is none yet");
        }
    }
    for (tenant, client) in TENANTS.iter().zip(&tenants) {
        for key in KEYS {
            assert_eq!(client.get(key).await.unwrap().value, format!("{tenant}'s {key}"));
        }
        for page_size in [1, 2, 100] {
            let listed = client.list("", page_size).await.unwrap();
            assert_eq!(
                listed.iter().map(|config| config.key.as_str()).collect::<Vec<_>>(),
                KEYS
            );
            assert!(
                listed
                    .iter()
                    .all(|config| config.value == format!("{tenant}'s {}", config.key))
            );
        }
    }
    // One changes and deletes everything; nothing of the others moves.
    let before = [
        tenants[1].list("", 0).await.unwrap(),
        tenants[2].list("", 0).await.unwrap(),
    ];
    for key in KEYS {
        tenants[0].put(key, "changed").await.unwrap();
        tenants[0].delete(key).await.unwrap();
    }
    assert_eq!(tenants[0].keys("").await.unwrap(), Vec::<String>::new());
    assert_eq!(
        [
            tenants[1].list("", 0).await.unwrap(),
            tenants[2].list("", 0).await.unwrap()
        ],
        before
    );
}

async fn answer_alike(door: Door) {
    let [acme, globex, _] = three(&door).await;
    let theirs = "tenant_config_theirs";
    let nobodys = "tenant_config_nobodys";
    let etag = globex.put(theirs, "secret").await.unwrap().etag;

    let mut pairs = Vec::new();
    for version in [0, 1, 2] {
        let of = |key| acme.get_with(v1::GetConfigRequest { version, ..get(key) });
        pairs.push((of(theirs).await.unwrap_err(), of(nobodys).await.unwrap_err()));
    }
    for consistency in [v1::Consistency::Cached, v1::Consistency::Latest] {
        let of = |key| {
            acme.get_with(v1::GetConfigRequest {
                consistency: consistency.into(),
                ..get(key)
            })
        };
        pairs.push((of(theirs).await.unwrap_err(), of(nobodys).await.unwrap_err()));
    }
    pairs.push((
        acme.delete(theirs).await.unwrap_err(),
        acme.delete(nobodys).await.unwrap_err(),
    ));
    let of = |key| {
        acme.put_with(v1::PutConfigRequest {
            precondition: if_match(&etag),
            ..put(key, "mine")
        })
    };
    pairs.push((of(theirs).await.unwrap_err(), of(nobodys).await.unwrap_err()));
    let of = |key| {
        acme.delete_with(v1::DeleteConfigRequest {
            precondition: if_match(&etag),
            ..delete(key)
        })
    };
    pairs.push((of(theirs).await.unwrap_err(), of(nobodys).await.unwrap_err()));
    for (theirs, nobodys) in pairs {
        assert_eq!(whole(&theirs), whole(&nobodys));
    }
    assert_eq!(acme.keys("tenant_config_the").await.unwrap(), Vec::<String>::new());
    // It is all there still, and a write of one's own under the same key is the first.
    assert_eq!(globex.get(theirs).await.unwrap().value, "secret");
    assert_eq!(acme.put(theirs, "mine").await.unwrap().version, 1);
    assert_eq!(globex.get(theirs).await.unwrap().etag, etag);
}

#[tokio::test]
async fn page_tokens_and_etags_are_worthless_elsewhere() {
    let gateway = Gateway::start();
    let [acme, globex, _] = three(&gateway.door()).await;
    for client in [&acme, &globex] {
        for i in 0..5 {
            client.put(&format!("tenant_config_{i}"), "x").await.unwrap();
        }
    }
    let request = v1::ListConfigsRequest {
        page_size: 2,
        ..list("tenant_config_")
    };
    let token = acme.page(request.clone()).await.unwrap().next_page_token;
    assert!(!token.is_empty() && !token.contains("tenant"));
    let next = v1::ListConfigsRequest {
        page_token: token.clone(),
        ..request.clone()
    };
    // Good where it came from, as often as one likes, and with another page size.
    for page_size in [2, 1, 100] {
        let page = acme
            .page(v1::ListConfigsRequest {
                page_size,
                ..next.clone()
            })
            .await
            .unwrap();
        assert_eq!(page.configs[0].key, "tenant_config_2");
    }
    let bad = |page: Result<_, Status>| {
        let refused = refused(&page.map(|_: v1::ListConfigsResponse| ()).unwrap_err());
        assert_eq!(
            (refused.code, refused.field.as_deref()),
            (Code::InvalidArgument, Some("page_token"))
        );
    };
    bad(globex.page(next.clone()).await);
    bad(acme
        .page(v1::ListConfigsRequest {
            prefix: "tenant_".into(),
            ..next.clone()
        })
        .await);
    bad(acme
        .page(v1::ListConfigsRequest {
            prefix: String::new(),
            ..next.clone()
        })
        .await);
    bad(acme
        .page(v1::ListConfigsRequest {
            keys_only: true,
            ..next.clone()
        })
        .await);
    let context = tagway_tests::client::context("env", "prod");
    bad(acme
        .page(v1::ListConfigsRequest {
            context,
            ..next.clone()
        })
        .await);
    for forged in [
        format!("{token}A"),
        token[1..].to_owned(),
        "AAAA".to_owned(),
        "%".to_owned(),
        "x".repeat(5000),
    ] {
        bad(acme
            .page(v1::ListConfigsRequest {
                page_token: forged,
                ..next.clone()
            })
            .await);
    }

    let theirs = globex.get("tenant_config_1").await.unwrap().etag;
    let written = acme.put_with(v1::PutConfigRequest {
        precondition: if_match(&theirs),
        ..put("tenant_config_1", "y")
    });
    assert_eq!(why(written.await), (Code::Aborted, "CHANGED".to_owned()));
}
