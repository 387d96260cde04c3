//! What a strategy is when a gateway starts: what it was when it stopped, or else what its source holds.
//!
//! Sources are asked all at once, so that those which do not answer take no more of a start than one of them. Components are prepared one
//! after the other: if that ends the process, it is known which of them did.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use tokio::sync::Mutex;

use super::Lifecycle;
use super::kept::KeptVersion;
use super::records::{Number, State};
use super::slot::{Mode, Slot, Stored, find};
use super::stages::{self, Rejected, Stage};
use super::way::{Against, Given};
use crate::settings::StrategySettings;
use crate::strategy::decide::Strategy;
use crate::strategy::registry::{NotServed, Snapshot, Standing};
use crate::strategy::version::{Fingerprint, Version};

/// One that is to be what its source holds.
struct Fresh {
    name: Arc<str>,
    settings: StrategySettings,
    /// Of these settings.
    revision: u64,
}

/// A version that can serve.
struct Ready {
    number: Number,
    strategy: Arc<Strategy>,
    /// What it was when the gateway stopped, if it served then.
    before: Option<KeptVersion>,
}

impl Lifecycle {
    /// What served before serves again, whatever its source holds by now: that is looked at soon, like any other.
    pub(super) async fn begin(&self, names: &[Arc<str>]) {
        let mut fresh = Vec::new();
        for name in names {
            match self.begin_again(name).await {
                Some(one) => fresh.push(one),
                None => self.has_begun(name),
            }
        }
        let turn = &Mutex::new(());
        stream::iter(fresh)
            .for_each_concurrent(None, |fresh| async move {
                let fetched = self.sources.fetch(&fresh.settings).await;
                let _turn = turn.lock().await;
                self.begin_anew(&fresh, fetched).await;
                self.has_begun(&fresh.name);
            })
            .await;
    }

    fn has_begun(&self, name: &str) {
        if let Some(slot) = self.slots().get_mut(name) {
            slot.begins = false;
        }
    }

    /// Returns what cannot be what it was.
    async fn begin_again(&self, name: &Arc<str>) -> Option<Fresh> {
        let (fresh, mode, dormant) = {
            let mut slots = self.slots();
            let (name, slot) = find(&mut slots, name).ok()?;
            let fresh = Fresh {
                name,
                settings: slot.settings.clone(),
                revision: slot.revision,
            };
            (fresh, slot.mode, slot.dormant.clone())
        };
        if mode == Mode::Disabled {
            // It is not even prepared: that may be why it is.
            self.does_not_serve(&fresh, NotServed::Disabled);
            return None;
        }
        let Some(Stored::Kept(active)) = dormant else {
            return Some(fresh);
        };
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
            self.as_it_was(&fresh, &active).await
        };
        if let Some(slot) = self.slots().get_mut(name) {
            slot.was_tried(digest);
        }
        self.keep().await;
        match again {
            Ok(ready) => {
                self.serves(&fresh, ready);
                None
            }
            Err(problem) => {
                tracing::error!(strategy = &**name, problem, "what served before cannot serve again");
                if mode == Mode::Pinned {
                    let reason = format!("it is pinned to what cannot serve again: {problem}");
                    self.is_rejected(&fresh, refused(name, reason));
                    return None;
                }
                Some(fresh)
            }
        }
    }

    async fn as_it_was(&self, fresh: &Fresh, active: &KeptVersion) -> Result<Ready, String> {
        let Fresh { name, settings, .. } = fresh;
        let number = self.records.begin(name, &active.version.digest);
        let version = self.make_again(name, settings, active, &number).await?;
        let strategy = self.strategy_of(name, &version).ok_or("the settings grant it no tag")?;
        Ok(Ready {
            number,
            strategy,
            before: Some(active.clone()),
        })
    }

    async fn begin_anew(&self, fresh: &Fresh, fetched: io::Result<Vec<u8>>) {
        match self.as_fetched(fresh, fetched).await {
            Ok(ready) => self.serves(fresh, ready),
            Err(rejected) => self.is_rejected(fresh, rejected),
        }
    }

    async fn as_fetched(&self, fresh: &Fresh, fetched: io::Result<Vec<u8>>) -> Result<Ready, Rejected> {
        let Fresh { name, settings, .. } = fresh;
        let bytes = fetched.map_err(|error| Rejected::unfetched(name, &settings.source, &error))?;
        let fingerprint = Fingerprint::new(stages::sha256(&bytes), settings, &self.made.catalog);
        let now = self.made.clock.now();
        if let Some(slot) = self.slots().get_mut(name) {
            if slot.holds_back(&fingerprint, now) {
                let reason = "what its source holds was rolled back, or the process ended while it was prepared";
                return Err(refused(name, reason.to_owned()));
            }
            slot.is_tried(&fingerprint.digest);
        }
        self.keep().await;
        let number = self.records.begin(name, &fingerprint.digest);
        let given = Given {
            name: Arc::clone(name),
            bytes: bytes.into(),
            fingerprint,
            settings: settings.clone(),
        };
        let prepared = self.prepare(&given, &number).await;
        if let Some(slot) = self.slots().get_mut(name) {
            slot.was_tried(&given.fingerprint.digest);
            let may_pass = prepared.as_ref().is_err_and(|rejected| rejected.may_pass);
            slot.settles(given.fingerprint, may_pass);
        }
        self.keep().await;
        let version = prepared.inspect_err(|rejected| {
            let state = State::Rejected(rejected.stage, rejected.reason.clone());
            self.records.change(&number, |record| record.state = state);
        })?;
        let strategy = self.strategy_of(name, &version.into());
        let strategy = strategy.ok_or_else(|| Rejected::ungranted(name))?;
        Ok(Ready {
            number,
            strategy,
            before: None,
        })
    }

    fn strategy_of(&self, name: &Arc<str>, version: &Arc<Version>) -> Option<Arc<Strategy>> {
        self.strategy(version, self.slots().get(name)?, Against::Nothing)
    }

    /// It does from here on; unless something else was decided meanwhile.
    fn serves(&self, fresh: &Fresh, ready: Ready) {
        let Ready {
            number,
            strategy,
            before,
        } = ready;
        let mut slots = self.slots();
        let current = self.registry.current();
        let Some(slot) = fresh.undecided(&mut slots, &current, false) else {
            let reason = "something else was decided meanwhile".to_owned();
            let state = State::Rejected(Stage::Active, reason);
            self.records.change(&number, |record| record.state = state);
            return;
        };
        slot.dormant = None;
        let Some(before) = before else {
            self.commit(&current, &number, strategy);
            return;
        };
        strategy.begins(before.generation);
        self.records.activated(&number, &strategy, before.activated);
        let name = Arc::clone(&fresh.name);
        self.registry
            .activate(current.next().with(name, Standing::Serves(strategy)));
    }

    fn is_rejected(&self, fresh: &Fresh, rejected: Rejected) {
        tracing::error!(strategy = &*fresh.name, stage = %rejected.stage, reason = rejected.reason,
            "a strategy is rejected; its tags fail");
        self.does_not_serve(fresh, NotServed::Rejected(rejected));
    }

    /// From here on, for that reason; unless something else was decided meanwhile.
    fn does_not_serve(&self, fresh: &Fresh, why: NotServed) {
        let mut slots = self.slots();
        let current = self.registry.current();
        let is_disabled = matches!(why, NotServed::Disabled);
        if fresh.undecided(&mut slots, &current, is_disabled).is_some() {
            let standing = Standing::Not(fresh.settings.tags.clone(), why);
            let name = Arc::clone(&fresh.name);
            self.registry.activate(current.next().with(name, standing));
        }
    }
}

impl Fresh {
    /// Its slot, if it is disabled or not as it was, has the settings that it had, and serves nothing: neither an operator nor a look at its
    /// source has decided otherwise.
    fn undecided<'s>(
        &self,
        slots: &'s mut BTreeMap<Arc<str>, Slot>,
        current: &Snapshot,
        is_disabled: bool,
    ) -> Option<&'s mut Slot> {
        let slot = slots.get_mut(&self.name)?;
        let is_as_it_was = slot.revision == self.revision && (slot.mode == Mode::Disabled) == is_disabled;
        (is_as_it_was && current.serving(&self.name).is_none()).then_some(slot)
    }
}

fn refused(name: &Arc<str>, reason: String) -> Rejected {
    Rejected {
        name: Arc::clone(name),
        stage: Stage::Active,
        reason,
        may_pass: true,
    }
}
