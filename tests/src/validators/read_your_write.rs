//! Read your write: through one gateway, a read after an acknowledged write returns it or something newer.

use tokio::time::Instant;

use super::Verdict;
use super::ledger::{Ledger, Place, State};

/// Compares reads with what the same replica acknowledged.
pub struct ReadYourWrite {
    /// What is to be said so far.
    pub verdict: Verdict,
    /// When each replica's process was started: what the one before knew need not be near.
    since: Vec<Instant>,
}

impl ReadYourWrite {
    /// Of so many replicas, which are there from now.
    #[must_use]
    pub fn of(replicas: usize) -> Self {
        Self {
            verdict: Verdict::on("Read your write"),
            since: vec![Instant::now(); replicas],
        }
    }

    /// Another process is the replica from now.
    pub fn restarted(&mut self, replica: usize) {
        self.since[replica] = Instant::now();
    }

    /// A read through `replica`, sent then, found that.
    pub fn saw(&mut self, ledger: &Ledger, place: &Place, replica: usize, sent: Instant, found: Option<&State>) {
        let since = self.since[replica];
        let counts = |ack: &super::ledger::Ack| ack.through == replica && ack.at >= since && ack.at <= sent;
        if let Some(breach) = ledger.against(place, found, counts) {
            let breach = breach.map(|breach| format!("a read through replica {replica} found {breach}"));
            self.verdict.judge(breach);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::ledger::tests::{place, state};
    use super::*;

    #[test]
    fn a_write_that_is_not_read_is_noticed() {
        let (mut ledger, mut reads) = (Ledger::default(), ReadYourWrite::of(2));
        let later = |millis| Instant::now() + Duration::from_millis(millis);
        ledger.acknowledged(&place(), 0, later(10), Some(state(2)));
        reads.saw(&ledger, &place(), 0, later(0), Some(&state(1)));
        reads.saw(&ledger, &place(), 1, later(100), Some(&state(1)));
        assert_eq!(reads.verdict.judged, 0, "sent before, or through another replica");
        reads.saw(&ledger, &place(), 0, later(100), Some(&state(2)));
        assert_eq!((reads.verdict.judged, reads.verdict.broken), (1, 0));
        reads.saw(&ledger, &place(), 0, later(100), Some(&state(1)));
        reads.saw(&ledger, &place(), 0, later(100), None);
        assert_eq!((reads.verdict.judged, reads.verdict.broken), (3, 2));
    }
}
