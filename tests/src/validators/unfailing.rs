//! Hot swap, Containment, Peers, Drain: none of these fails a request that has nothing to do with it. And without any disturbance none
//! fails either.

use super::Verdict;
use super::timeline::{Call, Outcome, Timeline, Trouble};

/// Looks at requests that met one kind of disturbance.
pub struct Unfailing {
    /// What is to be said so far.
    pub verdict: Verdict,
    meets: fn(Trouble, usize) -> bool,
}

impl Unfailing {
    /// While strategies are replaced.
    #[must_use]
    pub const fn hot_swap() -> Self {
        Self::while_there_is("Hot swap", |trouble, _| trouble == Trouble::Swap)
    }

    /// While a strategy of another tag misbehaves.
    #[must_use]
    pub const fn containment() -> Self {
        Self::while_there_is("Containment", |trouble, _| trouble == Trouble::Hostile)
    }

    /// While others say nothing, or read nothing.
    #[must_use]
    pub const fn peers() -> Self {
        Self::while_there_is("Peers", |trouble, _| trouble == Trouble::Peers)
    }

    /// While the replica goes.
    #[must_use]
    pub const fn drain() -> Self {
        Self::while_there_is("Drain", |trouble, replica| trouble == Trouble::Drain(replica))
    }

    const fn while_there_is(promise: &'static str, meets: fn(Trouble, usize) -> bool) -> Self {
        Self {
            verdict: Verdict::on(promise),
            meets,
        }
    }

    /// A request has ended.
    pub fn ended(&mut self, timeline: &Timeline, call: &Call) {
        if timeline.met(call, |trouble| (self.meets)(trouble, call.replica)) {
            judge(&mut self.verdict, timeline, call);
        }
    }

    /// Something else that the promise says held, or this is how it did not.
    pub fn held(&mut self, breach: Option<String>) {
        self.verdict.judge(breach);
    }
}

/// Looks at all requests that nothing excuses.
pub struct Undisturbed {
    /// What is to be said so far.
    pub verdict: Verdict,
}

impl Default for Undisturbed {
    fn default() -> Self {
        Self {
            verdict: Verdict::on("Undisturbed"),
        }
    }
}

impl Undisturbed {
    /// A request has ended.
    pub fn ended(&mut self, timeline: &Timeline, call: &Call) {
        if !timeline.met(call, |_| true) {
            judge(&mut self.verdict, timeline, call);
        }
    }
}

fn judge(verdict: &mut Verdict, timeline: &Timeline, call: &Call) {
    match &call.outcome {
        Outcome::Answered => verdict.judge(None),
        _ if timeline.excuses(call) => {}
        failed => verdict.judge(Some(format!(
            "{} through replica {} failed after {:.1?}: {failed:?}",
            call.what,
            call.replica,
            call.done - call.sent
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::timeline::Store;
    use super::super::timeline::tests::call;
    use super::*;

    fn failed() -> Call {
        call(Outcome::Failed("INTERNAL".to_owned()), &[Store::Embedded])
    }

    fn answered() -> Call {
        call(Outcome::Answered, &[Store::Embedded])
    }

    #[test]
    fn a_request_that_a_disturbance_failed_is_noticed() {
        for (mut validator, trouble) in [
            (Unfailing::hot_swap(), Trouble::Swap),
            (Unfailing::containment(), Trouble::Hostile),
            (Unfailing::peers(), Trouble::Peers),
            (Unfailing::drain(), Trouble::Drain(1)),
        ] {
            let mut timeline = Timeline::default();
            validator.ended(&timeline, &failed());
            assert_eq!(validator.verdict.judged, 0, "it met nothing");
            timeline.begins(trouble);
            validator.ended(&timeline, &answered());
            assert_eq!(
                (validator.verdict.judged, validator.verdict.broken),
                (1, 0),
                "{trouble:?}"
            );
            validator.ended(&timeline, &failed());
            assert_eq!(
                (validator.verdict.judged, validator.verdict.broken),
                (2, 1),
                "{trouble:?}"
            );
            timeline.begins(Trouble::Kill(1));
            validator.ended(&timeline, &failed());
            assert_eq!(validator.verdict.judged, 2, "a kill excuses it");
            validator.held(Some("otherwise".to_owned()));
            assert_eq!(validator.verdict.broken, 2);
        }
    }

    #[test]
    fn a_request_that_fails_for_no_reason_is_noticed() {
        let (mut validator, mut timeline) = (Undisturbed::default(), Timeline::default());
        validator.ended(&timeline, &answered());
        validator.ended(&timeline, &failed());
        assert_eq!((validator.verdict.judged, validator.verdict.broken), (2, 1));
        timeline.begins(Trouble::Swap);
        validator.ended(&timeline, &failed());
        assert_eq!(validator.verdict.judged, 2, "that is Hot swap's");
    }
}
