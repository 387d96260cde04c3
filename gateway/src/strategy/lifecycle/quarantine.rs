//! Versions that had to leave, and are not taken up again by themselves: for a while that doubles each time, and in the end
//! until somebody asks for them.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::strategy::version::Identity;

/// After the first time.
const FIRST: Duration = Duration::from_mins(1);
/// At most.
const LONGEST: Duration = Duration::from_hours(1);
/// Then it stays until somebody asks for it.
const TIMES: u32 = 5;
/// Versions of one strategy that are held. Beyond that the oldest is let go.
const HELD: usize = 16;

/// The versions of one strategy that are held.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Quarantine(Vec<Held>);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Held {
    version: Identity,
    times: u32,
    /// None: until somebody asks for it.
    until: Option<SystemTime>,
}

impl Quarantine {
    /// It had to leave by itself.
    pub(super) fn hold(&mut self, version: Identity, now: SystemTime) {
        let times = self.release(&version) + 1;
        let wait = FIRST.saturating_mul(1 << (times - 1).min(16)).min(LONGEST);
        let until = (times < TIMES).then(|| now + wait);
        self.push(Held { version, times, until });
    }

    /// An operator has it leave.
    pub(super) fn hold_until_asked_for(&mut self, version: Identity) {
        let times = self.release(&version);
        let until = None;
        self.push(Held { version, times, until });
    }

    /// Somebody asks for it, or it is held anew. Returns how often it left by itself.
    pub(super) fn release(&mut self, version: &Identity) -> u32 {
        let times = self
            .0
            .iter()
            .find(|held| held.version == *version)
            .map_or(0, |held| held.times);
        self.0.retain(|held| held.version != *version);
        times
    }

    /// Whether it is not taken up by itself now.
    pub(super) fn holds(&self, version: &Identity, now: SystemTime) -> bool {
        let held = self.0.iter().find(|held| held.version == *version);
        held.is_some_and(|held| held.until.is_none_or(|until| now < until))
    }

    fn push(&mut self, held: Held) {
        if self.0.len() == HELD {
            self.0.remove(0);
        }
        self.0.push(held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(digest: &str) -> Identity {
        Identity {
            digest: digest.to_owned(),
            settings: String::new(),
        }
    }

    #[test]
    fn who_leaves_again_and_again_waits_longer_and_in_the_end_for_somebody() {
        let mut quarantine = Quarantine::default();
        let (bad, good) = (version("bad"), version("good"));
        let mut now = SystemTime::UNIX_EPOCH;
        for minutes in [1, 2, 4, 8] {
            quarantine.hold(bad.clone(), now);
            let over = now + Duration::from_mins(minutes);
            assert!(quarantine.holds(&bad, over - Duration::from_secs(1)));
            assert!(!quarantine.holds(&bad, over));
            assert!(!quarantine.holds(&good, now));
            now = over;
        }
        quarantine.hold(bad.clone(), now);
        assert!(quarantine.holds(&bad, now + Duration::from_hours(10_000)));
        quarantine.release(&bad);
        assert!(!quarantine.holds(&bad, now));
    }

    #[test]
    fn what_an_operator_rolls_back_stays_away_and_others_are_forgotten_in_order() {
        let mut quarantine = Quarantine::default();
        let now = SystemTime::UNIX_EPOCH;
        for number in 0..=HELD {
            quarantine.hold_until_asked_for(version(&number.to_string()));
        }
        assert!(!quarantine.holds(&version("0"), now));
        assert!(quarantine.holds(&version("1"), now + Duration::from_hours(10_000)));
    }
}
