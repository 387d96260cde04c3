//! Earlier versions, the way back to them, and requests that are done once.

use tagway_proto::v1;
use tagway_tests::client::{Client, delete, if_match, put, refused, why};
use tagway_tests::gateway::Gateway;
use tagway_tests::issuer::claims;
use tonic::{Code, Status};

const KEY: &str = "tenant_config_a";

async fn page(client: &Client, page_size: i32, page_token: &str) -> Result<v1::ListConfigVersionsResponse, Status> {
    let request = v1::ListConfigVersionsRequest {
        key: KEY.to_owned(),
        page_size,
        page_token: page_token.to_owned(),
        ..Default::default()
    };
    let answer = client.grpc.clone().list_config_versions(client.request(request)).await;
    answer.map(tonic::Response::into_inner)
}

async fn versions(client: &Client, page_size: i32) -> Vec<(u64, String)> {
    let mut token = String::new();
    let mut versions = Vec::new();
    loop {
        let page = page(client, page_size, &token).await.unwrap();
        assert!(page.versions.len() <= usize::try_from(page_size).unwrap());
        let of = |config: v1::Config| (config.version, String::from_utf8(config.value.to_vec()).unwrap());
        versions.extend(page.versions.into_iter().map(of));
        if page.next_page_token.is_empty() {
            return versions;
        }
        token = page.next_page_token;
    }
}

async fn rollback(client: &Client, request: v1::RollbackConfigRequest) -> Result<v1::Config, Status> {
    let answer = client.grpc.clone().rollback_config(client.request(request)).await?;
    Ok(answer.into_inner().config.unwrap())
}

fn back_to(version: u64) -> v1::RollbackConfigRequest {
    v1::RollbackConfigRequest {
        key: KEY.to_owned(),
        version,
        ..Default::default()
    }
}

#[tokio::test]
async fn versions_come_newest_first_over_all_lives() {
    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    let not_found = (Code::NotFound, "NOT_FOUND".to_owned());
    assert_eq!(why(page(&client, 0, "").await), not_found);
    for value in ["a", "b", "c"] {
        client.put(KEY, value).await.unwrap();
    }
    client.delete(KEY).await.unwrap();
    let row = |version: u64, value: &str| (version, value.to_owned());
    let first = [row(3, "c"), row(2, "b"), row(1, "a")];
    assert_eq!(versions(&client, 100).await, first, "what was deleted can be looked up");
    client.put(KEY, "d").await.unwrap();
    let all = [&[row(1, "d")], &first[..]].concat();
    for page_size in [1, 2, 3, 4, 5] {
        assert_eq!(versions(&client, page_size).await, all, "{page_size} a page");
    }
    // Nobody else's.
    let globex = client.with_token(&gateway.key.token(&claims("globex")));
    assert_eq!(why(page(&globex, 0, "").await), not_found);
    let token = page(&client, 1, "").await.unwrap().next_page_token;
    globex.put(KEY, "x").await.unwrap();
    for stolen in [page(&globex, 1, &token).await, page(&client, 1, "x").await] {
        assert_eq!(refused(&stolen.unwrap_err()).field.as_deref(), Some("page_token"));
    }
    // A list's token is no history's.
    let list = v1::ListConfigsRequest {
        page_token: token,
        ..Default::default()
    };
    assert_eq!(why(client.page(list).await).0, Code::InvalidArgument);
    assert_eq!(
        refused(&page(&client, -1, "").await.unwrap_err()).field.as_deref(),
        Some("page_size")
    );
}

#[tokio::test]
async fn a_page_of_versions_stays_within_a_message() {
    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    for i in 0..8 {
        client.put(KEY, &i.to_string().repeat(1 << 20)).await.unwrap();
    }
    // The client takes 4 MiB, so a larger one would be an error here.
    let all = versions(&client, 100).await;
    assert_eq!(
        all.iter().map(|(version, _)| *version).collect::<Vec<_>>(),
        [8, 7, 6, 5, 4, 3, 2, 1]
    );
}

#[tokio::test]
async fn a_rollback_writes_an_earlier_value_as_a_new_version() {
    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    let typed = v1::PutConfigRequest {
        content_type: "text/plain".to_owned(),
        ..put(KEY, "good")
    };
    client.put_with(typed).await.unwrap();
    let bad = client.put(KEY, "bad").await.unwrap();
    let written = rollback(&client, back_to(1)).await.unwrap();
    assert_eq!((written.version, written.value.len()), (3, 0));
    let found = client.get(KEY).await.unwrap();
    assert_eq!(
        (found.value, found.content_type.as_str(), found.version),
        ("good".into(), "text/plain", 3)
    );

    let stale = v1::RollbackConfigRequest {
        precondition: if_match(&bad.etag),
        ..back_to(2)
    };
    assert_eq!(why(rollback(&client, stale).await).0, Code::Aborted);
    assert_eq!(why(rollback(&client, back_to(9)).await).0, Code::NotFound);
    assert_eq!(
        refused(&rollback(&client, back_to(0)).await.unwrap_err())
            .field
            .as_deref(),
        Some("version")
    );
    // Also out of a life that is over.
    client.delete(KEY).await.unwrap();
    assert_eq!(rollback(&client, back_to(2)).await.unwrap().version, 1);
    assert_eq!(client.get(KEY).await.unwrap().value, "bad");
    // It takes the permission to write, and reaches no other tenant's past.
    let mut reading = claims("acme");
    reading["scope"] = "read".into();
    let reader = client.with_token(&gateway.key.token(&reading));
    assert_eq!(
        why(rollback(&reader, back_to(1)).await),
        (Code::PermissionDenied, "PERMISSION_MISSING".to_owned())
    );
    let globex = client.with_token(&gateway.key.token(&claims("globex")));
    assert_eq!(why(rollback(&globex, back_to(1)).await).0, Code::NotFound);
}

#[tokio::test]
async fn a_request_with_an_id_is_done_once() {
    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    let request_id = "123e4567-e89b-12d3-a456-426614174000".to_owned();
    let write = v1::PutConfigRequest {
        request_id: request_id.clone(),
        ..put(KEY, "x")
    };
    // Many at once, and many after: one write, one answer.
    let retries: Vec<_> = (0..16)
        .map(|_| {
            let (client, write) = (client.clone(), write.clone());
            tokio::spawn(async move { client.put_with(write).await.unwrap() })
        })
        .collect();
    let first = client.put_with(write.clone()).await.unwrap();
    for retry in retries {
        assert_eq!(retry.await.unwrap(), first);
    }
    assert_eq!(client.get(KEY).await.unwrap().version, 1);
    client.put(KEY, "y").await.unwrap();
    assert_eq!(client.put_with(write.clone()).await.unwrap(), first);
    assert_eq!(client.get(KEY).await.unwrap().value, "y");

    // The same id for anything else is a mistake, and nothing happens.
    let others = [
        v1::PutConfigRequest {
            value: "z".into(),
            ..write.clone()
        },
        v1::PutConfigRequest {
            key: "tenant_config_b".into(),
            ..write.clone()
        },
        v1::PutConfigRequest {
            content_type: "text/plain".into(),
            ..write.clone()
        },
        v1::PutConfigRequest {
            precondition: if_match(&first.etag),
            ..write.clone()
        },
    ];
    for other in others {
        let refused = refused(&client.put_with(other).await.unwrap_err());
        assert_eq!(
            (refused.code, refused.field.as_deref()),
            (Code::InvalidArgument, Some("request_id"))
        );
    }
    let removal = v1::DeleteConfigRequest {
        request_id: request_id.clone(),
        ..delete(KEY)
    };
    assert_eq!(
        refused(&client.delete_with(removal.clone()).await.unwrap_err())
            .field
            .as_deref(),
        Some("request_id")
    );
    let back = v1::RollbackConfigRequest {
        request_id: request_id.clone(),
        ..back_to(1)
    };
    assert_eq!(
        refused(&rollback(&client, back).await.unwrap_err()).field.as_deref(),
        Some("request_id")
    );
    // Another tenant's id is its own.
    let globex = client.with_token(&gateway.key.token(&claims("globex")));
    assert_eq!(globex.put_with(write).await.unwrap().version, 1);
    globex
        .delete_with(v1::DeleteConfigRequest {
            request_id: request_id.replace('1', "2"),
            ..removal
        })
        .await
        .unwrap();

    // Deletes and rollbacks too.
    let again = "00000000-0000-0000-0000-000000000001".to_owned();
    let back = v1::RollbackConfigRequest {
        request_id: again,
        ..back_to(1)
    };
    let written = rollback(&client, back.clone()).await.unwrap();
    assert_eq!(rollback(&client, back).await.unwrap(), written);
    assert_eq!(client.get(KEY).await.unwrap().version, 3);
    let removal = v1::DeleteConfigRequest {
        request_id: "00000000-0000-0000-0000-000000000002".to_owned(),
        ..delete(KEY)
    };
    client.delete_with(removal.clone()).await.unwrap();
    client.put(KEY, "new").await.unwrap();
    client.delete_with(removal).await.unwrap();
    assert_eq!(
        client.get(KEY).await.unwrap().value,
        "new",
        "the retry of a delete deletes nothing"
    );
}
