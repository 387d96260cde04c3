//! The requests that the store may take in a second, and whose turn it is. An account has few of them and shares them with
//! everything else in it, so none is sent without a turn.
//!
//! Turns go from tenant to tenant, so that who asks for much waits for its own. What was asked for goes before what merely
//! looks for changes. Where the store says that it is too much, turns become fewer, and then more again.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use crate::backend::Urgency;
use crate::key::TenantId;

/// What is saved up while nobody asks: as many as come in this time, and at least one.
const BURST: Duration = Duration::from_secs(1);
/// Of the full rate, that comes back each second.
const RECOVERY: f64 = 0.1;
/// Of the full rate, that is always left.
const LEAST: f64 = 1.0 / 32.0;
/// Of so many turns one is a sweep's.
const SWEEPS_SHARE: u32 = 10;
/// So many that wait in one line are looked through for who has left.
const LOOKED_THROUGH: usize = 256;
/// Refusals within this time are one: they are of calls that went out together.
const TOGETHER: Duration = Duration::from_millis(500);

/// Hands out turns. Clones hand out the same.
#[derive(Clone)]
pub(super) struct Quota(Arc<Mutex<State>>);

struct State {
    bucket: Bucket,
    asked: Turns,
    sweeps: Turns,
    /// Turns that were handed out, up to a sweep's.
    handed: u32,
    /// Somebody hands them out.
    served: bool,
    /// When somebody had to wait.
    waited: Option<Instant>,
}

impl Quota {
    pub(super) fn new(per_second: u32) -> Self {
        Self(Arc::new(Mutex::new(State {
            bucket: Bucket::new(per_second.into()),
            handed: 0,
            asked: Turns::default(),
            sweeps: Turns::default(),
            served: false,
            waited: None,
        })))
    }

    /// Returns when a request may be sent for `tenant`.
    pub(super) async fn turn(&self, tenant: &TenantId, urgency: Urgency) {
        let turn = self.stand_in_line(tenant, urgency);
        if let Some(turn) = turn {
            // The other end is dropped with the line alone, which this holds.
            _ = turn.await;
        }
    }

    /// A turn that was not needed.
    pub(super) fn give_back(&self) {
        let mut state = self.lock();
        state.bucket.give_back();
    }

    /// The store says that it was too much.
    pub(super) fn slow_down(&self) {
        self.lock().bucket.slow_down(Instant::now());
    }

    /// Whether anybody had to wait within that time.
    pub(super) fn was_short(&self, within: Duration) -> bool {
        self.lock().waited.is_some_and(|waited| waited.elapsed() <= within)
    }

    /// How long a tenant that waits for nothing else waits for its turn.
    pub(super) fn wait(&self) -> Duration {
        let mut state = self.lock();
        let next = state.bucket.next(Instant::now()).unwrap_or_default();
        let before = u32::try_from(state.asked.tenants()).unwrap_or(u32::MAX);
        next + state.bucket.period().saturating_mul(before)
    }

    /// How many turns come within that time.
    pub(super) fn within(&self, time: Duration) -> usize {
        self.lock().bucket.within(Instant::now(), time)
    }

    /// None: it is this one's already.
    fn stand_in_line(&self, tenant: &TenantId, urgency: Urgency) -> Option<oneshot::Receiver<()>> {
        let mut state = self.lock();
        if state.asked.is_empty() && state.sweeps.is_empty() && state.bucket.take(Instant::now()) {
            return None;
        }
        state.waited = Some(Instant::now());
        let (turn, waiting) = oneshot::channel();
        match urgency {
            Urgency::Asked => state.asked.push(tenant, turn),
            Urgency::Sweep => state.sweeps.push(tenant, turn),
        }
        if !state.served {
            state.served = true;
            let quota = self.clone();
            tokio::spawn(async move { quota.serve().await });
        }
        Some(waiting)
    }

    /// Hands out turns until nobody waits.
    async fn serve(self) {
        while let Some(next) = self.serve_now() {
            sleep(next).await;
        }
    }

    /// Hands out the turns that there are. Returns when there is another; None: nobody waits.
    fn serve_now(&self) -> Option<Duration> {
        let mut state = self.lock();
        loop {
            if state.asked.is_empty() && state.sweeps.is_empty() {
                state.served = false;
                return None;
            }
            if let Some(next) = state.bucket.next(Instant::now()) {
                return Some(next);
            }
            // A few turns are a sweep's, however much is asked for: else it would never end.
            state.handed = (state.handed + 1) % SWEEPS_SHARE;
            let turn = if state.handed == 0 {
                state.sweeps.pop().or_else(|| state.asked.pop())
            } else {
                state.asked.pop().or_else(|| state.sweeps.pop())
            };
            // Who does not wait any more takes no turn.
            if turn.is_some_and(|turn| turn.send(()).is_ok()) {
                let now = Instant::now();
                state.bucket.take(now);
                state.waited = Some(now);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here is left half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who waits, each tenant in a line of its own.
#[derive(Default)]
struct Turns {
    order: VecDeque<TenantId>,
    lines: HashMap<TenantId, VecDeque<oneshot::Sender<()>>>,
}

impl Turns {
    fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    fn tenants(&self) -> usize {
        self.order.len()
    }

    fn push(&mut self, tenant: &TenantId, turn: oneshot::Sender<()>) {
        let line = self.lines.entry(tenant.clone()).or_default();
        if line.is_empty() {
            self.order.push_back(tenant.clone());
        }
        line.push_back(turn);
        // Who asks faster than it is served, and leaves, leaves nothing behind.
        if line.len().is_multiple_of(LOOKED_THROUGH) {
            line.retain(|turn| !turn.is_closed());
        }
    }

    fn pop(&mut self) -> Option<oneshot::Sender<()>> {
        loop {
            let tenant = self.order.pop_front()?;
            let line = self.lines.get_mut(&tenant)?;
            // Who has left makes nobody wait for another round.
            let mut turn = line.pop_front();
            while turn.as_ref().is_some_and(oneshot::Sender::is_closed) {
                turn = line.pop_front();
            }
            if line.is_empty() {
                self.lines.remove(&tenant);
            } else {
                self.order.push_back(tenant);
            }
            if turn.is_some() {
                return turn;
            }
        }
    }
}

/// A token bucket whose rate the store bends.
struct Bucket {
    full: f64,
    /// A second.
    rate: f64,
    tokens: f64,
    at: Instant,
    slowed: Option<Instant>,
}

impl Bucket {
    fn new(full: f64) -> Self {
        Self {
            full,
            rate: full,
            tokens: (full * BURST.as_secs_f64()).max(1.0),
            at: Instant::now(),
            slowed: None,
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        self.fill(now);
        let is_there = self.tokens >= 1.0;
        if is_there {
            self.tokens -= 1.0;
        }
        is_there
    }

    fn give_back(&mut self) {
        self.tokens += 1.0;
    }

    /// When there is one. None: there is.
    fn next(&mut self, now: Instant) -> Option<Duration> {
        self.fill(now);
        let lacks = 1.0 - self.tokens;
        // A timer ends on a full millisecond, and this is then full too.
        (lacks > 0.0).then(|| Duration::from_secs_f64(lacks / self.rate) + Duration::from_micros(1))
    }

    fn period(&self) -> Duration {
        Duration::from_secs_f64(1.0 / self.rate)
    }

    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is positive, and a bound"
    )]
    fn within(&mut self, now: Instant, time: Duration) -> usize {
        self.fill(now);
        (self.tokens.max(0.0) + self.rate * time.as_secs_f64()).ceil() as usize
    }

    fn slow_down(&mut self, now: Instant) {
        self.fill(now);
        if self.slowed.is_some_and(|slowed| now.duration_since(slowed) < TOGETHER) {
            return;
        }
        self.slowed = Some(now);
        self.rate = (self.rate / 2.0).max(self.full * LEAST);
        self.tokens = self.tokens.min(0.0);
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.duration_since(self.at).as_secs_f64();
        self.at = now;
        self.rate = self.full.min(self.rate + passed * self.full * RECOVERY);
        let most = (self.rate * BURST.as_secs_f64()).max(1.0);
        self.tokens = most.min(self.tokens + passed * self.rate);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

    use super::*;

    fn tenant(id: &str) -> TenantId {
        id.parse().unwrap()
    }

    /// Asks so often for so many, and notes when which one was served.
    fn ask(
        quota: &Quota,
        id: &'static str,
        urgency: Urgency,
        times: usize,
        served: &Arc<Mutex<Vec<(Duration, &'static str)>>>,
    ) -> Vec<tokio::task::JoinHandle<()>> {
        let began = Instant::now();
        let one = |_| {
            let (quota, served) = (quota.clone(), Arc::clone(served));
            tokio::spawn(async move {
                quota.turn(&tenant(id), urgency).await;
                served.lock().unwrap().push((began.elapsed(), id));
            })
        };
        (0..times).map(one).collect()
    }

    async fn all(tasks: Vec<tokio::task::JoinHandle<()>>) {
        for task in tasks {
            task.await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_a_second_after_what_was_saved_up() {
        let quota = Quota::new(10);
        let served = Arc::default();
        let began = Instant::now();
        all(ask(&quota, "acme", Urgency::Asked, 40, &served)).await;
        let took = began.elapsed();
        assert!((2.9..3.3).contains(&took.as_secs_f64()), "{took:?}");
        let in_first = served.lock().unwrap().iter().filter(|(at, _)| at.is_zero()).count();
        assert_eq!(in_first, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_for_much_delays_nobody_else_by_more_than_two_periods() {
        let quota = Quota::new(10);
        let served = Arc::default();
        let much = ask(&quota, "much", Urgency::Asked, 1000, &served);
        tokio::task::yield_now().await;
        for other in ["a", "b"] {
            let began = Instant::now();
            quota.turn(&tenant(other), Urgency::Asked).await;
            // Timers count whole milliseconds.
            assert!(began.elapsed() <= Duration::from_millis(202), "{:?}", began.elapsed());
        }
        for task in much {
            task.abort();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_asked_for_goes_before_a_sweep_and_who_left_takes_no_turn() {
        let quota = Quota::new(10);
        let served = Arc::default();
        all(ask(&quota, "acme", Urgency::Asked, 10, &served)).await;
        served.lock().unwrap().clear();
        let sweeps = ask(&quota, "sweep", Urgency::Sweep, 3, &served);
        tokio::task::yield_now().await;
        let left = ask(&quota, "left", Urgency::Asked, 100, &served);
        tokio::task::yield_now().await;
        for task in left {
            task.abort();
            task.await.unwrap_err();
        }
        let asked = ask(&quota, "acme", Urgency::Asked, 3, &served);
        all(asked).await;
        all(sweeps).await;
        let order: Vec<&str> = served.lock().unwrap().iter().map(|(_, id)| *id).collect();
        assert_eq!(order, ["acme", "acme", "acme", "sweep", "sweep", "sweep"]);
        assert!(served.lock().unwrap().last().unwrap().0 < Duration::from_secs(1));
    }

    #[test]
    fn who_has_left_takes_no_room_and_no_round() {
        let (mut turns, acme) = (Turns::default(), tenant("acme"));
        for _ in 0..10 * LOOKED_THROUGH {
            turns.push(&acme, oneshot::channel().0);
            assert!(turns.lines[&acme].len() < LOOKED_THROUGH);
        }
        turns.push(&tenant("globex"), oneshot::channel().0);
        let (turn, _waits) = oneshot::channel();
        turns.push(&acme, turn);
        assert!(turns.pop().is_some_and(|turn| !turn.is_closed()));
        assert!(turns.pop().is_none() && turns.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_says_it_is_too_much_gets_less_and_then_as_much_again() {
        let quota = Quota::new(100);
        let in_a_second = async || {
            let served = Arc::default();
            let tasks = ask(&quota, "acme", Urgency::Asked, 300, &served);
            tokio::time::sleep(Duration::from_secs(1)).await;
            for task in tasks {
                task.abort();
            }
            served.lock().unwrap().len()
        };
        assert!(in_a_second().await >= 195);
        for _ in 0..20 {
            // Of one burst: they count once.
            quota.slow_down();
        }
        let slowed = in_a_second().await;
        assert!((45..=65).contains(&slowed), "{slowed}");
        for _ in 0..20 {
            tokio::time::sleep(TOGETHER).await;
            quota.slow_down();
        }
        let least = in_a_second().await;
        assert!((1..=20).contains(&least), "{least}");
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(in_a_second().await >= 195, "it has recovered");
    }
}
