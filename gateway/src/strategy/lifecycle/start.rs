//! What a strategy is when a gateway starts: what it was when it stopped, or else what its source holds.

use std::sync::Arc;

use super::kept::{KeptStrategy, KeptVersion};
use super::records::State;
use super::stages::{self, Rejected};
use super::{Lifecycle, Mode, Seen, Slot};
use crate::settings::StrategySettings;
use crate::strategy::decide::Strategy;
use crate::strategy::registry::{NotServed, Standing};
use crate::strategy::version::Identity;

impl Lifecycle {
    /// What a strategy is at the start.
    pub(super) async fn begin(
        &self,
        name: &Arc<str>,
        settings: &StrategySettings,
        kept: KeptStrategy,
        generation: u64,
    ) -> (Standing, Slot) {
        let fetched = self.sources.fetch(settings).await;
        let held = fetched
            .as_ref()
            .ok()
            .map(|bytes| Identity::new(stages::sha256(bytes), settings));
        let was_active = kept.active.clone();
        let mut slot = Slot::new(settings, kept, &self.made.limits);
        let mut standing = None;
        // What served before serves again, whatever the source holds by now: that is looked at like any other.
        if let Some(active) = was_active {
            match self.begin_again(name, settings, &slot, &active).await {
                Ok(strategy) => {
                    if held.as_ref() == Some(&active.version) {
                        slot.seen = Some(Seen::settled(active.version));
                    }
                    standing = Some(Standing::Serves(strategy));
                }
                Err(problem) => {
                    tracing::error!(
                        strategy = &**name,
                        problem,
                        "what served before cannot serve again; the source decides"
                    );
                }
            }
        }
        if standing.is_none() {
            let first = match fetched {
                Ok(bytes) => self.begin_anew(name, settings, &slot, bytes, generation).await,
                Err(error) => Err(Rejected::unfetched(name, &settings.source, &error)),
            };
            if let Some(held) = held {
                slot.seen = Some(Seen::settled(held));
            }
            standing = Some(match first {
                Ok(strategy) => Standing::Serves(strategy),
                Err(rejected) => {
                    tracing::error!(strategy = &**name, stage = %rejected.stage, reason = rejected.reason,
                        "a strategy is rejected; its tags fail");
                    Standing::Not(settings.tags.clone(), NotServed::Rejected(rejected))
                }
            });
        }
        if slot.mode == Mode::Disabled {
            if let Some(Standing::Serves(strategy)) = &standing {
                slot.disabled = Some(Arc::clone(strategy.decides()));
            }
            self.records.left(name, &State::Draining);
            standing = Some(Standing::Not(settings.tags.clone(), NotServed::Disabled));
        }
        let nothing = || Standing::Not(settings.tags.clone(), NotServed::Disabled);
        (standing.unwrap_or_else(nothing), slot)
    }

    pub(super) async fn begin_again(
        &self,
        name: &Arc<str>,
        settings: &StrategySettings,
        slot: &Slot,
        active: &KeptVersion,
    ) -> Result<Arc<Strategy>, String> {
        let Some(kept) = &self.kept else {
            return Err("nothing was kept".to_owned());
        };
        let bytes = kept
            .component(&active.version.digest)
            .map_err(|error| error.to_string())?;
        let number = self.records.begin(name, &active.version.digest);
        let settings = active.settings(settings);
        let version = self.prepare(name, &settings, bytes, &active.version, &number).await;
        let version = version.map_err(|rejected| {
            let state = State::Rejected(rejected.stage, rejected.reason.clone());
            self.records.change(&number, |record| record.state = state);
            rejected.to_string()
        })?;
        let strategy = self.strategy(version.into(), slot, None);
        strategy.begins(active.generation);
        self.records.activated(&number, &strategy, active.activated);
        Ok(strategy)
    }

    pub(super) async fn begin_anew(
        &self,
        name: &Arc<str>,
        settings: &StrategySettings,
        slot: &Slot,
        bytes: Vec<u8>,
        generation: u64,
    ) -> Result<Arc<Strategy>, Rejected> {
        let identity = Identity::new(stages::sha256(&bytes), settings);
        let number = self.records.begin(name, &identity.digest);
        let version = self
            .prepare(name, settings, bytes, &identity, &number)
            .await
            .inspect_err(|rejected| {
                let state = State::Rejected(rejected.stage, rejected.reason.clone());
                self.records.change(&number, |record| record.state = state);
            })?;
        let strategy = self.strategy(version.into(), slot, None);
        strategy.begins(generation);
        self.records.activated(&number, &strategy, self.made.clock.now());
        tracing::info!(
            strategy = &**name,
            version = strategy.version(),
            digest = strategy.digest(),
            "a strategy serves"
        );
        Ok(strategy)
    }
}
