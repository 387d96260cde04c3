//! Which strategy serves which tag: one snapshot behind one pointer. A request loads it once, so it never sees a
//! mixture.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::Engine;
use super::decide::Strategy;
use super::lifecycle::{self, Backend, Rejected, Stage};
use crate::key::{Tag, Tags};
use crate::settings::{LimitSettings, StrategySettings};

/// Code, settings and catalog of all strategies at one moment.
pub struct Snapshot {
    generation: u64,
    tags: Tags,
    served: HashMap<Tag, Served>,
    rejected: Vec<Rejected>,
}

#[derive(Clone)]
enum Served {
    By(Arc<Strategy>),
    /// A strategy that should serve it was refused. The tag fails, and no other.
    ByNobody,
}

/// Holds the snapshot that is active.
pub struct Registry {
    active: ArcSwap<Snapshot>,
    generations: watch::Sender<u64>,
}

impl Registry {
    /// Takes every strategy as far as it comes. One that is rejected fails its own tags alone.
    pub async fn load(
        engine: &Engine,
        strategies: &BTreeMap<String, StrategySettings>,
        limits: &LimitSettings,
        catalog: &[Backend],
    ) -> Self {
        let mut snapshot = Snapshot {
            generation: 1,
            tags: Tags::default(),
            served: HashMap::new(),
            rejected: Vec::new(),
        };
        for (name, settings) in strategies {
            match prepare(engine, name, settings, limits, catalog).await {
                Ok(strategy) => {
                    let strategy = Arc::new(strategy);
                    tracing::info!(
                        strategy = name,
                        version = strategy.version(),
                        digest = strategy.digest(),
                        "a strategy serves"
                    );
                    let tags = strategy.tags().iter().cloned();
                    snapshot
                        .served
                        .extend(tags.map(|tag| (tag, Served::By(Arc::clone(&strategy)))));
                }
                Err(rejected) => {
                    tracing::error!(strategy = name, stage = %rejected.stage, reason = rejected.reason,
                        "a strategy is rejected; its tags fail");
                    let tags = settings.tags.iter().cloned();
                    snapshot.served.extend(tags.map(|tag| (tag, Served::ByNobody)));
                    snapshot.rejected.push(rejected);
                }
            }
        }
        snapshot.tags = Tags::new(snapshot.served.keys().cloned());
        Self {
            generations: watch::Sender::new(snapshot.generation),
            active: ArcSwap::from_pointee(snapshot),
        }
    }

    /// Tells the generation of each snapshot that becomes active.
    #[must_use]
    pub fn generations(&self) -> watch::Receiver<u64> {
        self.generations.subscribe()
    }

    /// What another registry holds becomes active here, as one.
    #[cfg(test)]
    pub(crate) fn activate(&self, other: Self) {
        let Some(mut next) = Arc::into_inner(other.active.into_inner()) else {
            return;
        };
        next.generation = self.current().generation + 1;
        let generation = next.generation;
        self.active.store(Arc::new(next));
        self.generations.send_replace(generation);
    }

    /// What is active now. Load it once a request.
    #[must_use]
    pub fn current(&self) -> Arc<Snapshot> {
        self.active.load_full()
    }
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

    /// The strategy of a tag, unless it was rejected.
    #[must_use]
    pub fn strategy(&self, tag: &Tag) -> Option<&Arc<Strategy>> {
        match self.served.get(tag) {
            Some(Served::By(strategy)) => Some(strategy),
            Some(Served::ByNobody) | None => None,
        }
    }

    /// Each strategy that serves, once.
    pub fn strategies(&self) -> impl Iterator<Item = &Arc<Strategy>> {
        self.served.iter().filter_map(|(tag, served)| match served {
            Served::By(strategy) if strategy.tags().first() == Some(tag) => Some(strategy),
            _ => None,
        })
    }

    /// How each does, by its name: its version and digest, or why it was rejected.
    pub fn states(&self) -> impl Iterator<Item = (&str, Result<String, String>)> {
        let serve = self.strategies().map(|strategy| {
            let which = format!("{} {}", strategy.version(), strategy.digest());
            (&**strategy.name(), Ok(which))
        });
        let rejected = self.rejected.iter().map(|rejected| {
            let why = format!("rejected before it was {}: {}", rejected.stage, rejected.reason);
            (&*rejected.name, Err(why))
        });
        serve.chain(rejected)
    }

    /// Whether any strategy serves.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.strategies().next().is_some()
    }

    /// What was rejected on the way to this snapshot.
    #[must_use]
    pub fn rejected(&self) -> &[Rejected] {
        &self.rejected
    }
}

/// Off the runtime's threads, where a panic is one more refusal: malformed bytes have panicked compilers before.
async fn prepare(
    engine: &Engine,
    name: &str,
    settings: &StrategySettings,
    limits: &LimitSettings,
    catalog: &[Backend],
) -> Result<Strategy, Rejected> {
    let name: Arc<str> = name.into();
    let (engine, settings, limits) = (engine.clone(), settings.clone(), limits.clone());
    let catalog = catalog.to_vec();
    let task = {
        let name = Arc::clone(&name);
        tokio::task::spawn_blocking(move || lifecycle::prepare(&engine, &name, &settings, &limits, &catalog))
    };
    task.await.unwrap_or_else(|_| {
        Err(Rejected {
            name,
            stage: Stage::Compiled,
            reason: "the compiler panicked on it".to_owned(),
        })
    })
}
