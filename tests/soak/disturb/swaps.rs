//! The strategy of all the load is replaced every few seconds, and gone back to, through `AdminService`.

use std::sync::Arc;
use std::time::Duration;

use tagway_proto::v1;
use tagway_proto::v1::strategy::State;
use tagway_tests::admin::{activate, distinct};
use tagway_tests::validators::timeline::Trouble;
use tokio::time::{Instant, sleep};

use crate::fleet::STRATEGY;
use crate::{REPLICAS, Soak};

/// Components that are told apart.
const COMPONENTS: u32 = 20;
/// From one to the next, at most.
const NEXT: Duration = Duration::from_secs(8);

/// Until then.
pub(crate) async fn run(soak: Arc<Soak>, mut random: fastrand::Rng, until: Instant) {
    // What each replica serves, as far as it was told here.
    let mut serves = [0; REPLICAS];
    loop {
        sleep(NEXT.mul_f64(random.f64())).await;
        if Instant::now() >= until {
            return;
        }
        let replica = random.usize(..REPLICAS);
        // One that goes is not asked for anything.
        let Some(_stays) = soak.fleet.try_process(replica) else {
            continue;
        };
        let Ok(mut admin) = soak.fleet.admin(replica).await else {
            continue;
        };
        soak.judges.bench().timeline.begins(Trouble::Swap);
        let component = distinct(&soak.fleet.component, random.u32(..COMPONENTS));
        let taken = admin.activate_strategy(activate(STRATEGY, Some(component))).await;
        let active = taken.map(|taken| taken.into_inner().strategy.unwrap_or_default());
        let (mut breach, mut generation) = (None, 0);
        match active {
            Ok(active) if active.state() == State::Active => generation = active.generation,
            other => breach = Some(format!("an activation at replica {replica}: {other:?}")),
        }
        soak.judges.bench().disturbed("a strategy is activated");
        // The same once more takes nothing's place, and there may be nothing to go back to.
        let is_another = std::mem::replace(&mut serves[replica], generation) != generation;
        if breach.is_none() && is_another && random.u8(..3) == 0 {
            sleep(Duration::from_secs(1)).await;
            let request = v1::RollbackStrategyRequest {
                name: STRATEGY.to_owned(),
                generation,
            };
            match admin.rollback_strategy(request).await {
                Ok(back) => serves[replica] = back.into_inner().strategy.unwrap_or_default().generation,
                Err(status) => breach = Some(format!("a rollback at replica {replica}: {status:?}")),
            }
            soak.judges.bench().disturbed("a strategy is rolled back");
        }
        // What began with the one before goes on for a moment.
        sleep(Duration::from_millis(500)).await;
        let mut bench = soak.judges.bench();
        bench.timeline.ends(Trouble::Swap);
        bench.hot_swap.held(breach);
    }
}
