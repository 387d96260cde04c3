//! Answers for a strategy that keeps failing, without calling it.
//!
//! There is one for each tenant of a strategy: a key that makes a strategy trap is found sooner or later by somebody,
//! and must not close the strategy for its neighbours.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::settings::BreakerSettings;

/// Closed (calls pass), open (none does, until the rest is over) or half open (one does, and decides).
#[derive(Debug, Default)]
pub(super) struct Breaker {
    /// When the latest failures happened, oldest first; never more than open it.
    failures: VecDeque<Instant>,
    open_until: Option<Instant>,
    /// Somebody is trying.
    trying: bool,
}

/// Says that no call may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Open {
    /// For so long.
    pub(super) rest: Duration,
}

/// Lets one call pass.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Admission {
    /// What becomes of it decides whether the breaker closes.
    trial: bool,
}

/// How a call that was let pass ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It answered.
    Answered,
    /// It failed by its own fault.
    Failed,
    /// It never got to run, so nothing is known.
    Unknown,
}

impl Breaker {
    /// Whether a call could be made now.
    pub(super) fn check(&self, settings: &BreakerSettings) -> Result<(), Open> {
        match self.open_until {
            Some(until) if Instant::now() < until || self.trying => Err(Open {
                rest: until.saturating_duration_since(Instant::now()).max(settings.rest / 10),
            }),
            _ => Ok(()),
        }
    }

    /// Whether a call may be made. Who is let pass says how it ended.
    pub(super) fn admit(&mut self, settings: &BreakerSettings) -> Result<Admission, Open> {
        self.check(settings)?;
        let trial = self.open_until.is_some();
        self.trying = trial;
        Ok(Admission { trial })
    }

    /// Takes note of how an admitted call ended. True if that opened it.
    pub(super) fn note(&mut self, admission: &Admission, outcome: Outcome, settings: &BreakerSettings) -> bool {
        if admission.trial {
            self.trying = false;
        }
        match outcome {
            Outcome::Unknown => false,
            Outcome::Answered => {
                if admission.trial {
                    self.open_until = None;
                }
                false
            }
            Outcome::Failed => {
                let now = Instant::now();
                while self
                    .failures
                    .front()
                    .is_some_and(|at| now.duration_since(*at) > settings.window)
                {
                    self.failures.pop_front();
                }
                self.failures.push_back(now);
                let opens = admission.trial || self.failures.len() >= settings.failures as usize;
                if opens {
                    self.failures.clear();
                    self.open_until = Some(now + settings.rest);
                }
                opens
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SETTINGS: BreakerSettings = BreakerSettings {
        failures: 3,
        window: Duration::from_secs(10),
        rest: Duration::from_secs(5),
    };

    fn end(breaker: &mut Breaker, outcome: Outcome) -> bool {
        let admission = breaker.admit(&SETTINGS).expect("closed, or somebody may try");
        breaker.note(&admission, outcome, &SETTINGS)
    }

    fn fail(breaker: &mut Breaker) -> bool {
        end(breaker, Outcome::Failed)
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_rests_tries_once_and_closes() {
        let mut breaker = Breaker::default();
        assert!(!fail(&mut breaker));
        assert!(!fail(&mut breaker));
        assert!(fail(&mut breaker));
        assert_eq!(
            breaker.admit(&SETTINGS).map_err(|open| open.rest),
            Err(Duration::from_secs(5))
        );
        advance(Duration::from_secs(5)).await;
        // One may try, and the others wait for what becomes of it.
        let trial = breaker.admit(&SETTINGS).expect("somebody may try");
        assert!(breaker.admit(&SETTINGS).is_err());
        assert!(breaker.note(&trial, Outcome::Failed, &SETTINGS));
        assert!(breaker.admit(&SETTINGS).is_err());
        advance(Duration::from_secs(5)).await;
        // A trial that did not get to run leaves it to the next.
        assert!(!end(&mut breaker, Outcome::Unknown));
        assert!(!end(&mut breaker, Outcome::Answered));
        assert!(!fail(&mut breaker));
        assert!(!fail(&mut breaker));
        assert!(fail(&mut breaker));
    }

    #[tokio::test(start_paused = true)]
    async fn only_failures_within_the_window_count() {
        let mut breaker = Breaker::default();
        for _ in 0..20 {
            assert!(!fail(&mut breaker));
            advance(Duration::from_secs(6)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_machine_convicts_nobody() {
        let mut breaker = Breaker::default();
        for _ in 0..20 {
            assert!(!end(&mut breaker, Outcome::Unknown));
        }
    }
}
