//! What gateways acknowledged, key by key: the ground that reads are judged on. Each key has one writer, which sends one write after the
//! other; so the last that was acknowledged is the newest that is known to have stood.

use std::collections::{HashMap, VecDeque};
use std::fmt;

use tokio::time::Instant;

/// Acknowledgements kept of a key: more than come within the time that an answer may be old.
const KEPT: usize = 128;

/// A state, by its etag. Callers of the API compare etags for equality alone; whoever judges has to know which is later.
#[derive(Clone, Debug)]
pub struct State {
    etag: String,
    version: u64,
}

/// A key where it lies.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Whose it is.
    pub tenant: &'static str,
    /// Its tag and name.
    pub key: String,
    /// Which replica has it for itself; none: all share it.
    pub replica: Option<usize>,
}

/// That a gateway acknowledged a write.
pub struct Ack {
    /// When that was heard.
    pub at: Instant,
    /// Which replica it was.
    pub through: usize,
    left: Left,
}

/// What a write leaves behind.
enum Left {
    Value(State),
    /// Nothing after that state.
    Nothing(State),
}

#[derive(Default)]
struct Account {
    acks: VecDeque<Ack>,
    /// When the last removal was sent.
    removal: Option<Instant>,
    /// Of a removal nobody knows whether it is yet to arrive.
    is_doubtful: bool,
}

/// All of it.
#[derive(Default)]
pub struct Ledger(HashMap<Place, Account>);

impl State {
    /// What that etag stands for.
    #[must_use]
    pub fn of(etag: &str) -> Self {
        let version = etag.rsplit_once('-').and_then(|(_, version)| version.parse().ok());
        Self {
            etag: etag.to_owned(),
            version: version.expect("an etag is a life and a version"),
        }
    }

    /// Whether the other is later: by when its life began, and by its version within one. A life's id begins with its time.
    #[must_use]
    pub fn is_before(&self, other: &Self) -> bool {
        let order = |state: &Self| (state.etag.get(..10).unwrap_or_default().to_owned(), state.version);
        order(self) < order(other)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.etag)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}'s {}", self.tenant, self.key)?;
        self.replica
            .map_or(Ok(()), |replica| write!(f, " of replica {replica}"))
    }
}

impl Ledger {
    /// A removal is on its way.
    pub fn removes(&mut self, place: &Place, now: Instant) {
        self.0.entry(place.clone()).or_default().removal = Some(now);
    }

    /// A write was acknowledged, and left this behind; none: nothing.
    pub fn acknowledged(&mut self, place: &Place, through: usize, at: Instant, state: Option<State>) {
        let account = self.0.entry(place.clone()).or_default();
        let left = match (state, account.acks.back()) {
            (Some(state), _) => Left::Value(state),
            (None, Some(last)) => Left::Nothing(last.state().clone()),
            // What it ended was never seen.
            (None, None) => return,
        };
        account.acks.push_back(Ack { at, through, left });
        if account.acks.len() > KEPT {
            account.acks.pop_front();
        }
    }

    /// Nobody knows whether that removal is yet to arrive.
    pub fn doubts(&mut self, place: &Place) {
        self.0.entry(place.clone()).or_default().is_doubtful = true;
    }

    /// Nothing is under way any more.
    pub fn settled(&mut self) {
        self.0.values_mut().for_each(|account| account.is_doubtful = false);
    }

    /// Every key that anybody wrote.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        self.0.keys()
    }

    /// Keys that stood from then until now, without any doubt.
    pub fn standing(&self, since: Instant) -> impl Iterator<Item = &Place> {
        let stands = move |account: &Account| {
            let floor = account.acks.iter().rev().find(|ack| ack.at <= since);
            floor.is_some_and(|floor| matches!(floor.left, Left::Value(_)) && !account.may_be_gone(floor.at))
        };
        self.0
            .iter()
            .filter(move |(_, account)| stands(account))
            .map(|(place, _)| place)
    }

    /// What speaks against `found`, seen at `place`, given that each acknowledgement for which `counts` holds came before. The outer
    /// none: there is no such, and so nothing to judge by.
    pub fn against(
        &self,
        place: &Place,
        found: Option<&State>,
        counts: impl Fn(&Ack) -> bool,
    ) -> Option<Option<String>> {
        let account = self.0.get(place)?;
        let floor = account.acks.iter().rev().find(|ack| counts(ack))?;
        let breach = match (&floor.left, found) {
            (Left::Value(known), Some(found)) => found.is_before(known),
            (Left::Nothing(ended), Some(found)) => !ended.is_before(found),
            (Left::Value(_), None) => !account.may_be_gone(floor.at),
            (Left::Nothing(_), None) => false,
        };
        Some(breach.then(|| {
            let found = found.map_or_else(|| "nothing".to_owned(), State::to_string);
            format!("{place}: {found} in place of {floor}")
        }))
    }
}

impl Ack {
    fn state(&self) -> &State {
        match &self.left {
            Left::Value(state) | Left::Nothing(state) => state,
        }
    }
}

impl fmt::Display for Ack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.left {
            Left::Value(state) => write!(f, "{state}")?,
            Left::Nothing(state) => write!(f, "nothing after {state}")?,
        }
        write!(
            f,
            ", which replica {} acknowledged {:.1?} ago",
            self.through,
            self.at.elapsed()
        )
    }
}

impl Account {
    /// Whether a removal may have been done after that.
    fn may_be_gone(&self, since: Instant) -> bool {
        self.is_doubtful || self.removal.is_some_and(|removal| removal >= since)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;

    pub(in super::super) fn place() -> Place {
        Place {
            tenant: "acme",
            key: "t_a".to_owned(),
            replica: None,
        }
    }

    pub(in super::super) fn state(version: u64) -> State {
        State::of(&format!("01JD8Z6M3V5T1RQWERTY012345-{version}"))
    }

    #[test]
    fn what_is_older_than_what_was_acknowledged_is_noticed() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        assert_eq!(ledger.against(&place(), None, |_| true), None, "nothing to judge by");
        ledger.acknowledged(&place(), 0, now, Some(state(2)));
        assert_eq!(ledger.against(&place(), Some(&state(2)), |_| true), Some(None));
        assert_eq!(ledger.against(&place(), Some(&state(3)), |_| true), Some(None));
        assert!(ledger.against(&place(), Some(&state(1)), |_| true).unwrap().is_some());
        assert!(ledger.against(&place(), None, |_| true).unwrap().is_some());
        assert_eq!(ledger.against(&place(), None, |ack| ack.through == 1), None);
    }

    #[test]
    fn what_comes_back_after_a_removal_is_noticed() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        ledger.acknowledged(&place(), 0, now, Some(state(2)));
        ledger.removes(&place(), now + Duration::from_millis(1));
        assert_eq!(ledger.against(&place(), None, |_| true), Some(None), "it may be done");
        ledger.acknowledged(&place(), 0, now + Duration::from_millis(2), None);
        assert_eq!(ledger.against(&place(), None, |_| true), Some(None));
        assert!(ledger.against(&place(), Some(&state(2)), |_| true).unwrap().is_some());
        let next = State::of("01JD8Z6M3W5T1RQWERTY012345-1");
        assert_eq!(ledger.against(&place(), Some(&next), |_| true), Some(None));
    }

    #[test]
    fn a_removal_of_which_nobody_knows_excuses_until_all_is_settled() {
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        ledger.removes(&place(), now);
        ledger.doubts(&place());
        ledger.acknowledged(&place(), 0, now + Duration::from_millis(1), Some(state(2)));
        assert_eq!(ledger.against(&place(), None, |_| true), Some(None));
        assert_eq!(ledger.standing(now + Duration::from_secs(1)).count(), 0);
        ledger.settled();
        assert!(ledger.against(&place(), None, |_| true).unwrap().is_some());
        assert_eq!(ledger.standing(now + Duration::from_secs(1)).count(), 1);
    }
}
