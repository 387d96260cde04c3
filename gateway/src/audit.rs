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
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, oneshot};

use crate::clock::Clock;
use crate::settings::AuditTo;
use crate::status::Part;
use sink::Line;

pub use record::{Outcome, Record};

/// Lines that wait. More wait where they come from, within their requests' deadlines.
const QUEUE: usize = 1024;

/// Refusals of one tenant, or of all who are none, that are written down in a second. So many at once.
pub const NOTED: NonZero<u32> = NonZero::<u32>::MIN.saturating_add(49);

/// The audit of one replica, or none.
pub struct Audit(Option<Open>);

struct Open {
    lines: mpsc::Sender<Line>,
    is_able: Arc<AtomicBool>,
    /// Refusals that were counted and no more, since the last line.
    omitted: AtomicU64,
    strangers: DefaultDirectRateLimiter,
    replica: Arc<str>,
    clock: Clock,
    metrics: Family<[(&'static str, &'static str); 1], Counter>,
}

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

    /// One that goes to `to`, and says how it does.
    pub fn open(to: &AuditTo, replica: Arc<str>, part: Part, clock: Clock) -> Result<Self, AuditError> {
        let (lines, waiting) = mpsc::channel(QUEUE);
        let is_able = Arc::new(AtomicBool::new(true));
        sink::start(to, waiting, part, Arc::clone(&is_able)).map_err(|error| AuditError {
            path: match to {
                AuditTo::File(path) => path.clone(),
                AuditTo::Stdout => "stdout".into(),
            },
            error,
        })?;
        Ok(Self(Some(Open {
            lines,
            is_able,
            omitted: AtomicU64::new(0),
            strangers: RateLimiter::direct(Quota::per_second(NOTED)),
            replica,
            clock,
            metrics: Family::default(),
        })))
    }

    /// Has `registry` tell how many lines there were.
    pub fn register(&self, registry: &mut Registry) {
        if let Some(open) = &self.0 {
            let help = "Lines of the audit, by whether they were written, could not be, or were too many";
            registry.register("audit_records", help, open.metrics.clone());
        }
    }

    /// Whether there is one.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.0.is_some()
    }

    /// Whether it is worth beginning something that has to be written down.
    pub fn check(&self) -> Result<(), Unaudited> {
        match &self.0 {
            Some(open) if !open.is_able.load(Ordering::Acquire) => Err(Unaudited),
            _ => Ok(()),
        }
    }

    /// Writes down what was done. When it returns, the line has left the process.
    pub async fn done(&self, record: Record<'_>) -> Result<(), Unaudited> {
        let Some(open) = &self.0 else {
            return Ok(());
        };
        let (written, answer) = oneshot::channel();
        let line = Line {
            text: open.line(record),
            written: Some(written),
        };
        open.lines.send(line).await.map_err(|_| Unaudited)?;
        let written = answer.await.unwrap_or(Err(Unaudited));
        open.count(if written.is_ok() { "written" } else { "failed" });
        written
    }

    /// Writes down what nobody waits for, if there is room.
    pub fn note(&self, record: Record<'_>) {
        let Some(open) = &self.0 else {
            return;
        };
        let line = Line {
            text: open.line(record),
            written: None,
        };
        match open.lines.try_send(line) {
            Ok(()) => open.count("written"),
            Err(_) => self.omit(),
        }
    }

    /// Writes down that somebody of whom nothing is known was not let, if those are not too many.
    pub fn note_stranger(&self, record: Record<'_>) {
        if self.0.as_ref().is_some_and(|open| open.strangers.check().is_ok()) {
            self.note(record);
        } else {
            self.omit();
        }
    }

    /// Counts what is too much to be written down.
    pub fn omit(&self) {
        if let Some(open) = &self.0 {
            open.omitted.fetch_add(1, Ordering::Relaxed);
            open.count("omitted");
        }
    }
}

impl Open {
    fn line(&self, record: Record<'_>) -> String {
        record.line(&self.replica, self.clock.now(), self.omitted.swap(0, Ordering::Relaxed))
    }

    fn count(&self, result: &'static str) {
        self.metrics.get_or_create(&[("result", result)]).inc();
    }
}

#[cfg(test)]
mod tests;
