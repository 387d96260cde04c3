//! A strategy's life, tried over real sockets: a gateway over two stores, whose strategy decides what its settings say.

mod drift;
mod grants;
mod load;
mod operate;
mod restart;
mod sources;
mod trial;

use std::fs;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use serde_json::{Value, json};
use tagway_proto::v1;
use tagway_proto::v1::strategy::State;
use tagway_tests::admin::{Admin, activate};
use tagway_tests::client::Client;
use tagway_tests::gateway::{Gateway, UNBOUNDED};
use tagway_tests::issuer::{AUDIENCE, ISSUER, Key, key_set};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

pub(crate) static SCRIPTED: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugins");
    tagway_plugin_builder::build("scripted", &target).unwrap()
});

/// Longer than anything may take.
const PATIENCE: Duration = Duration::from_mins(1);

/// A folder with a scripted strategy and everything that a gateway needs.
pub(crate) struct World {
    pub(crate) folder: Arc<TempDir>,
    pub(crate) key: Arc<Key>,
    pub(crate) more: String,
}

impl World {
    pub(crate) fn new() -> Self {
        let key = Key::ed("key");
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("keys.json"), key_set(&[&key]).to_string()).unwrap();
        fs::write(folder.path().join("scripted.wasm"), &*SCRIPTED).unwrap();
        Self {
            folder: folder.into(),
            key: key.into(),
            more: String::new(),
        }
    }

    /// With more of the strategy's settings.
    pub(crate) fn with(more: &str) -> Self {
        Self {
            more: more.to_owned(),
            ..Self::new()
        }
    }

    pub(crate) fn settings(&self, script: &Value) -> String {
        // JSON is not TOML, but a TOML string holds it for a strategy that reads it from there.
        let layers = script.as_object().unwrap().iter().map(|(tenant, layers)| {
            let layers = layers.as_object().unwrap().iter();
            let layers = layers.map(|(layer, rules)| format!("{layer:?} = {}", inline(rules)));
            format!("{tenant:?} = {{ {} }}\n", layers.collect::<Vec<_>>().join(", "))
        });
        format!(
            r#"
{UNBOUNDED}
[server]
listen = "127.0.0.1:0"
admin_listen = "127.0.0.1:0"
ops_listen = ""
state = "state"

[identity]
issuer = "{ISSUER}"
audiences = ["{AUDIENCE}"]
jwks = "file:keys.json"
algorithms = ["EdDSA"]

[backends.a]
kind = "embedded"
path = "a.redb"

[backends.b]
kind = "embedded"
path = "b.redb"

[strategies.scripted]
source = "file:scripted.wasm"
tags = ["t_"]
backends = ["a", "b"]
{}

[strategies.scripted.settings]
{}
"#,
            self.more,
            layers.collect::<String>()
        )
    }

    pub(crate) fn start(&self, script: &Value) -> Gateway {
        Gateway::start_in(Arc::clone(&self.folder), Arc::clone(&self.key), &self.settings(script))
    }

    pub(crate) fn put(&self, component: &[u8]) {
        // As tools do: beside it, and then in its place.
        let new = self.folder.path().join("new.wasm");
        fs::write(&new, component).unwrap();
        fs::rename(new, self.folder.path().join("scripted.wasm")).unwrap();
    }
}

/// JSON as TOML's inline tables.
fn inline(value: &Value) -> String {
    match value {
        Value::Object(object) => {
            let pairs = object.iter().map(|(key, value)| format!("{key:?} = {}", inline(value)));
            format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", "))
        }
        Value::Array(array) => format!("[{}]", array.iter().map(inline).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// Everything of both tenants, decided so.
pub(crate) fn both(layer: &Value) -> Value {
    json!({ "acme": { "": layer }, "globex": { "": layer } })
}

pub(crate) fn home(backend: &str) -> Value {
    both(&json!({ "home": [backend, ""] }))
}

/// The source again, with these settings.
pub(crate) fn with_settings(script: &Value) -> v1::ActivateStrategyRequest {
    v1::ActivateStrategyRequest {
        settings: script.to_string(),
        ..activate("scripted", None)
    }
}

pub(crate) async fn explained(client: &Client, key: &str) -> v1::ExplainRouteResponse {
    let request = client.request(v1::ExplainRouteRequest {
        key: key.to_owned(),
        ..v1::ExplainRouteRequest::default()
    });
    client.grpc.clone().explain_route(request).await.unwrap().into_inner()
}

pub(crate) async fn taken(admin: &mut Admin, request: v1::ActivateStrategyRequest) -> v1::ActivateStrategyResponse {
    let answer = admin.activate_strategy(request).await.unwrap().into_inner();
    let strategy = answer.strategy.as_ref().unwrap();
    assert_eq!(strategy.state(), State::Active, "{strategy:?}");
    answer
}

async fn not_taken(
    admin: &mut Admin,
    request: v1::ActivateStrategyRequest,
    stage: State,
) -> v1::ActivateStrategyResponse {
    let answer = admin.activate_strategy(request).await.unwrap().into_inner();
    let strategy = answer.strategy.as_ref().unwrap();
    assert_eq!(strategy.state(), State::Rejected, "{strategy:?}");
    assert_eq!(strategy.rejected_stage(), stage, "{strategy:?}");
    answer
}

pub(crate) async fn versions(admin: &mut Admin) -> Vec<v1::Strategy> {
    let listed = admin.list_strategies(v1::ListStrategiesRequest {}).await.unwrap();
    listed.into_inner().strategies
}

pub(crate) async fn active(admin: &mut Admin) -> v1::Strategy {
    let versions = versions(admin).await;
    let mut active = versions.into_iter().filter(|version| version.state() == State::Active);
    let first = active.next().expect("one serves");
    assert_eq!(active.next(), None, "and one alone");
    first
}

/// Waits until the active version is as wished.
pub(crate) async fn becomes(admin: &mut Admin, what: &str, is_so: impl Fn(&v1::Strategy) -> bool) -> v1::Strategy {
    let waited = timeout(PATIENCE, async {
        loop {
            let active = active(admin).await;
            if is_so(&active) {
                return active;
            }
            sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("no version became {what}"))
}
