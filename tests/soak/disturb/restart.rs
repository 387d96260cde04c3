//! One replica goes, as it is told or as it is made to, and another process takes its place. The other lives through it all.

use std::sync::Arc;

use tagway_tests::validators::ledger::{Place, State};
use tagway_tests::validators::timeline::Trouble;
use tokio::task::block_in_place;
use tokio::time::Instant;

use crate::Soak;
use crate::caller::Caller;
use crate::fleet::DRAIN;
use crate::load::store_of;

/// The one that goes.
const REPLICA: usize = 1;

/// By SIGTERM.
pub(crate) async fn drain(soak: Arc<Soak>) {
    let mut gateway = soak.fleet.process(REPLICA).await;
    soak.judges.bench().timeline.begins(Trouble::Drain(REPLICA));
    let told = Instant::now();
    gateway.signal("TERM");
    let status = block_in_place(|| gateway.wait());
    let took = told.elapsed();
    let is_well = status.success() && took < DRAIN && !gateway.log().contains("still under way");
    let breach = format!("a drain ended after {took:.1?} with {status}");
    soak.judges.bench().drain.held((!is_well).then_some(breach));
    soak.fleet.start_again(REPLICA, &mut gateway);
    let mut bench = soak.judges.bench();
    bench.read_your_write.restarted(REPLICA);
    bench.timeline.ends(Trouble::Drain(REPLICA));
}

/// By SIGKILL. What it acknowledged is there afterwards.
pub(crate) async fn kill(soak: Arc<Soak>) {
    let mut gateway = soak.fleet.process(REPLICA).await;
    let killed = Instant::now();
    soak.judges.bench().timeline.begins(Trouble::Kill(REPLICA));
    gateway.signal("KILL");
    block_in_place(|| gateway.wait());
    soak.fleet.start_again(REPLICA, &mut gateway);
    let places: Vec<Place> = {
        let mut bench = soak.judges.bench();
        bench.read_your_write.restarted(REPLICA);
        bench.timeline.ends(Trouble::Kill(REPLICA));
        let here = |place: &&Place| place.replica.is_none_or(|replica| replica == REPLICA);
        bench.ledger.places().filter(here).cloned().collect()
    };
    for place in places {
        let mut caller = Caller::new(&soak, place.tenant, REPLICA);
        // A store that is away now is looked at another time.
        if let Ok(found) = caller.get(&place.key, store_of(&place.key), true).await {
            let state = found.map(|(config, _)| State::of(&config.etag));
            let mut bench = soak.judges.bench();
            let bench = &mut *bench;
            bench.durability.found(&bench.ledger, &place, killed, state.as_ref());
        }
    }
}
