//! Which strategy serves which tag: one snapshot behind one pointer. A request loads it once, so it never sees a
//! mixture.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::Engine;
use super::decide::Strategy;
use super::lifecycle::stages::{self, Backend, Rejected};
use super::source::Sources;
use super::version::{Fingerprint, Version};
use crate::key::{Tag, Tags};
use crate::settings::{LimitSettings, StrategySettings};

/// Code, settings and catalog of all strategies at one moment.
#[derive(Clone, Default)]
pub struct Snapshot {
    generation: u64,
    strategies: BTreeMap<Arc<str>, Standing>,
    tags: Tags,
    /// The strategy of each tag.
    served: HashMap<Tag, Arc<str>>,
}

/// What there is under a strategy's name.
#[derive(Clone)]
pub(super) enum Standing {
    /// It serves.
    Serves(Arc<Strategy>),
    /// It serves nothing, and these tags fail, and no others.
    Not(Vec<Tag>, NotServed),
}

/// Why a tag that has a strategy is not served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotServed {
    /// What should serve it was refused.
    Rejected(Rejected),
    /// An operator does not let it be called.
    Disabled,
}

/// Holds the snapshot that is active.
pub struct Registry {
    active: ArcSwap<Snapshot>,
    generations: watch::Sender<u64>,
}

impl Registry {
    /// With that snapshot.
    pub(super) fn new(snapshot: Snapshot) -> Self {
        Self {
            generations: watch::Sender::new(snapshot.generation),
            active: ArcSwap::from_pointee(snapshot),
        }
    }

    /// Takes every strategy as far as it comes, once. One that is rejected fails its own tags alone.
    pub async fn load(
        engine: &Engine,
        strategies: &BTreeMap<String, StrategySettings>,
        limits: &LimitSettings,
        catalog: &[Backend],
    ) -> Self {
        let mut snapshot = Snapshot::default().counted_from(1);
        for (name, settings) in strategies {
            let name: Arc<str> = name.as_str().into();
            let standing = match load(engine, &name, settings, catalog).await {
                Ok(version) => {
                    let strategy = Strategy::new(version.into(), limits, None, None);
                    strategy.begins(1);
                    Standing::Serves(strategy.into())
                }
                Err(rejected) => Standing::Not(settings.tags.clone(), NotServed::Rejected(rejected)),
            };
            snapshot = snapshot.with(name, standing);
        }
        Self::new(snapshot)
    }

    /// Tells the generation of each snapshot that becomes active.
    #[must_use]
    pub fn generations(&self) -> watch::Receiver<u64> {
        self.generations.subscribe()
    }

    /// That becomes active, as one.
    pub(super) fn activate(&self, snapshot: Snapshot) {
        let generation = snapshot.generation;
        self.active.store(Arc::new(snapshot));
        self.generations.send_replace(generation);
    }

    /// What another registry holds becomes active here, as one.
    #[cfg(test)]
    pub(crate) fn take_up(&self, other: &Self) {
        let generation = self.current().generation + 1;
        self.activate(Snapshot {
            generation,
            ..Snapshot::clone(&other.current())
        });
    }

    /// What is active now. Load it once a request.
    #[must_use]
    pub fn current(&self) -> Arc<Snapshot> {
        self.active.load_full()
    }
}

async fn load(
    engine: &Engine,
    name: &Arc<str>,
    settings: &StrategySettings,
    catalog: &[Backend],
) -> Result<Version, Rejected> {
    let bytes = Sources::default().fetch(settings).await;
    let bytes = bytes.map_err(|error| Rejected::unfetched(name, &settings.source, &error))?;
    let fingerprint = Fingerprint::new(stages::sha256(&bytes), settings, catalog);
    let prepared = stages::prepare(engine, name, settings, catalog, fingerprint, bytes.into());
    prepared.end().await
}

impl Snapshot {
    /// Counts activations.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Every tag that is served, or should be.
    #[must_use]
    pub fn tags(&self) -> &Tags {
        &self.tags
    }

    /// The strategy of a tag; none that nobody declares.
    pub fn strategy(&self, tag: &Tag) -> Result<&Arc<Strategy>, Option<&NotServed>> {
        let name = self.served.get(tag).ok_or(None)?;
        match self.strategies.get(name) {
            Some(Standing::Serves(strategy)) => Ok(strategy),
            Some(Standing::Not(_, why)) => Err(Some(why)),
            None => Err(None),
        }
    }

    /// Each strategy that serves.
    pub fn strategies(&self) -> impl Iterator<Item = &Arc<Strategy>> {
        self.strategies.values().filter_map(|standing| match standing {
            Standing::Serves(strategy) => Some(strategy),
            Standing::Not(..) => None,
        })
    }

    /// How each does, by its name: its version and digest, or why it does not serve.
    pub fn states(&self) -> impl Iterator<Item = (&str, Result<String, String>)> {
        self.strategies.iter().map(|(name, standing)| {
            let state = match standing {
                Standing::Serves(strategy) => Ok(format!("{} {}", strategy.version(), strategy.digest())),
                Standing::Not(_, NotServed::Rejected(rejected)) => Err(format!(
                    "rejected before it was {}: {}",
                    rejected.stage, rejected.reason
                )),
                Standing::Not(_, NotServed::Disabled) => Err("disabled by an operator".to_owned()),
            };
            (&**name, state)
        })
    }

    /// Whether any strategy serves.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.strategies().next().is_some()
    }

    /// What was rejected on the way to this snapshot.
    pub fn rejected(&self) -> impl Iterator<Item = &Rejected> {
        self.strategies.values().filter_map(|standing| match standing {
            Standing::Not(_, NotServed::Rejected(rejected)) => Some(rejected),
            _ => None,
        })
    }

    /// What there is under that name.
    pub(super) fn standing(&self, name: &str) -> Option<&Standing> {
        self.strategies.get(name)
    }

    /// The one that serves under that name.
    pub(super) fn serving(&self, name: &str) -> Option<&Arc<Strategy>> {
        match self.strategies.get(name) {
            Some(Standing::Serves(strategy)) => Some(strategy),
            _ => None,
        }
    }

    /// The next one: as of now nothing is changed.
    pub(super) fn next(&self) -> Self {
        Self {
            generation: self.generation + 1,
            ..self.clone()
        }
    }

    /// The same, counted from there.
    pub(super) fn counted_from(mut self, generation: u64) -> Self {
        self.generation = generation;
        self
    }

    /// The same, with that under this name.
    pub(super) fn with(mut self, name: Arc<str>, standing: Standing) -> Self {
        self.strategies.insert(name, standing);
        self.declared_anew()
    }

    /// The same, without anything under that name.
    pub(super) fn without(mut self, name: &str) -> Self {
        self.strategies.remove(name);
        self.declared_anew()
    }

    fn declared_anew(mut self) -> Self {
        self.served = HashMap::new();
        for (name, standing) in &self.strategies {
            let tags = match standing {
                Standing::Serves(strategy) => strategy.tags(),
                Standing::Not(tags, _) => tags,
            };
            self.served
                .extend(tags.iter().map(|tag| (tag.clone(), Arc::clone(name))));
        }
        self.tags = Tags::new(self.served.keys().cloned());
        self
    }
}
