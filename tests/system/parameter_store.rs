//! Promises of a store that has few requests to give: what it cannot do is refused and not half done, what it has no time
//! for says when to come back, and secrets are in it and nowhere else.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use tagway_proto::v1;
use tagway_servers::{Fault, Microburst, Ministack, boto3};
use tagway_tests::client::{if_absent, if_match, list, put, refused, why};
use tagway_tests::gateway::{Gateway, settings_over_parameter_store};
use tagway_tests::issuer::{Key, key_set};
use tempfile::TempDir;
use tonic::Code;
use tonic_types::StatusExt as _;

const KEY: &str = "param_config_api/rate-limit";

#[tokio::test]
async fn what_it_cannot_do_is_refused_and_nothing_is_done() {
    let server = Ministack::start();
    let gateway = Gateway::start_over_parameter_store(server.endpoint(), "requests_per_second = 1000");
    let client = gateway.client("acme").await;
    let first = v1::PutConfigRequest {
        precondition: if_absent(),
        ..put(KEY, "10")
    };
    let written = client.put_with(first.clone()).await.unwrap();
    assert_eq!(why(client.put_with(first).await).0, Code::AlreadyExists);
    let missing = (Code::FailedPrecondition, "CAPABILITY_MISSING".to_owned());
    let conditional = v1::PutConfigRequest {
        precondition: if_match(&written.etag),
        ..put(KEY, "20")
    };
    assert_eq!(why(client.put_with(conditional).await), missing);
    let repeatable = v1::PutConfigRequest {
        request_id: "123e4567-e89b-12d3-a456-426614174000".to_owned(),
        ..put(KEY, "20")
    };
    assert_eq!(why(client.put_with(repeatable).await), missing);
    let found = client.get(KEY).await.unwrap();
    assert_eq!((found.value.as_ref(), found.etag), (&b"10"[..], written.etag));
    assert_eq!((found.backend.as_str(), found.version), ("params", 1));

    // Earlier versions come back, and a delete takes them along.
    client.put(KEY, "20").await.unwrap();
    let back = v1::RollbackConfigRequest {
        key: KEY.to_owned(),
        version: 1,
        ..Default::default()
    };
    let mut stub = client.grpc.clone();
    stub.rollback_config(client.request(back.clone())).await.unwrap();
    let found = client.get(KEY).await.unwrap();
    assert_eq!((found.value.as_ref(), found.version), (&b"10"[..], 3));
    client.delete(KEY).await.unwrap();
    let gone = stub.rollback_config(client.request(back)).await;
    assert_eq!(gone.unwrap_err().code(), Code::NotFound);

    let too_large = client.put(KEY, &"x".repeat(8193)).await.unwrap_err();
    assert_eq!(refused(&too_large).field.as_deref(), Some("value"));
    assert!(too_large.message().contains("8192"), "{too_large:?}");
    // Its namespace and root have four levels more than that.
    let deep = client.put("param_config_a/b/c/d/e/f/g/h", "x").await.unwrap();
    assert_eq!(deep.version, 1);
}

#[tokio::test]
async fn a_secret_is_encrypted_stays_one_and_is_in_no_log() {
    let server = Ministack::start();
    let gateway = Gateway::start_over_parameter_store(server.endpoint(), "kms_key = \"alias/mine\"");
    let client = gateway.client("acme").await;
    let secret = |key, value| v1::PutConfigRequest {
        secret: true,
        ..put(key, value)
    };
    assert!(client.put_with(secret(KEY, "hush")).await.unwrap().secret);
    assert!(client.put(KEY, "hush, too").await.unwrap().secret);
    let found = client.get(KEY).await.unwrap();
    assert_eq!((found.value.as_ref(), found.secret), (&b"hush, too"[..], true));
    // Where secrets cannot be kept, none is.
    let unkept = client.put_with(secret("tenant_config_a", "hush")).await;
    assert_eq!(why(unkept), (Code::FailedPrecondition, "CAPABILITY_MISSING".to_owned()));
    assert_eq!(client.get("tenant_config_a").await.unwrap_err().code(), Code::NotFound);
    // What is none does not become one.
    client.put("param_config_b", "known").await.unwrap();
    let late = client.put_with(secret("param_config_b", "hush")).await;
    assert_eq!(why(late), (Code::FailedPrecondition, "NOT_SECRET".to_owned()));
    let kept = boto3(
        "
import boto3
for each in boto3.client('ssm', 'eu-west-1').describe_parameters()['Parameters']:
    print(each['Name'], each['Type'], each.get('KeyId'))",
        server.endpoint(),
    );
    let mut kept: Vec<&str> = kept.lines().collect();
    kept.sort_unstable();
    assert_eq!(
        kept,
        [
            "/tagway/acme/live/eu-1/param_config_/api/rate-limit SecureString alias/mine",
            "/tagway/acme/live/eu-1/param_config_/b String None"
        ]
    );
    assert!(!gateway.log().contains("hush"));
}

#[tokio::test]
async fn what_passes_is_not_noticed() {
    let server = Ministack::start();
    let faults = Microburst::start(server.endpoint());
    let gateway = Gateway::start_over_parameter_store(faults.endpoint(), "requests_per_second = 100");
    let client = gateway.client("acme").await;
    client.put(KEY, "1").await.unwrap();
    for (operation, fault) in [
        ("GetParameters", Fault::Throttled),
        ("GetParameters", Fault::Internal),
        ("GetParameters", Fault::Reset),
        ("GetParameters", Fault::Truncated),
        ("GetParametersByPath", Fault::Throttled),
        ("PutParameter", Fault::Throttled),
    ] {
        let before = faults.fired(operation);
        faults.inject(operation, fault, 1);
        client.put(KEY, "2").await.unwrap();
        assert_eq!(client.get(KEY).await.unwrap().value, "2");
        assert_eq!(client.keys("param_config_").await.unwrap(), [KEY]);
        assert_eq!(faults.fired(operation), before + 1, "{operation} {fault:?}");
    }
    // One whose answer is lost may have been done: the caller decides.
    let before = client.get(KEY).await.unwrap().version;
    faults.inject("PutParameter", Fault::Lost, 1);
    assert_eq!(why(client.put(KEY, "3").await).0, Code::Unavailable);
    let found = client.get(KEY).await.unwrap();
    assert_eq!((found.value.as_ref(), found.version), (&b"3"[..], before + 1));
}

#[tokio::test]
async fn what_is_not_served_in_time_says_when_to_come_back() {
    let server = Ministack::start();
    let keys = "requests_per_second = 1\nlist_names = 3\ntimeout = \"1s\"";
    let gateway = Gateway::start_over_parameter_store(server.endpoint(), keys);
    let client = gateway.client("acme").await;
    let writes = (0..6).map(|i| {
        let client = client.clone();
        tokio::spawn(async move { client.put(&format!("param_config_{i}"), "x").await })
    });
    let mut busy = Vec::new();
    for (i, write) in writes.collect::<Vec<_>>().into_iter().enumerate() {
        let Err(status) = write.await.unwrap() else {
            continue;
        };
        assert_eq!(status.code(), Code::Unavailable);
        match refused(&status).reason.as_str() {
            "BACKEND_BUSY" => busy.push(i),
            // It was sent, and what became of it was not read in time.
            reason => assert_eq!(reason, "BACKEND_UNAVAILABLE"),
        }
        let retry = status.get_error_details().retry_info().cloned();
        let retry = retry.and_then(|retry| retry.retry_delay);
        assert!(retry.is_some_and(|retry| retry > Duration::ZERO), "{status:?}");
        let text = format!("{status:?}").to_lowercase();
        for word in ["ssm", "params", "tagway_", "requests_per_second", "127.0.0.1"] {
            assert!(!text.contains(word), "{word:?} in {text}");
        }
    }
    assert!(!busy.is_empty());
    let other = Gateway::start_over_parameter_store(server.endpoint(), "requests_per_second = 1000");
    let other = other.client("acme").await;
    for i in busy {
        let found = other.get(&format!("param_config_{i}")).await;
        assert_eq!(why(found).0, Code::NotFound, "what is refused as too much is not done");
    }
    assert!(
        gateway.logs("requests_per_second"),
        "operators are told what is used up"
    );
    // Another tag is served all the while.
    client.put("tenant_config_a", "x").await.unwrap();
    _ = boto3(
        "
import boto3
for i in range(4):
    boto3.client('ssm', 'eu-west-1').put_parameter(
        Name=f'/tagway/globex/live/eu-1/param_config_/{i}', Value='x', Type='String')",
        server.endpoint(),
    );
    let globex = client.with_token(&gateway.key.token(&tagway_tests::issuer::claims("globex")));
    let listed = loop {
        match globex.keys("param_config_").await {
            Err(status) if status.code() == Code::Unavailable => {}
            listed => break listed,
        }
    };
    assert_eq!(why(listed), (Code::ResourceExhausted, "LIST_TOO_LARGE".to_owned()));
    assert_eq!(
        globex.keys("param_config_2").await.unwrap_err().code(),
        Code::ResourceExhausted
    );
}

/// Behind a load balancer each page may come from another gateway, which may have listed the same a moment ago.
#[tokio::test]
async fn a_list_that_another_gateway_goes_on_with_skips_nothing() {
    let server = Ministack::start();
    let key = Arc::new(Key::ed("first"));
    let seals = TempDir::new().unwrap();
    let seal = seals.path().join("seal");
    fs::write(&seal, [7; 32]).unwrap();
    let server_keys = format!("[server]\npage_token_key = \"file:{}\"", seal.display());
    let settings = settings_over_parameter_store("file:keys.json", server.endpoint(), "requests_per_second = 1000");
    let settings = settings.replace("[server]", &server_keys);
    let gateways = [(); 2].map(|()| {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("keys.json"), key_set(&[&key]).to_string()).unwrap();
        Gateway::start_in(folder.into(), Arc::clone(&key), &settings)
    });
    let (one, other) = (gateways[0].client("acme").await, gateways[1].client("acme").await);
    for key in ["param_config_a", "param_config_b", "param_config_d"] {
        one.put(key, "x").await.unwrap();
    }
    let page = |page_token: &str| v1::ListConfigsRequest {
        page_size: 1,
        page_token: page_token.to_owned(),
        ..list("param_config_")
    };
    let keys =
        |page: &v1::ListConfigsResponse| page.configs.iter().map(|config| config.key.clone()).collect::<Vec<_>>();
    let earlier = other.page(page("")).await.unwrap();
    assert_eq!(keys(&earlier), ["param_config_a"]);
    one.put("param_config_c", "x").await.unwrap();
    let (mut listed, mut next) = (Vec::new(), String::new());
    for client in [&one, &other, &other, &one] {
        let here = client.page(page(&next)).await.unwrap();
        listed.extend(keys(&here));
        next = here.next_page_token;
    }
    let letters = ["a", "b", "c", "d"].map(|letter| format!("param_config_{letter}"));
    assert_eq!((listed.as_slice(), next.as_str()), (letters.as_slice(), ""));
    // Who goes on with the earlier list may go on with what was there then.
    let later = other.page(page(&earlier.next_page_token)).await.unwrap();
    assert_eq!(keys(&later), ["param_config_b"]);
}
