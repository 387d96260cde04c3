//! Wall time through one door, so that tests can set it. What measures spans uses `tokio::time::Instant`.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::{Instant, sleep_until};

/// Up to a tenth sooner, so that what began together does not go on together.
#[must_use]
pub fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(fastrand::f64().mul_add(-0.1, 1.0))
}

/// Waits between attempts: up to the first, then up to twice as long each time, and at most up to the longest. Each is drawn, so that what failed
/// together does not come back together. It has no end.
pub fn backoff((first, longest): (Duration, Duration)) -> impl Iterator<Item = Duration> {
    let ceilings = std::iter::successors(Some(first.min(longest)), move |wait| Some((*wait * 2).min(longest)));
    ceilings.map(|ceiling| ceiling.mul_f64(fastrand::f64()))
}

/// Waits until then; for ever, if there is no such time.
pub async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

/// Tells the wall time. Clones tell the same.
#[derive(Debug, Clone, Default)]
pub struct Clock(Option<Arc<AtomicU64>>);

impl Clock {
    /// The machine's time.
    #[must_use]
    pub fn system() -> Self {
        Self(None)
    }

    /// Stands at `seconds` after the epoch until it is [set](Self::set).
    #[must_use]
    pub fn standing_at(seconds: u64) -> Self {
        Self(Some(Arc::new(AtomicU64::new(seconds))))
    }

    /// Sets a standing clock, and all its clones. The machine's time stays as it is.
    pub fn set(&self, seconds: u64) {
        if let Some(standing) = &self.0 {
            standing.store(seconds, Ordering::Relaxed);
        }
    }

    /// What time it is.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is the one door")]
    pub fn now(&self) -> SystemTime {
        match &self.0 {
            None => SystemTime::now(),
            Some(standing) => UNIX_EPOCH + Duration::from_secs(standing.load(Ordering::Relaxed)),
        }
    }

    /// Whole seconds since the epoch, as tokens count them.
    #[must_use]
    pub fn seconds(&self) -> u64 {
        self.now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }
}
