//! The way of one version, from its component to serving; whatever refuses it, what served serves on.

use std::sync::Arc;

use super::Lifecycle;
use super::drift::{self, Drift, Values};
use super::kept::KeptVersion;
use super::operate::{Activated, Undone};
use super::records::{Number, Record, State};
use super::slot::{Mode, Slot, find};
use super::stages::{self, Rejected, Stage};
use crate::settings::StrategySettings;
use crate::strategy::decide::Strategy;
use crate::strategy::registry::{NotServed, Snapshot, Standing};
use crate::strategy::trial::Trial;
use crate::strategy::version::{Fingerprint, Version};

/// A component, and what it is given.
pub(super) struct Given {
    /// The strategy.
    pub(super) name: Arc<str>,
    pub(super) bytes: Arc<[u8]>,
    pub(super) fingerprint: Fingerprint,
    pub(super) settings: StrategySettings,
}

/// One that is to serve.
pub(super) struct Wanted {
    pub(super) given: Given,
    /// Of the slot's settings, out of which these were made.
    pub(super) revision: u64,
    /// It is what the configured source holds.
    pub(super) is_of_source: bool,
}

/// How much.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wish {
    pub(super) allow_moves: bool,
    pub(super) validate_only: bool,
    pub(super) generation: Option<u64>,
    /// Nobody in particular wants it.
    pub(super) by_itself: bool,
}

impl Lifecycle {
    /// Takes a component all the way.
    pub(super) async fn take(&self, wanted: Wanted, wish: Wish) -> Result<Activated, Undone> {
        let name = Arc::clone(&wanted.given.name);
        self.is_wanted(&wanted, wish)?;
        let current = self.registry.current();
        if current
            .serving(&name)
            .is_some_and(|active| active.decides().fingerprint == wanted.given.fingerprint)
            && let Some(record) = self.records.active(&name)
        {
            self.settle(&wanted, wish, false, true);
            // Whoever is told so is told of what outlives a restart.
            self.keep().await;
            let drift = Drift::default();
            return Ok(Activated { record, drift });
        }
        let number = self.records.begin(&name, &wanted.given.fingerprint.digest);
        if let Some(slot) = self.slots().get_mut(&name) {
            slot.is_tried(&wanted.given.fingerprint.digest);
        }
        self.keep().await;
        let prepared = self.prepare(&wanted.given, &number).await;
        if let Some(slot) = self.slots().get_mut(&name) {
            slot.was_tried(&wanted.given.fingerprint.digest);
        }
        let taken = match prepared {
            Ok(version) => self.compare_and_commit(&wanted, wish, &version.into(), &number).await,
            Err(rejected) => self.rejected(&number, rejected, Drift::default()),
        };
        let may_pass = match &taken {
            Ok(Activated { record, drift }) => match &record.state {
                // With more names known it may pass.
                State::Rejected(Stage::Shadowed, _) => !drift.is_covered(),
                State::Rejected(..) => record.may_pass,
                _ => false,
            },
            Err(_) => true,
        };
        let serves = taken.as_ref().is_ok_and(|taken| taken.record.state == State::Active);
        self.settle(&wanted, wish, may_pass, serves);
        self.keep().await;
        taken
    }

    /// Whether it would be taken up, as things are now.
    fn is_wanted(&self, wanted: &Wanted, wish: Wish) -> Result<Option<Arc<Strategy>>, Undone> {
        let current = self.registry.current();
        if matches!(
            current.standing(&wanted.given.name),
            Some(Standing::Not(_, NotServed::Disabled))
        ) {
            return Err(Undone::Disabled);
        }
        let active = current.serving(&wanted.given.name).cloned();
        let generation = active.as_ref().map_or(0, |active| active.generation());
        match wish.generation {
            Some(wished) if wished != generation => Err(Undone::Overtaken(generation)),
            _ => Ok(active),
        }
    }

    /// What the source holds was looked at.
    fn settle(&self, wanted: &Wanted, wish: Wish, may_pass: bool, serves: bool) {
        let mut slots = self.slots();
        let slot = slots
            .get_mut(&wanted.given.name)
            // Under other settings it may be another version by now.
            .filter(|slot| slot.revision == wanted.revision && wanted.is_of_source && !wish.validate_only);
        let Some(slot) = slot else { return };
        // It served and was rolled back before this was noted. For how long it is not looked at, the quarantine says.
        if slot.had_to_leave(&wanted.given.fingerprint, self.made.clock.now()) {
            return;
        }
        // Whatever it was given besides: the source is not to be looked at again for that.
        let digest = wanted.given.fingerprint.digest.clone();
        let configured = Fingerprint::new(digest, &slot.settings, &self.made.catalog);
        if configured == wanted.given.fingerprint || serves {
            slot.settles(configured, may_pass);
        }
    }

    async fn compare_and_commit(
        &self,
        wanted: &Wanted,
        wish: Wish,
        version: &Arc<Version>,
        number: &Number,
    ) -> Result<Activated, Undone> {
        let name = &wanted.given.name;
        // One at a time is compared with what serves, so that nothing else takes its place meanwhile, but for what has to.
        let _one_at_a_time = self.way.lock().await;
        let active = self.is_wanted(wanted, wish)?;
        let is_that = active
            .as_ref()
            .is_some_and(|active| active.decides().fingerprint == version.fingerprint);
        if let Some(record) = self.records.active(name).filter(|_| is_that) {
            // Somebody else was as quick.
            let reason = format!("it serves already, as generation {}", record.generation);
            self.records
                .change(number, |record| record.state = State::Rejected(Stage::Active, reason));
            let drift = Drift::default();
            return Ok(Activated { record, drift });
        }
        let strategy = {
            let mut slots = self.slots();
            let (_, slot) = find(&mut slots, name)?;
            let against = active.as_ref().map_or(Against::Nothing, |active| Against::Version {
                version: Arc::clone(active.decides()),
                may_refuse: wish.allow_moves,
                was_of_several: active.memory().is_of_several(),
            });
            self.strategy(version, slot, against)
        };
        let Some(strategy) = strategy else {
            return self.rejected(number, Rejected::ungranted(name), Drift::default());
        };
        let mut drift = Drift::default();
        if active.is_some() {
            let before = self.registry.current();
            let after = before
                .next()
                .with(Arc::clone(name), Standing::Serves(Arc::clone(&strategy)));
            drift = self.drift(&before, &after).await;
            if let Some(reason) = drift.refusal().filter(|_| !wish.allow_moves) {
                let rejected = Rejected {
                    name: Arc::clone(name),
                    stage: Stage::Shadowed,
                    reason,
                    may_pass: false,
                };
                return self.rejected(number, rejected, drift);
            }
        }
        let shadowed = State::Reached(Stage::Shadowed);
        let record = self.records.change(number, |record| record.state = shadowed);
        if wish.validate_only {
            return record.map(|record| Activated { record, drift }).ok_or(Undone::Stopping);
        }
        let mut slots = self.slots();
        let (_, slot) = find(&mut slots, name)?;
        let current = self.registry.current();
        let is_overtaken = match (current.serving(name), &active) {
            (None, None) => slot.mode == Mode::Disabled,
            (Some(now), Some(before)) => !Arc::ptr_eq(now, before),
            _ => true,
        };
        let is_unwanted = wish.by_itself && slot.mode != Mode::Follow && active.is_some();
        if is_overtaken || is_unwanted || slot.revision != wanted.revision {
            let generation = current.serving(name).map_or(0, |now| now.generation());
            let reason = "something else was decided meanwhile".to_owned();
            self.records
                .change(number, |record| record.state = State::Rejected(Stage::Active, reason));
            return Err(Undone::Overtaken(generation));
        }
        if let Some(active) = &active {
            slot.was_replaced(active.decides());
        }
        slot.condemned = None;
        slot.dormant = None;
        if !wish.by_itself {
            slot.quarantine.release(&wanted.given.fingerprint.digest);
            slot.quarantine.release(&wanted.given.fingerprint.whole());
        }
        let record = self.commit(&current, number, strategy).ok_or(Undone::Stopping)?;
        Ok(Activated { record, drift })
    }

    /// It serves from here on. Who calls holds the slots, so that it is this one.
    pub(super) fn commit(&self, current: &Snapshot, number: &Number, strategy: Arc<Strategy>) -> Option<Record> {
        let next = current.next();
        strategy.begins(next.generation());
        let record = self.records.activated(number, &strategy, self.made.clock.now());
        tracing::info!(
            strategy = &**strategy.name(),
            version = strategy.version(),
            digest = strategy.digest(),
            generation = strategy.generation(),
            "a version of a strategy serves"
        );
        let name = Arc::clone(strategy.name());
        self.registry.activate(next.with(name, Standing::Serves(strategy)));
        record
    }

    fn rejected(&self, number: &Number, rejected: Rejected, drift: Drift) -> Result<Activated, Undone> {
        let Rejected {
            name,
            stage,
            reason,
            may_pass,
        } = rejected;
        tracing::error!(strategy = &*name, %stage, reason, "a version of a strategy is rejected; what served serves on");
        let record = self.records.change(number, |record| {
            record.state = State::Rejected(stage, reason);
            record.may_pass = may_pass;
        });
        record.map(|record| Activated { record, drift }).ok_or(Undone::Stopping)
    }

    pub(super) async fn prepare(&self, given: &Given, number: &Number) -> Result<Version, Rejected> {
        let Given {
            name,
            bytes,
            fingerprint,
            settings,
        } = given;
        let (engine, catalog) = (&self.made.engine, &self.made.catalog);
        let mut prepared = stages::prepare(engine, name, settings, catalog, fingerprint.clone(), Arc::clone(bytes));
        while let Some(stage) = prepared.stage().await {
            self.records
                .change(number, |record| record.state = State::Reached(stage));
        }
        let version = prepared.end().await?;
        self.records.change(number, |record| {
            record.version.clone_from(&version.semver);
            record.tags.clone_from(&version.tags);
        });
        Ok(version)
    }

    /// A version that was kept, prepared again with what it was given, as far as `settings` grant it still.
    pub(super) async fn make_again(
        &self,
        name: &Arc<str>,
        settings: &StrategySettings,
        kept: &KeptVersion,
        number: &Number,
    ) -> Result<Arc<Version>, String> {
        let made = async {
            let folder = self.kept.as_ref().ok_or("nothing was kept")?;
            let bytes = folder
                .component(&kept.version.digest)
                .map_err(|error| error.to_string())?;
            let settings = kept.settings(settings);
            let given = Given {
                name: Arc::clone(name),
                bytes: bytes.into(),
                fingerprint: Fingerprint::new(kept.version.digest.clone(), &settings, &self.made.catalog),
                settings,
            };
            let version = self.prepare(&given, number).await;
            version.map(Arc::new).map_err(|rejected| rejected.to_string())
        };
        made.await.inspect_err(|problem| {
            let state = State::Rejected(Stage::Active, problem.clone());
            self.records.change(number, |record| record.state = state);
        })
    }

    /// What serves by that version, as far as the slot's settings grant it. None: they grant it nothing.
    pub(super) fn strategy(&self, version: &Arc<Version>, slot: &Slot, against: Against) -> Option<Arc<Strategy>> {
        let version = version.within(&slot.settings)?;
        let trial = match against {
            Against::Nothing => None,
            Against::WhatItWas(trial) => trial,
            Against::Version {
                version: before,
                may_refuse,
                was_of_several,
            } => {
                let cache = Arc::clone(&self.made.cache);
                let rollback = &version.settings.rollback;
                Some(
                    Trial::new(
                        before,
                        rollback,
                        may_refuse,
                        was_of_several,
                        cache,
                        self.condemn.clone(),
                    )
                    .into(),
                )
            }
        };
        Some(Strategy::new(version, &self.made.limits, slot.last.clone(), trial).into())
    }

    async fn drift(&self, before: &Arc<Snapshot>, after: &Snapshot) -> Drift {
        let values = Values {
            cache: &self.made.cache,
            stores: &self.made.stores,
        };
        let known = self.names.all(Arc::clone(before)).await;
        drift::compare(before, after, known, &values).await
    }
}

/// What a version is on trial against.
pub(super) enum Against {
    /// It is on no trial.
    Nothing,
    /// On that which it is on already.
    WhatItWas(Option<Arc<Trial>>),
    /// What served until now.
    Version {
        version: Arc<Version>,
        may_refuse: bool,
        was_of_several: bool,
    },
}
