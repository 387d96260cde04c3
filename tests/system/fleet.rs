//! Gateways over the same stores, and the harness in which tests start several of them.

use std::fs;
use std::sync::Arc;

use tagway_servers::{Ministack, boto3};
pub(crate) use tagway_tests::gateway::with_queue;
use tagway_tests::gateway::{Gateway, settings_over_aws};
use tagway_tests::issuer::{Key, key_set};
use tempfile::TempDir;

/// Gateways that believe the same key, over the same stores.
pub(crate) struct Fleet {
    pub(crate) key: Arc<Key>,
    pub(crate) aws: Ministack,
}

impl Fleet {
    pub(crate) fn new() -> Self {
        Self {
            key: Key::ed("first").into(),
            aws: Ministack::start(),
        }
    }

    /// One more, with this said of events.
    pub(crate) fn start(&self, events: &str) -> Gateway {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("keys.json"), key_set(&[&self.key]).to_string()).unwrap();
        let settings = settings_over_aws("file:keys.json", self.aws.endpoint(), events);
        let gateway = Gateway::start_in(folder.into(), Arc::clone(&self.key), &settings);
        let made = gateway.tagway("acme", &["provision", "tagway.toml"], b"");
        assert!(made.status.success(), "{made:?}");
        gateway
    }

    /// One with a queue of its own, from which events come.
    pub(crate) fn start_with_queue(&self, more: &str) -> Gateway {
        let gateway = self.start(&with_queue(self.aws.endpoint(), more));
        assert!(gateway.logs("a part is ready"), "{}", gateway.log());
        gateway
    }

    /// What somebody else does there.
    pub(crate) async fn does(&self, script: &str) -> String {
        let head = "import boto3, json, random, time\nclient = lambda name: boto3.client(name, 'eu-west-1')";
        let script = format!("{head}\n{script}");
        let endpoint = self.aws.endpoint().to_owned();
        tokio::task::spawn_blocking(move || boto3(&script, &endpoint))
            .await
            .unwrap()
    }
}
