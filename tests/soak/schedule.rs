//! When what is disturbed: by a deck that is shuffled, so that each kind comes about as often as every other, and soon; several at once, as
//! the seed has it.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::disturb::{Card, faults, hostile, peers, restart, swaps};
use crate::watchers::Watching;
use crate::{REPLICAS, Soak};

/// Between two quiet points.
const STORM: Duration = Duration::from_secs(30);
/// From one disturbance to the next, at most. Each takes some seconds.
const NEXT: Duration = Duration::from_secs(4);

/// What is to come.
pub(super) struct Schedule {
    random: fastrand::Rng,
    soak: Arc<Soak>,
    watchers: Arc<[Watching]>,
    deck: Vec<Card>,
}

impl Schedule {
    /// By that seed.
    pub(super) fn new(seed: u64, soak: &Arc<Soak>, watchers: &Arc<[Watching]>) -> Self {
        Self {
            random: fastrand::Rng::with_seed(seed),
            soak: Arc::clone(soak),
            watchers: Arc::clone(watchers),
            deck: Vec::new(),
        }
    }

    /// Disturbs for a while. Returns when all that is over.
    pub(super) async fn storm(&mut self) {
        let until = Instant::now() + STORM;
        let mut storm = JoinSet::new();
        storm.spawn(swaps::run(Arc::clone(&self.soak), self.random.fork(), until));
        while Instant::now() < until {
            self.play(&mut storm);
            sleep(NEXT.mul_f64(self.random.f64())).await;
        }
        while let Some(ended) = storm.join_next().await {
            ended.expect("a disturbance comes to its end");
        }
    }

    fn play(&mut self, storm: &mut JoinSet<()>) {
        if self.deck.is_empty() {
            self.deck = Card::all();
            self.random.shuffle(&mut self.deck);
        }
        let card = self.deck.pop().expect("it was just filled");
        let (soak, random) = (Arc::clone(&self.soak), self.random.fork());
        soak.judges.bench().disturbed(card.name());
        match card {
            Card::Fault(fault) => _ = storm.spawn(faults::run(soak, fault, random)),
            Card::Leave => self.leave(),
            Card::Hostile => _ = storm.spawn(hostile::run(soak, random)),
            Card::Peers => _ = storm.spawn(peers::run(soak, random)),
            Card::Drain => _ = storm.spawn(restart::drain(soak)),
            Card::Kill => _ = storm.spawn(restart::kill(soak)),
        }
    }

    /// Some watchers hang up; all of one replica's at once, now and then.
    fn leave(&mut self) {
        let of = self.random.usize(..=REPLICAS);
        for watcher in self.watchers.iter() {
            if watcher.replica == of || self.random.u8(..3) == 0 {
                watcher.leave();
            }
        }
    }
}
