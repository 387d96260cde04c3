//! A strategy that does whatever a strategy must not, asked by a tenant of its own and by one whose other tags must not suffer for it.

use std::sync::Arc;
use std::time::Duration;

use tagway_tests::validators::timeline::Trouble;
use tokio::time::{Instant, sleep};

use crate::caller::Caller;
use crate::{REPLICAS, Soak, TENANTS};

const TIME: Duration = Duration::from_secs(5);
const HOW: [&str; 12] = [
    "loop",
    "memory",
    "recursion",
    "trap",
    "panic",
    "placements",
    "string",
    "utf8",
    "outside",
    "ungranted-backend",
    "shared-home",
    "namespace-up",
];

/// Asks it, of one replica.
pub(crate) async fn run(soak: Arc<Soak>, mut random: fastrand::Rng) {
    let replica = random.usize(..REPLICAS);
    let mut callers = ["mallory", TENANTS[0]].map(|tenant| Caller::new(&soak, tenant, replica));
    soak.judges.bench().timeline.begins(Trouble::Hostile);
    let until = Instant::now() + TIME;
    while Instant::now() < until {
        let client = callers[random.usize(..2)].client().await;
        let key = format!("hostile_{}", HOW[random.usize(..HOW.len())]);
        // Which error it is, others test.
        let answer = client.get(&key).await;
        let breach = answer.ok().map(|config| format!("{key} was answered: {config:?}"));
        soak.judges.bench().containment.held(breach);
        sleep(Duration::from_millis(random.u64(..50))).await;
    }
    soak.judges.bench().timeline.ends(Trouble::Hostile);
}
