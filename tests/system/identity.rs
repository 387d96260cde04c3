//! Who is let in: tokens that must not pass and those that do, tenants, permissions.

use serde_json::{Value, json};
use tagway_proto::v1;
use tagway_tests::client::{Client, get, why};
use tagway_tests::gateway::Gateway;
use tagway_tests::issuer::{Key, claims, encode, message, now, with, without};
use tonic::{Code, Request};

const KEY: &str = "tenant_config_a";

#[tokio::test]
#[allow(clippy::too_many_lines, reason = "a table")]
async fn tokens_that_must_not_pass() {
    let gateway = Gateway::start_with("require = { token_use = \"access\" }\nleeway = \"30s\"");
    let key = &gateway.key;
    let good = with(claims("acme"), "token_use", json!("access"));
    let client = gateway.client_with(&key.token(&good)).await;
    client.put(KEY, "1").await.unwrap();

    let header = key.header();
    let stranger = Key::ed("first");
    let rsa = Key::rsa("second");
    let token = key.token(&good);
    let parts: Vec<&str> = token.split('.').collect();
    let other = key.token(&with(good.clone(), "tenant_id", json!("globex")));
    let other_parts: Vec<&str> = other.split('.').collect();
    let signature = "the signature is not one of the issuer's";
    let malformed = "not a signed token";
    let claim = "a claim is wrong";
    let tenant = "no tenant in it";
    let cases: Vec<(&str, String, &str)> = vec![
        // Not a signed token.
        ("empty", String::new(), malformed),
        ("a word", "token".into(), malformed),
        ("two parts", message(&header, &good), malformed),
        ("no signature", message(&header, &good) + ".", malformed),
        ("four parts", format!("{token}.{}", parts[0]), malformed),
        ("padding", token.replace('.', "=."), malformed),
        ("blanks within", token.replace('.', " ."), malformed),
        (
            "12 KiB and more",
            key.token(&with(good.clone(), "x", json!("x".repeat(13_000)))),
            malformed,
        ),
        (
            "a header that is no JSON",
            format!("{}.{}.{}", encode(b"{"), parts[1], parts[2]),
            malformed,
        ),
        (
            "a header that is no object",
            format!("{}.{}.{}", encode(b"[]"), parts[1], parts[2]),
            malformed,
        ),
        (
            "critical extensions",
            key.sign(&with(header.clone(), "crit", json!(["exp"])), &good),
            malformed,
        ),
        // Algorithms.
        (
            "alg none, unsigned",
            message(&json!({ "alg": "none" }), &good) + "." + parts[2],
            malformed,
        ),
        (
            "alg none, signed",
            key.sign(&with(header.clone(), "alg", json!("none")), &good),
            malformed,
        ),
        ("no alg", key.sign(&without(header.clone(), "alg"), &good), malformed),
        ("the public key as a shared secret", key.confused(&good), signature),
        ("the RSA public key as a shared secret", rsa.confused(&good), signature),
        (
            "another asymmetric algorithm",
            key.sign(&with(header.clone(), "alg", json!("RS256")), &good),
            signature,
        ),
        (
            "an algorithm that is not allowed",
            key.sign(&with(header.clone(), "alg", json!("PS256")), &good),
            signature,
        ),
        // Keys.
        ("another's key under our kid", stranger.token(&good), signature),
        (
            "a kid that nobody has",
            key.sign(&with(header.clone(), "kid", json!("ghost")), &good),
            signature,
        ),
        (
            "a kid that is a path",
            key.sign(&with(header.clone(), "kid", json!("../../dev/null")), &good),
            signature,
        ),
        (
            "its own key in the header",
            stranger.sign(&with(header.clone(), "jwk", stranger.jwk()), &good),
            signature,
        ),
        (
            "a URL of keys in the header",
            stranger.sign(&with(header.clone(), "jku", json!("http://127.0.0.1:1")), &good),
            signature,
        ),
        (
            "another payload under a good signature",
            format!("{}.{}.{}", parts[0], other_parts[1], parts[2]),
            signature,
        ),
        ("a cut signature", token[..token.len() - 4].into(), signature),
        // Claims.
        (
            "another issuer",
            key.token(&with(good.clone(), "iss", json!("https://other.test"))),
            claim,
        ),
        ("no issuer", key.token(&without(good.clone(), "iss")), claim),
        (
            "issuers",
            key.token(&with(good.clone(), "iss", json!(["https://issuer.test"]))),
            claim,
        ),
        (
            "another audience",
            key.token(&with(good.clone(), "aud", json!("orders"))),
            claim,
        ),
        (
            "no audience among them",
            key.token(&with(good.clone(), "aud", json!(["a", "b"]))),
            claim,
        ),
        (
            "an empty audience beside a good client",
            key.token(&with(
                with(good.clone(), "aud", json!([])),
                "client_id",
                json!("tagway"),
            )),
            claim,
        ),
        (
            "neither audience nor client",
            key.token(&without(good.clone(), "aud")),
            claim,
        ),
        (
            "another client",
            key.token(&with(without(good.clone(), "aud"), "client_id", json!("orders"))),
            claim,
        ),
        ("no end", key.token(&without(good.clone(), "exp")), claim),
        (
            "an end that is a text",
            key.token(&with(good.clone(), "exp", json!("4102444800"))),
            claim,
        ),
        (
            "an end before the beginning of time",
            key.token(&with(good.clone(), "exp", json!(-1))),
            claim,
        ),
        (
            "expired",
            key.token(&with(good.clone(), "exp", json!(now() - 31))),
            claim,
        ),
        (
            "expired in a broken second",
            key.token(&with(good.clone(), "exp", json!(0.5))),
            claim,
        ),
        (
            "not yet",
            key.token(&with(good.clone(), "nbf", json!(now() + 60))),
            claim,
        ),
        (
            "a beginning that is a text",
            key.token(&with(good.clone(), "nbf", json!("0"))),
            claim,
        ),
        (
            "another use",
            key.token(&with(good.clone(), "token_use", json!("id"))),
            claim,
        ),
        (
            "uses",
            key.token(&with(good.clone(), "token_use", json!(["access"]))),
            claim,
        ),
        ("no use", key.token(&without(good.clone(), "token_use")), claim),
        (
            "no subject and no client",
            key.token(&without(good.clone(), "sub")),
            claim,
        ),
        (
            "an empty subject",
            key.token(&with(good.clone(), "sub", json!(""))),
            claim,
        ),
        (
            "a tenant that is a path",
            key.token(&with(good.clone(), "tenant_id", json!("acme/../globex"))),
            claim,
        ),
        (
            "the shared scope as tenant",
            key.token(&with(good.clone(), "tenant_id", json!("_shared"))),
            claim,
        ),
        (
            "an empty tenant",
            key.token(&with(good.clone(), "tenant_id", json!(""))),
            claim,
        ),
        (
            "a tenant that is a number",
            key.token(&with(good.clone(), "tenant_id", json!(7))),
            claim,
        ),
        (
            "one bad tenant among good ones",
            key.token(&with(good.clone(), "tenant_id", json!(["acme", "a/b"]))),
            claim,
        ),
        ("no tenant", key.token(&without(good.clone(), "tenant_id")), tenant),
        (
            "no tenants",
            key.token(&with(good.clone(), "tenant_id", json!([]))),
            tenant,
        ),
    ];
    assert!(cases.len() >= 30);
    for (name, token, kind) in &cases {
        let refused = client.with_token(token).get(KEY).await;
        let (code, reason) = why(refused);
        let expected = match *kind {
            k if k == malformed => (Code::Unauthenticated, vec!["TOKEN_MALFORMED", "TOKEN_MISSING"]),
            k if k == signature => (Code::Unauthenticated, vec!["TOKEN_SIGNATURE"]),
            k if k == claim => (Code::Unauthenticated, vec!["TOKEN_CLAIM"]),
            _ => (Code::PermissionDenied, vec!["TENANT_MISSING"]),
        };
        assert!(
            code == expected.0 && expected.1.contains(&reason.as_str()),
            "{name}: {code:?} {reason}"
        );
    }
    // The good one still does, and no token was written to the log.
    client.get(KEY).await.unwrap();
    assert!(!gateway.log().contains(parts[2]));
}

#[tokio::test]
async fn tokens_that_pass() {
    let gateway = Gateway::start_with("leeway = \"30s\"");
    let key = &gateway.key;
    let client = gateway.client("acme").await;
    client.put(KEY, "1").await.unwrap();
    let good = claims("acme");
    for (name, payload) in [
        (
            "one audience of several",
            with(good.clone(), "aud", json!(["orders", "tagway"])),
        ),
        (
            "a client for want of an audience",
            with(without(good.clone(), "aud"), "client_id", json!("tagway")),
        ),
        (
            "expired within the leeway",
            with(good.clone(), "exp", json!(now() - 20)),
        ),
        ("a broken end", with(good.clone(), "exp", json!(4_102_444_800.5))),
        ("begun within the leeway", with(good.clone(), "nbf", json!(now() + 20))),
        ("permissions as an array", with(good.clone(), "scope", json!(["read"]))),
        (
            "a client as subject",
            with(without(good.clone(), "sub"), "client_id", json!("tagway")),
        ),
        (
            "one tenant in an array",
            with(good.clone(), "tenant_id", json!(["acme"])),
        ),
    ] {
        let found = client.with_token(&key.token(&payload)).get(KEY).await;
        assert!(found.is_ok(), "{name}: {found:?}");
    }
    // A header without kid means the only key.
    let anonymous = key.sign(&without(key.header(), "kid"), &good);
    client.with_token(&anonymous).get(KEY).await.unwrap();
}

#[tokio::test]
async fn metadata_is_exact() {
    let gateway = Gateway::start();
    let client = gateway.client("acme").await;
    client.put(KEY, "1").await.unwrap();
    let token = gateway.key.token(&claims("acme"));
    let call = async |headers: &[(&'static str, String)]| {
        let mut request = Request::new(get(KEY));
        for (name, value) in headers {
            request.metadata_mut().append(*name, value.parse().unwrap());
        }
        client.grpc.clone().get_config(request).await
    };
    let bearer = format!("Bearer {token}");
    call(&[("authorization", format!("bearer {token}"))]).await.unwrap();
    let missing = (Code::Unauthenticated, "TOKEN_MISSING".to_owned());
    let malformed = (Code::Unauthenticated, "TOKEN_MALFORMED".to_owned());
    assert_eq!(why(call(&[]).await), missing);
    assert_eq!(why(call(&[("authorization", token.clone())]).await), missing);
    assert_eq!(why(call(&[("authorization", format!("Basic {token}"))]).await), missing);
    assert_eq!(why(call(&[("x-authorization", bearer.clone())]).await), missing);
    let twice = [("authorization", bearer.clone()), ("authorization", bearer.clone())];
    assert_eq!(why(call(&twice).await), malformed);
    let two_tenants = [
        ("authorization", bearer.clone()),
        ("x-tagway-tenant", "acme".to_owned()),
        ("x-tagway-tenant", "acme".to_owned()),
    ];
    assert_eq!(why(call(&two_tenants).await).0, Code::InvalidArgument);
}

#[tokio::test]
async fn one_of_several_tenants_is_picked_and_no_other() {
    let gateway = Gateway::start();
    let token = gateway
        .key
        .token(&with(claims("-"), "tenant_id", json!(["acme", "globex"])));
    let both = gateway.client_with(&token).await;
    gateway.client("acme").await.put(KEY, "acme's").await.unwrap();
    gateway.client("globex").await.put(KEY, "globex's").await.unwrap();
    gateway.client("initech").await.put(KEY, "initech's").await.unwrap();

    assert_eq!(both.for_tenant("acme").get(KEY).await.unwrap().value, "acme's");
    assert_eq!(both.for_tenant("globex").get(KEY).await.unwrap().value, "globex's");
    let (code, reason) = why(both.get(KEY).await);
    assert_eq!((code, reason.as_str()), (Code::InvalidArgument, "INVALID_ARGUMENT"));
    let not_granted = (Code::PermissionDenied, "TENANT_NOT_GRANTED".to_owned());
    // One that exists, one that does not, and what is none are told apart by nothing.
    let messages: Vec<String> = {
        let mut messages = Vec::new();
        for tenant in [
            "initech",
            "nobody",
            "",
            "acme ",
            "ACME",
            "acme,globex",
            "../acme",
            "_shared",
        ] {
            let refused = both.for_tenant(tenant).get(KEY).await;
            messages.push(refused.as_ref().unwrap_err().message().to_owned());
            assert_eq!(why(refused), not_granted, "{tenant:?}");
        }
        messages
    };
    assert!(messages.iter().all(|message| *message == messages[0]));
    // A token of one tenant picks no other either.
    let acme = gateway.client("acme").await;
    assert_eq!(acme.for_tenant("acme").get(KEY).await.unwrap().value, "acme's");
    assert_eq!(why(acme.for_tenant("globex").get(KEY).await), not_granted);
}

#[tokio::test]
async fn permissions_are_asked_for() {
    let gateway = Gateway::start_with("permissions = { read = [\"config:read\", \"read\"], write = [\"write\"] }");
    let token = |scope: Value| gateway.key.token(&with(claims("acme"), "scope", scope));
    let client = gateway.client("acme").await;
    client.put(KEY, "1").await.unwrap();
    let denied = (Code::PermissionDenied, "PERMISSION_MISSING".to_owned());

    for scope in [json!("read"), json!("x config:read"), json!(["config:read"])] {
        let reader = client.with_token(&token(scope));
        reader.get(KEY).await.unwrap();
        reader.list("", 0).await.unwrap();
        assert_eq!(why(reader.put(KEY, "2").await), denied);
        assert_eq!(why(reader.delete(KEY).await), denied);
        // Neither does a key that is not there, or is none, tell more than that.
        assert_eq!(why(reader.delete("tenant_config_none").await), denied);
        assert_eq!(why(reader.put("%", "2").await), denied);
    }
    for scope in [
        json!(""),
        json!("reader"),
        json!("READ"),
        json!("read,write"),
        json!([]),
        json!("admin"),
    ] {
        let nobody = client.with_token(&token(scope.clone()));
        assert_eq!(why(nobody.get(KEY).await), denied, "{scope}");
        assert_eq!(why(nobody.list("", 0).await), denied, "{scope}");
        assert_eq!(why(nobody.put(KEY, "2").await), denied, "{scope}");
    }
    let writer = client.with_token(&token(json!("write")));
    assert_eq!(why(writer.get(KEY).await), denied);
    writer.delete(KEY).await.unwrap();
}

#[tokio::test]
async fn a_remembered_token_ends_when_it_expires() {
    let gateway = Gateway::start_with("leeway = \"0s\"");
    let client = gateway.client("acme").await;
    client.put(KEY, "1").await.unwrap();
    let end = now() + 2;
    let short = client.with_token(&gateway.key.token(&with(claims("acme"), "exp", json!(end))));
    let mut passed = 0;
    while now() < end {
        if short.get(KEY).await.is_ok() {
            passed += 1;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(passed > 1, "it was good once");
    assert_eq!(
        why(short.get(KEY).await),
        (Code::Unauthenticated, "TOKEN_CLAIM".to_owned())
    );
}

#[tokio::test]
async fn without_a_token_only_health_answers() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;

    let gateway = Gateway::start();
    let nobody = Client::connect(&gateway.address, None).await;
    assert_eq!(
        why(nobody.get(KEY).await),
        (Code::Unauthenticated, "TOKEN_MISSING".to_owned())
    );
    assert_eq!(why(nobody.list("", 0).await).0, Code::Unauthenticated);
    assert_eq!(why(nobody.put(KEY, "1").await).0, Code::Unauthenticated);
    assert_eq!(why(nobody.delete(KEY).await).0, Code::Unauthenticated);
    let mut grpc = nobody.grpc.clone();
    assert_eq!(
        why(grpc
            .explain_route(nobody.request(v1::ExplainRouteRequest::default()))
            .await)
        .0,
        Code::Unauthenticated
    );
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", gateway.address)).unwrap();
    let mut health = HealthClient::new(endpoint.connect().await.unwrap());
    for service in ["", "tagway.v1.ConfigService"] {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(
            answer.status,
            tonic_health::pb::health_check_response::ServingStatus::Serving as i32
        );
    }
}
