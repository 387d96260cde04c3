//! Many keys in one answer, and why a key lives where it lives.

use tagway_proto::v1;
use tagway_proto::v1::batch_get_configs_response::result::Outcome;
use tagway_tests::client::{Client, context, refused, why};
use tagway_tests::gateway::Gateway;
use tagway_tests::issuer::claims;
use tonic::{Code, Status};

/// A value, or the code and the reason of a failure.
type Told = Result<Vec<u8>, (Code, String)>;

async fn batch(client: &Client, keys: &[&str]) -> Result<v1::BatchGetConfigsResponse, Status> {
    let request = v1::BatchGetConfigsRequest {
        keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        ..Default::default()
    };
    let answer = client.grpc.clone().batch_get_configs(client.request(request)).await;
    answer.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn a_batch_answers_each_key_for_itself_in_the_order_asked() {
    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    let theirs = client.with_token(&gateway.key.token(&claims("globex")));
    client.put("tenant_config_a", "1").await.unwrap();
    client.put("param_config_b", "2").await.unwrap();
    theirs.put("tenant_config_theirs", "3").await.unwrap();
    let keys = [
        "param_config_b",
        "tenant_config_theirs",
        "%",
        "unknown_a",
        "tenant_config_a",
        "param_config_b",
        "",
    ];
    let results = batch(&client, &keys).await.unwrap().results;
    let told: Vec<(String, Told)> = results
        .into_iter()
        .map(|result| {
            let fresh = result.freshness.is_some();
            let outcome = match result.outcome.unwrap() {
                Outcome::Config(config) => Ok(config.value.to_vec()),
                Outcome::Failure(failure) => Err((Code::from_i32(failure.code), failure.reason)),
            };
            // That there is none is as true as a value.
            let is_answer = !matches!(&outcome, Err((_, reason)) if reason != "NOT_FOUND");
            assert_eq!(fresh, is_answer);
            (result.key, outcome)
        })
        .collect();
    let not_found = Err((Code::NotFound, "NOT_FOUND".to_owned()));
    let malformed = Err((Code::InvalidArgument, "INVALID_ARGUMENT".to_owned()));
    let unknown = Err((Code::NotFound, "TAG_UNKNOWN".to_owned()));
    let two = Ok(b"2".to_vec());
    let outcomes = [
        two.clone(),
        not_found,
        malformed.clone(),
        unknown,
        Ok(b"1".to_vec()),
        two,
        malformed,
    ];
    let expected: Vec<_> = keys.iter().map(|key| (*key).to_owned()).zip(outcomes).collect();
    assert_eq!(told, expected);

    assert_eq!(batch(&client, &[]).await.unwrap().results, []);
    let hundred = vec!["tenant_config_a"; 100];
    assert_eq!(batch(&client, &hundred).await.unwrap().results.len(), 100);
    let more = batch(&client, &[&hundred[..], &["tenant_config_a"]].concat()).await;
    assert_eq!(refused(&more.unwrap_err()).field.as_deref(), Some("keys"));
}

#[tokio::test]
async fn a_batch_that_is_full_says_of_which_keys_to_ask_again() {
    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    let keys: Vec<String> = (0..6).map(|i| format!("tenant_config_{i}")).collect();
    for key in &keys {
        client.put(key, &"x".repeat(1 << 20)).await.unwrap();
    }
    client.put("tenant_config_small", "s").await.unwrap();
    let mut left: Vec<&str> = keys.iter().map(String::as_str).chain(["tenant_config_small"]).collect();
    let mut rounds = 0;
    while !left.is_empty() {
        let results = batch(&client, &left).await.unwrap().results;
        let full: Vec<bool> = results
            .iter()
            .map(|result| match result.outcome.as_ref().unwrap() {
                Outcome::Config(_) => false,
                Outcome::Failure(failure) => {
                    assert_eq!(failure.reason, "RESPONSE_FULL");
                    true
                }
            })
            .collect();
        assert!(full.contains(&false), "each round brings at least one");
        let mut full = full.into_iter();
        left.retain(|_| full.next().unwrap());
        rounds += 1;
    }
    assert_eq!(rounds, 3);
}

async fn explain(client: &Client, key: &str) -> Result<v1::ExplainRouteResponse, Status> {
    let request = v1::ExplainRouteRequest {
        key: key.to_owned(),
        context: context("env", "prod"),
    };
    let answer = client.grpc.clone().explain_route(client.request(request)).await;
    answer.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn a_route_is_explained_and_physical_names_are_for_operators() {
    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    let key = "param_config_api/limit";
    let explained = explain(&client, key).await.unwrap();
    assert_eq!(explained.tag, "param_config_");
    assert_eq!(explained.strategy, "tag-prefix@0.1.0");
    assert!(explained.digest.starts_with("sha256:") && explained.digest.len() == 71);
    assert_eq!(explained.generation, 1);
    assert!(explained.reason.contains("param_config_"));
    assert_eq!(explained.ignored_context, ["env"]);
    let [step] = explained.steps.as_slice() else {
        panic!("{explained:?}")
    };
    assert_eq!(
        (step.backend.as_str(), step.physical_name.as_str(), step.holds_key),
        ("local", "", false)
    );
    assert_eq!(
        (step.cache_state.as_str(), step.origin()),
        ("absent", v1::config::Origin::Home)
    );
    assert_eq!(
        step.capabilities,
        [
            "if_match",
            "if_absent",
            "request_id",
            "history",
            "deleted_history",
            "updated_by"
        ]
    );

    client.put(key, "1").await.unwrap();
    assert!(explain(&client, key).await.unwrap().steps[0].holds_key);
    let mut operating = claims("acme");
    operating["scope"] = "read admin".into();
    let operator = client.with_token(&gateway.key.token(&operating));
    let step = &explain(&operator, key).await.unwrap().steps[0];
    assert_eq!(step.physical_name, "acme/live/eu-1/param_config_/api/limit");
    // An operator of another tenant learns nothing of this one.
    operating["tenant_id"] = "globex".into();
    let other = client.with_token(&gateway.key.token(&operating));
    let step = &explain(&other, key).await.unwrap().steps[0];
    assert_eq!(
        (step.physical_name.as_str(), step.holds_key),
        ("globex/live/eu-1/param_config_/api/limit", false)
    );
    // An operator alone is no reader.
    operating["scope"] = "admin".into();
    let admin = client.with_token(&gateway.key.token(&operating));
    assert_eq!(
        why(explain(&admin, key).await),
        (Code::PermissionDenied, "PERMISSION_MISSING".to_owned())
    );
    assert_eq!(
        why(explain(&client, "unknown_a").await),
        (Code::NotFound, "TAG_UNKNOWN".to_owned())
    );
}
