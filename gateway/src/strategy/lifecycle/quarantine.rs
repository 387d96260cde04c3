//! What had to leave, and is not taken up again by itself: for a while that doubles each time, and in the end until somebody asks for
//! it. It is the component that is not trusted, whatever else it is given; but where the same component served before, it is what
//! it was given.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// After the first time, and so on. Then it stays until somebody asks for it.
const WAITS: [Duration; 4] = [
    Duration::from_mins(1),
    Duration::from_mins(2),
    Duration::from_mins(4),
    LONGEST,
];
/// At most.
const LONGEST: Duration = Duration::from_mins(8);
/// What is held of one strategy. Beyond that the first is let go whose time comes soonest.
const HELD: usize = 64;

/// What is held of one strategy.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Quarantine(Vec<Held>);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Held {
    /// The component's digest, or that of component and settings.
    what: String,
    times: u32,
    /// None: until somebody asks for it.
    until: Option<SystemTime>,
}

impl Quarantine {
    /// It had to leave by itself.
    pub(super) fn hold(&mut self, what: &str, now: SystemTime) {
        let times = self.release(what);
        let wait = WAITS.get(times as usize);
        self.push(what, times + 1, wait.map(|wait| now + *wait));
    }

    /// An operator has it leave.
    pub(super) fn hold_until_asked_for(&mut self, what: &str) {
        let times = self.release(what);
        self.push(what, times, None);
    }

    /// Somebody asks for it, or it is held anew. Returns how often it left by itself.
    pub(super) fn release(&mut self, what: &str) -> u32 {
        let held = self.0.iter().find(|held| held.what == what);
        let times = held.map_or(0, |held| held.times);
        self.0.retain(|held| held.what != what);
        times
    }

    /// Whether it is not taken up by itself now.
    pub(super) fn holds(&self, what: &str, now: SystemTime) -> bool {
        let held = self.0.iter().find(|held| held.what == what);
        // Later than any wait is what a clock said that was wrong then, or is now: nobody waits for it.
        let waits = |until: SystemTime| now < until && until <= now + LONGEST;
        held.is_some_and(|held| held.until.is_none_or(waits))
    }

    fn push(&mut self, what: &str, times: u32, until: Option<SystemTime>) {
        if self.0.len() == HELD {
            let until = |at: &usize| self.0[*at].until;
            let soonest = (0..HELD).min_by_key(|at| (until(at).is_none(), until(at)));
            self.0.remove(soonest.unwrap_or(0));
        }
        self.0.push(Held {
            what: what.to_owned(),
            times,
            until,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_leaves_again_and_again_waits_longer_and_in_the_end_for_somebody() {
        let mut quarantine = Quarantine::default();
        let (bad, good) = ("bad", "good");
        let mut now = SystemTime::UNIX_EPOCH;
        for minutes in [1, 2, 4, 8] {
            quarantine.hold(bad, now);
            let over = now + Duration::from_mins(minutes);
            assert!(quarantine.holds(bad, over - Duration::from_secs(1)));
            assert!(!quarantine.holds(bad, over));
            assert!(!quarantine.holds(good, now));
            now = over;
        }
        quarantine.hold(bad, now);
        assert!(quarantine.holds(bad, now + Duration::from_hours(10_000)));
        quarantine.release(bad);
        assert!(!quarantine.holds(bad, now));
    }

    #[test]
    fn nobody_waits_for_a_year_because_a_clock_was_wrong() {
        let mut quarantine = Quarantine::default();
        let now = SystemTime::UNIX_EPOCH + Duration::from_hours(10_000);
        quarantine.hold("bad", now + Duration::from_hours(9000));
        assert!(!quarantine.holds("bad", now));
        quarantine.hold("bad", now);
        assert!(quarantine.holds("bad", now), "twice by now, and no minute is over");
    }

    #[test]
    fn what_an_operator_rolls_back_stays_away_though_many_leave_by_themselves() {
        let mut quarantine = Quarantine::default();
        let now = SystemTime::UNIX_EPOCH;
        quarantine.hold_until_asked_for("rolled back");
        for number in 0..2 * HELD {
            quarantine.hold(&number.to_string(), now + Duration::from_secs(number as u64));
        }
        assert!(quarantine.holds("rolled back", now + Duration::from_hours(10_000)));
        assert!(!quarantine.holds("0", now));
        let last = (2 * HELD - 1).to_string();
        assert!(quarantine.holds(&last, now + Duration::from_secs(2 * HELD as u64)));
    }
}
