//! Which strategies serve, whoever or whatever brought that about.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Audit, Outcome, Record};
use crate::strategy::Registry;

/// Who is said to have done what the gateway does by itself.
const OURSELVES: &str = "tagway";

impl Audit {
    /// Writes down what serves, and each change of it. Runs until it is dropped.
    pub async fn follow(&self, registry: &Registry) {
        let mut generations = registry.generations();
        let mut before: BTreeMap<Arc<str>, (String, u64)> = BTreeMap::new();
        loop {
            generations.mark_unchanged();
            let snapshot = registry.current();
            let now: BTreeMap<Arc<str>, (String, u64)> = snapshot
                .strategies()
                .map(|strategy| {
                    let served = (strategy.digest().to_owned(), strategy.generation());
                    (Arc::clone(strategy.name()), served)
                })
                .collect();
            for (name, (digest, generation)) in &now {
                if before.get(name) != Some(&(digest.clone(), *generation)) {
                    self.note(Record {
                        subject: OURSELVES,
                        strategy: name,
                        digest,
                        generation: *generation,
                        ..Record::new("StrategyServes", Outcome::Done)
                    });
                }
            }
            for (name, (digest, generation)) in &before {
                if !now.contains_key(name) {
                    self.note(Record {
                        subject: OURSELVES,
                        strategy: name,
                        digest,
                        generation: *generation,
                        ..Record::new("StrategyServesNoMore", Outcome::Done)
                    });
                }
            }
            before = now;
            if generations.changed().await.is_err() {
                return;
            }
        }
    }
}
