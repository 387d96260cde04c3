//! Tokens that verified, so that a signature is checked once and not with every request.

use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::{Token, VerifiedCaller};

/// Bounded in bytes; the least used go first.
pub(super) struct Remembered(Cache<Token, Entry, Bytes>);

#[derive(Clone)]
struct Entry {
    /// Of the key set that it verified against.
    generation: u64,
    caller: Arc<VerifiedCaller>,
}

#[derive(Clone)]
struct Bytes;

impl Weighter<Token, Entry> for Bytes {
    fn weight(&self, token: &Token, _: &Entry) -> u64 {
        // The claims are the token's payload once more, parsed; three times its text is a fair guess for both.
        3 * token.reveal().len() as u64 + 256
    }
}

impl Remembered {
    pub(super) fn new(bytes: u64) -> Self {
        // A guess at how many will fit, for sizing alone.
        let items = usize::try_from(bytes / 2048).unwrap_or(usize::MAX).max(16);
        Self(Cache::with_weighter(items, bytes, Bytes))
    }

    /// The caller, if the token verified against this very key set and still lives.
    pub(super) fn get(&self, token: &str, generation: u64, now: u64) -> Option<Arc<VerifiedCaller>> {
        let entry = self.0.get(token)?;
        if entry.generation != generation || now >= entry.caller.expires {
            self.0.remove(token);
            return None;
        }
        Some(entry.caller)
    }

    pub(super) fn put(&self, token: Token, generation: u64, caller: &Arc<VerifiedCaller>) {
        let entry = Entry {
            generation,
            caller: Arc::clone(caller),
        };
        self.0.insert(token, entry);
    }
}
