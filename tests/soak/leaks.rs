//! What a process takes of the machine at quiet points, when it should take what it took before: memory, descriptors, tasks. One that was
//! started anew begins anew.

use std::fmt::Write as _;

use tokio::time::Instant;

use crate::REPLICAS;
use crate::fleet::Fleet;

const MIB: f64 = 1024.0 * 1024.0;
/// Memory may grow by so much from the second quarter of the run to the last: caches fill, an allocator keeps some.
const MEMORY: f64 = 16.0 * MIB;
/// Of descriptors and tasks there may be so many more: a read behind somebody's back, a connection that is just replaced. After a rest they were
/// 36 to 38 and 35 to 42 for an hour.
const SLACK: f64 = 8.0;
/// Fewer samples of one process tell nothing.
const FEWEST: usize = 3;
/// A shorter life is that of a process which still warms up: it is told of and not judged. Memory levels off after a quarter of an hour (54 MiB
/// at first, 124 then, 99 after an hour), and the second quarter of a life is to be later than most of that.
const SHORTEST: f64 = 2400.0;

/// What is measured, by the names of `/metrics`.
const MEASURES: [Measure; 3] = [
    Measure {
        metric: "process_resident_memory_bytes",
        name: "memory, MiB",
        unit: MIB,
        bound: MEMORY,
    },
    Measure {
        metric: "process_open_fds",
        name: "descriptors",
        unit: 1.0,
        bound: SLACK,
    },
    Measure {
        metric: "tagway_tasks",
        name: "tasks",
        unit: 1.0,
        bound: SLACK,
    },
];

struct Measure {
    metric: &'static str,
    name: &'static str,
    unit: f64,
    bound: f64,
}

struct Sample {
    replica: usize,
    life: usize,
    at: Instant,
    values: [f64; 3],
}

/// All samples.
#[derive(Default)]
pub(super) struct Leaks(Vec<Sample>);

impl Leaks {
    /// Takes one more.
    pub(super) async fn sample(&mut self, fleet: &Fleet, replica: usize) {
        let (life, text) = fleet.metrics(replica).await;
        self.0.push(Sample {
            replica,
            life,
            at: Instant::now(),
            values: MEASURES.map(|measure| value(&text, measure.metric)),
        });
    }

    /// The last of a replica, for people.
    pub(super) fn last(&self, replica: usize) -> String {
        let Some(last) = self.0.iter().rfind(|sample| sample.replica == replica) else {
            return String::new();
        };
        let mut told = String::new();
        for (measure, value) in MEASURES.iter().zip(last.values) {
            _ = write!(told, "{:.0} {}, ", value / measure.unit, measure.name);
        }
        told.trim_end_matches(", ").to_owned()
    }

    /// All samples, a row each.
    fn series(&self) -> String {
        let mut rows = String::new();
        _ = write!(rows, "{:<10}{:<8}{:>8}", "replica", "life", "minute");
        for measure in MEASURES {
            _ = write!(rows, "{:>14}", measure.name);
        }
        rows.push('\n');
        for sample in &self.0 {
            let minute = (sample.at - self.0[0].at).as_secs_f64() / 60.0;
            _ = write!(rows, "{:<10}{:<8}{minute:>8.1}", sample.replica, sample.life);
            for (measure, value) in MEASURES.iter().zip(sample.values) {
                _ = write!(rows, "{:>14.1}", value / measure.unit);
            }
            rows.push('\n');
        }
        rows.push('\n');
        rows
    }

    /// A table of it, and whether nothing leaked.
    pub(super) fn judge(&self) -> (String, bool) {
        let (mut table, mut is_well) = (self.series(), true);
        _ = writeln!(
            table,
            "{:<10}{:<14}{:>8}{:>10}{:>10}{:>10}{:>10}{:>14}{:>10}  ",
            "replica", "", "samples", "first", "last", "least", "most", "growth", "an hour"
        );
        // The first lives through it all. Of the other the process that lived longest is told of.
        for replica in 0..REPLICAS {
            let of_life = |life| {
                let its = self
                    .0
                    .iter()
                    .filter(move |sample| (sample.replica, sample.life) == (replica, life));
                its.collect::<Vec<_>>()
            };
            let lives = self.0.iter().filter(|sample| sample.replica == replica);
            let longest = lives.map(|sample| sample.life).max_by_key(|&life| of_life(life).len());
            let samples = of_life(longest.unwrap_or_default());
            for (number, measure) in MEASURES.iter().enumerate() {
                let points: Vec<(f64, f64)> = samples
                    .iter()
                    .map(|sample| ((sample.at - samples[0].at).as_secs_f64(), sample.values[number]))
                    .collect();
                if points.len() < FEWEST {
                    _ = writeln!(table, "{replica:<10}{:<14}{:>8}  too few", measure.name, points.len());
                    continue;
                }
                let growth = growth(&points);
                let is_judged = points[points.len() - 1].0 >= SHORTEST;
                let leaks = is_judged && growth > measure.bound;
                is_well &= !leaks;
                let note = match (is_judged, leaks) {
                    (false, _) => "too short to judge",
                    (true, false) => "",
                    (true, true) => "LEAKS",
                };
                let value = |value: f64| value / measure.unit;
                let values = || points.iter().map(|point| point.1);
                _ = writeln!(
                    table,
                    "{replica:<10}{:<14}{:>8}{:>10.1}{:>10.1}{:>10.1}{:>10.1}{:>14}{:>10.1}  {note}",
                    measure.name,
                    points.len(),
                    value(points[0].1),
                    value(points[points.len() - 1].1),
                    value(values().fold(f64::INFINITY, f64::min)),
                    value(values().fold(0.0, f64::max)),
                    format!("{:+.1} of {:.0}", value(growth), value(measure.bound)),
                    value(slope(&points[points.len() / 2..]) * 3600.0)
                );
            }
        }
        (table, is_well)
    }
}

/// From the least of the second quarter to the least of the last: what is only under way comes and goes.
fn growth(points: &[(f64, f64)]) -> f64 {
    let quarter = (points.len() / 4).max(1);
    let least = |points: &[(f64, f64)]| points.iter().map(|point| point.1).fold(f64::INFINITY, f64::min);
    least(&points[points.len() - quarter..]) - least(&points[quarter..2 * quarter])
}

/// What is added in a second, by least squares.
fn slope(points: &[(f64, f64)]) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "a few samples")]
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (time, value) = (mean(|point| point.0), mean(|point| point.1));
    let (mut above, mut below) = (0.0, 0.0);
    for point in points {
        above += (point.0 - time) * (point.1 - value);
        below += (point.0 - time).powi(2);
    }
    if below > 0.0 { above / below } else { 0.0 }
}

fn value(text: &str, metric: &str) -> f64 {
    let mut values = text
        .lines()
        .filter_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
    let value = values.next().and_then(|value| value.split(' ').next()?.parse().ok());
    value.unwrap_or_else(|| panic!("no {metric} in\n{text}"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn leaks(values: impl Fn(f64) -> [f64; 3]) -> Leaks {
        let began = Instant::now();
        let sample = |minute: u32| Sample {
            replica: 0,
            life: 1,
            at: began + Duration::from_mins(minute.into()),
            values: values(minute.into()),
        };
        Leaks((0..60).map(sample).collect())
    }

    #[test]
    fn what_only_grows_is_noticed() {
        let steady = [100e6, 50.0, 60.0];
        let (table, is_well) = leaks(|minute| [steady[0] + 1e5 * minute, 50.0 + minute % 7.0, 60.0]).judge();
        assert!(is_well, "{table}");
        for leak in [[1e6, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]] {
            let grown = leaks(|minute| [0, 1, 2].map(|number| steady[number] + leak[number] * minute));
            let (table, is_well) = grown.judge();
            assert!(!is_well && table.matches("LEAKS").count() == 1, "{table}");
        }
    }

    #[test]
    fn a_process_that_warms_up_is_not_judged() {
        let mut young = leaks(|minute| [1e7 * minute, 50.0, 60.0]);
        young.0.truncate(5);
        let (table, is_well) = young.judge();
        assert!(is_well && table.contains("too short to judge"), "{table}");
    }

    #[test]
    fn metrics_are_read_by_their_whole_name() {
        let text = "# TYPE tagway_tasks gauge\ntagway_tasks_more 3\ntagway_tasks 17.0\n";
        assert!((value(text, "tagway_tasks") - 17.0).abs() < f64::EPSILON);
    }
}
