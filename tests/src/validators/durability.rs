//! Durability: what was acknowledged is there after `kill -9`, or something newer.

use tokio::time::Instant;

use super::Verdict;
use super::ledger::{Ledger, Place, State};

/// Looks at what a replica finds after it was killed and started again.
pub struct Durability {
    /// What is to be said so far.
    pub verdict: Verdict,
}

impl Default for Durability {
    fn default() -> Self {
        Self {
            verdict: Verdict::on("Durability"),
        }
    }
}

impl Durability {
    /// The store was asked for `place`, after the replica that wrote there had been killed at `killed`, and had that.
    pub fn found(&mut self, ledger: &Ledger, place: &Place, killed: Instant, found: Option<&State>) {
        if let Some(breach) = ledger.against(place, found, |ack| ack.at <= killed) {
            self.verdict
                .judge(breach.map(|breach| format!("after kill -9 there is {breach}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::ledger::tests::{place, state};
    use super::*;

    #[test]
    fn a_write_that_did_not_survive_is_noticed() {
        let (mut ledger, mut durability) = (Ledger::default(), Durability::default());
        let now = Instant::now();
        ledger.acknowledged(&place(), 0, now, Some(state(2)));
        let killed = now + Duration::from_millis(1);
        durability.found(&ledger, &place(), killed, Some(&state(2)));
        durability.found(&ledger, &place(), killed, Some(&state(3)));
        assert_eq!((durability.verdict.judged, durability.verdict.broken), (2, 0));
        durability.found(&ledger, &place(), killed, Some(&state(1)));
        durability.found(&ledger, &place(), killed, None);
        assert_eq!((durability.verdict.judged, durability.verdict.broken), (4, 2));
    }
}
