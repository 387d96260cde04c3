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
mod quarantine;
mod records;
pub(super) mod stages;
mod start;
mod way;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use notify::RecommendedWatcher;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::Notify;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::engine::Engine;
use super::memory::{KnownName, Memory};
use super::registry::{NotServed, Registry, Snapshot, Standing};
use super::source::Sources;
use super::trial::Condemned;
use super::version::{Identity, Version};
use crate::backend::Catalog;
use crate::cache::Cache;
use crate::clock::{Clock, jittered};
use crate::event::Published;
use crate::folder::FolderError;
use crate::settings::{LimitSettings, OnFailure, Source, StrategySettings};
use crate::status::Part;
use crate::watch::Hub;
use crate::watched_files;
use kept::{Kept, KeptSet, KeptStrategy};
use quarantine::Quarantine;
use records::Records;
use stages::{Backend, Rejected};

pub use drift::Drift;
pub use records::{Record, State};

/// How often every source is looked at, whatever events say.
const LOOK: Duration = Duration::from_mins(1);
/// After something says that a source changed: what comes meanwhile is seen by the same look.
const SETTLE: Duration = Duration::from_millis(200);
/// How often the names that are known are kept.
const KEEP: Duration = Duration::from_mins(1);
/// Names that are known, of all tenants and strategies.
const NAMES: usize = 100_000;
/// Versions that can be rolled back to, of each strategy.
const EARLIER: usize = 2;

/// Whether a strategy changes by itself, or serves at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It takes up what its source holds, and leaves what fails.
    #[default]
    Follow,
    /// It stays what it is until an operator says otherwise.
    Pinned,
    /// It is not called, and its tags fail.
    Disabled,
}

/// Of what the source held when it was last looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    version: Identity,
    /// Nothing more is to be done about it.
    settled: bool,
}

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
    records: Records,
    /// One version is on its way at a time.
    way: tokio::sync::Mutex<()>,
    kept: Option<Kept>,
    /// Of before this gateway started.
    names: Vec<KnownName>,
    /// One keeps at a time.
    keeping: tokio::sync::Mutex<()>,
    condemn: UnboundedSender<Condemned>,
    condemned: Mutex<Option<UnboundedReceiver<Condemned>>>,
    /// What tells when files change.
    files: Mutex<Option<RecommendedWatcher>>,
}

/// What is known of one strategy besides the version that serves.
struct Slot {
    settings: StrategySettings,
    mode: Mode,
    seen: Option<Seen>,
    quarantine: Quarantine,
    /// What can be rolled back to, the latest last.
    earlier: Vec<Arc<Version>>,
    /// What serves again once it is not disabled any more.
    disabled: Option<Arc<Version>>,
    /// What all versions have answered, if that is to stand in for what one cannot.
    last: Option<Arc<Memory>>,
}

/// What an operator asks for.
#[derive(Debug, Default)]
pub struct Activation {
    /// The strategy.
    pub name: String,
    /// Where the component is; the configured source, looked at again, if it does not say.
    pub from: Option<From>,
    /// Another component is refused.
    pub digest: Option<String>,
    /// What the component is given; what it was, if it does not say.
    pub settings: Option<Map<String, Value>>,
    /// Keys may lose what they have.
    pub allow_moves: bool,
    /// Everything but the activation.
    pub validate_only: bool,
    /// The one that is to be active; whichever, if it does not say.
    pub generation: Option<u64>,
}

/// Where a component is that is no configured source's.
#[derive(Debug)]
pub enum From {
    /// There.
    Source(Source),
    /// Here.
    Component(Vec<u8>),
}

/// What became of it.
#[derive(Debug, Clone)]
pub struct Activated {
    /// The version, in the state that it came to.
    pub record: Record,
    /// What it moves.
    pub drift: Drift,
}

/// Why nothing was done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Undone {
    /// The settings name no such strategy.
    #[error("the settings name no strategy `{0}`")]
    Unknown(String),
    /// Another is active.
    #[error("another version is active: generation {0}")]
    Overtaken(u64),
    /// It does not serve.
    #[error("the strategy is disabled: let it follow its source or pin it first")]
    Disabled,
    /// There is nothing to go back to.
    #[error("no earlier version is here to go back to")]
    NothingEarlier,
    /// It cannot be had, or not so.
    #[error("{0}")]
    Source(String),
    /// This gateway is going.
    #[error("the gateway is stopping")]
    Stopping,
}

/// Who wants a version, and how much.
#[derive(Debug, Clone, Copy)]
struct Wish {
    allow_moves: bool,
    validate_only: bool,
    generation: Option<u64>,
    /// Nobody in particular.
    by_itself: bool,
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
        let (mut set, mut names) = (KeptSet::default(), Vec::new());
        if let Some(kept) = &kept {
            // What cannot be read is said, and not served.
            set = kept.set().unwrap_or_else(|error| {
                tracing::error!(%error, "which strategies were active cannot be read; their sources decide");
                KeptSet::default()
            });
            names = kept.names().unwrap_or_else(|error| {
                tracing::warn!(%error, "the names that were known cannot be read");
                Vec::new()
            });
        }
        let (condemn, condemned) = unbounded_channel();
        let lifecycle = Self {
            made,
            registry: Arc::new(Registry::new(Snapshot::default().counted_from(set.generation.max(1)))),
            sources: Sources::default(),
            slots: Mutex::default(),
            records: Records::default(),
            way: tokio::sync::Mutex::default(),
            kept,
            names,
            keeping: tokio::sync::Mutex::default(),
            condemn,
            condemned: Mutex::new(Some(condemned)),
            files: Mutex::default(),
        };
        let mut snapshot = Snapshot::clone(&lifecycle.registry.current());
        for (name, settings) in strategies {
            let kept = set.strategies.remove(name).unwrap_or_default();
            let (standing, slot) = lifecycle
                .begin(&name.as_str().into(), settings, kept, snapshot.generation())
                .await;
            snapshot = snapshot.with(name.as_str().into(), standing);
            lifecycle.slots().insert(name.as_str().into(), slot);
        }
        lifecycle.registry.activate(snapshot);
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
            while let Some(Condemned {
                name,
                generation,
                reason,
            }) = condemned.recv().await
            {
                self.leave(&name, generation, &reason).await;
            }
        };
        self.watch_files();
        let looking = async {
            let mut next = Instant::now();
            loop {
                tokio::select! {
                    () = sleep_until(next) => {}
                    () = self.made.look.notified() => sleep(SETTLE).await,
                }
                next = Instant::now() + jittered(LOOK);
                self.look_everywhere().await;
            }
        };
        let keeping = async {
            loop {
                sleep(KEEP).await;
                self.keep_names().await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            ((), (), ()) = async { tokio::join!(leaving, looking, keeping) } => {}
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

    /// Does what an operator asks for, to its end, also if the operator leaves.
    pub async fn activate(self: &Arc<Self>, activation: Activation) -> Result<Activated, Undone> {
        let lifecycle = Arc::clone(self);
        let activated = tokio::spawn(async move { lifecycle.activate_here(activation).await });
        activated.await.map_err(|_| Undone::Stopping)?
    }

    async fn activate_here(&self, activation: Activation) -> Result<Activated, Undone> {
        let name: Arc<str> = activation.name.as_str().into();
        let unknown = || Undone::Unknown(activation.name.clone());
        let mut settings = self
            .slots()
            .get(&name)
            .map(|slot| slot.settings.clone())
            .ok_or_else(unknown)?;
        if let Some(given) = activation.settings {
            settings.settings = given;
        } else if let Some(active) = self.registry.current().serving(&name) {
            settings.settings.clone_from(&active.decides().settings.settings);
        }
        let is_of_source = activation.from.is_none();
        let bytes = match activation.from {
            Some(From::Component(bytes)) => bytes,
            Some(From::Source(source)) => {
                if matches!(source, Source::S3(_)) && activation.digest.is_none() && !settings.unpinned {
                    let problem = "say the digest of what lies there, or let the settings say unpinned = true";
                    return Err(Undone::Source(problem.to_owned()));
                }
                settings.source = source;
                self.fetch(&settings).await?
            }
            None => self.fetch(&settings).await?,
        };
        let digest = stages::sha256(&bytes);
        if let Some(wanted) = activation.digest.filter(|wanted| *wanted != digest) {
            return Err(Undone::Source(format!("it is {digest}, and not {wanted}")));
        }
        let wish = Wish {
            allow_moves: activation.allow_moves,
            validate_only: activation.validate_only,
            generation: activation.generation,
            by_itself: false,
        };
        let identity = Identity::new(digest, &settings);
        let activated = self.take(&name, bytes, &identity, settings, wish).await?;
        if activated.record.state == State::Active {
            if let Some(slot) = self.slots().get_mut(&name) {
                slot.quarantine.release(&identity);
                if is_of_source {
                    // Whatever it was given besides: the source is not to be looked at again for that.
                    slot.seen = Some(Seen::settled(Identity::new(identity.digest.clone(), &slot.settings)));
                }
            }
            self.keep().await;
            if is_of_source {
                // Nobody may listen, or what waits is enough.
                _ = self.made.publish.try_send(Published {
                    name,
                    digest: identity.digest,
                });
            }
        }
        Ok(activated)
    }

    async fn fetch(&self, settings: &StrategySettings) -> Result<Vec<u8>, Undone> {
        let fetched = self.sources.fetch(settings).await;
        fetched.map_err(|error| Undone::Source(format!("{}: {error}", settings.source)))
    }

    /// Goes back to the version before; from that `generation`, unless whichever is meant.
    pub async fn roll_back(&self, name: &str, generation: Option<u64>) -> Result<Record, Undone> {
        let reason = "an operator rolled it back";
        let record = self.go_back(name, generation, reason, |quarantine, version| {
            quarantine.hold_until_asked_for(version);
        })?;
        self.keep().await;
        Ok(record)
    }

    /// What failed leaves.
    async fn leave(&self, name: &Arc<str>, generation: u64, reason: &str) {
        if self.slots().get(name).is_none_or(|slot| slot.mode != Mode::Follow) {
            tracing::error!(
                strategy = &**name,
                generation,
                reason,
                "a version should leave, and is pinned"
            );
            return;
        }
        let now = self.made.clock.now();
        let left = self.go_back(name, Some(generation), reason, |quarantine, version| {
            quarantine.hold(version, now);
        });
        match left {
            Ok(_) => self.keep().await,
            Err(undone) => tracing::debug!(strategy = &**name, %undone, "a version had left already"),
        }
    }

    fn go_back(
        &self,
        name: &str,
        generation: Option<u64>,
        reason: &str,
        hold: impl FnOnce(&mut Quarantine, Identity),
    ) -> Result<Record, Undone> {
        let mut slots = self.slots();
        let (name, slot) = find(&mut slots, name)?;
        let current = self.registry.current();
        let serving = current.serving(&name).ok_or(Undone::Disabled)?;
        if generation.is_some_and(|generation| generation != serving.generation()) {
            return Err(Undone::Overtaken(serving.generation()));
        }
        let version = slot.earlier.pop().ok_or(Undone::NothingEarlier)?;
        let leaving = serving.decides().identity.clone();
        if let Some(seen) = slot.seen.as_mut().filter(|seen| seen.version == leaving) {
            // The quarantine says for how long.
            seen.settled = false;
        }
        hold(&mut slot.quarantine, leaving);
        tracing::error!(
            strategy = &*name,
            generation = serving.generation(),
            version = serving.version(),
            digest = serving.digest(),
            to = version.semver,
            reason,
            "a version is rolled back"
        );
        self.records.left(&name, &State::RolledBack(reason.to_owned()));
        let number = self.records.begin(&name, &version.identity.digest);
        let strategy = self.strategy(version, slot, None);
        self.commit(&current, &number, strategy).ok_or(Undone::Stopping)
    }

    /// Has it change by itself, stay as it is, or not serve.
    pub async fn set_mode(&self, name: &str, mode: Mode) -> Result<Option<Record>, Undone> {
        let record = self.set_mode_here(name, mode)?;
        self.keep().await;
        self.made.look.notify_one();
        Ok(record)
    }

    fn set_mode_here(&self, name: &str, mode: Mode) -> Result<Option<Record>, Undone> {
        let mut slots = self.slots();
        let (name, slot) = find(&mut slots, name)?;
        let current = self.registry.current();
        tracing::warn!(strategy = &*name, ?mode, before = ?slot.mode, "how a strategy is to change was set by an operator");
        slot.mode = mode;
        if mode == Mode::Disabled {
            if let Some(serving) = current.serving(&name) {
                slot.disabled = Some(Arc::clone(serving.decides()));
            }
            let standing = Standing::Not(slot.settings.tags.clone(), NotServed::Disabled);
            self.records.left(&name, &State::Draining);
            self.registry.activate(current.next().with(name, standing));
            return Ok(None);
        }
        let Some(version) = slot.disabled.take() else {
            if matches!(current.standing(&name), Some(Standing::Not(_, NotServed::Disabled))) {
                // It never served: the next look finds what it could.
                slot.seen = None;
                let rejected = Rejected::never(&name);
                let standing = Standing::Not(slot.settings.tags.clone(), NotServed::Rejected(rejected));
                self.registry.activate(current.next().with(name, standing));
                return Ok(None);
            }
            return Ok(self.records.active(&name));
        };
        let number = self.records.begin(&name, &version.identity.digest);
        let strategy = self.strategy(version, slot, None);
        Ok(self.commit(&current, &number, strategy))
    }

    /// Takes up other settings of strategies. What they change of one is taken up as another version of it would be.
    pub async fn take_up(&self, strategies: &BTreeMap<String, StrategySettings>) {
        {
            let mut slots = self.slots();
            for (name, settings) in strategies {
                if let Some(slot) = slots.get_mut(name.as_str()) {
                    slot.last = memory_of_all(settings, &self.made.limits, slot.last.take());
                    slot.settings = settings.clone();
                    continue;
                }
                let name: Arc<str> = name.as_str().into();
                let slot = Slot::new(settings, KeptStrategy::default(), &self.made.limits);
                let rejected = NotServed::Rejected(Rejected::never(&name));
                let standing = Standing::Not(settings.tags.clone(), rejected);
                self.registry
                    .activate(self.registry.current().next().with(Arc::clone(&name), standing));
                slots.insert(name, slot);
            }
            let gone: Vec<Arc<str>> = slots
                .keys()
                .filter(|name| !strategies.contains_key(&***name))
                .cloned()
                .collect();
            for name in gone {
                tracing::warn!(strategy = &*name, "the settings name it no more; it does not serve");
                slots.remove(&name);
                self.records.left(&name, &State::Draining);
                self.registry.activate(self.registry.current().next().without(&name));
            }
        }
        self.watch_files();
        self.look_everywhere().await;
        self.keep().await;
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Slot>> {
        // Each change of it is one step.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    fn new(settings: &StrategySettings, kept: KeptStrategy, limits: &LimitSettings) -> Self {
        Self {
            settings: settings.clone(),
            mode: kept.mode,
            seen: kept.seen,
            quarantine: kept.quarantine,
            earlier: Vec::new(),
            disabled: None,
            last: memory_of_all(settings, limits, None),
        }
    }
}

impl Seen {
    fn settled(version: Identity) -> Self {
        Self { version, settled: true }
    }
}

fn find<'s>(slots: &'s mut BTreeMap<Arc<str>, Slot>, name: &str) -> Result<(Arc<str>, &'s mut Slot), Undone> {
    let owned = slots.get_key_value(name).map(|(name, _)| Arc::clone(name));
    owned
        .and_then(|owned| Some((owned, slots.get_mut(name)?)))
        .ok_or_else(|| Undone::Unknown(name.to_owned()))
}

fn memory_of_all(
    settings: &StrategySettings,
    limits: &LimitSettings,
    before: Option<Arc<Memory>>,
) -> Option<Arc<Memory>> {
    match settings.on_failure {
        OnFailure::Closed => None,
        OnFailure::LastDecision => {
            Some(before.unwrap_or_else(|| Memory::new(limits.tenants, limits.decisions.0, 1).into()))
        }
    }
}
