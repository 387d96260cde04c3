//! What is printed: a line a minute, each breach when it is noticed, and a table at the end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tagway_tests::validators::Verdict;
use tokio::time::{Instant, sleep};

use crate::Soak;
use crate::judges::{Bench, Judges};
use crate::leaks::Leaks;

/// Prints while the soak goes on.
pub(super) async fn progress(soak: Arc<Soak>) {
    let began = Instant::now();
    let mut told: BTreeMap<&'static str, usize> = BTreeMap::new();
    for second in 1_u64.. {
        sleep(Duration::from_secs(1)).await;
        {
            let bench = soak.judges.bench();
            for verdict in bench.verdicts() {
                let told = told.entry(verdict.promise).or_default();
                for breach in &verdict.evidence[*told..] {
                    println!("{:>6.0?}  {} is broken: {breach}", began.elapsed(), verdict.promise);
                }
                *told = verdict.evidence.len();
            }
        }
        if second.is_multiple_of(60) {
            let mut now = Leaks::default();
            now.sample(&soak.fleet, 0).await;
            let requests = requests(&soak.judges.bench());
            println!("{:>6.0?}  {requests}; {}", began.elapsed(), now.last(0));
        }
    }
}

fn requests(bench: &Bench) -> String {
    let total: u64 = bench.outcomes.values().sum();
    let judged: u64 = bench.verdicts().iter().map(|verdict| verdict.judged).sum();
    let broken: u64 = bench.verdicts().iter().map(|verdict| verdict.broken).sum();
    let disturbances: u64 = bench.disturbances.values().sum();
    format!("{total} requests, {disturbances} disturbances, {judged} judged, {broken} breaches")
}

/// Prints all there is to say. Whether all is well.
pub(super) fn print(judges: &Judges, leaks: &Leaks, took: Duration) -> bool {
    let bench = judges.bench();
    println!("\n{:.1} minutes", took.as_secs_f64() / 60.0);
    for (what, counts) in [("requests", &bench.outcomes), ("disturbances", &bench.disturbances)] {
        println!("\n{:<44}{:>10}", what, counts.values().sum::<u64>());
        for (name, count) in counts {
            println!("  {name:<42}{count:>10}");
        }
    }
    println!("\n{:<22}{:>12}{:>12}", "promise", "judged", "broken");
    let mut is_well = true;
    for Verdict {
        promise,
        judged,
        broken,
        evidence,
    } in bench.verdicts()
    {
        let note = match (judged, broken) {
            (0, _) => "  was never put to the test",
            (_, 0) => "",
            _ => "  BROKEN",
        };
        is_well &= note.is_empty();
        println!("{promise:<22}{judged:>12}{broken:>12}{note}");
        for breach in evidence {
            println!("    {breach}");
        }
    }
    let (table, nothing_leaked) = leaks.judge();
    println!("\n{table}");
    println!(
        "{}",
        if is_well && nothing_leaked {
            "all is well"
        } else {
            "all is not well"
        }
    );
    is_well && nothing_leaked
}
