//! What was going on when: which disturbance a request met, and which of them excuses that it failed.

use std::time::Duration;

use tokio::time::Instant;

/// How long after a fault its store may still be asked less, or be thought to be away.
const AFTERMATH: Duration = Duration::from_secs(10);
/// How long anything is remembered: longer than any request takes.
const KEPT: Duration = Duration::from_mins(2);

/// Where a key may lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Store {
    /// A file of the replica's own.
    Embedded,
    /// A table at AWS.
    DynamoDb,
    /// Parameters at AWS.
    ParameterStore,
}

/// A disturbance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trouble {
    /// A strategy is replaced.
    Swap,
    /// A strategy loops, traps and lies.
    Hostile,
    /// Peers say nothing, or read nothing.
    Peers,
    /// A store fails.
    Fault(Store),
    /// A replica was told to go.
    Drain(usize),
    /// A replica was killed.
    Kill(usize),
}

/// How a request ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// With an answer, or an error that is one: no such key, the etag has changed.
    Answered,
    /// It was given back unsent, because its connection closes.
    Unsent,
    /// Nobody listened.
    Unreached,
    /// The gateway could not have it done in time, or reach its store.
    Unavailable(String),
    /// Otherwise.
    Failed(String),
}

/// One request.
#[derive(Debug)]
pub struct Call {
    /// For people.
    pub what: String,
    /// Through which replica.
    pub replica: usize,
    /// Where it had to be looked.
    pub stores: Vec<Store>,
    /// When it was sent.
    pub sent: Instant,
    /// When it had ended.
    pub done: Instant,
    /// How that was.
    pub outcome: Outcome,
}

/// All of it, as long as it matters.
#[derive(Default)]
pub struct Timeline(Vec<Window>);

struct Window {
    trouble: Trouble,
    from: Instant,
    until: Option<Instant>,
}

impl Timeline {
    /// From now.
    pub fn begins(&mut self, trouble: Trouble) {
        let from = Instant::now();
        self.0
            .retain(|window| window.until.is_none_or(|until| until + KEPT > from));
        self.0.push(Window {
            trouble,
            from,
            until: None,
        });
    }

    /// Until now.
    pub fn ends(&mut self, trouble: Trouble) {
        let is_it = |window: &&mut Window| window.trouble == trouble && window.until.is_none();
        if let Some(window) = self.0.iter_mut().find(is_it) {
            window.until = Some(Instant::now());
        }
    }

    /// Whether any that is meant was going on while the request was under way.
    pub fn met(&self, call: &Call, is_meant: impl Fn(Trouble) -> bool) -> bool {
        self.within(call, Duration::ZERO, is_meant)
    }

    /// Whether something was going on that lets a request like this fail like that. A store that fails excuses who had to ask it; a
    /// killed replica whoever spoke to it; a drained one only those who came too late to be taken.
    #[must_use]
    pub fn excuses(&self, call: &Call) -> bool {
        let killed = |trouble| trouble == Trouble::Kill(call.replica);
        let gone = |trouble| killed(trouble) || trouble == Trouble::Drain(call.replica);
        let faulty = |trouble| call.stores.iter().any(|&store| trouble == Trouble::Fault(store));
        match call.outcome {
            Outcome::Answered | Outcome::Unsent => true,
            Outcome::Unreached => self.met(call, gone),
            Outcome::Unavailable(_) => self.met(call, killed) || self.within(call, AFTERMATH, faulty),
            Outcome::Failed(_) => self.met(call, killed),
        }
    }

    fn within(&self, call: &Call, after: Duration, is_meant: impl Fn(Trouble) -> bool) -> bool {
        self.0.iter().any(|window| {
            let is_over = window.until.is_some_and(|until| until + after < call.sent);
            is_meant(window.trouble) && window.from <= call.done && !is_over
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn call(outcome: Outcome, stores: &[Store]) -> Call {
        Call {
            what: "Get".to_owned(),
            replica: 1,
            stores: stores.to_owned(),
            sent: Instant::now(),
            done: Instant::now(),
            outcome,
        }
    }

    #[test]
    fn a_fault_excuses_who_asked_that_store_and_nobody_else() {
        let unavailable = || Outcome::Unavailable(String::new());
        let mut timeline = Timeline::default();
        assert!(!timeline.excuses(&call(unavailable(), &[Store::DynamoDb])));
        timeline.begins(Trouble::Fault(Store::DynamoDb));
        assert!(timeline.excuses(&call(unavailable(), &[Store::DynamoDb, Store::Embedded])));
        assert!(!timeline.excuses(&call(unavailable(), &[Store::Embedded])));
        assert!(!timeline.excuses(&call(Outcome::Failed(String::new()), &[Store::DynamoDb])));
        timeline.ends(Trouble::Fault(Store::DynamoDb));
        assert!(timeline.excuses(&call(unavailable(), &[Store::DynamoDb])));
        let mut late = call(unavailable(), &[Store::DynamoDb]);
        late.sent += AFTERMATH * 2;
        late.done = late.sent;
        assert!(!timeline.excuses(&late));
    }

    #[test]
    fn a_drain_excuses_nothing_that_was_taken_and_a_kill_everything_there() {
        let mut timeline = Timeline::default();
        timeline.begins(Trouble::Drain(1));
        assert!(timeline.excuses(&call(Outcome::Unreached, &[])));
        assert!(!timeline.excuses(&call(Outcome::Failed(String::new()), &[])));
        timeline.ends(Trouble::Drain(1));
        timeline.begins(Trouble::Kill(0));
        assert!(!timeline.excuses(&call(Outcome::Failed(String::new()), &[])));
        timeline.begins(Trouble::Kill(1));
        assert!(timeline.excuses(&call(Outcome::Failed(String::new()), &[])));
    }
}
