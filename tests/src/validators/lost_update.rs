//! No lost update: of two writers with the same `if_match` exactly one succeeds, and what a counter shows in the end is what was
//! acknowledged. Increments of which nobody knows the outcome may be in it or not.

use std::collections::{HashMap, HashSet};

use super::Verdict;
use super::ledger::Place;

/// Keeps count of counters.
pub struct LostUpdate {
    /// What is to be said so far.
    pub verdict: Verdict,
    counters: HashMap<Place, Counter>,
}

#[derive(Default)]
struct Counter {
    /// What it showed when it was settled last.
    settled: u64,
    acknowledged: u64,
    unknown: u64,
    /// Etags that somebody wrote over since.
    matched: HashSet<String>,
}

impl Default for LostUpdate {
    fn default() -> Self {
        Self {
            verdict: Verdict::on("No lost update"),
            counters: HashMap::new(),
        }
    }
}

impl LostUpdate {
    /// One more, acknowledged, of what had that etag.
    pub fn acknowledged(&mut self, place: &Place, etag: &str) {
        let counter = self.counters.entry(place.clone()).or_default();
        counter.acknowledged += 1;
        let is_first = counter.matched.insert(etag.to_owned());
        let breach = || format!("{place}: two writes over {etag} were acknowledged");
        self.verdict.judge((!is_first).then(breach));
    }

    /// One more, perhaps.
    pub fn unknown(&mut self, place: &Place) {
        self.counters.entry(place.clone()).or_default().unknown += 1;
    }

    /// Nothing is under way, and it shows that.
    pub fn settled(&mut self, place: &Place, shows: u64) {
        let counter = self.counters.entry(place.clone()).or_default();
        let least = counter.settled + counter.acknowledged;
        let fits = (least..=least + counter.unknown).contains(&shows);
        let breach = format!(
            "{place} shows {shows}: {} before, {} acknowledged and {} of unknown outcome since",
            counter.settled, counter.acknowledged, counter.unknown
        );
        self.verdict.judge((!fits).then_some(breach));
        *counter = Counter {
            settled: shows,
            ..Counter::default()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::ledger::tests::place;
    use super::*;

    #[test]
    fn a_sum_that_does_not_fit_is_noticed() {
        for (shows, broken) in [(1, 1), (2, 0), (3, 0), (4, 1)] {
            let mut updates = LostUpdate::default();
            updates.acknowledged(&place(), "a-1");
            updates.acknowledged(&place(), "a-2");
            updates.unknown(&place());
            updates.settled(&place(), shows);
            assert_eq!((updates.verdict.judged, updates.verdict.broken), (3, broken), "{shows}");
            updates.acknowledged(&place(), "a-9");
            updates.settled(&place(), shows + 1);
            assert_eq!(updates.verdict.broken, broken, "from there on");
        }
    }

    #[test]
    fn two_writes_over_one_state_are_noticed() {
        let mut updates = LostUpdate::default();
        updates.acknowledged(&place(), "a-1");
        updates.acknowledged(&place(), "a-1");
        assert_eq!(updates.verdict.broken, 1);
    }
}
