//! Why a key lives where it lives.

use std::sync::Arc;

use super::{ConfigError, Configs};
use crate::backend::Capabilities;
use crate::identity::Reader;
use crate::placement::{Layer, Origin, PhysicalName};
use crate::strategy::{Context, Operation};

/// What decided, and what it decided.
#[derive(Debug, Clone)]
pub struct Explained {
    /// The tag that matched.
    pub tag: String,
    /// The strategy's name and version.
    pub strategy: String,
    /// Of its component.
    pub digest: String,
    /// Of the snapshot that answered.
    pub generation: u64,
    /// The strategy's own words.
    pub reason: String,
    /// In reading order.
    pub steps: Vec<Step>,
    /// Dimensions that the strategy did not ask for.
    pub ignored_context: Vec<String>,
}

/// One placement.
#[derive(Debug, Clone)]
pub struct Step {
    /// Id in the catalog.
    pub backend: Arc<str>,
    /// There. For operators alone.
    pub physical_name: PhysicalName,
    /// What it is to the key.
    pub origin: Origin,
    /// Whether it holds the key now.
    pub holds_key: bool,
    /// What the cache has of it.
    pub cache_state: &'static str,
    /// What its store can do.
    pub capabilities: Capabilities,
}

impl Configs {
    /// Which strategy and which placement answer for `key`, and why.
    pub async fn explain(&self, reader: &Reader, key: &str, context: &Context) -> Result<Explained, ConfigError> {
        let snapshot = self.registry.current();
        let key = snapshot.tags().parse(key)?;
        let strategy = snapshot.strategy(key.tag())?;
        let placed = strategy.decide(reader, &key, Operation::Read, context).await?;
        let mut steps = Vec::new();
        for Layer { origin, place, policy } in placed.layers() {
            let backend = self.backend(&place.backend)?;
            steps.push(Step {
                backend: Arc::clone(&place.backend),
                physical_name: place.name.clone(),
                origin,
                cache_state: self.cache.state(place, self.cache.policy(policy)),
                holds_key: backend.read(reader, &place.name).await?.is_some(),
                capabilities: backend.capabilities().clone(),
            });
        }
        Ok(Explained {
            tag: key.tag().to_string(),
            strategy: format!("{}@{}", strategy.name(), strategy.version()),
            digest: strategy.digest().to_owned(),
            generation: snapshot.generation(),
            reason: placed.reason.clone().unwrap_or_default(),
            steps,
            ignored_context: context
                .names()
                .filter(|name| !strategy.asks_for(name))
                .map(str::to_owned)
                .collect(),
        })
    }
}
