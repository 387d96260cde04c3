//! Looking at sources: what lies there decides, not who said that it does.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::JoinMap;

use super::Lifecycle;
use super::slot::{Mode, Slot};
use super::stages;
use super::way::{Given, Wanted, Wish};
use crate::clock::jittered;
use crate::strategy::version::Fingerprint;

/// How often every source is looked at, whatever events say.
const LOOK: Duration = Duration::from_mins(1);
/// After something says that a source changed: what comes meanwhile is seen by the same look.
const SETTLE: Duration = Duration::from_millis(200);
/// After a look, however many say that a source changed.
const REST: Duration = Duration::from_secs(1);

/// A strategy, under settings of that revision: others name another source.
type Configured = (Arc<str>, u64);

impl Lifecycle {
    /// Looks at every source whenever something says so, and once in a while; at each by itself, so that one that does not answer keeps no
    /// other waiting. Until it is dropped.
    pub(super) async fn looking(self: &Arc<Self>) {
        let mut looks: JoinMap<Configured, ()> = JoinMap::new();
        // Those may have changed since they were asked, so they are asked once more.
        let mut again: BTreeSet<Configured> = BTreeSet::new();
        let mut next = Instant::now();
        loop {
            tokio::select! {
                biased;
                Some((source, ended)) = looks.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(strategy = &*source.0, %error, "a look at a source broke down");
                    }
                    if again.remove(&source) {
                        looks.spawn(source.clone(), Arc::clone(self).look_at(source.0));
                    }
                    continue;
                }
                () = sleep_until(next) => {}
                () = self.made.look.notified() => sleep(SETTLE).await,
            }
            next = Instant::now() + jittered(LOOK);
            for source in self.configured() {
                if looks.contains_key(&source) {
                    again.insert(source);
                } else {
                    looks.spawn(source.clone(), Arc::clone(self).look_at(source.0));
                }
            }
            sleep(REST).await;
        }
    }

    fn configured(&self) -> Vec<Configured> {
        let slots = self.slots();
        slots
            .iter()
            .map(|(name, slot)| (Arc::clone(name), slot.revision))
            .collect()
    }

    /// Looks at a source, and takes up what lies there if that is another version than when it was looked at before.
    async fn look_at(self: Arc<Self>, name: Arc<str>) {
        // What is pinned to nothing takes what there is.
        let serves_nothing = |slot: &Slot| slot.dormant.is_none() && self.registry.current().serving(&name).is_none();
        let follows = |slot: &&Slot| match slot.mode {
            Mode::Follow => true,
            Mode::Pinned => serves_nothing(slot),
            Mode::Disabled => false,
        };
        let configured = {
            let slots = self.slots();
            let slot = slots.get(&name).filter(|slot| !slot.begins).filter(follows);
            slot.map(|slot| (slot.settings.clone(), slot.revision))
        };
        let Some((settings, revision)) = configured else { return };
        let bytes = match self.sources.fetch(&settings).await {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::warn!(strategy = &*name, source = %settings.source, %error, "a strategy's source cannot be looked at");
                return;
            }
        };
        let fingerprint = Fingerprint::new(stages::sha256(&bytes), &settings, &self.made.catalog);
        let now = self.made.clock.now();
        {
            let mut slots = self.slots();
            let Some(slot) = slots.get_mut(&name) else { return };
            if slot.has_settled(&fingerprint) {
                return;
            }
            if slot.holds_back(&fingerprint, now) {
                let digest = fingerprint.digest;
                tracing::warn!(
                    strategy = &*name,
                    digest,
                    "what a source holds was rolled back, and is held back"
                );
                return;
            }
        }
        let wanted = Wanted {
            given: Given {
                name: Arc::clone(&name),
                bytes: bytes.into(),
                fingerprint,
                settings,
            },
            revision,
            is_of_source: true,
        };
        let wish = Wish {
            allow_moves: false,
            validate_only: false,
            generation: None,
            by_itself: true,
        };
        if let Err(undone) = self.take(wanted, wish).await {
            tracing::info!(strategy = &*name, %undone, "what a source holds was not taken up");
        }
    }
}
