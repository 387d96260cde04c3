//! Every field, absent, empty, at its maximum, one beyond it, and with the wrong characters: what is malformed is
//! `INVALID_ARGUMENT` and names the field.

use std::collections::HashMap;

use tagway_proto::v1;
use tagway_tests::client::{Client, delete, get, if_match, list, put, refused};
use tagway_tests::gateway::Gateway;
use tonic::{Code, Status};

/// Whether the gateway takes it; if not, it must name `field`.
fn takes<T: std::fmt::Debug>(answer: Result<T, Status>, field: &str, what: &str) -> bool {
    match answer {
        Ok(_) => true,
        Err(status) => {
            let refused = refused(&status);
            match refused.code {
                Code::InvalidArgument => {
                    assert_eq!(refused.field.as_deref(), Some(field), "{what:.80}");
                    assert!(status.message().starts_with(field), "{}", status.message());
                    false
                }
                // Well-formed, but not there, or somewhere else by now.
                Code::NotFound | Code::Aborted | Code::AlreadyExists | Code::FailedPrecondition => true,
                other => panic!("{other:?} for {what:.80}: {status}"),
            }
        }
    }
}

async fn key_is_taken(client: &Client, key: &str) -> bool {
    let answers = [
        takes(client.get(key).await, "key", key),
        takes(client.put(key, "1").await, "key", key),
        takes(client.delete(key).await, "key", key),
    ];
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "get, put and delete read {key:?} alike"
    );
    answers[0]
}

#[tokio::test]
async fn keys() {
    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    let tag = "tenant_config_";
    let good = [
        "a".to_owned(),
        "A.b-c_d/e".to_owned(),
        "...".to_owned(),
        "n".repeat(256),
        ["s"; 8].join("/"),
    ];
    for name in good {
        assert!(key_is_taken(&client, &format!("{tag}{name}")).await, "{name}");
    }
    let bad = [
        String::new(),
        "n".repeat(257),
        ["s"; 9].join("/"),
        "/".into(),
        "/a".into(),
        "a/".into(),
        "a//b".into(),
        ".".into(),
        "..".into(),
        "a/../b".into(),
        "a/./b".into(),
        "a b".into(),
        "a\0".into(),
        "a\nb".into(),
        "ä".into(),
        "a%2fb".into(),
        "a\\b".into(),
        "a*".into(),
        "a:b".into(),
        "a#b".into(),
    ];
    for name in bad {
        assert!(!key_is_taken(&client, &format!("{tag}{name}")).await, "{name:?}");
    }
    assert!(!key_is_taken(&client, "").await);
    // Well-formed, but nobody's tag.
    for key in ["tenant_config", "other_a", "Tenant_config_a", "_a", "a"] {
        let refused = refused(&client.get(key).await.unwrap_err());
        assert_eq!(
            (refused.code, refused.reason.as_str()),
            (Code::NotFound, "TAG_UNKNOWN"),
            "{key}"
        );
    }
}

#[tokio::test]
async fn lists() {
    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    for prefix in [
        "",
        "t",
        "tenant_config_",
        "tenant_config_a/",
        "tenant_config_..a",
        "param_config_live",
    ] {
        assert!(takes(client.page(list(prefix)).await, "prefix", prefix), "{prefix}");
    }
    let long = "n".repeat(321);
    for prefix in [
        "tenant_config_ä",
        "tenant_config_a b",
        "tenant_config_\0",
        "tenant_config_a/../b",
        "*",
        &long,
    ] {
        assert!(!takes(client.page(list(prefix)).await, "prefix", prefix), "{prefix:?}");
    }
    let unknown = refused(&client.page(list("nobodys_")).await.unwrap_err());
    assert_eq!((unknown.code, unknown.reason.as_str()), (Code::NotFound, "TAG_UNKNOWN"));

    for page_size in [0, 1, 1000, 1001, i32::MAX] {
        client
            .page(v1::ListConfigsRequest { page_size, ..list("") })
            .await
            .unwrap();
    }
    for page_size in [-1, i32::MIN] {
        let answer = client.page(v1::ListConfigsRequest { page_size, ..list("") }).await;
        assert!(!takes(answer, "page_size", "a negative one"));
    }
    let ours = |page_token: &str| v1::ListConfigsRequest {
        page_token: page_token.to_owned(),
        ..list("")
    };
    for page_token in ["a", "ä", " ", "\0", &"A".repeat(2000)] {
        assert!(!takes(client.page(ours(page_token)).await, "page_token", page_token));
    }
}

#[tokio::test]
async fn values_and_what_they_are() {
    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    let key = "tenant_config_a";
    let value = |bytes: Vec<u8>| v1::PutConfigRequest {
        value: bytes.into(),
        ..put(key, "")
    };
    for bytes in [vec![], vec![0, 255, 10], vec![b'x'; 1 << 20]] {
        client.put_with(value(bytes.clone())).await.unwrap();
        assert_eq!(client.get(key).await.unwrap().value, bytes);
    }
    assert!(!takes(
        client.put_with(value(vec![b'x'; (1 << 20) + 1])).await,
        "value",
        "1 MiB and a byte"
    ));
    let refused = refused(&client.put_with(value(vec![b'x'; 5 << 20])).await.unwrap_err());
    assert_eq!(
        (refused.code, refused.reason.as_str()),
        (Code::InvalidArgument, "REQUEST_TOO_LARGE")
    );
    assert_eq!(
        client.get(key).await.unwrap().value.len(),
        1 << 20,
        "what was refused changed nothing"
    );

    let typed = |content_type: &str| v1::PutConfigRequest {
        content_type: content_type.to_owned(),
        ..put(key, "x")
    };
    client.put(key, "x").await.unwrap();
    assert_eq!(client.get(key).await.unwrap().content_type, "application/json");
    let longest = format!("a/{}", "b".repeat(126));
    for content_type in [
        "text/plain",
        "text/plain; charset=utf-8",
        "application/vnd.acme+json",
        &longest,
    ] {
        client.put_with(typed(content_type)).await.unwrap();
        assert_eq!(client.get(key).await.unwrap().content_type, content_type);
    }
    for content_type in ["json", "text/\nplain", "text/plän", "a/\0", &format!("{longest}b")] {
        assert!(!takes(
            client.put_with(typed(content_type)).await,
            "content_type",
            content_type
        ));
    }
}

#[tokio::test]
async fn preconditions_and_request_ids() {
    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    let key = "tenant_config_a";
    let etag = client.put(key, "1").await.unwrap().etag;
    for text in [
        "",
        "1",
        "*",
        "\"x\"",
        &etag.to_lowercase(),
        &format!("{etag} "),
        &format!("{etag}0x"),
        &"Z".repeat(99),
    ] {
        let put = v1::PutConfigRequest {
            precondition: if_match(text),
            ..put(key, "2")
        };
        assert!(
            !takes(client.put_with(put).await, "precondition.if_match", text),
            "{text:?}"
        );
        let delete = v1::DeleteConfigRequest {
            precondition: if_match(text),
            ..delete(key)
        };
        assert!(
            !takes(client.delete_with(delete).await, "precondition.if_match", text),
            "{text:?}"
        );
    }
    let nothing = v1::PutConfigRequest {
        precondition: Some(v1::Precondition { kind: None }),
        ..put(key, "2")
    };
    assert!(!takes(client.put_with(nothing).await, "precondition", "neither"));
    let not_absent = v1::PutConfigRequest {
        precondition: Some(v1::Precondition {
            kind: Some(v1::precondition::Kind::IfAbsent(false)),
        }),
        ..put(key, "2")
    };
    assert!(!takes(
        client.put_with(not_absent).await,
        "precondition.if_absent",
        "false"
    ));
    assert_eq!(client.get(key).await.unwrap().etag, etag);

    for (request_id, well_formed) in [
        ("123e4567-e89b-12d3-a456-426614174000", true),
        ("123E4567-E89B-12D3-A456-426614174000", true),
        ("123e4567e89b12d3a456426614174000", false),
        ("123e4567-e89b-12d3-a456-42661417400", false),
        ("123e4567-e89b-12d3-a456-4266141740000", false),
        ("x", false),
        ("g23e4567-e89b-12d3-a456-426614174000", false),
    ] {
        let put = v1::PutConfigRequest {
            request_id: request_id.to_owned(),
            ..put(key, "2")
        };
        assert_eq!(
            takes(client.put_with(put).await, "request_id", request_id),
            well_formed,
            "{request_id}"
        );
    }
}

#[tokio::test]
async fn contexts_and_numbers() {
    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    let key = "tenant_config_a";
    client.put(key, "1").await.unwrap();
    let dimensions = |count: usize| {
        (0..count)
            .map(|i| (format!("d{i}"), "v".to_owned()))
            .collect::<HashMap<_, _>>()
    };
    let one = |name: String, value: String| HashMap::from([(name, value)]);
    let cases = [
        (dimensions(32), true),
        (dimensions(33), false),
        (one("n".repeat(64), "v".repeat(256)), true),
        (one("n".repeat(65), "v".into()), false),
        (one("n".into(), "v".repeat(257)), false),
        (one("n".into(), String::new()), true),
        (one(String::new(), "v".into()), false),
    ];
    for (context, good) in cases {
        let what = format!("{context:?}");
        let answers = [
            takes(
                client
                    .get_with(v1::GetConfigRequest {
                        context: context.clone(),
                        ..get(key)
                    })
                    .await,
                "context",
                &what,
            ),
            takes(
                client
                    .put_with(v1::PutConfigRequest {
                        context: context.clone(),
                        ..put(key, "1")
                    })
                    .await,
                "context",
                &what,
            ),
            takes(
                client
                    .page(v1::ListConfigsRequest {
                        context: context.clone(),
                        ..list("")
                    })
                    .await,
                "context",
                &what,
            ),
            takes(
                client
                    .delete_with(v1::DeleteConfigRequest {
                        context,
                        ..delete("tenant_config_none")
                    })
                    .await,
                "context",
                &what,
            ),
        ];
        assert_eq!(answers, [good; 4], "{what:.80}");
    }
    for number in [3, 99, -1, i32::MAX] {
        let answer = client
            .get_with(v1::GetConfigRequest {
                consistency: number,
                ..get(key)
            })
            .await;
        assert!(!takes(answer, "consistency", "no such number"));
    }
    for scope in [2, -1, i32::MIN] {
        let answer = client.get_with(v1::GetConfigRequest { scope, ..get(key) }).await;
        assert!(!takes(answer, "scope", "no such number"));
    }
    let far = v1::GetConfigRequest {
        version: u64::MAX,
        ..get(key)
    };
    assert_eq!(refused(&client.get_with(far).await.unwrap_err()).code, Code::NotFound);
}
