//! What a strategy is when a gateway starts: what it was when it stopped, or else what its source holds.

use std::sync::Arc;

use super::Lifecycle;
use super::kept::KeptVersion;
use super::operate::Undone;
use super::records::State;
use super::slot::{Mode, Stored, find};
use super::stages::{self, Rejected, Stage};
use super::way::{Against, Wanted};
use crate::settings::StrategySettings;
use crate::strategy::decide::Strategy;
use crate::strategy::registry::{NotServed, Standing};
use crate::strategy::version::{Identity, Version};

impl Lifecycle {
    /// What served before serves again, whatever its source holds by now: that is looked at soon, like any other.
    pub(super) async fn begin(&self, name: &Arc<str>) -> Result<(), Undone> {
        let (settings, mode, dormant) = {
            let mut slots = self.slots();
            let (_, slot) = find(&mut slots, name)?;
            (slot.settings.clone(), slot.mode, slot.dormant.clone())
        };
        let not = |why| Standing::Not(settings.tags.clone(), why);
        if mode == Mode::Disabled {
            // It is not even prepared: that may be why it is.
            self.stands(name, not(NotServed::Disabled));
            return Ok(());
        }
        let mut why_not = None;
        if let Some(Stored::Kept(active)) = dormant {
            let digest = &active.version.digest;
            let now = self.made.clock.now();
            let held_back = match self.slots().get_mut(name) {
                Some(slot) => {
                    // It served: what is held against it otherwise is held against something else.
                    let held_back = slot.ends_processes(digest, now);
                    if !held_back {
                        slot.is_tried(digest);
                    }
                    held_back
                }
                None => false,
            };
            self.keep().await;
            let again = if held_back {
                Err("the process ended while it was prepared".to_owned())
            } else {
                self.begin_again(name, &settings, &active).await
            };
            if let Some(slot) = self.slots().get_mut(name) {
                slot.was_tried(digest);
            }
            match again {
                Ok(strategy) => {
                    self.stands(name, Standing::Serves(strategy));
                    return Ok(());
                }
                Err(problem) => {
                    tracing::error!(strategy = &**name, problem, "what served before cannot serve again");
                    why_not = Some(problem);
                }
            }
        }
        match self.begin_anew(name, settings.clone(), mode, why_not).await {
            Ok(strategy) => self.stands(name, Standing::Serves(strategy)),
            Err(rejected) => {
                tracing::error!(strategy = &**name, stage = %rejected.stage, reason = rejected.reason,
                    "a strategy is rejected; its tags fail");
                self.stands(name, not(NotServed::Rejected(rejected)));
            }
        }
        Ok(())
    }

    /// What it is from the beginning.
    fn stands(&self, name: &Arc<str>, standing: Standing) {
        let mut slots = self.slots();
        let next = self.registry.current().next();
        if let (Standing::Serves(_), Some(slot)) = (&standing, slots.get_mut(name)) {
            slot.dormant = None;
        }
        self.registry.activate(next.with(Arc::clone(name), standing));
    }

    async fn begin_again(
        &self,
        name: &Arc<str>,
        settings: &StrategySettings,
        active: &KeptVersion,
    ) -> Result<Arc<Strategy>, String> {
        let number = self.records.begin(name, &active.version.digest);
        let version = self.make_again(name, settings, active, &number).await?;
        let strategy = self.strategy_of(name, &version).ok_or("the settings grant it no tag")?;
        strategy.begins(active.generation);
        self.records.activated(&number, &strategy, active.activated);
        Ok(strategy)
    }

    async fn begin_anew(
        &self,
        name: &Arc<str>,
        settings: StrategySettings,
        mode: Mode,
        why_not: Option<String>,
    ) -> Result<Arc<Strategy>, Rejected> {
        let refused = |reason: String| Rejected {
            name: Arc::clone(name),
            stage: Stage::Active,
            reason,
            may_pass: true,
        };
        if let Some(problem) = why_not.filter(|_| mode == Mode::Pinned) {
            return Err(refused(format!("it is pinned to what cannot serve again: {problem}")));
        }
        let fetched = self.sources.fetch(&settings).await;
        let bytes = fetched.map_err(|error| Rejected::unfetched(name, &settings.source, &error))?;
        let identity = Identity::new(stages::sha256(&bytes), &settings, &self.made.catalog);
        let now = self.made.clock.now();
        if let Some(slot) = self.slots().get_mut(name) {
            if slot.holds_back(&identity, now) {
                let reason = "what its source holds was rolled back, or the process ended while it was prepared";
                return Err(refused(reason.to_owned()));
            }
            slot.is_tried(&identity.digest);
        }
        self.keep().await;
        let number = self.records.begin(name, &identity.digest);
        let wanted = Wanted {
            name: Arc::clone(name),
            bytes: bytes.into(),
            identity,
            settings,
            revision: 0,
            is_of_source: true,
        };
        let prepared = self.prepare(&wanted, &number).await;
        if let Some(slot) = self.slots().get_mut(name) {
            slot.was_tried(&wanted.identity.digest);
            let may_pass = prepared.as_ref().is_err_and(|rejected| rejected.may_pass);
            slot.settles(wanted.identity, may_pass);
        }
        let version = prepared.inspect_err(|rejected| {
            let state = State::Rejected(rejected.stage, rejected.reason.clone());
            self.records.change(&number, |record| record.state = state);
        })?;
        let strategy = self.strategy_of(name, &version.into());
        let strategy = strategy.ok_or_else(|| Rejected::ungranted(name))?;
        strategy.begins(self.registry.current().generation() + 1);
        self.records.activated(&number, &strategy, self.made.clock.now());
        let (version, digest) = (strategy.version(), strategy.digest());
        tracing::info!(strategy = &**name, version, digest, "a strategy serves");
        Ok(strategy)
    }

    fn strategy_of(&self, name: &Arc<str>, version: &Arc<Version>) -> Option<Arc<Strategy>> {
        self.strategy(version, self.slots().get(name)?, Against::Nothing)
    }
}
