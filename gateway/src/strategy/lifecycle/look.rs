//! Looking at sources: what lies there decides, not who said that it does.

use std::sync::Arc;

use super::records::State;
use super::stages::{self, Stage};
use super::{Activated, Lifecycle, Mode, Seen, Slot, Wish};
use crate::strategy::version::Identity;

impl Lifecycle {
    /// Looks at every source.
    pub(super) async fn look_everywhere(&self) {
        let names: Vec<Arc<str>> = self.slots().keys().cloned().collect();
        for name in names {
            self.look_at(&name).await;
        }
    }

    /// Looks at a source, and takes up what lies there if that is another version than when it was looked at before.
    pub(super) async fn look_at(&self, name: &Arc<str>) {
        let follows = |slot: &&Slot| slot.mode == Mode::Follow;
        let settings = self.slots().get(name).filter(follows).map(|slot| slot.settings.clone());
        let Some(settings) = settings else { return };
        let bytes = match self.sources.fetch(&settings).await {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::warn!(strategy = &**name, source = %settings.source, %error, "a strategy's source cannot be looked at");
                return;
            }
        };
        let identity = Identity::new(stages::sha256(&bytes), &settings);
        let now = self.made.clock.now();
        {
            let mut slots = self.slots();
            let Some(slot) = slots.get_mut(name) else { return };
            let is_settled = slot.seen.as_ref() == Some(&Seen::settled(identity.clone()));
            if is_settled {
                return;
            }
            if slot.quarantine.holds(&identity, now) {
                tracing::warn!(
                    strategy = &**name,
                    digest = identity.digest,
                    "what a source holds was rolled back, and is held back"
                );
                return;
            }
        }
        let wish = Wish {
            allow_moves: false,
            validate_only: false,
            generation: None,
            by_itself: true,
        };
        let taken = self.take(name, bytes, &identity, settings, wish).await;
        let settled = match &taken {
            // With more names known it may pass.
            Ok(Activated { record, drift }) => {
                !matches!(record.state, State::Rejected(Stage::Shadowed, _)) || drift.is_covered()
            }
            Err(_) => false,
        };
        if let Some(slot) = self.slots().get_mut(name) {
            slot.seen = Some(Seen {
                version: identity,
                settled,
            });
        }
        self.keep().await;
    }
}
