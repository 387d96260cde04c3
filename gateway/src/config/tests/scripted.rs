//! Three stores behind one fuse, and whoever decides over them as it is written.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::fuse::{Fuse, Fused};
use crate::app::strategy_catalog;
use crate::backend::embedded::Embedded;
use crate::backend::{Backend, Catalog};
use crate::cache::Cache;
use crate::clock::Clock;
use crate::config::{Configs, PageTokens};
use crate::settings::Settings;
use crate::strategy::{Context, Engine, Registry};

static COMPONENT: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let target = Path::new(env!("OUT_DIR")).join("scripted");
    tagway_plugin_builder::build("scripted", &target).unwrap()
});

pub(crate) struct Stores {
    pub(in crate::config::tests) fuse: Arc<Fuse>,
    catalog: Catalog,
    settings: Settings,
    engine: Engine,
    clock: Clock,
    _folder: TempDir,
}

impl Stores {
    /// `a`, `b` and `c`, empty.
    pub(crate) fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let store = |id| -> Arc<dyn Backend> {
            Arc::new(Embedded::open(&folder.path().join(id), 10, Clock::system()).unwrap())
        };
        let stores = ["a", "b", "c"].map(store);
        Self::over(stores, folder)
    }

    /// These, as `a`, `b` and `c`.
    pub(crate) fn over(opened: [Arc<dyn Backend>; 3], folder: TempDir) -> Self {
        fs::write(folder.path().join("scripted.wasm"), &*COMPONENT).unwrap();
        let mut text = format!(
            r#"
[identity]
issuer = "issuer"
audiences = ["tagway"]
jwks = "file:keys.json"

[strategies.scripted]
source = "file:{}"
tags = ["t_"]
backends = ["a", "b", "c"]
shared_scope = true
"#,
            folder.path().join("scripted.wasm").display()
        );
        let clock = Clock::system();
        let fuse = Arc::new(Fuse::default());
        let mut stores: BTreeMap<Arc<str>, Arc<dyn Backend>> = BTreeMap::new();
        for (id, store) in ["a", "b", "c"].into_iter().zip(opened) {
            writeln!(text, "[backends.{id}]\nkind = \"embedded\"\npath = {id:?}").unwrap();
            let fuse = Arc::clone(&fuse);
            stores.insert(id.into(), Arc::new(Fused { store, fuse }));
        }
        Self {
            fuse,
            catalog: Catalog::new(stores),
            settings: Settings::parse("scripted", &text, []).unwrap(),
            engine: Engine::new().unwrap(),
            clock,
            _folder: folder,
        }
    }

    /// A gateway that decides so: `{ "<tenant>": { "<layer>": { home, former, defaults } } }`.
    pub(crate) async fn gateway(&self, script: &Value) -> Configs {
        self.gateway_with(script, Cache::of_nothing()).await
    }

    /// The same, with that cache.
    pub(crate) async fn gateway_with(&self, script: &Value, cache: Arc<Cache>) -> Configs {
        let registry = Arc::new(self.registry(script).await);
        let page_tokens = PageTokens::new(b"a secret", self.clock.clone()).unwrap();
        Configs::new(registry, self.catalog.clone(), page_tokens, cache)
    }

    /// What decides so.
    pub(crate) async fn registry(&self, script: &Value) -> Registry {
        let mut strategies = self.settings.strategies.clone();
        let strategy = strategies.get_mut("scripted").unwrap();
        strategy.settings = script.as_object().unwrap().clone();
        let catalog = strategy_catalog(&self.settings);
        let registry = Registry::load(&self.engine, &strategies, &self.settings.limits, &catalog).await;
        let current = registry.current();
        let rejected: Vec<_> = current.rejected().collect();
        assert!(rejected.is_empty(), "{rejected:?}");
        registry
    }

    /// One that decides so for everything of `acme`.
    pub(crate) async fn deciding(&self, layer: Value) -> Configs {
        self.gateway(&json!({ "acme": { "": layer } })).await
    }
}

/// The context that picks a layer.
pub(crate) fn layer(name: &str) -> Context {
    let dimension = (!name.is_empty()).then(|| ("layer".to_owned(), name.to_owned()));
    Context::new(dimension).unwrap()
}
