#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

mod cuts;
mod fuse;
mod key;
mod model;
mod overlap;
mod placements;
mod repeated;
pub(crate) mod scripted;

use std::sync::Mutex;

use async_trait::async_trait;
use tempfile::TempDir;

use super::*;
use crate::app::load_strategies;
use crate::backend::embedded::Embedded;
use crate::backend::{Capabilities, Conditions, Deleted, HistoryPage, NewEntry, Page, PageRequest, Unfit, WriteError};
use crate::cache::Consistency;
use crate::clock::Clock;
use crate::identity::{Reader, Writer};
use crate::placement::PhysicalName;
use crate::settings::Settings;
use crate::settings::development::development;

/// Notes what is asked of the store behind it, without the names.
struct Recording {
    store: Embedded,
    calls: Arc<Mutex<Vec<String>>>,
}

impl Recording {
    fn note(&self, call: &str) {
        self.calls.lock().unwrap().push(call.to_owned());
    }
}

#[async_trait]
impl Backend for Recording {
    fn capabilities(&self) -> &Capabilities {
        self.store.capabilities()
    }

    async fn read(&self, tenant: &VerifiedTenant, name: &PhysicalName) -> Result<Option<Entry>, BackendError> {
        self.note("read");
        self.store.read(tenant, name).await
    }

    async fn read_version(
        &self,
        tenant: &VerifiedTenant,
        name: &PhysicalName,
        version: u64,
    ) -> Result<Option<Entry>, BackendError> {
        self.note("read_version");
        self.store.read_version(tenant, name, version).await
    }

    async fn history(
        &self,
        tenant: &VerifiedTenant,
        name: &PhysicalName,
        after: &str,
        entries: usize,
        bytes: usize,
    ) -> Result<HistoryPage, BackendError> {
        self.note("history");
        self.store.history(tenant, name, after, entries, bytes).await
    }

    async fn list(&self, tenant: &VerifiedTenant, request: PageRequest<'_>) -> Result<Page, BackendError> {
        self.note(&format!("list {:?} after {:?}", request.prefix, request.after));
        self.store.list(tenant, request).await
    }

    async fn write(
        &self,
        tenant: &VerifiedTenant,
        name: &PhysicalName,
        entry: NewEntry,
        conditions: Conditions,
    ) -> Result<Entry, WriteError> {
        self.note("write");
        self.store.write(tenant, name, entry, conditions).await
    }

    async fn delete(
        &self,
        tenant: &VerifiedTenant,
        name: &PhysicalName,
        elsewhere: bool,
        conditions: Conditions,
    ) -> Result<Deleted, WriteError> {
        self.note("delete");
        self.store.delete(tenant, name, elsewhere, conditions).await
    }
}

struct Fixture {
    configs: Configs,
    calls: Arc<Mutex<Vec<String>>>,
    _folder: TempDir,
}

/// Everything behind the first wall, with the default strategy, over a store that notes its calls.
async fn fixture() -> Fixture {
    let folder = TempDir::new().unwrap();
    let clock = Clock::system();
    let settings: Settings = development(folder.path(), []).unwrap();
    let calls = Arc::new(Mutex::new(Vec::new()));
    let store = Recording {
        store: Embedded::open(&folder.path().join("store.redb"), 10, clock.clone()).unwrap(),
        calls: Arc::clone(&calls),
    };
    let store: Arc<dyn Backend> = Arc::new(store);
    let registry = load_strategies(&settings).await.unwrap();
    Fixture {
        configs: Configs::new(
            Arc::new(registry),
            Catalog::new([("local".into(), store)].into()),
            PageTokens::new(b"a secret", clock).unwrap(),
            Cache::of_nothing(),
        ),
        calls,
        _folder: folder,
    }
}

fn reader(tenant: &str) -> Reader {
    VerifiedTenant::for_tests(tenant).reader().unwrap()
}

fn writer(tenant: &str) -> Writer {
    VerifiedTenant::for_tests(tenant).writer().unwrap()
}

fn entry(value: &str) -> NewEntry {
    NewEntry {
        value: value.to_owned().into(),
        content_type: "text/plain".to_owned(),
        secret: false,
    }
}

#[tokio::test]
async fn anothers_key_and_no_key_make_the_same_backend_calls() {
    let fixture = fixture().await;
    let configs = &fixture.configs;
    let options = WriteOptions::default();
    let theirs = "tenant_config_theirs";
    let written = configs
        .put(&writer("globex"), theirs, entry("x"), &options)
        .await
        .unwrap();
    let matching = WriteOptions {
        precondition: Precondition::Match(written.entry.etag),
        ..WriteOptions::default()
    };
    let mut seen = Vec::new();
    for key in [theirs, "tenant_config_nobodys"] {
        fixture.calls.lock().unwrap().clear();
        let mut answers = Vec::new();
        for version in [0, 1] {
            let answer = configs
                .get(
                    &reader("acme"),
                    key,
                    version,
                    &Context::default(),
                    Scope::Own,
                    Consistency::Cached,
                )
                .await;
            answers.push(answer.unwrap_err().to_string());
        }
        answers.push(
            configs
                .put(&writer("acme"), key, entry("x"), &matching)
                .await
                .unwrap_err()
                .to_string(),
        );
        answers.push(
            configs
                .delete(&writer("acme"), key, &matching)
                .await
                .unwrap_err()
                .to_string(),
        );
        answers.push(format!("{:?}", configs.delete(&writer("acme"), key, &options).await));
        seen.push((answers, fixture.calls.lock().unwrap().clone()));
    }
    assert_eq!(seen[0].1, ["read", "read_version", "write", "delete", "delete"]);
    assert_eq!(seen[0], seen[1]);
    configs
        .get(
            &reader("globex"),
            theirs,
            0,
            &Context::default(),
            Scope::Own,
            Consistency::Cached,
        )
        .await
        .unwrap();
}

#[tokio::test]
async fn what_is_malformed_or_unknown_reaches_no_store() {
    let fixture = fixture().await;
    let options = WriteOptions::default();
    for key in [
        "",
        "tenant_config_",
        "tenant_config_../globex/t_/a",
        "tenant_config_a\0",
        "unknown_a",
    ] {
        let refused = fixture
            .configs
            .get(
                &reader("acme"),
                key,
                0,
                &Context::default(),
                Scope::Own,
                Consistency::Cached,
            )
            .await;
        assert!(matches!(refused, Err(ConfigError::Key(_))), "{key:?}");
        let refused = fixture.configs.put(&writer("acme"), key, entry("x"), &options).await;
        assert!(matches!(refused, Err(ConfigError::Key(_))), "{key:?}");
    }
    let large = entry(&"x".repeat((1 << 20) + 1));
    let refused = fixture
        .configs
        .put(&writer("acme"), "tenant_config_a", large, &options)
        .await;
    assert!(matches!(refused, Err(ConfigError::Unfit(Unfit::Size { .. }))));
    assert_eq!(*fixture.calls.lock().unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn a_list_asks_each_range_from_where_the_page_before_ended() {
    let fixture = fixture().await;
    let configs = &fixture.configs;
    for i in 0..4 {
        let key = format!("tenant_config_{i}");
        configs
            .put(&writer("acme"), &key, entry("x"), &WriteOptions::default())
            .await
            .unwrap();
    }
    fixture.calls.lock().unwrap().clear();
    let (prefix, context) = ("tenant_config_".parse().unwrap(), Context::default());
    let request = |page_token| ListRequest {
        prefix: &prefix,
        page_size: 2,
        page_token,
        keys_only: true,
        bytes: PAGE_BYTES,
        context: &context,
        under_way: None,
    };
    let first = configs.list(&reader("acme"), request("")).await.unwrap();
    let second = configs
        .list(&reader("acme"), request(&first.next_page_token))
        .await
        .unwrap();
    let keys: Vec<&str> = first
        .configs
        .iter()
        .chain(&second.configs)
        .map(|config| config.key.as_str())
        .collect();
    assert_eq!(
        keys,
        [
            "tenant_config_0",
            "tenant_config_1",
            "tenant_config_2",
            "tenant_config_3"
        ]
    );
    assert_eq!(second.next_page_token, "");
    assert_eq!(
        *fixture.calls.lock().unwrap(),
        [r#"list "" after """#, r#"list "" after "1""#]
    );
}
