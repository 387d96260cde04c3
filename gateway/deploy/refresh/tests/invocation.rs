//! The function as AWS runs it: a process that asks the runtime API for events.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what went wrong by failing"
)]

use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::routing::{get, post};
use tagway_tests::authority::Authority;
use tagway_tests::gateway::{Gateway, settings};
use tagway_tests::issuer::{Key, claims, key_set};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

type Value = serde_json::Value;

/// The runtime API (AWS Lambda's developer guide, "Using the Lambda runtime API").
#[derive(Clone)]
struct Runtime {
    events: Arc<Mutex<VecDeque<Value>>>,
    answers: mpsc::UnboundedSender<(String, Value)>,
}

async fn next(State(runtime): State<Runtime>) -> (HeaderMap, String) {
    loop {
        let event = runtime.events.lock().unwrap().pop_front();
        if let Some(event) = event {
            let mut headers = HeaderMap::new();
            headers.insert("lambda-runtime-aws-request-id", "one".parse().unwrap());
            headers.insert("lambda-runtime-deadline-ms", "9999999999999".parse().unwrap());
            headers.insert("lambda-runtime-invoked-function-arn", "arn".parse().unwrap());
            return (headers, event.to_string());
        }
        sleep(Duration::from_millis(10)).await;
    }
}

async fn answered(State(runtime): State<Runtime>, Path((_, how)): Path<(String, String)>, body: String) {
    let body = serde_json::from_str(&body).unwrap_or(Value::String(body));
    runtime.answers.send((how, body)).unwrap();
}

struct Function {
    process: Child,
    runtime: Runtime,
    answers: mpsc::UnboundedReceiver<(String, Value)>,
}

impl Drop for Function {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

impl Function {
    async fn start(replicas: &str, token: &str) -> Self {
        Self::start_with(replicas, token, &[]).await
    }

    /// The same, with these variables too.
    async fn start_with(replicas: &str, token: &str, variables: &[(&str, PathBuf)]) -> Self {
        let (sender, answers) = mpsc::unbounded_channel();
        let runtime = Runtime {
            events: Arc::default(),
            answers: sender,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/{how}", post(answered))
            .with_state(runtime.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        let process = Command::new(env!("CARGO_BIN_EXE_tagway-refresh"))
            .env("AWS_LAMBDA_RUNTIME_API", address.to_string())
            .env("AWS_LAMBDA_FUNCTION_NAME", "refresh")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "1")
            .env("AWS_LAMBDA_LOG_STREAM_NAME", "log")
            .env("AWS_LAMBDA_LOG_GROUP_NAME", "logs")
            .env("TAGWAY_REPLICAS", replicas)
            .env("TAGWAY_TOKEN", token)
            .envs(variables.iter().cloned())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            process,
            runtime,
            answers,
        }
    }

    async fn invoke(&mut self, event: Value) -> (String, Value) {
        self.runtime.events.lock().unwrap().push_back(event);
        timeout(Duration::from_mins(1), self.answers.recv())
            .await
            .unwrap()
            .unwrap()
    }
}

fn changed(key: &str) -> Value {
    serde_json::json!({
        "source": "tagway", "detail-type": "ConfigChanged", "region": "eu-west-1",
        "detail": { "backend": "local", "name": format!("acme/{key}"), "replica": "another" },
    })
}

#[tokio::test]
async fn every_replica_is_told_and_who_is_not_is_named() {
    let gateways = [Gateway::start_admin(), Gateway::start_admin()];
    let mut admin = claims("acme");
    admin["scope"] = "admin".into();
    // Each believes its own key, so the second takes the first one's token for none.
    let token = gateways[0].key.token(&admin);
    let mut one = Function::start(&gateways[0].admin, &token).await;
    let (how, answer) = one.invoke(changed("tenant_config_/a")).await;
    assert_eq!(
        (how.as_str(), &answer),
        ("response", &serde_json::json!({ "replicas": 1, "refreshed": 0 }))
    );

    // A name and an address of the same replica are one.
    let port = gateways[0].admin.rsplit_once(':').unwrap().1;
    let twice = format!("{}, 127.0.0.1:{port}", gateways[0].admin);
    let mut twice = Function::start(&twice, &token).await;
    let (how, answer) = twice.invoke(serde_json::json!({ "no": "event" })).await;
    assert_eq!((how.as_str(), &answer["replicas"]), ("response", &1.into()), "{answer}");

    let some = format!(
        "{},{},127.0.0.1:1,no-such-host.invalid:1",
        gateways[0].admin, gateways[1].admin
    );
    let mut some = Function::start(&some, &token).await;
    let (how, answer) = some.invoke(changed("tenant_config_/a")).await;
    assert_eq!(how, "error");
    let message = answer["errorMessage"].as_str().unwrap();
    for named in [
        &gateways[1].admin,
        "127.0.0.1:1:",
        "no-such-host.invalid:1:",
        "Unauthenticated",
    ] {
        assert!(message.contains(named), "{named} in {message}");
    }
    assert!(
        !message.contains(&gateways[0].admin) && !message.contains(&token),
        "{message}"
    );
    // It goes on, and so does the next event.
    let (how, _) = some.invoke(changed("tenant_config_/b")).await;
    assert_eq!(how, "error");
}

/// As the manifests have it: operators are spoken to by TLS, and have a certificate of their own.
#[tokio::test]
async fn replicas_that_speak_tls_are_told() {
    let authority = Authority::new();
    let key = Key::ed("first");
    let folder = TempDir::new().unwrap();
    let file = |name: &str| folder.path().join(name);
    fs::write(file("keys.json"), key_set(&[&key]).to_string()).unwrap();
    fs::write(file("authority.pem"), authority.pem()).unwrap();
    authority.sign().write(folder.path(), "server");
    authority.sign().write(folder.path(), "function");
    let variables = [
        ("TAGWAY_TLS_CA", file("authority.pem")),
        ("TAGWAY_TLS_CERT", file("function.pem")),
        ("TAGWAY_TLS_KEY", file("function.key")),
    ];
    let tls = "[server]\nadmin_listen = \"127.0.0.1:0\"\n\
               tls = { cert = \"server.pem\", key = \"server.key\", client_ca = \"authority.pem\" }";
    let settings = settings("file:keys.json", "").replace("[server]", tls);
    let gateway = Gateway::start_in(folder.into(), key.into(), &settings);
    let mut admin = claims("acme");
    admin["scope"] = "admin".into();
    let token = gateway.key.token(&admin);
    let replica = format!("https://{}", gateway.admin);
    let mut known = Function::start_with(&replica, &token, &variables).await;
    let (how, answer) = known.invoke(changed("tenant_config_/a")).await;
    assert_eq!((how.as_str(), &answer["replicas"]), ("response", &1.into()), "{answer}");
    for (replica, variables, said) in [
        (replica.as_str(), &variables[1..], "certificate"),
        (replica.as_str(), &variables[..1], ""),
        (gateway.admin.as_str(), &variables[..], ""),
    ] {
        let mut refused = Function::start_with(replica, &token, variables).await;
        let (how, answer) = refused.invoke(changed("tenant_config_/a")).await;
        assert_eq!(how, "error");
        let message = answer["errorMessage"].as_str().unwrap();
        assert!(message.contains(&gateway.admin) && message.contains(said), "{message}");
    }
}

#[test]
fn without_its_variables_it_says_which() {
    let run = |variables: &[(&str, &str)]| {
        let mut process = Command::new(env!("CARGO_BIN_EXE_tagway-refresh"));
        process.env_remove("TAGWAY_TOKEN").env_remove("TAGWAY_REPLICAS");
        let output = process.envs(variables.iter().copied()).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(run(&[("TAGWAY_TOKEN", "t")]).contains("TAGWAY_REPLICAS is not set"));
    assert!(run(&[("TAGWAY_REPLICAS", "a:1")]).contains("TAGWAY_TOKEN is not set"));
    assert!(run(&[("TAGWAY_REPLICAS", " , "), ("TAGWAY_TOKEN", "t")]).contains("names no replica"));
}
