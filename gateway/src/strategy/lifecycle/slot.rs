//! What is known of one strategy besides the version that serves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::kept::{KeptStrategy, KeptVersion};
use super::operate::Undone;
use super::quarantine::Quarantine;
use crate::settings::{LimitSettings, OnFailure, StrategySettings};
use crate::strategy::memory::Memory;
use crate::strategy::trial::{Condemned, Trial};
use crate::strategy::version::{Fingerprint, Version};

/// Versions that can be rolled back to, of each strategy.
const EARLIER: usize = 2;
/// How often a version may have been begun when the process ended, until it is held back.
const ENDED: u32 = 2;
/// Of these, so many are known.
const ATTEMPTS: usize = 8;
/// Between two tries of what may go well another time.
const PAUSES: (Duration, Duration) = (Duration::from_mins(1), Duration::from_mins(30));

/// Whether a strategy changes by itself, or serves at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It takes up what its source holds, and leaves what fails.
    #[default]
    Follow,
    /// It stays what it is until an operator says otherwise.
    Pinned,
    /// It is not called, and its tags fail.
    Disabled,
}

/// What the source held when it was last looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    pub(super) version: Fingerprint,
    /// Nothing more is to be done about it.
    pub(super) settled: bool,
}

/// A version that is on its way. If it is found so at a start, it may be why the process ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attempt {
    pub(super) digest: String,
    times: u32,
}

/// A version that could serve again.
#[derive(Clone)]
pub(super) enum Stored {
    /// As it is.
    Here {
        version: Arc<Version>,
        /// It was, and is again.
        trial: Option<Arc<Trial>>,
    },
    /// Once it is prepared.
    Kept(KeptVersion),
}

pub(super) struct Slot {
    pub(super) settings: StrategySettings,
    /// Never that of other settings.
    pub(super) revision: u64,
    /// It is yet to be what it was, or what its source holds: nobody looks for anything newer before.
    pub(super) begins: bool,
    pub(super) mode: Mode,
    /// Counts how often that was said.
    pub(super) said: u64,
    pub(super) seen: Option<Seen>,
    pub(super) quarantine: Quarantine,
    /// What was being prepared when this was kept.
    pub(super) attempts: Vec<Attempt>,
    /// What can be rolled back to, the latest last.
    pub(super) earlier: Vec<Stored>,
    /// What would serve if it were not disabled, or could be made again.
    pub(super) dormant: Option<Stored>,
    /// What is to leave once it is not pinned any more.
    pub(super) condemned: Option<Condemned>,
    /// What all versions have answered, if that is to stand in for what one cannot.
    pub(super) last: Option<Arc<Memory>>,
    tries: Option<Tries>,
}

/// Of something that may go well another time.
struct Tries {
    version: Fingerprint,
    times: u32,
    not_before: Instant,
}

impl Slot {
    pub(super) fn new(settings: &StrategySettings, revision: u64, kept: KeptStrategy, limits: &LimitSettings) -> Self {
        let KeptStrategy {
            mode,
            active,
            earlier,
            seen,
            quarantine,
            attempts,
        } = kept;
        Self {
            settings: settings.clone(),
            revision,
            begins: true,
            mode,
            said: 0,
            seen,
            quarantine,
            attempts,
            earlier: earlier.into_iter().map(Stored::Kept).collect(),
            dormant: active.map(Stored::Kept),
            condemned: None,
            last: memory_of_all(settings, limits, None),
            tries: None,
        }
    }

    /// Other settings hold from here on, as that revision. Returns whether they differ.
    pub(super) fn takes_up(&mut self, settings: &StrategySettings, revision: u64, limits: &LimitSettings) -> bool {
        if self.settings == *settings {
            return false;
        }
        self.last = memory_of_all(settings, limits, self.last.take());
        self.settings = settings.clone();
        self.revision = revision;
        true
    }

    /// That served until now.
    pub(super) fn was_replaced(&mut self, version: &Arc<Version>) {
        self.earlier.push(Stored::Here {
            version: Arc::clone(version),
            trial: None,
        });
        let too_many = self.earlier.len().saturating_sub(EARLIER);
        self.earlier.drain(..too_many);
    }

    /// That component is prepared.
    pub(super) fn is_tried(&mut self, digest: &str) {
        let before = self.attempts.iter().position(|attempt| attempt.digest == digest);
        let before = before.map(|at| self.attempts.remove(at));
        if self.attempts.len() == ATTEMPTS {
            self.attempts.remove(0);
        }
        self.attempts.push(Attempt {
            digest: digest.to_owned(),
            times: before.map_or(0, |before| before.times) + 1,
        });
    }

    /// It was, and the process lives.
    pub(super) fn was_tried(&mut self, digest: &str) {
        self.attempts.retain(|attempt| attempt.digest != digest);
    }

    /// Whether that version is not to be taken up by itself now. One that may have ended the process is held back as one that had to
    /// leave.
    pub(super) fn holds_back(&mut self, version: &Fingerprint, now: SystemTime) -> bool {
        self.ends_processes(&version.digest, now) || self.had_to_leave(version, now)
    }

    /// Whether that version was rolled back, and is held back for it now.
    pub(super) fn had_to_leave(&self, version: &Fingerprint, now: SystemTime) -> bool {
        self.quarantine.holds(&version.digest, now) || self.quarantine.holds(&version.whole(), now)
    }

    /// Whether the process has ended while that component was on its way, so often that it may be why.
    pub(super) fn ends_processes(&mut self, digest: &str, now: SystemTime) -> bool {
        let ends_processes = |attempt: &Attempt| attempt.digest == digest && attempt.times >= ENDED;
        if self.attempts.iter().any(ends_processes) {
            self.was_tried(digest);
            self.quarantine.hold(digest, now);
            return true;
        }
        false
    }

    /// Whether there is nothing to do about what the source holds, for now.
    pub(super) fn has_settled(&self, version: &Fingerprint) -> bool {
        let settled = self
            .seen
            .as_ref()
            .is_some_and(|seen| seen.settled && seen.version == *version);
        let waits = self.tries.as_ref().filter(|tries| tries.version == *version);
        settled || waits.is_some_and(|tries| Instant::now() < tries.not_before)
    }

    /// What came of what the source holds: nothing more is to be done about it, or it `may_pass` another time.
    pub(super) fn settles(&mut self, version: Fingerprint, may_pass: bool) {
        self.tries = may_pass.then(|| {
            let before = self.tries.take().filter(|tries| tries.version == version);
            let times = before.map_or(0, |tries| tries.times) + 1;
            let pause = PAUSES.0.saturating_mul(1 << (times - 1).min(8)).min(PAUSES.1);
            Tries {
                version: version.clone(),
                times,
                not_before: Instant::now() + pause,
            }
        });
        self.seen = Some(Seen {
            version,
            settled: !may_pass,
        });
    }
}

pub(super) fn find<'s>(
    slots: &'s mut BTreeMap<Arc<str>, Slot>,
    name: &str,
) -> Result<(Arc<str>, &'s mut Slot), Undone> {
    let owned = slots.get_key_value(name).map(|(name, _)| Arc::clone(name));
    owned
        .and_then(|owned| Some((owned, slots.get_mut(name)?)))
        .ok_or_else(|| Undone::Unknown(name.to_owned()))
}

fn memory_of_all(
    settings: &StrategySettings,
    limits: &LimitSettings,
    before: Option<Arc<Memory>>,
) -> Option<Arc<Memory>> {
    match settings.on_failure {
        OnFailure::Closed => None,
        OnFailure::LastDecision => {
            Some(before.unwrap_or_else(|| Memory::new(limits.tenants, limits.decisions.0, 1).into()))
        }
    }
}
