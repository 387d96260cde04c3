//! Promises: No lost update, Read your write, Agreement. What writes, deletes and lists mean.

use std::collections::HashSet;

use tagway_proto::v1;
use tagway_tests::client::{Client, Door, delete, get, if_absent, if_match, list, put, why};
use tagway_tests::gateway::Gateway;
use tagway_tests::issuer::claims;
use tagway_tests::mutant::{Bug, Mutant, noticed};
use tonic::Code;

const KEY: &str = "tenant_config_a";

async fn put_if(
    client: &Client,
    value: &str,
    precondition: Option<v1::Precondition>,
) -> Result<v1::Config, tonic::Status> {
    client
        .put_with(v1::PutConfigRequest {
            precondition,
            ..put(KEY, value)
        })
        .await
}

#[tokio::test]
async fn an_answer_says_everything_about_a_configuration() {
    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    let written = client.put(KEY, "{}").await.unwrap();
    let answer = client.get_with(get(KEY)).await.unwrap();
    let found = answer.config.unwrap();
    assert_eq!(found.key, KEY);
    assert_eq!(found.value, "{}");
    assert_eq!(found.content_type, "application/json");
    assert_eq!(found.version, 1);
    assert_eq!(found.updated_by, "tester");
    assert_eq!(found.backend, "local");
    assert_eq!(found.origin(), v1::config::Origin::Home);
    assert!(!found.secret && found.update_time.is_some());
    // What a write answers is what a read then finds, without the value.
    assert_eq!(
        v1::Config {
            value: found.value.clone(),
            ..written.clone()
        },
        found
    );
    assert!(written.value.is_empty());
    let freshness = answer.freshness.unwrap();
    assert_eq!(freshness.source(), v1::freshness::Source::Cache, "it was just written");
    assert!(freshness.age.is_some_and(|age| age.seconds < 60));
    let latest = v1::GetConfigRequest {
        consistency: v1::Consistency::Latest.into(),
        ..get(KEY)
    };
    let freshness = client.get_with(latest).await.unwrap().freshness.unwrap();
    assert_eq!(freshness.source(), v1::freshness::Source::Backend);
}

#[tokio::test]
async fn no_two_states_have_one_etag() {
    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    let mut etags = HashSet::new();
    for life in 0..5 {
        for version in 1..=3 {
            let written = client.put(KEY, "same").await.unwrap();
            assert_eq!(written.version, version, "versions count within a life");
            assert!(etags.insert(written.etag.clone()), "life {life}");
        }
        client.delete(KEY).await.unwrap();
    }
    for etag in etags {
        assert_eq!(
            why(put_if(&client, "x", if_match(&etag)).await),
            (Code::Aborted, "CHANGED".to_owned())
        );
    }
}

#[tokio::test]
async fn of_many_writers_with_one_etag_one_wins() {
    one_wins(Gateway::start().door()).await;
}

#[tokio::test]
async fn a_gateway_that_loses_updates_is_noticed() {
    one_wins(Mutant::start(Bug::None).await.door().clone()).await;
    let wrong = Mutant::start(Bug::ChecksThenWrites).await;
    assert!(noticed(one_wins(wrong.door().clone())).await);
}

async fn one_wins(door: Door) {
    let client = door.client("acme").await;
    let mut etag = client.put(KEY, "0").await.unwrap().etag;
    for round in 0..20 {
        let writers: Vec<_> = (0..16)
            .map(|writer| {
                let (client, etag) = (client.clone(), etag.clone());
                tokio::spawn(async move { put_if(&client, &format!("{round}/{writer}"), if_match(&etag)).await })
            })
            .collect();
        let mut won = Vec::new();
        for writer in writers {
            match writer.await.unwrap() {
                Ok(config) => won.push(config.etag),
                refused => assert_eq!(why(refused), (Code::Aborted, "CHANGED".to_owned())),
            }
        }
        assert_eq!(won.len(), 1);
        let found = client.get(KEY).await.unwrap();
        assert_eq!((found.etag.as_str(), found.version), (won[0].as_str(), round + 2));
        etag = found.etag;
    }
}

#[tokio::test]
async fn of_many_creators_one_wins() {
    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    let creators: Vec<_> = (0..16)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { put_if(&client, "x", if_absent()).await })
        })
        .collect();
    let mut won = 0;
    for creator in creators {
        match creator.await.unwrap() {
            Ok(config) => {
                won += 1;
                assert_eq!(config.version, 1);
            }
            refused => assert_eq!(why(refused), (Code::AlreadyExists, "ALREADY_EXISTS".to_owned())),
        }
    }
    assert_eq!(won, 1);
}

#[tokio::test]
async fn deletes() {
    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    let delete_if = |precondition, allow_missing| {
        client.delete_with(v1::DeleteConfigRequest {
            precondition,
            allow_missing,
            ..delete(KEY)
        })
    };
    let not_found = (Code::NotFound, "NOT_FOUND".to_owned());
    let changed = (Code::Aborted, "CHANGED".to_owned());
    assert_eq!(why(delete_if(None, false).await), not_found);
    delete_if(None, true).await.unwrap();
    let old = client.put(KEY, "1").await.unwrap().etag;
    let new = client.put(KEY, "2").await.unwrap().etag;
    assert_eq!(why(delete_if(if_match(&old), false).await), changed);
    assert_eq!(why(delete_if(if_match(&old), true).await), changed);
    assert_eq!(
        why(delete_if(if_absent(), true).await),
        (Code::AlreadyExists, "ALREADY_EXISTS".to_owned())
    );
    assert_eq!(client.get(KEY).await.unwrap().value, "2");
    delete_if(if_match(&new), false).await.unwrap();
    assert_eq!(why(client.get(KEY).await), not_found);
    assert_eq!(
        why(delete_if(if_match(&new), true).await),
        changed,
        "it is not in that state any more"
    );
    delete_if(if_absent(), true).await.unwrap();
}

#[tokio::test]
async fn earlier_versions_are_found_as_far_back_as_they_are_kept() {
    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    for version in 1..=120 {
        client.put(KEY, &version.to_string()).await.unwrap();
    }
    let at = |version| client.get_with(v1::GetConfigRequest { version, ..get(KEY) });
    for version in [21, 60, 119, 120] {
        let found = at(version).await.unwrap().config.unwrap();
        assert_eq!((found.version, found.value), (version, version.to_string().into()));
    }
    for version in [20, 1, 121] {
        assert_eq!(why(at(version).await).0, Code::NotFound, "{version}");
    }
    // A new life's versions stand before those of the one before.
    client.delete(KEY).await.unwrap();
    assert_eq!(at(119).await.unwrap().config.unwrap().value, "119");
    client.put(KEY, "again").await.unwrap();
    assert_eq!(at(1).await.unwrap().config.unwrap().value, "again");
}

#[tokio::test]
async fn what_the_backend_cannot_do_is_refused() {
    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    let missing = (Code::FailedPrecondition, "CAPABILITY_MISSING".to_owned());
    let secret = v1::PutConfigRequest {
        secret: true,
        ..put(KEY, "x")
    };
    assert_eq!(why(client.put_with(secret).await), missing);
    assert_eq!(why(client.get(KEY).await).0, Code::NotFound);

    // The shared scope: nothing is shared here, and who may not share learns only that.
    let scope = v1::Scope::Shared.into();
    let unplaced = (Code::FailedPrecondition, "UNPLACED".to_owned());
    let denied = (Code::PermissionDenied, "PERMISSION_MISSING".to_owned());
    assert_eq!(
        why(client.get_with(v1::GetConfigRequest { scope, ..get(KEY) }).await),
        unplaced
    );
    assert_eq!(
        why(client.put_with(v1::PutConfigRequest { scope, ..put(KEY, "x") }).await),
        denied
    );
    assert_eq!(
        why(client
            .delete_with(v1::DeleteConfigRequest { scope, ..delete(KEY) })
            .await),
        denied
    );
    let mut sharing = claims("acme");
    sharing["scope"] = "read write share".into();
    let sharing = client.with_token(&gateway.key.token(&sharing));
    assert_eq!(
        why(sharing.put_with(v1::PutConfigRequest { scope, ..put(KEY, "x") }).await),
        unplaced
    );
}

#[tokio::test]
async fn pages_neither_skip_nor_repeat_while_keys_come_and_go() {
    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    // Names that stay, over three tags whose keys interleave, and names that come and go between them.
    let staying: Vec<String> = ["param_config_", "tenant_config_", "tenant_config_x_"]
        .iter()
        .flat_map(|tag| (0..20).map(move |i| format!("{tag}{:02}", i * 2)))
        .collect();
    for key in &staying {
        client.put(key, "stays").await.unwrap();
    }
    for seed in 0..5 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut request = v1::ListConfigsRequest {
            page_size: 7,
            keys_only: true,
            ..list("")
        };
        let mut seen = Vec::new();
        loop {
            let page = client.page(request.clone()).await.unwrap();
            assert!(page.configs.len() <= 7 && page.configs.iter().all(|config| config.value.is_empty()));
            seen.extend(page.configs.into_iter().map(|config| config.key));
            if page.next_page_token.is_empty() {
                break;
            }
            request.page_token = page.next_page_token;
            for _ in 0..10 {
                let tag = ["param_config_", "tenant_config_", "tenant_config_x_"][random.usize(0..3)];
                let key = format!("{tag}{:02}", random.u32(0..20) * 2 + 1);
                if random.bool() {
                    client.put(&key, "goes").await.unwrap();
                } else {
                    let gone = v1::DeleteConfigRequest {
                        allow_missing: true,
                        ..delete(&key)
                    };
                    client.delete_with(gone).await.unwrap();
                }
            }
        }
        assert!(seen.is_sorted_by(|a, b| a < b), "ascending, and none twice: {seen:?}");
        assert!(
            staying.iter().all(|key| seen.contains(key)),
            "seed {seed}: one that stood throughout is missing"
        );
    }
}

#[tokio::test]
async fn a_page_ends_at_three_mebibytes() {
    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    let value = "x".repeat(1 << 20);
    for i in 0..7 {
        client.put(&format!("tenant_config_{i}"), &value).await.unwrap();
    }
    let page = client.page(list("tenant_config_")).await.unwrap();
    // Three values fill it alone; with what is said of them only two fit.
    assert_eq!(page.configs.len(), 2);
    assert!(!page.next_page_token.is_empty());
    let all = client.list("tenant_config_", 0).await.unwrap();
    assert_eq!(all.len(), 7);
    assert!(all.iter().all(|config| config.value.len() == 1 << 20));
    // Without values there is room.
    let keys = v1::ListConfigsRequest {
        keys_only: true,
        ..list("tenant_config_")
    };
    let page = client.page(keys).await.unwrap();
    assert_eq!((page.configs.len(), page.next_page_token.as_str()), (7, ""));
}
