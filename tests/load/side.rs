//! What is measured: a gateway, something bare, another store.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tagway_proto::v1;
use tagway_proto::v1::watch_configs_request::Kind as Asking;
use tagway_proto::v1::watch_configs_response::Kind;
use tagway_tests::client::{Client, put};
use tagway_tests::gateway::Gateway;
use tagway_tests::issuer::{Key, claims, key_set};
use tagway_tests::watcher::to_keys;
use tempfile::TempDir;
use tokio_stream::StreamExt as _;

use super::etcd;

/// A real key of an ordinary name.
pub(super) const KEY: &str = "tenant_config_payment-gateway";

/// One of them, and where it is.
pub(super) enum Side {
    /// Of this API.
    Ours { address: String, token: String },
    /// Of etcd's.
    Etcd { address: String },
}

/// A connection to it.
pub(super) enum Connection {
    Ours(Client),
    Etcd(etcd::Client),
}

impl Side {
    /// A gateway on the embedded store, and a token for it.
    pub(super) fn gateway() -> (Gateway, String) {
        // RS256, as most issuers sign: the dearest to mint, and the one whose tokens are long.
        let key = Arc::new(Key::rsa("load"));
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("keys.json"), key_set(&[&key]).to_string()).unwrap();
        let settings = tagway_tests::gateway::settings("file:keys.json", "[telemetry]\nlog = \"info\"");
        let gateway = Gateway::start_in(Arc::new(folder), Arc::clone(&key), &settings);
        let token = key.token(&claims("acme"));
        (gateway, token)
    }

    pub(super) async fn connect(&self) -> Connection {
        match self {
            Self::Ours { address, token } => Connection::Ours(Client::connect(address, Some(token)).await),
            Self::Etcd { address } => Connection::Etcd(etcd::Client::connect(address).await),
        }
    }
}

impl Connection {
    /// Writes the one key. Returns how long that took.
    pub(super) async fn put(&self, value: &str) -> Duration {
        let begun = Instant::now();
        match self {
            Self::Ours(client) => _ = client.put_with(put(KEY, value)).await.unwrap(),
            Self::Etcd(client) => client.put(KEY, value).await,
        }
        begun.elapsed()
    }

    /// Watches the one key, and calls `changed` with each value once `ready` was called.
    pub(super) async fn watch(&self, ready: impl FnOnce(), mut changed: impl FnMut(&[u8]) -> bool) {
        let client = match self {
            Self::Ours(client) => client,
            Self::Etcd(client) => return client.watch(KEY, ready, changed).await,
        };
        let subscribe = v1::WatchConfigsRequest {
            kind: Some(Asking::Subscribe(to_keys("load", &[KEY]))),
        };
        let requests = tokio_stream::once(subscribe).chain(tokio_stream::pending());
        let answers = client.grpc.clone().watch_configs(client.request(requests)).await;
        let mut answers = answers.unwrap().into_inner();
        let mut ready = Some(ready);
        while let Some(answer) = answers.message().await.unwrap() {
            match answer.kind {
                Some(Kind::Synced(_)) => ready.take().into_iter().for_each(|ready| ready()),
                Some(Kind::Put(config)) if ready.is_none() && !changed(&config.value) => return,
                _ => {}
            }
        }
    }
}
