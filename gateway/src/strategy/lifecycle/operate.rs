//! What operators ask for. To roll back, to disable and to pin asks nobody and waits for no version on its way.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::Lifecycle;
use super::drift::Drift;
use super::quarantine::Quarantine;
use super::records::{Record, State};
use super::slot::{Mode, Slot, Stored, find};
use super::stages::{self, Rejected};
use super::way::{Wanted, Wish};
use crate::event::Published;
use crate::settings::{Source, StrategySettings};
use crate::strategy::registry::{NotServed, Standing};
use crate::strategy::trial::Condemned;
use crate::strategy::version::{Identity, Version};

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
    /// Others are on their way.
    #[error("other versions are on their way: try again")]
    Busy,
    /// This gateway is going.
    #[error("the gateway is stopping")]
    Stopping,
}

impl Lifecycle {
    /// Does what an operator asks for, to its end, also if the operator leaves.
    pub async fn activate(self: &Arc<Self>, activation: Activation) -> Result<Activated, Undone> {
        let lifecycle = Arc::clone(self);
        let turn = Arc::clone(&self.activations)
            .try_acquire_owned()
            .map_err(|_| Undone::Busy)?;
        let activated = tokio::spawn(async move {
            let _turn = turn;
            lifecycle.activate_here(activation).await
        });
        activated.await.map_err(|_| Undone::Stopping)?
    }

    async fn activate_here(&self, activation: Activation) -> Result<Activated, Undone> {
        let name: Arc<str> = activation.name.as_str().into();
        let (mut settings, revision) = {
            let mut slots = self.slots();
            let (_, slot) = find(&mut slots, &name)?;
            (slot.settings.clone(), slot.revision)
        };
        if let Some(given) = activation.settings {
            settings.settings = given;
        } else if let Some(active) = self.registry.current().serving(&name) {
            settings.settings.clone_from(&active.decides().settings.settings);
        }
        let is_of_source = activation.from.is_none();
        let bytes = match activation.from {
            None => self.fetch(&settings).await?,
            Some(from) => {
                // That one is for what the configured source holds.
                settings.digest = None;
                match from {
                    From::Component(bytes) => bytes,
                    From::Source(source) => {
                        if matches!(source, Source::S3(_)) && activation.digest.is_none() && !settings.unpinned {
                            let problem = "say the digest of what lies there, or let the settings say unpinned = true";
                            return Err(Undone::Source(problem.to_owned()));
                        }
                        settings.source = source;
                        self.fetch(&settings).await?
                    }
                }
            }
        };
        let digest = stages::sha256(&bytes);
        if let Some(wanted) = activation.digest.filter(|wanted| *wanted != digest) {
            return Err(Undone::Source(format!("it is {digest}, and not {wanted}")));
        }
        let wanted = Wanted {
            name: Arc::clone(&name),
            bytes: bytes.into(),
            identity: Identity::new(digest, &settings, &self.made.catalog),
            settings,
            revision,
            is_of_source,
        };
        let wish = Wish {
            allow_moves: activation.allow_moves,
            validate_only: activation.validate_only,
            generation: activation.generation,
            by_itself: false,
        };
        let digest = wanted.identity.digest.clone();
        let activated = self.take(wanted, wish).await?;
        if activated.record.state == State::Active && is_of_source && !activation.validate_only {
            // Nobody may listen, or what waits is enough.
            _ = self.made.publish.try_send(Published { name, digest });
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
        let held = |quarantine: &mut Quarantine, digest: &str| quarantine.hold_until_asked_for(digest);
        let record = self.go_back(name, generation, reason, held).await?;
        self.keep().await;
        Ok(record)
    }

    /// What failed leaves, unless it is pinned: then it leaves when it is not any more.
    pub(super) async fn leave(&self, condemned: Condemned) {
        if let Some(slot) = self.slots().get_mut(&condemned.name)
            && slot.mode != Mode::Follow
        {
            let Condemned {
                name,
                generation,
                reason,
            } = &condemned;
            tracing::error!(
                strategy = &**name,
                generation,
                reason,
                "a version should leave, and is pinned"
            );
            slot.condemned = Some(condemned);
            return;
        }
        let Condemned {
            name,
            generation,
            reason,
        } = condemned;
        let now = self.made.clock.now();
        let held = |quarantine: &mut Quarantine, digest: &str| quarantine.hold(digest, now);
        match self.go_back(&name, Some(generation), &reason, held).await {
            Ok(_) => self.keep().await,
            Err(undone) => tracing::warn!(strategy = &*name, %undone, reason, "a version should leave, and does not"),
        }
    }

    async fn go_back(
        &self,
        name: &str,
        generation: Option<u64>,
        reason: &str,
        hold: impl FnOnce(&mut Quarantine, &str),
    ) -> Result<Record, Undone> {
        let earlier = {
            let mut slots = self.slots();
            let (name, slot) = find(&mut slots, name)?;
            self.is_active(&name, generation)?;
            slot.earlier.last().cloned().ok_or(Undone::NothingEarlier)?
        };
        let version = self.again(name, &earlier).await?;
        let mut slots = self.slots();
        let (name, slot) = find(&mut slots, name)?;
        let current = self.registry.current();
        let serving = self.is_active(&name, generation)?;
        // Unless another went back meanwhile.
        if !slot.earlier.pop().is_some_and(|last| last.is(&version)) {
            return Err(Undone::Overtaken(serving));
        }
        let strategy = self.strategy(&version, slot, None).ok_or(Undone::NothingEarlier)?;
        if let Some(leaving) = current.serving(&name) {
            let identity = &leaving.decides().identity;
            hold(&mut slot.quarantine, &identity.digest);
            tracing::error!(
                strategy = &*name,
                generation = serving,
                version = leaving.version(),
                digest = leaving.digest(),
                to = version.semver,
                reason,
                "a version is rolled back"
            );
            // For how long, the quarantine says.
            slot.seen = slot.seen.take().filter(|seen| seen.version.digest != identity.digest);
        }
        self.records.left(&name, &State::RolledBack(reason.to_owned()));
        let number = self.records.begin(&name, &version.identity.digest);
        self.commit(&current, &number, strategy).ok_or(Undone::Stopping)
    }

    /// The generation that serves under that name, if it is the one that is meant.
    fn is_active(&self, name: &str, generation: Option<u64>) -> Result<u64, Undone> {
        let current = self.registry.current();
        let serving = current.serving(name).ok_or(Undone::Disabled)?.generation();
        match generation {
            Some(meant) if meant != serving => Err(Undone::Overtaken(serving)),
            _ => Ok(serving),
        }
    }

    /// A version that was kept, as it was.
    async fn again(&self, name: &str, stored: &Stored) -> Result<Arc<Version>, Undone> {
        match stored {
            Stored::Here(version) => Ok(Arc::clone(version)),
            Stored::Kept(kept) => {
                let settings = self.slots().get(name).map(|slot| slot.settings.clone());
                let settings = settings.ok_or_else(|| Undone::Unknown(name.to_owned()))?;
                let number = self.records.begin(&name.into(), &kept.version.digest);
                self.make_again(&name.into(), &settings, kept, &number)
                    .await
                    .map_err(Undone::Source)
            }
        }
    }

    /// Has it change by itself, stay as it is, or not serve.
    pub async fn set_mode(&self, name: &str, mode: Mode) -> Result<Option<Record>, Undone> {
        let record = if mode == Mode::Disabled {
            self.disable(name)?;
            None
        } else {
            self.enable(name, mode).await?
        };
        self.keep().await;
        let condemned = match self.slots().get_mut(name) {
            Some(slot) if mode == Mode::Follow => slot.condemned.take(),
            _ => None,
        };
        if let Some(condemned) = condemned {
            self.leave(condemned).await;
        }
        self.made.look.notify_one();
        Ok(record)
    }

    fn disable(&self, name: &str) -> Result<(), Undone> {
        let mut slots = self.slots();
        let (name, slot) = find(&mut slots, name)?;
        slot.mode = Mode::Disabled;
        let current = self.registry.current();
        if let Some(serving) = current.serving(&name) {
            slot.dormant = Some(Stored::Here(Arc::clone(serving.decides())));
        }
        self.records.left(&name, &State::Draining);
        let standing = Standing::Not(slot.settings.tags.clone(), NotServed::Disabled);
        self.registry.activate(current.next().with(name, standing));
        Ok(())
    }

    async fn enable(&self, name: &str, mode: Mode) -> Result<Option<Record>, Undone> {
        let dormant = {
            let mut slots = self.slots();
            let (name, slot) = find(&mut slots, name)?;
            if slot.mode != Mode::Disabled {
                slot.mode = mode;
                return Ok(self.records.active(&name));
            }
            slot.dormant.clone()
        };
        let version = match &dormant {
            Some(dormant) => Some(self.again(name, dormant).await?),
            None => None,
        };
        let mut slots = self.slots();
        let (name, slot) = find(&mut slots, name)?;
        slot.mode = mode;
        let current = self.registry.current();
        let strategy = version.and_then(|version| self.strategy(&version, slot, None));
        let Some(strategy) = strategy else {
            // It never served, or may not any more: the next look finds what could.
            slot.seen = None;
            let rejected = Rejected::never(&name);
            let standing = Standing::Not(slot.settings.tags.clone(), NotServed::Rejected(rejected));
            self.registry.activate(current.next().with(name, standing));
            return Ok(None);
        };
        slot.dormant = None;
        let number = self.records.begin(&name, strategy.digest());
        Ok(self.commit(&current, &number, strategy))
    }

    /// Takes up other settings of strategies. What they do not grant any more is gone at once; what else they change of a strategy
    /// is taken up as another version of it would be.
    pub async fn take_up(&self, strategies: &BTreeMap<String, StrategySettings>) {
        {
            let mut slots = self.slots();
            for (name, settings) in strategies {
                let name: Arc<str> = name.as_str().into();
                if let Some(slot) = slots.get_mut(&name) {
                    if slot.takes_up(settings, &self.made.limits) {
                        self.is_granted(&name, slot);
                    }
                    continue;
                }
                let kept = self.absent().remove(&*name).unwrap_or_default();
                let slot = Slot::new(settings, kept, &self.made.limits);
                let why = match slot.mode {
                    Mode::Disabled => NotServed::Disabled,
                    Mode::Follow | Mode::Pinned => NotServed::Rejected(Rejected::never(&name)),
                };
                let standing = Standing::Not(settings.tags.clone(), why);
                let next = self.registry.current().next().with(Arc::clone(&name), standing);
                self.registry.activate(next);
                slots.insert(name, slot);
            }
            let is_gone = |name: &&Arc<str>| !strategies.contains_key(&***name);
            let gone: Vec<Arc<str>> = slots.keys().filter(is_gone).cloned().collect();
            for name in gone {
                tracing::warn!(strategy = &*name, "the settings name it no more; it does not serve");
                if let Some(slot) = slots.remove(&name) {
                    self.absent().insert(name.to_string(), slot.said());
                }
                self.records.left(&name, &State::Draining);
                self.registry.activate(self.registry.current().next().without(&name));
            }
        }
        self.watch_files();
        self.look_everywhere().await;
        self.keep().await;
    }

    /// What serves has what the settings grant, and no more.
    fn is_granted(&self, name: &Arc<str>, slot: &Slot) {
        let current = self.registry.current();
        let not = |why| Standing::Not(slot.settings.tags.clone(), why);
        let Some(serving) = current.serving(name) else {
            // The tags that fail are those that are granted now.
            if let Some(Standing::Not(_, why)) = current.standing(name) {
                self.registry
                    .activate(current.next().with(Arc::clone(name), not(why.clone())));
            }
            return;
        };
        let version = serving.decides();
        match self.strategy(version, slot, None) {
            Some(clipped) if Arc::ptr_eq(clipped.decides(), version) => {}
            Some(clipped) => {
                tracing::warn!(
                    strategy = &**name,
                    "the settings grant it less; it has that from here on"
                );
                let number = self.records.begin(name, clipped.digest());
                self.commit(&current, &number, clipped);
            }
            None => {
                tracing::warn!(strategy = &**name, "the settings grant it no tag that it serves");
                self.records.left(name, &State::Draining);
                let rejected = Rejected::ungranted(name);
                self.registry.activate(
                    current
                        .next()
                        .with(Arc::clone(name), not(NotServed::Rejected(rejected))),
                );
            }
        }
    }
}

impl Stored {
    fn is(&self, version: &Arc<Version>) -> bool {
        match self {
            Self::Here(here) => Arc::ptr_eq(here, version),
            Self::Kept(kept) => kept.version.digest == version.identity.digest,
        }
    }
}
