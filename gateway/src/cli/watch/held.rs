//! What was told so far, so that nothing is told twice: by key, the etag of what stands.

use std::collections::{HashMap, HashSet};

use tagway_proto::v1::watch_configs_response::Removed;

use super::Change;

/// Most etags that a gateway is told of.
const KNOWN: usize = 10_000;

#[derive(Default)]
pub(super) struct Held {
    etags: HashMap<String, String>,
    /// What this stream's gateway was not told of. It says nothing of it where it is gone.
    untold: HashSet<String>,
    was_synced: bool,
}

impl Held {
    /// What a gateway is to know, at the beginning of a stream.
    pub(super) fn known(&mut self) -> HashMap<String, String> {
        self.untold = self.etags.keys().skip(KNOWN).cloned().collect();
        let told = self.etags.iter().take(KNOWN);
        told.map(|(key, etag)| (key.clone(), etag.clone())).collect()
    }

    /// Takes it up. Returns whether it differs from what was told.
    pub(super) fn is_news(&mut self, change: &Change) -> bool {
        self.untold.remove(change.key());
        match change {
            Change::Put(config) => {
                let before = self.etags.insert(config.key.clone(), config.etag.clone());
                before.as_ref() != Some(&config.etag)
            }
            // Each stream begins with the named keys that do not stand. The first time that is news.
            Change::Removed(removed) => self.etags.remove(&removed.key).is_some() || !self.was_synced,
        }
    }

    /// What is gone, where everything that stands has been told.
    pub(super) fn gone(&self) -> Vec<Removed> {
        let gone = self.untold.iter().map(|key| Removed {
            key: key.clone(),
            etag: self.etags.get(key).cloned().unwrap_or_default(),
        });
        gone.collect()
    }

    /// Everything that stands has been told.
    pub(super) fn synced(&mut self) {
        self.was_synced = true;
    }
}
