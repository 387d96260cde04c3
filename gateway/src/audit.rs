//! Who changed what, and who was not let: a line of JSON each, without any value or token.
//!
//! A write is acknowledged when its line has left this process, so that whatever ends it later, every acknowledged write has one. Where
//! no line can be written, nothing is: what was done already is answered with an error, and what comes is refused until there is
//! room again. Refusals wait for nothing, and of a flood of them some are counted and no more.

mod activations;
mod record;
mod sink;

use std::io;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, oneshot};

use crate::clock::Clock;
use crate::settings::AuditTo;
use crate::status::Part;
use sink::{AuditMetrics, Health, Line, Sink};

pub use record::{Outcome, Record};

/// Lines that wait besides those of writes, which have a place each before they begin.
const QUEUE: usize = 1024;
/// A line that is not written within this has the sink taken for away.
const PATIENCE: Duration = Duration::from_secs(2);

/// Refusals of one tenant, of one subject, or of all who are neither, that are written down in a second. So many at once.
pub const NOTED: NonZero<u32> = NonZero::<u32>::MIN.saturating_add(49);

/// Subjects whose refusals are counted. Where there are more, those of the last second are.
const SUBJECTS: usize = 1024;

/// The audit of one replica, or none.
pub struct Audit(Option<Open>);

struct Open {
    lines: mpsc::Sender<Line>,
    /// Of the queue, for writes.
    reserved: usize,
    health: Arc<Health>,
    /// Refusals that were counted and no more, since the last line.
    omitted: AtomicU64,
    strangers: DefaultDirectRateLimiter,
    /// By subject.
    callers: DefaultKeyedRateLimiter<String>,
    replica: Arc<str>,
    clock: Clock,
    metrics: AuditMetrics,
}

/// Place in the queue for the line of something that is about to be done. Dropped, nothing is written.
pub struct Reserved<'a>(Option<(&'a Open, mpsc::Permit<'a, Line>)>);

/// The line of what was done, or is to be, cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it cannot be written down who did it")]
pub struct Unaudited;

/// Why there is no audit where there should be.
#[derive(Debug, thiserror::Error)]
#[error("telemetry.audit = {path}: {error}", path = path.display())]
pub struct AuditError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub error: io::Error,
}

impl Audit {
    /// Nobody wants one.
    #[must_use]
    pub fn none() -> Self {
        Self(None)
    }

    /// One that goes to `to`, of a replica that does so many things at once, and says how it does.
    pub fn open(to: &AuditTo, at_once: u32, replica: Arc<str>, part: Part, clock: Clock) -> Result<Self, AuditError> {
        let reserved = at_once as usize;
        let (lines, waiting) = mpsc::channel(QUEUE + reserved);
        let metrics = AuditMetrics::default();
        let health = Arc::new(Health::new(part));
        let sink = Sink::open(to).map_err(|error| AuditError {
            path: match to {
                AuditTo::File(path) => path.clone(),
                AuditTo::Stdout => "stdout".into(),
            },
            error,
        })?;
        sink::start(sink, waiting, Arc::clone(&health), metrics.clone()).map_err(|error| AuditError {
            path: "a thread".into(),
            error,
        })?;
        Ok(Self(Some(Open {
            lines,
            reserved,
            health,
            omitted: AtomicU64::new(0),
            strangers: RateLimiter::direct(Quota::per_second(NOTED)),
            callers: RateLimiter::keyed(Quota::per_second(NOTED)),
            replica,
            clock,
            metrics,
        })))
    }

    /// Has `registry` tell how many lines there were.
    pub fn register(&self, registry: &mut Registry) {
        if let Some(open) = &self.0 {
            let help = "Lines of the audit, by whether they were written, could not be yet, or were too many";
            registry.register("audit_records", help, open.metrics.clone());
            // What an alert looks at is told from the beginning: what begins as 1 never rose.
            for result in ["written", "late", "omitted"] {
                drop(open.metrics.get_or_create(&[("result", result)]));
            }
        }
    }

    /// Whether there is one.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.0.is_some()
    }

    /// Place for the line of something that is to be written down, before it is begun: once it is done, it is too late to find
    /// none.
    pub async fn reserve(&self) -> Result<Reserved<'_>, Unaudited> {
        let Some(open) = &self.0 else {
            return Ok(Reserved(None));
        };
        if !open.health.is_able(PATIENCE) {
            return Err(Unaudited);
        }
        let permit = open.lines.reserve().await.map_err(|_| Unaudited)?;
        Ok(Reserved(Some((open, permit))))
    }

    /// Writes down what nobody waits for, if there is room.
    pub fn note(&self, record: Record<'_>) {
        let Some(open) = &self.0 else {
            return;
        };
        let has_room = open.lines.capacity() > open.reserved && open.health.is_able(PATIENCE);
        match open.lines.try_reserve() {
            Ok(place) if has_room => place.send(Line {
                text: open.line(record),
                written: None,
            }),
            _ => self.omit(),
        }
    }

    /// Writes down that somebody of whom nothing is known was not let, if those are not too many.
    pub fn note_stranger(&self, record: Record<'_>) {
        self.note_if(|open| open.strangers.check().is_ok(), record);
    }

    /// The same of somebody who showed a good token, for what it does not grant.
    pub fn note_caller(&self, record: Record<'_>) {
        let subject = record.subject.to_owned();
        let may_be_noted = |open: &Open| {
            if open.callers.len() >= SUBJECTS {
                // Those who were not refused for a while begin anew.
                open.callers.retain_recent();
            }
            open.callers.check_key(&subject).is_ok()
        };
        self.note_if(may_be_noted, record);
    }

    fn note_if(&self, may_be_noted: impl FnOnce(&Open) -> bool, record: Record<'_>) {
        if self.0.as_ref().is_some_and(may_be_noted) {
            self.note(record);
        } else {
            self.omit();
        }
    }

    /// Counts what is too much to be written down.
    pub fn omit(&self) {
        if let Some(open) = &self.0 {
            open.omitted.fetch_add(1, Ordering::Relaxed);
            open.metrics.get_or_create(&[("result", "omitted")]).inc();
        }
    }
}

impl Reserved<'_> {
    /// Writes down what was done. When it returns, the line has left the process.
    pub async fn done(self, record: Record<'_>) -> Result<(), Unaudited> {
        let Some((open, place)) = self.0 else {
            return Ok(());
        };
        let (written, answer) = oneshot::channel();
        place.send(Line {
            text: open.line(record),
            written: Some(written),
        });
        answer.await.unwrap_or(Err(Unaudited))
    }

    /// Writes it down for nobody who waits.
    pub fn note(self, record: Record<'_>) {
        if let Some((open, place)) = self.0 {
            place.send(Line {
                text: open.line(record),
                written: None,
            });
        }
    }
}

impl Open {
    fn line(&self, record: Record<'_>) -> String {
        record.line(&self.replica, self.clock.now(), self.omitted.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests;
