//! What operators ask for. To roll back, to disable and to pin asks nobody and waits for no version on its way; but for a version
//! that has to be prepared again, because this gateway was started since.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Map, Value};

use super::Lifecycle;
use super::drift::Drift;
use super::kept::Components;
use super::quarantine::Quarantine;
use super::records::{Record, State};
use super::slot::{Mode, Slot, Stored, find};
use super::stages::{self, Rejected};
use super::way::{Against, Given, Wanted, Wish};
use crate::event::Published;
use crate::settings::{Source, StrategySettings};
use crate::strategy::decide::Strategy;
use crate::strategy::registry::{NotServed, Standing};
use crate::strategy::trial::{Condemned, Trial};
use crate::strategy::version::{Fingerprint, Version};

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
            given: Given {
                name: Arc::clone(&name),
                bytes: bytes.into(),
                fingerprint: Fingerprint::new(digest, &settings, &self.made.catalog),
                settings,
            },
            revision,
            is_of_source,
        };
        let wish = Wish {
            allow_moves: activation.allow_moves,
            validate_only: activation.validate_only,
            generation: activation.generation,
            by_itself: false,
        };
        let digest = wanted.given.fingerprint.digest.clone();
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

    /// Goes back to the version before, to its end; from that `generation`, unless whichever is meant.
    pub async fn roll_back(self: &Arc<Self>, name: &str, generation: Option<u64>) -> Result<Record, Undone> {
        let (lifecycle, name) = (Arc::clone(self), name.to_owned());
        let back = tokio::spawn(async move {
            let reason = "an operator rolled it back";
            let meant = |serving: &Strategy| generation.is_none_or(|meant| meant == serving.generation());
            let held = |quarantine: &mut Quarantine, what: &str| quarantine.hold_until_asked_for(what);
            let record = lifecycle.go_back(&name, meant, reason, held).await?;
            lifecycle.keep().await;
            Ok(record)
        });
        back.await.map_err(|_| Undone::Stopping)?
    }

    /// What failed leaves, unless it is pinned: then it leaves when it is not any more.
    pub(super) async fn leave(&self, condemned: Condemned) {
        if let Some(slot) = self.slots().get_mut(&condemned.name)
            && slot.mode != Mode::Follow
        {
            let Condemned { name, digest, reason } = &condemned;
            tracing::error!(
                strategy = &**name,
                digest,
                reason,
                "a version should leave, and is pinned"
            );
            slot.condemned = Some(condemned);
            return;
        }
        let Condemned { name, digest, reason } = condemned;
        let now = self.made.clock.now();
        let meant = |serving: &Strategy| serving.digest() == digest;
        let held = |quarantine: &mut Quarantine, what: &str| quarantine.hold(what, now);
        match self.go_back(&name, meant, &reason, held).await {
            Ok(_) => self.keep().await,
            Err(undone) => tracing::warn!(strategy = &*name, %undone, reason, "a version should leave, and does not"),
        }
    }

    async fn go_back(
        &self,
        name: &str,
        is_meant: impl Fn(&Strategy) -> bool,
        reason: &str,
        hold: impl FnOnce(&mut Quarantine, &str),
    ) -> Result<Record, Undone> {
        let (leaving, earlier) = {
            let mut slots = self.slots();
            let (name, slot) = find(&mut slots, name)?;
            let current = self.registry.current();
            let leaving = current.serving(&name).cloned().ok_or(Undone::Disabled)?;
            if !is_meant(&leaving) {
                return Err(Undone::Overtaken(leaving.generation()));
            }
            (leaving, slot.earlier.last().cloned().ok_or(Undone::NothingEarlier)?)
        };
        let version = self.again(name, &earlier).await?;
        let mut slots = self.slots();
        let (name, slot) = find(&mut slots, name)?;
        let current = self.registry.current();
        match current.serving(&name) {
            Some(serving) if Arc::ptr_eq(serving, &leaving) => {}
            // Something was decided meanwhile.
            serving => return Err(Undone::Overtaken(serving.map_or(0, |serving| serving.generation()))),
        }
        let strategy = self
            .strategy(&version, slot, Against::Nothing)
            .ok_or(Undone::NothingEarlier)?;
        slot.earlier.pop();
        let fingerprint = &leaving.decides().fingerprint;
        if fingerprint.digest == version.fingerprint.digest {
            // The component is the same: it is its settings that have to leave.
            hold(&mut slot.quarantine, &fingerprint.whole());
        } else {
            hold(&mut slot.quarantine, &fingerprint.digest);
        }
        tracing::error!(
            strategy = &*name,
            generation = leaving.generation(),
            version = leaving.version(),
            digest = leaving.digest(),
            to = version.semver,
            reason,
            "a version is rolled back"
        );
        // For how long, the quarantine says.
        slot.seen = slot.seen.take().filter(|seen| seen.version != *fingerprint);
        self.records.left(&name, &State::RolledBack(reason.to_owned()));
        let number = self.records.begin(&name, &version.fingerprint.digest);
        self.commit(&current, &number, strategy).ok_or(Undone::Stopping)
    }

    /// A version that was kept, as it was.
    async fn again(&self, name: &str, stored: &Stored) -> Result<Arc<Version>, Undone> {
        match stored {
            Stored::Here { version, .. } => Ok(Arc::clone(version)),
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

    /// Has it change by itself, stay as it is, or not serve; to its end.
    pub async fn set_mode(self: &Arc<Self>, name: &str, mode: Mode) -> Result<Option<Record>, Undone> {
        let (lifecycle, name) = (Arc::clone(self), name.to_owned());
        let set = tokio::spawn(async move { lifecycle.set_mode_here(&name, mode).await });
        set.await.map_err(|_| Undone::Stopping)?
    }

    async fn set_mode_here(&self, name: &str, mode: Mode) -> Result<Option<Record>, Undone> {
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
        slot.said += 1;
        let current = self.registry.current();
        if let Some(serving) = current.serving(&name) {
            slot.dormant = Some(Stored::of(serving));
        }
        self.records.left(&name, &State::Draining);
        let standing = Standing::Not(slot.settings.tags.clone(), NotServed::Disabled);
        self.registry.activate(current.next().with(name, standing));
        Ok(())
    }

    async fn enable(&self, name: &str, mode: Mode) -> Result<Option<Record>, Undone> {
        let (dormant, said) = {
            let mut slots = self.slots();
            let (name, slot) = find(&mut slots, name)?;
            slot.said += 1;
            if slot.mode != Mode::Disabled {
                slot.mode = mode;
                return Ok(self.records.active(&name));
            }
            (slot.dormant.clone(), slot.said)
        };
        let version = match &dormant {
            Some(dormant) => self.again(name, dormant).await.inspect_err(|problem| {
                tracing::error!(strategy = name, %problem, "what served before cannot serve again");
            }),
            None => Err(Undone::NothingEarlier),
        };
        let mut slots = self.slots();
        let (name, slot) = find(&mut slots, name)?;
        let current = self.registry.current();
        if slot.said != said {
            // Something else was said meanwhile.
            return Err(Undone::Overtaken(
                current.serving(&name).map_or(0, |serving| serving.generation()),
            ));
        }
        slot.mode = mode;
        let against = Against::WhatItWas(dormant.and_then(Stored::trial));
        let strategy = version.ok().and_then(|version| self.strategy(&version, slot, against));
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
    /// is taken up as another version of it would be, by the look that follows.
    pub async fn take_up(&self, strategies: &BTreeMap<String, StrategySettings>) {
        let mut new = Vec::new();
        {
            let mut slots = self.slots();
            for (name, settings) in strategies {
                let name: Arc<str> = name.as_str().into();
                let revision = self.revisions.fetch_add(1, Ordering::Relaxed);
                if let Some(slot) = slots.get_mut(&name) {
                    if slot.takes_up(settings, revision, &self.made.limits) {
                        self.is_granted(&name, slot);
                    }
                    continue;
                }
                let kept = self.absent().remove(&*name).unwrap_or_default();
                let slot = Slot::new(settings, revision, kept, &self.made.limits);
                let not = NotServed::Rejected(Rejected::never(&name));
                let standing = Standing::Not(settings.tags.clone(), not);
                let next = self.registry.current().next().with(Arc::clone(&name), standing);
                self.registry.activate(next);
                slots.insert(Arc::clone(&name), slot);
                new.push(name);
            }
            let is_gone = |name: &&Arc<str>| !strategies.contains_key(&***name);
            let gone: Vec<Arc<str>> = slots.keys().filter(is_gone).cloned().collect();
            for name in gone {
                tracing::warn!(strategy = &*name, "the settings name it no more; it does not serve");
                if let Some(slot) = slots.remove(&name) {
                    let kept = self.kept(&name, &slot, &mut Components::new());
                    self.absent().insert(name.to_string(), kept);
                }
                self.records.left(&name, &State::Draining);
                self.registry.activate(self.registry.current().next().without(&name));
            }
        }
        self.watch_files();
        self.made.look.notify_one();
        // As at a start.
        self.begin(&new).await;
        self.made.look.notify_one();
        self.keep().await;
    }

    /// What serves has what the settings grant, and no more.
    fn is_granted(&self, name: &Arc<str>, slot: &mut Slot) {
        let current = self.registry.current();
        let tags = slot.settings.tags.clone();
        let not = |why| Standing::Not(tags, why);
        let Some(serving) = current.serving(name) else {
            // What lost all that it served may serve again.
            if slot.mode != Mode::Disabled
                && let Some(Stored::Here { version, trial }) = slot.dormant.clone()
                && let Some(strategy) = self.strategy(&version, slot, Against::WhatItWas(trial))
            {
                slot.dormant = None;
                let number = self.records.begin(name, strategy.digest());
                self.commit(&current, &number, strategy);
            } else if let Some(Standing::Not(_, why)) = current.standing(name) {
                // The tags that fail are those that are granted now.
                self.registry
                    .activate(current.next().with(Arc::clone(name), not(why.clone())));
            }
            return;
        };
        let version = serving.decides();
        let against = Against::WhatItWas(serving.trial().cloned());
        match self.strategy(version, slot, against) {
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
                slot.dormant = Some(Stored::of(serving));
                self.records.left(name, &State::Draining);
                let rejected = Rejected::ungranted(name);
                let standing = not(NotServed::Rejected(rejected));
                self.registry.activate(current.next().with(Arc::clone(name), standing));
            }
        }
    }
}

impl Stored {
    /// What serves.
    fn of(serving: &Strategy) -> Self {
        Self::Here {
            version: Arc::clone(serving.decides()),
            trial: serving.trial().cloned(),
        }
    }

    fn trial(self) -> Option<Arc<Trial>> {
        match self {
            Self::Here { trial, .. } => trial,
            Self::Kept(_) => None,
        }
    }
}
