//! Bounded staleness: no answer was older than its policy says when it was asked for, one past its `ttl` says so, and none is older than it
//! says itself: what was acknowledged before its store was asked is in it, whichever replica that was.

use std::time::Duration;

use tagway_proto::v1;
use tagway_proto::v1::freshness::Source;
use tokio::time::Instant;

use super::Verdict;
use super::ledger::{Ledger, Place, State};

/// Of what came a moment after it was asked for, on a machine that is busy with everything else.
const SLACK: Duration = Duration::from_secs(1);

/// Compares ages with the policy, and answers with what all replicas acknowledged.
pub struct Staleness {
    /// What is to be said so far.
    pub verdict: Verdict,
    /// For so long an answer is fresh.
    pub ttl: Duration,
    /// For so long after that it is better than none.
    pub stale: Duration,
    /// As `ttl`, where there is no such key.
    pub negative: Duration,
}

/// What a read was answered.
pub struct Answer {
    /// When it was sent.
    pub sent: Instant,
    /// How long its answer took, which grew older meanwhile: it may have waited for another key's store.
    pub waited: Duration,
    /// Whether the store had to be asked for it.
    pub is_latest: bool,
    /// None: no such key.
    pub found: Option<(State, v1::Freshness)>,
}

impl Staleness {
    /// Of a cache with that policy.
    #[must_use]
    pub const fn of(ttl: Duration, stale: Duration, negative: Duration) -> Self {
        Self {
            verdict: Verdict::on("Bounded staleness"),
            ttl,
            stale,
            negative,
        }
    }

    /// A read of `place` was answered like that.
    pub fn saw(&mut self, ledger: &Ledger, place: &Place, answer: &Answer) {
        // That there is no such key is answered without its age.
        let mut age = self.negative + self.stale + SLACK;
        if let Some((_, freshness)) = &answer.found {
            age = freshness.age.and_then(|age| age.try_into().ok()).unwrap_or_default();
            let says_so = freshness.source() == Source::Stale;
            let was = age.saturating_sub(answer.waited);
            let breach = if was > self.ttl + self.stale + SLACK {
                Some(format!("{place}: {was:.1?} old, whether it says so or not"))
            } else if was > self.ttl + SLACK && !says_so {
                Some(format!("{place}: {was:.1?} old, and it does not say that it is stale"))
            } else {
                None
            };
            self.verdict.judge(breach);
        }
        let asked = if answer.is_latest {
            Some(answer.sent)
        } else {
            answer.sent.checked_sub(age)
        };
        let found = answer.found.as_ref().map(|(state, _)| state);
        if let Some(asked) = asked
            && let Some(breach) = ledger.against(place, found, |ack| ack.at <= asked)
        {
            let how = if answer.is_latest {
                "asking the store"
            } else {
                "an answer"
            };
            self.verdict
                .judge(breach.map(|breach| format!("{how} that is {age:.3?} old found {breach}")));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ledger::tests::{place, state};
    use super::*;

    fn answer(sent: Instant, version: u64, source: Source, age: u64) -> Answer {
        let freshness = v1::Freshness {
            source: source.into(),
            age: Duration::from_secs(age).try_into().ok(),
        };
        Answer {
            sent,
            waited: Duration::ZERO,
            is_latest: false,
            found: Some((state(version), freshness)),
        }
    }

    fn staleness() -> Staleness {
        Staleness::of(Duration::from_secs(5), Duration::from_secs(20), Duration::from_secs(1))
    }

    #[test]
    fn an_answer_that_is_too_old_or_hides_its_age_is_noticed() {
        let (ledger, mut staleness, now) = (Ledger::default(), staleness(), Instant::now());
        for (source, age) in [(Source::Cache, 5), (Source::Stale, 25)] {
            staleness.saw(&ledger, &place(), &answer(now, 1, source, age));
        }
        assert_eq!((staleness.verdict.judged, staleness.verdict.broken), (2, 0));
        for (source, age) in [(Source::Cache, 7), (Source::Stale, 27)] {
            staleness.saw(&ledger, &place(), &answer(now, 1, source, age));
        }
        assert_eq!((staleness.verdict.judged, staleness.verdict.broken), (4, 2));
        let waited = Answer {
            waited: Duration::from_secs(2),
            ..answer(now, 1, Source::Cache, 7)
        };
        staleness.saw(&ledger, &place(), &waited);
        assert_eq!(staleness.verdict.broken, 2, "it was 5 s old when it was asked for");
    }

    #[test]
    fn an_answer_that_is_older_than_it_says_is_noticed() {
        let (mut ledger, mut staleness, now) = (Ledger::default(), staleness(), Instant::now());
        ledger.acknowledged(&place(), 0, now, Some(state(2)));
        let sent = now + Duration::from_secs(3);
        staleness.saw(&ledger, &place(), &answer(sent, 1, Source::Cache, 4));
        staleness.saw(&ledger, &place(), &answer(sent, 2, Source::Cache, 1));
        assert_eq!(staleness.verdict.broken, 0);
        staleness.saw(&ledger, &place(), &answer(sent, 1, Source::Cache, 1));
        assert_eq!(staleness.verdict.broken, 1);
        let latest = Answer {
            is_latest: true,
            ..answer(sent, 1, Source::Backend, 4)
        };
        staleness.saw(&ledger, &place(), &latest);
        assert_eq!(staleness.verdict.broken, 2);
        let missing = |sent| Answer {
            sent,
            waited: Duration::ZERO,
            is_latest: false,
            found: None,
        };
        staleness.saw(&ledger, &place(), &missing(sent));
        assert_eq!(staleness.verdict.broken, 2, "it may be as old as that");
        staleness.saw(&ledger, &place(), &missing(now + Duration::from_mins(1)));
        assert_eq!(staleness.verdict.broken, 3);
    }
}
