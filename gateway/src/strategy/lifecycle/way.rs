//! The way of one version, from its component to serving; whatever refuses it, what served serves on.

use std::collections::HashSet;
use std::sync::Arc;

use super::drift::{self, Drift, Values};
use super::records::{Number, Record, State};
use super::stages::{self, Rejected, Stage};
use super::{Activated, EARLIER, Lifecycle, Mode, NAMES, Slot, Undone, Wish, find};
use crate::placement::{Place, Space};
use crate::settings::StrategySettings;
use crate::strategy::decide::Strategy;
use crate::strategy::memory::{Bags, KnownName};
use crate::strategy::registry::{NotServed, Snapshot, Standing};
use crate::strategy::trial::Trial;
use crate::strategy::version::{Identity, Version};

impl Lifecycle {
    /// Takes a component all the way.
    pub(super) async fn take(
        &self,
        name: &Arc<str>,
        bytes: Vec<u8>,
        identity: &Identity,
        settings: StrategySettings,
        wish: Wish,
    ) -> Result<Activated, Undone> {
        let _one_at_a_time = self.way.lock().await;
        let before = self.registry.current();
        let active = before.serving(name).cloned();
        let generation = active.as_ref().map_or(0, |active| active.generation());
        if wish.generation.is_some_and(|wished| wished != generation) {
            return Err(Undone::Overtaken(generation));
        }
        if matches!(before.standing(name), Some(Standing::Not(_, NotServed::Disabled))) {
            return Err(Undone::Disabled);
        }
        if active
            .as_ref()
            .is_some_and(|active| active.decides().identity == *identity)
            && let Some(record) = self.records.active(name)
        {
            return Ok(Activated {
                record,
                drift: Drift::default(),
            });
        }
        let number = self.records.begin(name, &identity.digest);
        let version = match self.prepare(name, &settings, bytes, identity, &number).await {
            Ok(version) => Arc::new(version),
            Err(rejected) => return self.rejected(&number, rejected, Drift::default()),
        };
        let strategy = {
            let mut slots = self.slots();
            let (_, slot) = find(&mut slots, name)?;
            let against = active
                .as_ref()
                .map(|active| (Arc::clone(active.decides()), wish.allow_moves));
            self.strategy(version, slot, against)
        };
        let mut drift = Drift::default();
        if active.is_some() {
            let after = before
                .next()
                .with(Arc::clone(name), Standing::Serves(Arc::clone(&strategy)));
            drift = self.drift(&before, &after).await;
            if let Some(reason) = drift_refused(&drift).filter(|_| !wish.allow_moves) {
                let rejected = Rejected {
                    name: Arc::clone(name),
                    stage: Stage::Shadowed,
                    reason,
                };
                return self.rejected(&number, rejected, drift);
            }
        }
        let record = self
            .records
            .change(&number, |record| record.state = State::Reached(Stage::Shadowed));
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
        if is_overtaken || (wish.by_itself && slot.mode != Mode::Follow) {
            let generation = current.serving(name).map_or(0, |now| now.generation());
            let reason = format!("it was overtaken by generation {generation}");
            self.records
                .change(&number, |record| record.state = State::Rejected(Stage::Active, reason));
            return Err(Undone::Overtaken(generation));
        }
        if let Some(active) = &active {
            slot.earlier.push(Arc::clone(active.decides()));
            let too_many = slot.earlier.len().saturating_sub(EARLIER);
            slot.earlier.drain(..too_many);
        }
        let record = self.commit(&current, &number, strategy).ok_or(Undone::Stopping)?;
        Ok(Activated { record, drift })
    }

    /// It serves from here on.
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
        self.registry
            .activate(next.with(Arc::clone(strategy.name()), Standing::Serves(strategy)));
        record
    }

    pub(super) fn rejected(&self, number: &Number, rejected: Rejected, drift: Drift) -> Result<Activated, Undone> {
        let Rejected { name, stage, reason } = rejected;
        tracing::error!(strategy = &*name, %stage, reason, "a version of a strategy is rejected; what served serves on");
        let state = State::Rejected(stage, reason);
        let record = self.records.change(number, |record| record.state = state);
        record.map(|record| Activated { record, drift }).ok_or(Undone::Stopping)
    }

    pub(super) async fn prepare(
        &self,
        name: &Arc<str>,
        settings: &StrategySettings,
        bytes: Vec<u8>,
        identity: &Identity,
        number: &Number,
    ) -> Result<Version, Rejected> {
        if let Some(kept) = self.kept.clone() {
            let (digest, bytes) = (identity.digest.clone(), bytes.clone());
            let kept = tokio::task::spawn_blocking(move || kept.keep_component(&digest, &bytes)).await;
            if let Ok(Err(error)) = kept {
                self.made
                    .part
                    .is_away(&format!("a component could not be kept: {error}"));
            }
        }
        let (engine, catalog) = (&self.made.engine, &self.made.catalog);
        let mut reached = stages::prepare(engine, name, settings, catalog, identity.clone(), bytes);
        while let Some(stage) = reached.stage().await {
            self.records
                .change(number, |record| record.state = State::Reached(stage));
        }
        let version = reached.end().await?;
        self.records.change(number, |record| {
            record.version.clone_from(&version.semver);
            record.tags.clone_from(&version.tags);
        });
        Ok(version)
    }

    pub(super) fn strategy(
        &self,
        version: Arc<Version>,
        slot: &Slot,
        against: Option<(Arc<Version>, bool)>,
    ) -> Arc<Strategy> {
        let trial = against.map(|(before, may_refuse)| {
            Trial::new(before, &version.settings.rollback, may_refuse, self.condemn.clone())
        });
        Strategy::new(version, &self.made.limits, slot.last.clone(), trial).into()
    }

    pub(super) async fn drift(&self, before: &Snapshot, after: &Snapshot) -> Drift {
        let values = Values {
            cache: &self.made.cache,
            stores: &self.made.stores,
        };
        drift::compare(before, after, self.known_names(before), &values).await
    }

    /// Every name that is remembered, near or watched here, or was.
    pub(super) fn known_names(&self, snapshot: &Snapshot) -> Vec<KnownName> {
        let remembered: Vec<KnownName> = snapshot
            .strategies()
            .flat_map(|strategy| strategy.known_names())
            .collect();
        let nameless = |place: &Place, verified| match place.name.range().space() {
            Space::Shared => None,
            Space::Tenant(tenant) => Some(KnownName {
                tenant: tenant.clone(),
                verified,
                key: place.name.key(),
                bags: Bags::default(),
            }),
        };
        let watched = self.made.hub.known_places();
        let watched = watched
            .iter()
            .filter_map(|(place, tenant)| nameless(place, Some(tenant.clone())));
        let near = self.made.cache.places_of(None, &HashSet::new());
        let near = near.iter().filter_map(|place| nameless(place, None));
        let all = remembered
            .into_iter()
            .chain(self.names.iter().cloned())
            .chain(watched)
            .chain(near);
        drift::each_once(all, NAMES)
    }
}

fn drift_refused(drift: &Drift) -> Option<String> {
    let Drift {
        known, judged, moved, ..
    } = drift;
    if *moved > 0 {
        Some(format!(
            "{moved} of {known} known keys would not be found any more, or another value in their place: allow_moves accepts that"
        ))
    } else if *known == 0 {
        Some(
            "no key that it would decide is known here yet, so nothing can be compared: allow_moves does without"
                .to_owned(),
        )
    } else if !drift.is_covered() {
        Some(format!(
            "only {judged} of {known} known keys could be compared: allow_moves does without the others"
        ))
    } else {
        None
    }
}
