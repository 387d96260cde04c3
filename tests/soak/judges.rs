//! All validators behind one lock, and who is told what.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tagway_proto::v1;
use tagway_tests::validators::Verdict;
use tagway_tests::validators::agreement::{Agreement, Convergence};
use tagway_tests::validators::durability::Durability;
use tagway_tests::validators::isolation::Isolation;
use tagway_tests::validators::ledger::{Ledger, Place, State};
use tagway_tests::validators::lost_update::LostUpdate;
use tagway_tests::validators::order::Order;
use tagway_tests::validators::read_your_write::ReadYourWrite;
use tagway_tests::validators::staleness::{Answer, Staleness};
use tagway_tests::validators::timeline::{Call, Outcome, Timeline};
use tagway_tests::validators::unfailing::{Undisturbed, Unfailing};
use tokio::time::Instant;

use crate::REPLICAS;
use crate::fleet::{NEGATIVE, STALE, TTL};

/// Everybody who judges.
pub(super) struct Judges(Mutex<Bench>);

/// Who they are, and what they go by.
pub(super) struct Bench {
    pub(super) timeline: Timeline,
    pub(super) ledger: Ledger,
    pub(super) isolation: Isolation,
    pub(super) read_your_write: ReadYourWrite,
    pub(super) staleness: Staleness,
    pub(super) lost_update: LostUpdate,
    pub(super) durability: Durability,
    pub(super) order: Order,
    pub(super) agreement: Agreement,
    pub(super) convergence: Convergence,
    pub(super) hot_swap: Unfailing,
    pub(super) containment: Unfailing,
    pub(super) peers: Unfailing,
    pub(super) drain: Unfailing,
    pub(super) undisturbed: Undisturbed,
    /// Requests by how they ended.
    pub(super) outcomes: BTreeMap<&'static str, u64>,
    /// Disturbances by their kind.
    pub(super) disturbances: BTreeMap<&'static str, u64>,
}

/// A read of one key.
pub(super) struct Read {
    pub(super) place: Place,
    pub(super) replica: usize,
    pub(super) sent: Instant,
    pub(super) waited: Duration,
    pub(super) is_latest: bool,
    /// None: no such key.
    pub(super) found: Option<(v1::Config, v1::Freshness)>,
}

impl Default for Judges {
    fn default() -> Self {
        Self(Mutex::new(Bench {
            timeline: Timeline::default(),
            ledger: Ledger::default(),
            isolation: Isolation::default(),
            read_your_write: ReadYourWrite::of(REPLICAS),
            staleness: Staleness::of(TTL, STALE, NEGATIVE),
            lost_update: LostUpdate::default(),
            durability: Durability::default(),
            order: Order::default(),
            agreement: Agreement::default(),
            convergence: Convergence::default(),
            hot_swap: Unfailing::hot_swap(),
            containment: Unfailing::containment(),
            peers: Unfailing::peers(),
            drain: Unfailing::drain(),
            undisturbed: Undisturbed::default(),
            outcomes: BTreeMap::new(),
            disturbances: BTreeMap::new(),
        }))
    }
}

impl Judges {
    /// All of them, for as long as that takes. Nobody may wait for anything else meanwhile.
    pub(super) fn bench(&self) -> MutexGuard<'_, Bench> {
        self.0.lock().expect("no panic under the lock")
    }
}

impl Bench {
    /// A request has ended.
    pub(super) fn ended(&mut self, call: &Call) {
        for validator in [
            &mut self.hot_swap,
            &mut self.containment,
            &mut self.peers,
            &mut self.drain,
        ] {
            validator.ended(&self.timeline, call);
        }
        self.undisturbed.ended(&self.timeline, call);
        let outcome = match call.outcome {
            Outcome::Answered => "answered",
            Outcome::Unsent => "given back unsent, and sent again",
            _ if !self.timeline.excuses(call) => "failed",
            Outcome::Unreached => "not taken by a replica that went",
            Outcome::Unavailable(_) => "refused while a store failed",
            Outcome::Failed(_) => "cut off by a kill",
        };
        *self.outcomes.entry(outcome).or_default() += 1;
    }

    /// A read was answered.
    pub(super) fn read(&mut self, read: Read) {
        let state = read.found.map(|(config, freshness)| {
            self.isolation.saw(read.place.tenant, &config.key, &config.value);
            (State::of(&config.etag), freshness)
        });
        let found = state.as_ref().map(|(state, _)| state);
        self.read_your_write
            .saw(&self.ledger, &read.place, read.replica, read.sent, found);
        let answer = Answer {
            sent: read.sent,
            waited: read.waited,
            is_latest: read.is_latest,
            found: state,
        };
        self.staleness.saw(&self.ledger, &read.place, &answer);
    }

    /// One more disturbance.
    pub(super) fn disturbed(&mut self, how: &'static str) {
        *self.disturbances.entry(how).or_default() += 1;
    }

    /// What is to be said of each promise.
    pub(super) fn verdicts(&self) -> [&Verdict; 13] {
        [
            &self.isolation.verdict,
            &self.read_your_write.verdict,
            &self.staleness.verdict,
            &self.agreement.verdict,
            &self.order.verdict,
            &self.convergence.verdict,
            &self.lost_update.verdict,
            &self.durability.verdict,
            &self.hot_swap.verdict,
            &self.containment.verdict,
            &self.peers.verdict,
            &self.drain.verdict,
            &self.undisturbed.verdict,
        ]
    }
}
