//! Looking at sources: what lies there decides, not who said that it does.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};

use super::Lifecycle;
use super::slot::{Mode, Slot};
use super::stages;
use super::way::{Given, Wanted, Wish};
use crate::strategy::version::Identity;

impl Lifecycle {
    /// Looks at every source, at each by itself: one that does not answer keeps no other.
    pub(super) async fn look_everywhere(&self) {
        let names: Vec<Arc<str>> = self.slots().keys().cloned().collect();
        stream::iter(names)
            .for_each_concurrent(None, |name| async move { self.look_at(&name).await })
            .await;
    }

    /// Looks at a source, and takes up what lies there if that is another version than when it was looked at before.
    async fn look_at(&self, name: &Arc<str>) {
        // What is pinned to nothing takes what there is.
        let serves_nothing = |slot: &Slot| slot.dormant.is_none() && self.registry.current().serving(name).is_none();
        let follows = |slot: &&Slot| match slot.mode {
            Mode::Follow => true,
            Mode::Pinned => serves_nothing(slot),
            Mode::Disabled => false,
        };
        let configured = {
            let slots = self.slots();
            let slot = slots.get(name).filter(|slot| !slot.begins).filter(follows);
            slot.map(|slot| (slot.settings.clone(), slot.revision))
        };
        let Some((settings, revision)) = configured else { return };
        let bytes = match self.sources.fetch(&settings).await {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::warn!(strategy = &**name, source = %settings.source, %error, "a strategy's source cannot be looked at");
                return;
            }
        };
        let identity = Identity::new(stages::sha256(&bytes), &settings, &self.made.catalog);
        let now = self.made.clock.now();
        {
            let mut slots = self.slots();
            let Some(slot) = slots.get_mut(name) else { return };
            if slot.has_settled(&identity) {
                return;
            }
            if slot.holds_back(&identity, now) {
                let digest = identity.digest;
                tracing::warn!(
                    strategy = &**name,
                    digest,
                    "what a source holds was rolled back, and is held back"
                );
                return;
            }
        }
        let wanted = Wanted {
            given: Given {
                name: Arc::clone(name),
                bytes: bytes.into(),
                identity,
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
            tracing::info!(strategy = &**name, %undone, "what a source holds was not taken up");
        }
    }
}
