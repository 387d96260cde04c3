//! A strategy's life: from its source to serving, and away again.
//!
//! A version is fetched, verified, compiled, configured and probed ([`stages`]); then it is shadowed, where what it would move is
//! found ([`drift`]); then it serves, on trial for a while; and what served before drains and is gone. Whatever refuses it on that
//! way, what served serves on. What is to be done comes from operators, who say so, and by itself: events, changed files and a
//! look once in a while have every source looked at, and what lies there decides, not who said that it does.
//!
//! One version is on its way at a time. What has to work at once, to roll back, to disable and to pin, waits for no version on its
//! way: that one finds in the end that it was overtaken.

mod conformance;
mod drift;
mod kept;
mod look;
mod names;
mod operate;
mod quarantine;
mod records;
mod slot;
pub(super) mod stages;
mod start;
mod way;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use notify::RecommendedWatcher;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, Semaphore};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::engine::Engine;
use super::registry::{Registry, Snapshot};
use super::source::Sources;
use super::trial::Condemned;
use crate::backend::Catalog;
use crate::cache::Cache;
use crate::clock::Clock;
use crate::event::Published;
use crate::folder::FolderError;
use crate::settings::{LimitSettings, Source, StrategySettings};
use crate::status::Part;
use crate::watch::Hub;
use crate::watched_files;
use kept::{Kept, KeptSet, KeptStrategy};
use names::Names;
use records::Records;
use slot::Slot;
use stages::Backend;

pub use drift::Drift;
pub use operate::{Activated, Activation, From, Undone};
pub use records::{Record, State};
pub use slot::Mode;

/// How often the names that are known are kept.
const KEEP: Duration = Duration::from_mins(1);
/// What operators ask for at once, with the component that each may hold.
const ACTIVATIONS: usize = 4;

/// What strategies are made of.
pub struct Made {
    /// What runs them.
    pub engine: Engine,
    /// What they learn of the stores.
    pub catalog: Vec<Backend>,
    /// The stores.
    pub stores: Catalog,
    /// What is near.
    pub cache: Arc<Cache>,
    /// Who watches.
    pub hub: Arc<Hub>,
    /// Bounds of what they remember.
    pub limits: LimitSettings,
    /// When it is.
    pub clock: Clock,
    /// How the keeping does.
    pub part: Part,
    /// Told that a source may have changed.
    pub look: Arc<Notify>,
    /// Told what the other replicas are to look at.
    pub publish: mpsc::Sender<Published>,
}

/// Takes versions from their sources to serving, and away again.
pub struct Lifecycle {
    made: Made,
    registry: Arc<Registry>,
    sources: Sources,
    slots: Mutex<BTreeMap<Arc<str>, Slot>>,
    /// Counts settings of strategies.
    revisions: AtomicU64,
    /// What is kept of strategies that the settings do not name now.
    absent: Mutex<BTreeMap<String, KeptStrategy>>,
    records: Records,
    names: Names,
    /// One version at a time is compared with what serves.
    way: tokio::sync::Mutex<()>,
    activations: Arc<Semaphore>,
    kept: Option<Kept>,
    /// One keeps at a time.
    keeping: tokio::sync::Mutex<()>,
    condemn: UnboundedSender<Condemned>,
    condemned: Mutex<Option<UnboundedReceiver<Condemned>>>,
    /// What tells when files change.
    files: Mutex<Option<RecommendedWatcher>>,
}

impl Lifecycle {
    /// Takes every strategy as far as it comes: what served before this gateway stopped, where that was kept; or else what its
    /// source holds. One that is rejected fails its own tags alone.
    pub async fn open(
        made: Made,
        strategies: &BTreeMap<String, StrategySettings>,
        state: Option<&Path>,
    ) -> Result<Arc<Self>, FolderError> {
        let kept = state.map(Kept::open).transpose()?;
        let (mut set, mut before) = (KeptSet::default(), Vec::new());
        if let Some(kept) = &kept {
            set = kept.set()?;
            before = kept.names().unwrap_or_else(|error| {
                tracing::warn!(%error, "the names that were known cannot be read");
                Vec::new()
            });
        }
        let (condemn, condemned) = unbounded_channel();
        let names = Names {
            hub: Arc::clone(&made.hub),
            cache: Arc::clone(&made.cache),
            clock: made.clock.clone(),
            before: before.into(),
        };
        let mut slots: BTreeMap<Arc<str>, Slot> = BTreeMap::new();
        let revisions = AtomicU64::new(0);
        for (name, settings) in strategies {
            let kept = set.strategies.remove(name).unwrap_or_default();
            let revision = revisions.fetch_add(1, Ordering::Relaxed);
            slots.insert(name.as_str().into(), Slot::new(settings, revision, kept, &made.limits));
        }
        let snapshot = Snapshot::default().counted_from(set.generation);
        let lifecycle = Self {
            made,
            registry: Arc::new(Registry::new(snapshot)),
            sources: Sources::default(),
            slots: Mutex::new(slots),
            revisions,
            absent: Mutex::new(set.strategies),
            records: Records::default(),
            names,
            way: tokio::sync::Mutex::default(),
            activations: Arc::new(Semaphore::new(ACTIVATIONS)),
            kept,
            keeping: tokio::sync::Mutex::default(),
            condemn,
            condemned: Mutex::new(Some(condemned)),
            files: Mutex::default(),
        };
        let names: Vec<Arc<str>> = lifecycle.slots().keys().cloned().collect();
        lifecycle.begin(&names).await;
        let lifecycle = Arc::new(lifecycle);
        lifecycle.keep().await;
        Ok(lifecycle)
    }

    /// Which strategy serves which tag.
    #[must_use]
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// How that strategy is to change.
    #[must_use]
    pub fn mode(&self, name: &str) -> Mode {
        self.slots().get(name).map_or(Mode::Follow, |slot| slot.mode)
    }

    /// The latest versions of each strategy, the newest first; and how each strategy is to change.
    #[must_use]
    pub fn records(&self) -> Vec<(Record, Mode)> {
        let slots = self.slots();
        let mode = |name: &str| slots.get(name).map_or(Mode::Follow, |slot| slot.mode);
        let records = self.records.all().into_iter();
        records.map(|record| (record.clone(), mode(&record.name))).collect()
    }

    /// Looks at every source whenever something says so, and once in a while; and takes away what is condemned. Until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let condemned = self.condemned.lock().unwrap_or_else(PoisonError::into_inner).take();
        let leaving = async {
            let Some(mut condemned) = condemned else { return };
            while let Some(condemned) = condemned.recv().await {
                self.leave(condemned).await;
            }
        };
        self.watch_files();
        let keeping = async {
            loop {
                sleep(KEEP).await;
                self.keep_names().await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            ((), (), ()) = async { tokio::join!(leaving, self.looking(), keeping) } => {}
        }
        self.keep_names().await;
    }

    /// From here on the files that sources are tell when they change.
    fn watch_files(&self) {
        let files: Vec<PathBuf> = {
            let slots = self.slots();
            let sources = slots.values().map(|slot| &slot.settings.source);
            let files = sources.filter_map(|source| match source {
                Source::File(path) => Some(path.clone()),
                _ => None,
            });
            files.collect()
        };
        // While none can be had, the look once in a while is all there is.
        let watcher = watched_files::watch(&files, Arc::clone(&self.made.look));
        *self.files.lock().unwrap_or_else(PoisonError::into_inner) = watcher;
    }

    fn absent(&self) -> MutexGuard<'_, BTreeMap<String, KeptStrategy>> {
        // Each change of it is one step.
        self.absent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Slot>> {
        // Each change of it is one step.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
